"""Does pre-training with images and reports save labels, and how many? One command that can be stopped anywhere.

    python benchmarks/label_efficiency/study.py --out study --part phantoms --dry-run
    python benchmarks/label_efficiency/study.py --out study --part phantoms --hours 1.5
    python benchmarks/label_efficiency/study.py --out study --part real --data DATA
    python benchmarks/label_efficiency/study.py --out study --part finetune
    python benchmarks/label_efficiency/study.py --out study --part tables

The study is a list of units of work; each leaves `units/NAME.json` (and `.npz`: scores of every test image) when
it is done and is never done twice. A lock keeps two processes off one unit, so start the command once per
core. What was stopped or killed resumes; a unit that fails is noted in `failed/NAME.json` and tried
again by the next call. `--part tables` writes `table.md`, `study.json` and the plots from whatever is there.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import analysis
import phantoms
import real
import torch
from arms import ARMS, SIZES
from units import Study, StudyError, Unit

from mrm.system.errors import OutputError
from mrm.system.lock import trying
from mrm.system.output_folder import json_settings, open_folder

PARTS = {"phantoms": phantoms.units, "real": real.units, "finetune": phantoms.finetune_units}


def main() -> None:
    """Do the remaining units of a part, then write the tables."""
    options = arguments()
    torch.set_num_threads(1)
    try:
        study = open_study(options)
        parts = [options.part] if options.part in PARTS else list(PARTS) if options.part == "all" else []
        plan = [unit for part in parts for unit in PARTS[part](study)]
        if options.dry_run:
            print(estimate(study, plan))
            return
        work(study, plan, options.hours)
        print(analysis.write(study), flush=True)
    except (StudyError, OutputError) as error:
        sys.exit(f"study.py: error: {error}")
    except KeyboardInterrupt as stopped:
        sys.exit(f"study.py: {stopped or 'stopped'}; repeat the command to resume")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--part", choices=[*PARTS, "all", "tables"], default="all")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--data", type=Path, help="folder of the public sets, for the part `real`")
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no unit after this time")
    parser.add_argument(
        "--pretrainings", type=int, default=3, help="runs of each main arm, each with a seed of its own"
    )
    arms = list(ARMS)
    parser.add_argument(
        "--arms", nargs="+", choices=arms, default=arms, help="only these arms of what --part pre-trains"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the units and what is left to do, in hours")
    return parser.parse_args()


def open_study(options: argparse.Namespace) -> Study:
    """The study in --out, or a new one. Raises OutputError if the folder holds something else."""
    study = Study(
        options.out, options.size, SIZES[options.size], options.data, options.pretrainings, tuple(options.arms)
    )
    settings = {"size": options.size, **asdict(study.size)}
    open_folder(options.out, json_settings("study", "settings.json", settings))
    return study


# Work ---------------------------------------------------------------------------------------------------


def work(study: Study, plan: list[Unit], hours: float) -> None:
    """Do units, in order, until none is left that this process can do."""
    end, failed = time.monotonic() + 3600 * hours, set()
    while left := [u for u in plan if not study.done(u.name) and u.name not in failed]:
        names = {u.name for u in left} | failed
        ready = [u for u in left if not names & set(u.needs)]
        started = False
        for unit in ready:
            if time.monotonic() > end:
                print(f"{len(left)} units are left; repeat the command to resume", flush=True)
                return
            with lock(study, unit) as mine:
                if not mine:
                    continue
                started = True
                if not study.done(unit.name) and not attempt(study, unit):
                    failed.add(unit.name)
            break
        blocked = [u for u in left if failed & set(u.needs)]
        if not started and len(blocked) == len(left):
            break
        if not started:  # other processes hold everything that could be done now
            time.sleep(min(5.0, max(0.1, end - time.monotonic())))
            if time.monotonic() > end:
                return
    if failed:
        print(f"{len(failed)} units failed and will be tried again: {', '.join(sorted(failed))}", flush=True)


@contextlib.contextmanager
def lock(study: Study, unit: Unit) -> Iterator[bool]:
    """Whether this process got the unit; the system releases it when the process ends, however it ends."""
    path = study.file("locks", unit.name, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with trying(path) as acquired:
        yield acquired


def attempt(study: Study, unit: Unit) -> bool:
    """Do a unit and keep its result, or note why it failed."""
    log, began = study.file("logs", unit.name, ".log"), time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    processor = time.process_time()
    print(f"{time.strftime('%H:%M:%S')} {unit.name} ...", flush=True)
    try:
        with open(log, "a") as text, contextlib.redirect_stdout(text), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            result = unit.do(study)
    except Exception as error:
        why = {"unit": unit.name, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        study.write("failed", unit.name, why)
        print(f"  failed: {why['error']}", flush=True)
        return False
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    study.write("units", unit.name, {"unit": unit.name, "seconds": seconds, "processor_seconds": processor, **result})
    study.file("failed", unit.name, ".json").unlink(missing_ok=True)
    print(f"  {seconds:.0f} s  {result.get('says', '')}", flush=True)
    return True


def estimate(study: Study, plan: list[Unit]) -> str:
    """The units with their expected seconds: as measured for done ones, else by the rates in `phantoms` and `real`."""
    lines, left = [], 0.0
    for unit in plan:
        done = study.done(unit.name)
        seconds = study.read(unit.name)["seconds"] if done else unit.seconds
        left += 0 if done else seconds
        lines.append(f"{'done' if done else '':5}{seconds:8.0f} s  {unit.name}")
    return "\n".join(
        [*lines, f"{left / 3600:.1f} hours of one core are left; run it in as many processes as there are cores"]
    )


if __name__ == "__main__":
    main()
