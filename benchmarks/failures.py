"""What failures cost a run: processes are killed at random until the run is finished all the same; and the arithmetic.

    python benchmarks/failures.py [--kills 8] [--json FILE]

First a real pre-training of a tiny model on phantoms. One of its processes is killed (SIGKILL) after a random number of
steps, the others are seen to end, and the run is started again on as many, fewer or more processes, until it is done.
It reports how many steps were made twice, and whether the log equals that of an uninterrupted run: bit for bit with the
same number of processes, else within 1e-4. Exit status 1 if it does not.

Then a simulation of long runs, against the formulas of Young (1974) for the best interval between checkpoints and
of Daly (2006) for the time that a run takes. `docs/scale.md` uses both.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from mrm import recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.models.config import ModelConfig
from mrm.system.files import write_json
from mrm.training.config import TrainConfig

MODEL = ModelConfig(
    encoder="vit_tiny_patch16_224", encoder_options={"depth": 2, "embed_dim": 48, "num_heads": 3}, image_size=64, keep=4,
    decoder_width=48, decoder_depth=1, decoder_heads=3, vocabulary=300, report_width=48, report_depth=1, report_heads=3,
    report_mlp=96,
)  # fmt: skip
STEPS, SAVE_EVERY = 120, 8


# Real runs ---------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What happened on the way to the end of a run."""

    processes: list[int]  # of each start
    lost: list[int]  # steps made after the last checkpoint, at each kill
    seconds: float = 0.0


def finish(config: recipes.PretrainConfig, counts: list[int], kills: int, mean: float, seed: int) -> Tally:
    """Start the run on `counts` processes in turn, kill it `kills` times, after `mean` steps on average; then let it end."""
    rng, tally, began = np.random.default_rng(seed), Tally([], []), time.perf_counter()
    while True:
        count = counts[len(tally.processes) % len(counts)]
        tally.processes.append(count)
        first, doomed = saved_step(config.out), len(tally.lost) < kills
        limit = first + rng.exponential(mean) if doomed else math.inf
        children = start(config, count)
        victim = int(rng.integers(count))
        while alive(children) and logged_step(config.out) < limit:
            time.sleep(0.002)
        if not alive(children):
            if saved_step(config.out) == STEPS:
                tally.seconds = time.perf_counter() - began
                return tally
            raise SystemExit(f"{config.out}: ended by itself at step {logged_step(config.out)}")
        os.kill(children[victim], signal.SIGKILL)
        reap(children, patience=60)
        tally.lost.append(logged_step(config.out) - saved_step(config.out))


def start(config: recipes.PretrainConfig, count: int) -> list[int]:
    """The run in `count` forked processes, as `torchrun` starts them, but with everything imported already."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if count > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1), os.dup2(silent, 2)
        status = 1
        try:
            runs.pretrain(config)
            status = 0
        finally:
            os._exit(status)
    return children


def alive(children: list[int]) -> bool:
    """Whether any of them still runs. Their exit statuses are collected, so call this until the list is empty."""
    for child in list(children):
        if os.waitpid(child, os.WNOHANG)[0]:
            children.remove(child)
    return bool(children)


def reap(children: list[int], patience: float) -> None:
    """Wait for the others to notice that one is gone, as they do; a launcher would end them after some time."""
    until = time.monotonic() + patience
    while alive(children):
        if time.monotonic() > until:
            for child in children:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def rows(run: Path) -> list[dict[str, str]]:
    """The log as far as it is written."""
    if not (run / "log.csv").is_file():
        return []
    with open(run / "log.csv", newline="") as text:
        return [row for row in csv.DictReader(text) if row["gradient"]]


def logged_step(run: Path) -> int:
    """The last step in the log."""
    return int(rows(run)[-1]["step"]) if rows(run) else 0


def saved_step(run: Path) -> int:
    """The step of the last whole checkpoint."""
    return max((int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")), default=0)


def difference(run: Path, other: Path) -> float:
    """Largest relative difference of any logged loss or gradient norm; 0 where the logs are equal to the bit."""
    a, b = rows(run), rows(other)
    if [r["step"] for r in a] != [r["step"] for r in b]:
        return math.inf
    pairs = [(float(x[k]), float(y[k])) for x, y in zip(a, b, strict=True) for k in ("image", "report", "gradient")]
    return max(abs(x - y) / abs(y) for x, y in pairs)


def expected_loss(mean: float, every: float) -> float:
    """Mean steps lost at a failure: E[X mod every] of X exponential with this mean. About every / 2 if failures are rare."""
    return mean - every / math.expm1(every / mean)


def real(kills: int, folder: Path) -> list[dict]:
    """The three ways to come back: on as many processes, in one or in two; and on changing numbers."""
    phantom_files.write(folder / "phantoms", 48, seed=0, size=128, workers=1)
    training = TrainConfig(
        epochs=None, steps=STEPS, warmup_steps=10, global_batch=8, lr=1e-3, lr_batch=None, precision="fp32",
        log_every=1, validate_every=STEPS, save_every=SAVE_EVERY, workers=0, trackers=(),
    )  # fmt: skip
    config = recipes.PretrainConfig(folder / "phantoms" / "records.csv", folder / "run", model=MODEL, training=training)
    results, mean = [], 2.0 * SAVE_EVERY
    straight = {n: replace(config, out=folder / f"straight-{n}") for n in (1, 2)}
    for count, cfg in straight.items():
        finish(cfg, [count], 0, mean, 0)
    for name, counts, cfg_seed in (("1", [1], 1), ("2", [2], 2), ("2, 1, 2, ...", [2, 1], 3)):
        killed = replace(config, out=folder / f"killed-{cfg_seed}")
        tally = finish(killed, counts, kills, mean, cfg_seed)
        gap = difference(killed.out, straight[counts[0]].out)
        allowed = 0.0 if len(counts) == 1 else 1e-4
        results.append(
            {"processes": name, "kills": len(tally.lost), "starts": len(tally.processes), "steps": STEPS,
             "lost": sum(tally.lost), "lost_per_kill": float(np.mean(tally.lost)), "expected": expected_loss(mean, SAVE_EVERY),
             "spread": float(np.std(tally.lost, ddof=1) / math.sqrt(len(tally.lost))), "difference": gap,
             "ok": gap <= allowed, "seconds": tally.seconds}
        )  # fmt: skip
    return results


# Long runs, simulated ------------------------------------------------------------------------------------


def young(save: float, between: float) -> float:
    """The interval between checkpoints that costs least, to first order: sqrt(2 C M). Young, CACM 17 (1974) 530."""
    return math.sqrt(2 * save * between)


def daly(work: float, every: float, save: float, restart: float, between: float) -> float:
    """Expected time for `work`, checkpoints included. Daly, Future Gener. Comput. Syst. 22 (2006) 303, equation 13."""
    return between * math.exp(restart / between) * math.expm1((every + save) / between) * work / every


def simulated(
    work: float, every: float, save: float, restart: float, between: float, rng: np.random.Generator
) -> float:
    """Time for one run whose failures come at random, also while it saves or restarts; all in the same unit."""
    clock, done, next_failure = 0.0, 0.0, rng.exponential(between)
    while done < work:
        segment = min(every, work - done)
        end = clock + segment + save
        if end <= next_failure:
            clock, done = end, done + segment
            continue
        clock = next_failure
        while True:  # restart until one lasts
            next_failure = clock + rng.exponential(between)
            if clock + restart <= next_failure:
                clock += restart
                break
            clock = next_failure
    return clock


def long_runs(draws: int = 400) -> list[dict]:
    """A day of work in seconds, for mean times between failures from rare to constant preemption."""
    rng, results = np.random.default_rng(0), []
    for name, hours in (("64 GPUs, hardware", 792.0), ("preempted daily", 24.0), ("preempted hourly", 1.0)):
        work, save, restart, between = 24 * 3600.0, 10.0, 300.0, hours * 3600
        best = young(save, between)
        for factor in (0.25, 1.0, 4.0):
            every = factor * best
            times = [simulated(work, every, save, restart, between, rng) for _ in range(draws)]
            results.append(
                {"case": name, "between_hours": hours, "every_seconds": every, "formula": daly(work, every, save, restart, between) / work - 1,
                 "simulated": float(np.mean(times)) / work - 1, "spread": float(np.std(times, ddof=1) / math.sqrt(draws)) / work}
            )  # fmt: skip
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=8, help="in each of the three runs")
    arguments.add_argument("--json", type=Path, help="write the numbers there too")
    options = arguments.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        killed = real(options.kills, Path(folder))
    print(f"Killed at random: {STEPS} steps, a checkpoint every {SAVE_EVERY}, a kill after {2 * SAVE_EVERY} on average")
    print("processes     kills  starts  steps lost  per kill (expected)  against the uninterrupted run")
    for r in killed:
        same = "equal to the bit" if r["difference"] == 0 else f"within {r['difference']:.0e}"
        print(
            f"{r['processes']:12} {r['kills']:6} {r['starts']:7} {r['lost']:11}  {r['lost_per_kill']:.1f} +- "
            f"{r['spread']:.1f} ({r['expected']:.1f})    {same}{'' if r['ok'] else '  NOT THE SAME RUN'}"
        )
    print("\nA day of work; 10 s to save, 300 s to start again: time beyond it, by Daly's formula and simulated")
    lengthened = long_runs()
    for r in lengthened:
        print(
            f"{r['case']:18} a failure in {r['between_hours']:5.0f} h, saved every {r['every_seconds'] / 60:6.1f} min: "
            f"{100 * r['formula']:6.2f} %  {100 * r['simulated']:6.2f} +- {100 * r['spread']:.2f} %"
        )
    print(f"\n{time.perf_counter() - began:.0f} s")
    if options.json:
        write_json(options.json, {"killed": killed, "long_runs": lengthened})
    sys.exit(0 if all(r["ok"] for r in killed) else 1)


if __name__ == "__main__":
    main()
