"""Small changes to the code, one at a time, and whether a test notices each: a comparison, a sign, a constant, a result.

    python -m tests.support.mutants --changes 60 [--seed 0] [--packages NAME ...] [--seconds 3600]    # `make mutants`
    python -m tests.support.mutants --packages metrics --tests tests/statistics --longest 20          # a first look

The changes are those of cosmic-ray's operators, and a result turned into None, in the packages that `pyproject.toml` lists
under `tool.mutants`; a package is sampled by the seed. For each change, the tests that run its line are run in a copy of this
checkout, nearest first, until one fails. Which tests run a line is measured once for each folder of tests, and kept in
`.mutants/` with the outcomes, so that the command goes on where it was stopped: what the nearest folders did not notice in a
first look is tried against all tests in the next. Changes without effect are named in
`tests/support/mutants_without_effect.yaml`, each with the reason.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.support.mutant_sites import Change, mutated, sample
from tests.support.mutant_tests import LineTests, measure, parts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".mutants"  # coverage and outcomes
WITHOUT_EFFECT = Path(__file__).with_name("mutants_without_effect.yaml")
COPIED = ("src", "tests", "docs", "benchmarks", "examples", "README.md", "CHANGELOG.md", "pyproject.toml",
          "constraints.txt", "Makefile", "SECURITY.md", "CONTRIBUTING.md")  # fmt: skip
SLACK = 30.0  # seconds of the processor that the tests of a change may take beside four times those they take unchanged
PATIENCE = 20  # times as many seconds by the clock, for tests that wait and for a machine that others use too
HEAVY = (
    "torch",
    "timm",
    "sklearn.linear_model",
    "scipy.stats",
    "cv2",
    "pyarrow.parquet",
    "pydicom",
    "hypothesis",
    "pytest",
)

NOTICED, UNNOTICED, NOT_RUN, NO_EFFECT = "noticed", "not noticed", "run by no test", "without effect"


class Outcome(NamedTuple):
    """What became of a change."""

    package: str
    change: Change
    result: str
    tests: int  # that run the line
    left_out: int  # of them, for want of time
    seconds: float


# In a process of its own, with a copy of the checkout ---------------------------------------------------------------


def work(copy: Path, ours: Connection) -> None:
    """Answer each change with what its tests say, in a process forked for it from one that has imported the libraries."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # no test needs one; looking for them costs more than most tests
        "PYTHONPATH": f"{copy / 'src'}:{copy}",
    }
    for name in HEAVY:
        __import__(name)
    gc.collect()
    gc.freeze()  # what is imported is shared with every fork as long as no collection touches it
    texts = itertools.count(int(time.time()) - 10_000_000)

    def put(file: Path, text: str) -> None:
        """Write a text that no bytecode is kept of: Python tells one text from another by seconds and length."""
        file.write_text(text)
        os.utime(file, (written := next(texts), written))

    while (task := ours.recv()) is not None:
        change, tests, seconds = task
        file = copy / change.file
        original = file.read_text()
        put(file, mutated(original, change))
        try:
            status = run(copy, tests, seconds)
            if status == 4:  # a test that is no longer there: is it there without the change?
                put(file, original)
                status = 1 if run(copy, tests, seconds) == 0 else 4
        finally:
            put(file, original)
        ours.send(status)


def run(copy: Path, tests: list[str], seconds: float) -> int:
    """The exit status of pytest, stopped at the first failure; 1 if it takes more `seconds` of the processor."""
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds)))
        _test(copy, tests)
    while time.monotonic() - began < PATIENCE * seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 1
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def _test(copy: Path, tests: list[str]) -> None:
    """Run the tests in this process, and end it."""
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.chdir(copy)
        sys.path[:0] = [str(copy / "src"), str(copy)]
        for name in [n for n in sys.modules if n.partition(".")[0] in ("mrm", "tests")]:
            del sys.modules[name]
        import pytest

        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(status)


# The run ---------------------------------------------------------------------------------------------------------------


def packages() -> dict[str, list[str]]:
    """The packages of `pyproject.toml`, each with its files."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]["packages"]
    source = ROOT / "src" / "mrm"
    found = {
        name: [f for pattern in patterns for f in sorted(source.glob(pattern))] for name, patterns in stated.items()
    }
    empty = [name for name, files in found.items() if not files]
    if empty:
        sys.exit(f"no file of the packages {', '.join(empty)}; mend tool.mutants in pyproject.toml")
    return {name: [str(f.relative_to(ROOT)) for f in files] for name, files in found.items()}


def known_without_effect() -> list[dict[str, str]]:
    """Changes that are known to have no effect: file, the line before and after, and the reason."""
    return yaml.safe_load(WITHOUT_EFFECT.read_text()) or []


def is_without_effect(change: Change, known: Iterable[dict[str, str]]) -> bool:
    """Whether the change is one of those, wherever its line stands now. One without a file is a part of any line."""
    mine = (change.file, change.before.strip(), change.after.strip())
    return any(
        mine == (each["file"], each["before"], each["after"])
        if "file" in each
        else each["before"] in change.before and change.before.replace(each["before"], each["after"]) == change.after
        for each in known
    )


def copy_checkout(place: Path) -> Path:
    """A copy of what the tests need, with `../shared` beside it where the checkout has that."""
    copy = place / "checkout"
    copy.mkdir(parents=True)
    for name in COPIED:
        if (source := ROOT / name).is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        elif source.is_file():
            shutil.copy(source, copy / name)
    if (shared := ROOT.parent / "shared").is_dir():
        (place / "shared").symlink_to(shared.resolve())
    return copy


def identity(change: Change, seed: int) -> str:
    """Names a change of this text of its file, so that outcomes are kept while the file is as it was."""
    text = (ROOT / change.file).read_bytes()
    return hashlib.sha256(json.dumps([seed, *change]).encode() + text).hexdigest()[:24]


def outcomes_of(
    tasks: list[tuple[str, Change]], lines: LineTests, seed: int, until: float, workers: int
) -> list[Outcome]:
    """The outcome of each change, those of an earlier start among them; fewer if the time is over."""
    kept_file = FOLDER / "outcomes.jsonl"
    kept = {}
    if kept_file.is_file():
        kept = {row["identity"]: row for row in map(json.loads, kept_file.read_text().splitlines())}
    known, results, waiting = known_without_effect(), [], []
    for package, change in tasks:
        tests, left_out, seconds = lines.of(change.file, change.line)
        if is_without_effect(change, known):
            results.append(Outcome(package, change, NO_EFFECT, len(tests), 0, 0.0))
        elif not tests:
            results.append(Outcome(package, change, NOT_RUN, 0, 0, 0.0))
        elif (row := kept.get(identity(change, seed))) and row["result"] == NOTICED:
            results.append(Outcome(package, change, NOTICED, len(tests), left_out, row["seconds"]))
        else:
            waiting.append((package, change, tests, left_out, 4 * seconds + SLACK))
    with tempfile.TemporaryDirectory() as place, open(kept_file, "a") as out:
        for outcome in _run_all(waiting, Path(place), until, workers):
            results.append(outcome)
            row = {"identity": identity(outcome.change, seed), "result": outcome.result, "seconds": outcome.seconds}
            print(json.dumps(row), file=out, flush=True)
            done = f"{outcome.package:12} {outcome.result:14} {outcome.seconds:5.1f} s  {outcome.change}"
            print(done, flush=True)
    return results


def _run_all(waiting: list[Any], place: Path, until: float, workers: int) -> Iterable[Outcome]:
    context = multiprocessing.get_context("spawn")
    queue = iter(waiting)
    busy: dict[Connection, tuple[Any, float]] = {}
    processes = []
    for number in range(min(workers, len(waiting))):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(copy_checkout(place / str(number)), theirs), daemon=True)
        process.start()
        processes.append((process, ours))

    def give(connection: Connection) -> None:
        task = next(queue, None) if time.monotonic() < until else None
        connection.send(task and (task[1], task[2], task[4]))
        if task:
            busy[connection] = (task, time.monotonic())

    for _, connection in processes:
        give(connection)
    while busy:
        for connection in wait(list(busy)):
            (package, change, tests, left_out, _), began = busy.pop(connection)  # type: ignore[index]
            status = connection.recv()  # type: ignore[union-attr]
            result = {0: UNNOTICED, 4: NOT_RUN, 5: NOT_RUN}.get(status, NOTICED)
            yield Outcome(package, change, result, len(tests), left_out, round(time.monotonic() - began, 1))
            give(connection)  # type: ignore[arg-type]
    for process, _ in processes:
        process.join()


def table(results: list[Outcome]) -> str:
    """A row for each package: how many changes have an effect, and how many of those were noticed."""
    lines = [f"{'package':14}{'changes':>9}{'no effect':>11}{'noticed':>9}{'not':>5}{'not run':>9}{'share':>8}"]
    for package in dict.fromkeys(o.package for o in results):
        counts = Counter(o.result for o in results if o.package == package)
        effective = counts.total() - counts[NO_EFFECT]
        share = f"{100 * counts[NOTICED] / effective:.0f} %" if effective else "-"
        lines.append(
            f"{package:14}{counts.total():9}{counts[NO_EFFECT]:11}{counts[NOTICED]:9}{counts[UNNOTICED]:5}"
            f"{counts[NOT_RUN]:9}{share:>8}"
        )
    return "\n".join(lines)


def main() -> None:
    """Print each outcome, what no test noticed, and the table; exit with 1 if anything was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=60, help="of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", nargs="*", default=None)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no change after this time")
    parser.add_argument(
        "--tests", nargs="*", default=parts(ROOT), help="folders of tests, such as tests/audit; else all"
    )
    parser.add_argument("--longest", type=float, default=60.0, help="seconds of tests that are run for a change")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--keep-coverage", action="store_true", help="though the code has changed since it was measured"
    )
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    FOLDER.mkdir(exist_ok=True)
    chosen = {n: files for n, files in packages().items() if not options.packages or n in options.packages}
    if absent := [name for name in options.tests if not (ROOT / name).exists()]:
        parser.error(f"no tests {', '.join(absent)}; expected folders or files such as {', '.join(parts(ROOT)[:3])}")
    lines = measure(ROOT, FOLDER, options.tests, options.workers, options.keep_coverage, options.longest)
    tasks = [
        (package, change)
        for package, files in chosen.items()
        for change in sample({f: (ROOT / f).read_text() for f in files}, options.changes, f"{options.seed} {package}")
    ]
    results = outcomes_of(tasks, lines, options.seed, until, options.workers)
    for outcome in results:
        if outcome.result in (UNNOTICED, NOT_RUN):
            left = f", {outcome.left_out} more left out" if outcome.left_out else ""
            print(f"\n{outcome.package}: {outcome.result} ({outcome.tests} tests{left})\n{outcome.change.difference()}")
    print(f"\nseed {options.seed}\n{table(results)}")
    if len(results) < len(tasks):
        print(f"{len(tasks) - len(results)} changes were not tried for want of time; run the same command again")
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        rows = [{**o._asdict(), "change": o.change._asdict()} for o in results]
        options.json.write_text(
            json.dumps({"seed": options.seed, "commit": commit.strip(), "outcomes": rows}, indent=1)
        )
    sys.exit(any(o.result in (UNNOTICED, NOT_RUN) for o in results))


if __name__ == "__main__":
    main()
