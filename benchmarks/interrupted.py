"""Every command that writes, started twice at the same moment on one output, and killed at random moments.

    python benchmarks/interrupted.py [--pairs 25] [--kills 40] [--only NAME ...] [--json FILE]

A pair is right if each of the two processes ended well or was refused in words ("another process is writing here"), at
least one ended well, and the output is that of a command that was alone. A kill (SIGKILL) is right if the same command,
started again, makes the output of a command that was never killed. Values may differ by 1e-4 of themselves, since a resumed
command may put other images into a batch. Exit status 1 if anything is not right.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from failures import MODEL

import mrm
from mrm import cli, recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.system.files import write_json
from mrm.training.config import TrainConfig

REFUSED = "another process is writing here"
LATE = 0.05  # seconds, at most, between the two starts of a pair


@dataclass(frozen=True)
class Case:
    """A command: its words for an output, and the files of that output that must be right."""

    name: str
    words: Callable[[Path], list[str]]
    files: tuple[str, ...]  # below the output; "" is the output itself
    suffix: str = ""  # of an output that is a file
    copied: Path | None = None  # what the output is before the command: a copy of this


# Data and models ----------------------------------------------------------------------------------------------


def lay_out(folder: Path) -> None:
    """Phantoms, a segmentation folder, settings, and a small model of each kind."""
    phantom_files.write(folder / "phantoms", 40, seed=0, size=96, masks=("lungs",), workers=1)
    for split in ("training", "validation", "test"):
        for part, source in (("images", "images"), ("annotations", "lungs")):
            (folder / "lungs" / part / split).mkdir(parents=True)
            files = sorted((folder / "phantoms" / source).iterdir())
            for file in files[{"training": 0, "validation": 8, "test": 16}[split] :][:8]:
                shutil.copy(file, folder / "lungs" / part / split / f"{file.stem}{file.suffix}")
    training = TrainConfig(
        epochs=None, steps=8, warmup_steps=2, global_batch=8, lr=1e-3, lr_batch=None, precision="fp32", log_every=1,
        validate_every=4, save_every=2, workers=0, trackers=(),
    )  # fmt: skip
    records = folder / "phantoms" / "records.csv"
    (folder / "findings.yaml").write_text(FINDINGS)
    base = recipes.PretrainConfig(records, folder / "pretrained", model=MODEL, training=training)
    (folder / "pretrain.yaml").write_text(recipes.to_yaml(base))
    run = runs.pretrain(base)
    tuned = recipes.tiny_finetune(records, records, run, folder / "tuned")
    (folder / "finetune.yaml").write_text(recipes.to_yaml(tuned))
    words = ["finetune", "--config", str(folder / "finetune.yaml"), "--out", str(folder / "tuned"), *SHORT]
    cli.main(words)
    outlined = recipes.tiny_segment(folder / "lungs", folder / "lungs", run, folder / "outlined")
    (folder / "segment.yaml").write_text(recipes.to_yaml(outlined))
    cli.main(["segment", "--config", str(folder / "segment.yaml"), "--out", str(folder / "outlined"), *SHORT])
    for name, model in (("one", "tuned"), ("two", "tuned")):
        cli.main(["evaluate", str(folder / model), "--records", str(records), "--out", str(folder / name), *FEW])
    cli.main(
        ["embed", str(folder / "tuned"), str(folder / "phantoms" / "images"), "--out", str(folder / "index.npy"), *READ]
    )
    shutil.copytree((folder / "tuned" / "best").resolve(), folder / "model")
    lay_out_search(folder, base)
    lay_out_merging(folder)


def lay_out_search(folder: Path, base: recipes.PretrainConfig) -> None:
    """A model that was pre-trained with contrast, and an index that it searches by text."""
    contrasting = replace(base.model, contrast_width=8)
    run = runs.pretrain(replace(base, out=folder / "contrasted", model=contrasting, contrast_weight=0.1))
    cli.main(["embed", str(run), str(folder / "phantoms" / "images"), "--out", str(folder / "by-text.npy"), *READ])


def lay_out_merging(folder: Path) -> None:
    """Two prepared corpora of different names: the phantoms, and some others."""
    phantom_files.write(folder / "others", 40, seed=1, size=64, workers=1)
    for name, source in (("prepared", folder / "phantoms"), ("prepared-others", folder / "others")):
        places = ["--source", str(source), "--table", str(source / "records.csv"), "--out", str(folder / name)]
        cli.main(["prepare", "custom", *places, *PREPARED])
    facts = json.loads((folder / "prepared-others" / "corpus.json").read_bytes())
    write_json(folder / "prepared-others" / "corpus.json", facts | {"corpus": "others"})


FINDINGS = "findings: {effusion: {present: [There is an effusion.], absent: [There is no effusion.]}}\n"
READ = ["--batch", "4", "--workers", "0"]
FEW = [*READ, "--draws", "20"]
PREPARED = ["--columns", "image_path=image_path,report_content=report_content,patient_id=patient_id",
            "--workers", "1"]  # fmt: skip
SHORT = ["--max-steps", "6", "--training.workers", "0", "--training.save-every", "2"]


def cases(folder: Path) -> list[Case]:
    """Every command that writes, on small data."""
    records, pictures = str(folder / "phantoms" / "records.csv"), str(folder / "phantoms" / "images")
    some = [str(path) for path in sorted((folder / "phantoms" / "images").iterdir())[:6]]
    model, tuned, run = str(folder / "model"), str(folder / "tuned"), str(folder / "pretrained")
    made = ("log.csv", "last/model.safetensors")
    return [
        Case("predict", lambda o: ["predict", model, pictures, "--out", str(o), *READ], ("",), ".csv"),
        Case("embed", lambda o: ["embed", tuned, pictures, "--out", str(o), *READ], ("",), ".npy"),
        Case("embed parquet", lambda o: ["embed", tuned, pictures, "--out", str(o), *READ], ("",), ".parquet"),
        Case("predict masks", lambda o: ["predict", str(folder / "outlined"), *some, "--out", str(o), *READ], ("masks.csv",)),
        Case("pretrain", lambda o: ["pretrain", "--config", str(folder / "pretrain.yaml"), "--out", str(o)], made),
        Case("finetune", lambda o: ["finetune", "--config", str(folder / "finetune.yaml"), "--out", str(o), *SHORT], made),
        Case("segment", lambda o: ["segment", "--config", str(folder / "segment.yaml"), "--out", str(o), *SHORT], made),
        Case(
            "prepare",
            lambda o: ["prepare", "custom", "--source", str(folder / "phantoms"), "--out", str(o), "--table", records, *PREPARED],
            ("records.csv", "training.csv", "audit.json"),
        ),
        Case("pack", lambda o: ["pack", records, "--out", str(o), "--size", "64", "--rows", "8", "--workers", "1"], ("shards.json",)),
        Case("phantoms", lambda o: ["phantoms", "--out", str(o), "--count", "12", "--size", "64"], ("records.csv",)),
        Case("tokenizer", lambda o: ["tokenizer", records, "--out", str(o), "--size", "300"], ("",), ".json"),
        Case("audit", lambda o: ["audit", records, records, "--json", str(o)], ("",), ".json"),
        Case("evaluate", lambda o: ["evaluate", model, "--records", records, "--out", str(o), *FEW], ("predictions.csv",)),
        Case(
            "evaluate masks",
            lambda o: ["evaluate", str(folder / "outlined"), "--records", str(folder / "lungs"), "--out", str(o), "--draws", "20"],
            ("images.csv",),
        ),
        Case("calibrate", lambda o: ["calibrate", str(o), "--val", records, *READ], ("config.json",), "", folder / "model"),
        Case(
            "compare",
            lambda o: ["compare", str(folder / "one"), str(folder / "two"), "--out", str(o), "--draws", "20"],
            ("comparison.json",),
        ),
        Case(
            "probe",
            lambda o: ["probe", "--init", str(run), "--train", records, "--val", records, "--test", records, "--out", str(o), "--seeds", "1",
                       "--fractions", "1.0", "--draws", "20", "--workers", "0"],
            ("probe.json",),
        ),
        Case("explain", lambda o: ["explain", model, *some[:2], "--out", str(o), "--method", "rollout"], ("maps.csv",)),
        Case("reconstruct", lambda o: ["reconstruct", run, *some, "--out", str(o)], ("errors.csv",)),
        Case("fill-in", lambda o: ["fill-in", run, some[0], "The heart is ____.", "--json", str(o)], ("",), ".json"),
        Case("similar", lambda o: ["similar", *some, "--index", str(folder / "index.npy"), "--model", tuned, "--out", str(o)], ("",), ".csv"),
        Case("export", lambda o: ["export", run, "--out", str(o)], (), ".pth"),
        Case("export hub", lambda o: ["export", run, "--format", "hub", "--out", str(o)], ("config.json", "model.safetensors")),
        Case("export onnx", lambda o: ["export", tuned, "--format", "onnx", "--out", str(o)], ("",), ".onnx"),
        Case("export monai", lambda o: ["export", tuned, "--format", "monai", "--out", str(o)], ("configs/inference.json", "models/model.pt")),
        Case(
            "crossval",
            lambda o: ["crossval", "tiny", "--records", records, "--init", run, "--out", str(o), "--folds", "2", "--repeats", "1",
                       "--max-steps", "2", "--workers", "0"],
            ("crossval.json", "predictions.csv", "folds.csv"),
        ),
        Case("ensemble", lambda o: ["ensemble", model, tuned, "--out", str(o)], ("config.json", "model.safetensors")),
        Case("select", lambda o: ["select", model, pictures, "--n", "5", "--out", str(o), *READ], ("",), ".csv"),
        Case(
            "zero-shot",
            lambda o: ["zero-shot", run, *some, "--findings", str(folder / "findings.yaml"), "--out", str(o), *READ],
            ("",), ".csv",
        ),
        Case("label", lambda o: ["label", records, "--findings", "english", "--out", str(o)], ("",), ".csv"),
        Case(
            "merge",
            lambda o: ["merge", str(folder / "prepared"), str(folder / "prepared-others"), "--out", str(o), "--harmonize"],
            ("train.csv", "merged.json", "audit.json"),
        ),
        Case(
            "similar text",
            lambda o: ["similar", "--text", "There is an effusion.", "--index", str(folder / "by-text.npy"), "--model",
                       str(folder / "contrasted"), "--out", str(o)],
            ("",), ".csv",
        ),
    ]  # fmt: skip


def import_everything() -> None:
    """Import what the commands need, so that a forked process begins to work at once."""
    for module in pkgutil.walk_packages(mrm.__path__, "mrm."):
        if not module.name.startswith(("mrm.__main__", "mrm.serve")):
            importlib.import_module(module.name)


# Processes ----------------------------------------------------------------------------------------------------


def forked(work: Callable[[], object], said: Path) -> int:
    """Do the work in a process of its own, with a group of its own; what it prints goes to a file. Returns its id."""
    child = os.fork()
    os.setpgid(child, child)  # in both, for whichever comes first; 0 is this process
    if child:
        return child
    file = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    status = 1
    try:
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def start(words: list[str], said: Path) -> int:
    """The command in a process of its own."""
    return forked(lambda: cli.main(words), said)


def ended(child: int) -> int:
    """Wait for a process. Returns its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fresh(case: Case, place: Path) -> Path:
    """A new output."""
    out = place.with_name(f"{place.name}{case.suffix}")
    if case.copied:
        shutil.copytree(case.copied, out)
    return out


# Results --------------------------------------------------------------------------------------------------------


def problems(case: Case, out: Path, right: Path) -> list[str]:
    """How the output differs from the right one; empty if it does not."""
    if not out.exists():
        return ["no output"]
    names = [(out / name if name else out, right / name if name else right) for name in case.files]
    return [f"{a.name} differs" for a, b in names if not (a.is_file() and same(a, b))]


def same(a: Path, b: Path) -> bool:
    """Whether two files have the same content, numbers to within 1e-4."""
    if a.read_bytes() == b.read_bytes():
        return True
    if a.suffix == ".npy":
        first, second = np.load(a), np.load(b)
        return first.shape == second.shape and np.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)
    if a.suffix == ".parquet":
        import pyarrow.parquet

        return alike(pyarrow.parquet.read_table(a).to_pylist(), pyarrow.parquet.read_table(b).to_pylist())
    if a.suffix == ".pt":
        first, second = (torch.load(path, weights_only=True) for path in (a, b))
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    if a.suffix == ".json":
        return alike(json.loads(a.read_bytes()), json.loads(b.read_bytes()))
    if a.suffix == ".csv":
        with open(a, newline="") as one, open(b, newline="") as other:
            return alike(list(csv.reader(one)), list(csv.reader(other)))
    return False


def alike(a: object, b: object) -> bool:
    """Whether two values are equal, numbers to within 1e-4."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a if k != "out")
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    try:
        return a == b or abs(float(a) - float(b)) <= 1e-5 + 1e-4 * abs(float(b))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


# Trials -------------------------------------------------------------------------------------------------------------


def pair(case: Case, right: Path, place: Path, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Start the command twice at the same moment. Returns what happened, and what was wrong."""
    out, said = fresh(case, place), [place.with_name(f"{place.name}.said-{n}") for n in (1, 2)]
    first = start(case.words(out), said[0])
    time.sleep(rng.uniform(0, LATE))
    second = start(case.words(out), said[1])
    statuses = [ended(first), ended(second)]
    well = 1 if case.name == "audit" else 0  # it finds what the sets share
    wrong = [f"{status}: {text.read_text()[-300:]}" for status, text in zip(statuses, said, strict=True)
             if status != well and not (status == 2 and REFUSED in text.read_text())]  # fmt: skip
    if well not in statuses:
        wrong.append("neither ended well")
    else:
        wrong += problems(case, out, right)
    return ("both" if statuses == [well, well] else "one refused"), wrong


def kill(case: Case, right: Path, place: Path, seconds: float, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Kill the command at a random moment of the time that it takes, and start it again."""
    out, said = fresh(case, place), place.with_name(f"{place.name}.said")
    child = start(case.words(out), said)
    time.sleep(rng.uniform(0, seconds))
    os.killpg(child, signal.SIGKILL)
    killed = ended(child) == -signal.SIGKILL
    status = ended(start(case.words(out), said))
    wrong = [] if status == (1 if case.name == "audit" else 0) else [f"{status}: {said.read_text()[-300:]}"]
    return ("killed" if killed else "ended before"), wrong or problems(case, out, right)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pairs", type=int, default=25, help="for each command")
    arguments.add_argument("--kills", type=int, default=40, help="over all commands")
    arguments.add_argument("--only", nargs="*", default=[], help="names of commands")
    arguments.add_argument("--json", type=Path, help="write the numbers there too")
    options = arguments.parse_args()
    import_everything()
    rng, results, wrong = np.random.default_rng(0), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if ended(forked(lambda: lay_out(folder), folder / "said")):
            sys.exit((folder / "said").read_text())
        chosen = [case for case in cases(folder) if not options.only or case.name in options.only]
        for number, case in enumerate(chosen):
            right, began = fresh(case, folder / f"right-{number}"), time.perf_counter()
            status = ended(start(case.words(right), folder / "said"))
            seconds, tally = time.perf_counter() - began, Counter[str]()
            if status != (1 if case.name == "audit" else 0):
                sys.exit(f"{case.name}: {status}: {(folder / 'said').read_text()}")
            kills = len(range(number, options.kills, len(chosen)))
            trials = [("pair", n) for n in range(options.pairs)] + [("kill", n) for n in range(kills)]
            for kind, n in trials:
                place = folder / f"{kind}-{number}-{n}"
                what, bad = pair(case, right, place, rng) if kind == "pair" else kill(case, right, place, seconds, rng)
                tally[what] += 1
                tally[f"wrong {kind}"] += bool(bad)
                wrong += [f"{case.name}, {kind} {n}: {line}" for line in bad]
            results.append({"command": case.name, "seconds": seconds, **tally})
            counts = ", ".join(f"{what} {count}" for what, count in tally.items() if count)
            print(f"{case.name:15} {seconds:5.1f} s: {counts}", flush=True)
    for line in wrong:
        print(line)
    if options.json:
        write_json(options.json, {"pairs": options.pairs, "kills": options.kills, "commands": results, "wrong": wrong})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
