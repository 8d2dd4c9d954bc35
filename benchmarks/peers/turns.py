"""Ways to do the same work take turns, each in a process of its own.

In one process they would share what the allocator keeps and what was patched, and each would affect the others. A process
waits at its `Gate` until it is its turn, does the work once, and answers with the time and with what it computed, so that
the same work is timed. The order is reversed in every other turn. A ratio is of one turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import speed

from mrm.system.hardware import cores

ROOT = Path(__file__).parents[2]
OURS = "mrm"  # the way that the others are compared with


@dataclass(frozen=True)
class Setting:
    """What all ways of a line are given: small work or real, and the folder with the prepared files."""

    quick: bool
    folder: Path


class Gate:
    """Where the process of one way waits for its turn. What a library prints goes to standard error."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def open(self) -> None:
        """Wait for the first turn, when everything is ready."""
        if not sys.stdin.readline():
            os._exit(0)  # no more turns: what a library does at its end is not measured
        self.began, self.used = time.perf_counter(), time.process_time()

    def done(self, value: Any = None) -> None:
        """The work of this turn is done, and this is what it computed; wait for the next turn."""
        seconds, processor = time.perf_counter() - self.began, time.process_time() - self.used
        memory = speed.peak_memory()
        self.answer(seconds=seconds, processor=processor, memory=memory, value=np.asarray(value, dtype=float).tolist())
        self.open()

    def answer(self, **facts: Any) -> None:
        """Tell the process that asks."""
        print(json.dumps(facts), file=self.answers, flush=True)

    def repeat(self, work: Callable[[], Any]) -> None:
        """Do the work at each turn."""
        self.open()
        while True:
            self.done(work())


Way = Callable[[Gate, Setting], None]


@dataclass(frozen=True)
class Line:
    """A line of the table: one kind of work, and the ways to do it, `OURS` among them."""

    what: str
    unit: str
    ways: dict[str, Way]
    difference: Callable[[np.ndarray, np.ndarray], float]  # of what ours and another way computed
    tolerance: float
    quick_tolerance: float | None = None  # where small work differs more
    repeats: int = 7
    shares: Sequence[str] = ()  # ways that do a part of the work that all share: their share of ours is reported
    threads: int = cores()


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest difference, as a share of ours."""
    return float(np.max(np.abs(theirs - ours) / np.abs(ours)))


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest difference."""
    return float(np.max(np.abs(theirs - ours)))


def mean_of_image(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The mean difference in the image that differs most; images are rows."""
    return float(np.abs(theirs - ours).reshape(len(ours), -1).mean(axis=1).max())


class Process:
    """One way in a process of its own."""

    def __init__(self, line: str, way: str, setting: Setting, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.peers", "--way", line, way, "--folder", str(setting.folder)]
        self.command = command + (["--quick"] if setting.quick else [])
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def __enter__(self) -> Process:
        self.errors = tempfile.TemporaryFile("w+")  # closed with the process
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        return self

    def turn(self) -> dict[str, Any]:
        """What it answers when it has done the work once more; `missing` names a library that is not installed."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # it ended early, and its answer or its errors say why
            print("turn", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise SystemExit(
                f"{' '.join(self.command)}: ended with {self.process.wait()}\n{self.errors.read()[-3000:]}"
            )
        return json.loads(answer)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()  # no more turns: it ends
        self.errors.close()


def measure(name: str, line: Line, setting: Setting, ways: Sequence[str] | None = None) -> dict[str, Any]:
    """The work of a line by all its ways, in turns. Raises SystemExit where two ways compute different things."""
    repeats = 2 if setting.quick else line.repeats
    with contextlib.ExitStack() as stack:
        every = [w for w in line.ways if ways is None or w == OURS or w in ways]
        processes = {way: stack.enter_context(Process(name, way, setting, line.threads)) for way in every}
        first = {way: process.turn() for way, process in processes.items()}  # also warms up
        missing = {way: answer["missing"] for way, answer in first.items() if "missing" in answer}
        turns: dict[str, list[dict[str, Any]]] = {way: [] for way in processes if way not in missing}
        tolerance = line.quick_tolerance if setting.quick and line.quick_tolerance else line.tolerance
        differences = compared(line, {way: first[way]["value"] for way in turns}, tolerance)
        for way in turns:
            processes[way].turn()
        for number in range(repeats):
            for way in list(turns) if number % 2 == 0 else list(reversed(turns)):
                turns[way].append(processes[way].turn())
    return summary(line, turns, differences, missing)


def compared(line: Line, values: dict[str, Any], tolerance: float) -> dict[str, float]:
    """How far what each way computed is from ours. Raises SystemExit where that is too far."""
    ours = np.asarray(values[OURS], dtype=float)
    others = {way: np.asarray(value, dtype=float) for way, value in values.items() if way != OURS}
    differences = {way: line.difference(ours, value) for way, value in others.items() if np.isfinite(value).all()}
    for way, difference in differences.items():
        if not difference <= tolerance:
            raise SystemExit(
                f"{way}: computes something else than {OURS}, by {difference:.3g}; {tolerance:g} is allowed"
            )
    return differences


def summary(
    line: Line, turns: dict[str, list[dict[str, Any]]], differences: dict[str, float], missing: dict[str, str]
) -> dict[str, Any]:
    """Seconds, ratios and shares of a line. A ratio above 1 says how many times as long as ours the other way takes."""
    seconds = {way: [turn["seconds"] for turn in each] for way, each in turns.items()}
    processor = {way: [turn["processor"] for turn in each] for way, each in turns.items()}
    peers = [way for way in turns if way != OURS and way not in line.shares]
    return {
        "what": f"{line.what}; {line.threads} thread{'s' * (line.threads > 1)}",
        "unit": line.unit,
        "seconds": {way: speed.spread(each) for way, each in seconds.items()},
        "processor_seconds": {way: speed.spread(each) for way, each in processor.items()},
        "ratios": {way: speed.ratio(seconds, way, OURS) for way in peers},
        "processor_ratios": {way: speed.ratio(processor, way, OURS) for way in peers},
        "shares": {way: speed.ratio(seconds, way, OURS) for way in line.shares if way in turns},
        "memory": {way: max(turn["memory"] for turn in each) for way, each in turns.items()},
        "differences": differences,
        "tolerance": line.tolerance,
        "missing": missing,
    }
