"""What every run does first and last: its folder, where its model comes from, what the model saw, how it is written."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import mrm
from mrm import recipes
from mrm.audit.fingerprints import fingerprint
from mrm.audit.overlaps import AuditReport
from mrm.data import masks
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.models import model_folder, noise
from mrm.models.card import Card, OutlineThreshold
from mrm.recipes import FinetuneConfig, SegmentConfig
from mrm.system.errors import RunError
from mrm.system.output_folder import Settings, open_folder
from mrm.system.progress import Progress
from mrm.training.trainer import processes

Model = TypeVar("Model", bound=nn.Module)
FREE = (
    "training.workers",
    "training.micro_batch",
    "training.keep",
    "training.log_every",
    "training.compile",
    "training.sharding",
    "images",
)  # may change on resume


def open_run(config: Any) -> None:
    """Make the run's folder, or resume the run that it holds. Raises OutputError if it holds something else."""

    def changes(earlier: str) -> list[str]:
        before = recipes.from_yaml(type(config), earlier, str(Path(config.out) / "config.yaml"))
        return [line for line in recipes.differences(before, config) if line.split(":")[0] not in (*FREE, "out")]

    with processes().main_process_first():  # rank 0 makes the folder, the other ranks then find it
        open_folder(Path(config.out), Settings("run", "config.yaml", recipes.to_yaml(config), changes))


def origin(config: Any, records: Records, path: Path) -> dict[str, Any]:
    """Where a model comes from, for its card: data, start, seed, versions."""
    import timm

    return {
        "records": Path(path).name,
        "n": len(records),
        "with_report": sum(bool(r.report) for r in records),
        "patients": len(set(records.patients)) if records.patients else None,
        "fingerprint": records.fingerprint(),
        "audit": audit_beside(Path(path)),
        "init": None if getattr(config, "scratch", False) or not config.init else Path(config.init).name,
        "seed": config.seed,
        "versions": {"mrm": mrm.__version__, "torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "command": shlex.join([_program(), *sys.argv[1:]]),
    }  # fmt: skip


def _program() -> str:
    """What was started, as a person would write it."""
    name = Path(sys.argv[0]).name
    return "mrm" if name == "__main__.py" else name


def audit_beside(path: Path) -> dict[str, Any] | None:
    """What the `audit.json` that lies with the records says of this set, or of all where it does not name it.

    None where there is no verdict: nobody has looked. Raises RecordError for a damaged one.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "audit.json").is_file():
            verdict = AuditReport.from_json((folder / "audit.json").read_text())
            name = path.absolute().relative_to(folder.absolute()).as_posix().removesuffix(path.suffix)
            known = [o for o in verdict.overlaps if name not in verdict.sets or name in (o.first, o.second)]
            return {"clean": all(o.series for o in known), "overlaps": [str(o) for o in known]}
    return None


def on_encoder(kind: type[Model], shape: Any, config: FinetuneConfig | SegmentConfig) -> Model:
    """A model of that kind and shape from the run's seed, its encoder from `--init` unless `--scratch`."""
    with noise.seeded(config.seed):
        model = kind(shape)
    model.get_submodule("encoder").set_grad_checkpointing(config.training.checkpointing)  # type: ignore[operator]
    if not config.scratch:
        print(f"{config.init}: {model_folder.start_from(model, config.init)}")
    return model


def note_seen(config: Any, stage: str, records: Records) -> Path:
    """Fingerprints of the records a model is to see, with those its initial model saw; the folder they are in.

    They go into every model folder of the run, so that a test set can be compared with them later.
    """
    folder = Path(config.out) / "seen"
    with processes().main_process_first():
        if not (folder / f"{stage}.npz").is_file():
            before = Path(config.init) if config.init and not getattr(config, "scratch", False) else None
            if before and before.is_dir() and (model_folder.find_model(before) / "seen").is_dir():
                shutil.copytree(model_folder.find_model(before) / "seen", folder, dirs_exist_ok=True)
            folder.mkdir(exist_ok=True)
            prints = fingerprint(
                records, config.audit == "images", progress=Progress(f"fingerprinting the {stage} records")
            )
            prints.save(folder / f"{stage}.npz")
    return folder


def model_writer(
    card: Card, seen: Path, tokenizer: Tokenizer | None = None, thresholds: Mapping[str, OutlineThreshold] | None = None
) -> Callable[[Path, nn.Module, int], None]:
    """How the trainer writes a checkpoint's model folder; `thresholds` are those that the last validation chose."""

    def write(folder: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, model_folder.Model)
        now = replace(card, origin={**card.origin, "step": step}, outline_thresholds=dict(thresholds or {}))
        model_folder.write_into(folder, model, now, tokenizer)
        shutil.copytree(seen, folder / "seen")

    return write


def warn_of(found: list[str]) -> None:
    """Say each overlap of records as a warning."""
    for overlap in found:
        warnings.warn(overlap, stacklevel=3)


def spare_inputs(paths: Sequence[Path | str], records: Records, written: Sequence[Path]) -> None:
    """Raises RunError where a file that is to be written is an image, list or table that is read."""
    there = {file.resolve(): file for file in written if file.exists()}
    for given in (*paths, *(r.image for r in records)) if there else ():
        if isinstance(given, Path | str) and (file := there.get(Path(given).resolve())):
            raise RunError(f"{file}: is read, and would be overwritten; choose another --out")


def output_names(names: Sequence[str]) -> list[str]:
    """Names for files of results, all different: an image's own without its ending, numbered where it comes again."""
    taken: set[str] = set()
    found = []
    for given in names:
        own = plain(masks.stem(Path(given).name)) or "image"
        name, number = own, 1
        while name.lower() in taken:  # some file systems know no difference between capitals and small letters
            number += 1
            name = f"{own}-{number}"
        taken.add(name.lower())
        found.append(name)
    return found


def plain(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[:120]
