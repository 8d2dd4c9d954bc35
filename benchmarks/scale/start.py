"""How long a training takes to its first step, at its first start and at a second one, and the memory of its process then.

    python benchmarks/scale/start.py --records 20000 100000 400000 --folder DIR --out start.json
    python benchmarks/scale/start.py --finetune --records 20000 400000 --folder DIR --out start.json

For each number of records a table is made in DIR by `table.py`, or with `--shards` a shard folder by `shard_folder.py`,
unless it is there, and the recipe `tiny` of pre-training is started on it with `--audit names`; with `--finetune` that of
fine-tuning, on a table with 14 labels and 2,000 records for validation. It runs in a process that ends after its first step,
before it has written a checkpoint. The second start finds what the first one has prepared. Memory is what the process has to
itself (`RssAnon` of Linux): pages of mapped files are shared, and dropped when memory is short. On a machine that others use the
seconds of the processor tell more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure each number of records, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shards", action="store_true", help="start on shard folders instead of tables")
    parser.add_argument("--finetune", action="store_true", help="fine-tune instead of pre-training")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # in the process that is measured
    options = parser.parse_args()
    flags = ["--shards"] * options.shards + ["--finetune"] * options.finetune
    if options.run:
        end_after_first_step()
        train = finetune if options.finetune else pretrain
        train(source_in(options.folder, flags), options.run)
        return
    sizes = {}
    for count in options.records:
        folder = options.folder / str(count)
        make_source(folder, flags, count)
        shutil.rmtree(folder / "run", ignore_errors=True)
        sizes[count] = {name: measured(folder, count, flags) for name in ("first start", "second start")}
        print(json.dumps({count: sizes[count]}, indent=1), flush=True)
    few, many = min(sizes), max(sizes)
    report: dict[str, Any] = {"cores": os.cpu_count(), "by records": sizes}
    for name in ("first start", "second start") if many > few else ():
        grown = sizes[many][name]["bytes"] - sizes[few][name]["bytes"]
        report[f"bytes a record, {name}"] = round(grown / (many - few), 1)
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def source_in(folder: Path, flags: list[str]) -> Path:
    """The table, or the index of the shard folder, in a folder."""
    if "--shards" in flags:
        return folder / "shards" / "shards.json"
    return folder / ("labels.csv" if "--finetune" in flags else "training.csv")


def make_source(folder: Path, flags: list[str], count: int) -> None:
    """Make the records of a folder unless they are there."""
    if not source_in(folder, flags).is_file():
        shards = "--shards" in flags
        script, out = ("shard_folder", folder / "shards") if shards else ("table", folder)
        command = [sys.executable, "-m", f"benchmarks.scale.{script}", "--records", str(count), "--out", out.absolute()]
        command += ["--labels"] * ("--finetune" in flags)
        subprocess.run(command, check=True, cwd=FOLDER.parents[1])


def measured(folder: Path, count: int, flags: list[str]) -> dict[str, float]:
    """What one start takes."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--records", str(count), "--folder", folder, "--run", folder / "run"]
    command += flags
    start = time.perf_counter()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall = time.perf_counter() - start
    return {"seconds": round(wall, 1), **json.loads(said.splitlines()[-1]), "load before": round(load, 1)}


def pretrain(records: Path, run: Path) -> None:
    """Start a pre-training."""
    from mrm import recipes, runs

    config = recipes.tiny(records, run, audit="names")
    runs.pretrain(replace(config, training=replace(config.training, workers=0, trackers=())))


def finetune(labels: Path, run: Path) -> None:
    """Start a fine-tuning on labelled records, from random weights; those for validation are beside them."""
    from mrm import recipes, runs

    config = recipes.tiny_finetune(labels, labels.with_name("val.csv"), None, run, audit="names", floors=False)
    config = replace(config, encoder="vit_tiny_patch16_224", image_size=96)
    runs.finetune(replace(config, training=replace(config.training, workers=0, trackers=())))


def end_after_first_step() -> None:
    """Let a training print what it took up to the end of its first step, and end the process there."""
    from mrm.training.trainer import Trainer

    def end(trainer: Trainer) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        status = Path("/proc/self/status").read_text()
        anonymous = int(status.partition("RssAnon:")[2].split()[0]) * 1024
        seconds = round(used.ru_utime + used.ru_stime, 1)
        print(json.dumps({"seconds of the processor": seconds, "bytes": anonymous, "peak": used.ru_maxrss * 1024}))
        sys.stdout.flush()
        os._exit(0)

    Trainer._after_step = end  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
