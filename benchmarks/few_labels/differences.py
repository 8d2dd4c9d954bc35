"""What the finished units show: AUROC of every method, and paired differences with intervals over all that could be otherwise.

A difference is taken test patient by test patient, draw by draw and pre-training by pre-training, then averaged over tasks.
Its variance has three parts: that over test patients (DeLong), that over draws of labels, and that over pre-trainings, with
Satterthwaite's degrees of freedom. Two pre-trainings have one degree of freedom, so differences of encoders have wide
intervals. P values are corrected by Holm within a family of comparisons at one number of labels.
"""

# Shapes: N records, P pre-trainings, D draws
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import label_tasks
import numpy as np
from scipy.stats import t as student

from mrm.data.records import Records
from mrm.runs.kept_models import read_arrays
from mrm.statistics.comparison import delong, holm
from mrm.system.files import write_json, write_whole

SIZES = {"10": 10, "50": 50, "250": 250, "all": None}  # labels
FLOORS = ("hog", "pixels")
REAL = ("tuberculosis", "pneumonia", "virus")  # real images on which some method is better than chance


class Unit(NamedTuple):
    """One measurement; of a floor, which has no encoder, the encoder is its own name."""

    task: str
    labels: str
    draw: int
    encoder: str
    method: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Unit:
        """The unit of a line of `units.jsonl`."""
        return cls(*(row[field] for field in cls._fields))

    @property
    def name(self) -> str:
        """The name of its file of scores."""
        return "_".join([self.task, self.labels, str(self.draw), self.encoder, self.method]).replace(" ", "-")


class Way(NamedTuple):
    """A method and the arm of its encoders; of a floor the arm is its own name."""

    arm: str
    method: str

    def __str__(self) -> str:
        return self.arm if self.method == "floor" else f"{self.method} ({self.arm})"


FULL, PROBE = Way("both", "full"), Way("both", "probe")
METHOD_FAMILY = [
    *(Way("both", m) for m in ("probe", "published", "lora", "last-2", "class queries", "probe first", "ensemble")),
    *(Way("both", m) for m in ("weighted", "focal", "asymmetric")),
    *(Way(f, "floor") for f in FLOORS),
]
FAMILIES: dict[str, list[tuple[Way, Way]]] = {
    "methods, less full fine-tuning": [(way, FULL) for way in METHOD_FAMILY],
    **{
        f"pre-training, by {name}": [
            *((Way("both", method), Way(arm, method)) for arm in ("image", "random")),
            (Way("image", method), Way("random", method)),
        ]
        for name, method in (("probe", "probe"), ("full fine-tuning", "full"))
    },
    "floors, less the probe": [(Way(f, "floor"), PROBE) for f in FLOORS],
}


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines; a line that a kill has cut is left out."""
    for text in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        try:
            row = json.loads(text)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


# Differences --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfTask:
    """The paired difference of two ways on one task: for each pre-training and draw, and its variance over test patients."""

    gap_PD: np.ndarray
    patients_variance: float


@dataclass(frozen=True)
class Difference:
    """A difference with its 95 % interval and p value."""

    value: float
    low: float
    high: float
    p: float
    tasks: int
    pretrainings: int
    draws: int


def across(parts: Sequence[OfTask]) -> Difference:
    """The mean over tasks with its interval (see the module)."""
    tasks, pretrainings = len(parts), min(part.gap_PD.shape[0] for part in parts)
    draws = min(part.gap_PD.shape[1] for part in parts)
    value = float(np.mean([part.gap_PD.mean() for part in parts]))
    variances = [(sum(part.patients_variance for part in parts) / tasks**2, math.inf)]
    if pretrainings > 1:
        of_runs_P = np.mean([part.gap_PD[:pretrainings].mean(axis=1) for part in parts], axis=0)
        variances.append((float(of_runs_P.var(ddof=1)) / pretrainings, pretrainings - 1))
    for part in parts:
        count = part.gap_PD.shape[1]
        if count > 1:
            variances.append((float(part.gap_PD.mean(axis=0).var(ddof=1)) / count / tasks**2, count - 1))
    variance = sum(v for v, _ in variances)
    if variance <= 0:
        return Difference(value, math.nan, math.nan, math.nan, tasks, pretrainings, draws)
    slack = sum(v**2 / df for v, df in variances)
    df = variance**2 / slack if slack else math.inf
    error = math.sqrt(variance)
    half = float(student.ppf(0.975, df)) * error
    return Difference(
        value, value - half, value + half, float(2 * student.sf(abs(value) / error, df)), tasks, pretrainings, draws
    )


class Scores:
    """The scores of all finished units, read when they are asked for."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows = list(lines(out / "units.jsonl"))
        self.units = {Unit.of(row): row for row in self.rows}
        self.tests: dict[str, Records] = {}

    def tasks(self) -> list[str]:
        """The tasks of the units, in their order."""
        return list(dict.fromkeys(row["task"] for row in self.rows))

    def encoders(self, way: Way) -> list[str]:
        """The encoders of an arm that have a unit of this method."""
        if way.method == "floor":
            return [way.arm]
        names = {row["encoder"] for row in self.rows if row["method"] == way.method}
        return sorted(name for name in names if name.rpartition("-")[0] == way.arm)

    def test(self, task: str) -> Records:
        """The test records of a task."""
        if task not in self.tests:
            self.tests[task] = label_tasks.loaded(self.out / "tasks" / task / "test.csv")
        return self.tests[task]

    def grid(self, way: Way, task: str, size: str) -> dict[tuple[int, int], Unit]:
        """The units of a way by the number of its pre-training and by draw; those of a floor have the number 0."""
        cells = {}
        for encoder in self.encoders(way):
            number = 0 if way.method == "floor" else int(encoder.rpartition("-")[2])
            for draw in range(100):
                unit = Unit(task, size, draw, encoder, way.method)
                if unit in self.units:
                    cells[number, draw] = unit
        return cells

    def paired(self, first: Way, second: Way, task: str, size: str) -> OfTask | None:
        """Two ways on one task: pre-trainings that both have, and the draws that each of these has; None without any.

        Pre-trainings of one number belong together. A floor has none, and is compared with each of the other's.
        """
        grids = [self.grid(way, task, size) for way in (first, second)]
        floors = [way.method == "floor" for way in (first, second)]
        numbers = [{number for number, _ in grid} for grid in grids]
        of_both = numbers[0] & numbers[1] if floors[0] == floors[1] else numbers[floors.index(False)]
        runs = sorted(of_both) if all(numbers) else []

        def cell(which: int, run: int, draw: int) -> Unit | None:
            return grids[which].get((0 if floors[which] else run, draw))

        complete = [d for d in range(100) if all(cell(w, p, d) for w in (0, 1) for p in runs)]
        if not runs or not complete:
            return None
        units = [[cell(w, p, d) for p in runs for d in complete] for w in (0, 1)]
        gap_M = np.array([self.units[a]["auroc"] - self.units[b]["auroc"] for a, b in zip(*units, strict=True)])  # type: ignore[index]
        scores_NM = np.stack([self.scores(unit) for unit in (*units[0], *units[1])], axis=1)  # type: ignore[arg-type]
        test = self.test(task)
        _, covariance_MM = delong(test.labels_NC[:, 0], scores_NM, test.people)
        contrast_M = np.repeat([1.0, -1.0], len(gap_M)) / len(gap_M)
        variance = float(contrast_M @ covariance_MM @ contrast_M)
        return OfTask(gap_M.reshape(len(runs), len(complete)), variance)

    def scores(self, unit: Unit) -> np.ndarray:
        """The scores (N,) of a unit."""
        return read_arrays(self.out / "scores" / f"{unit.name}.npz")["scores"].astype(np.float64)


# Results ------------------------------------------------------------------------------------------------


def summarise(scores: Scores) -> dict[str, Any]:
    """The content of `results.json`."""
    compared = []
    for family, pairs in FAMILIES.items():
        for size in SIZES:
            rows = [row for pair in pairs if (row := comparison(scores, *pair, size))]
            corrected = holm([row["p"] for row in rows])
            compared += [
                {"family": family, "labels": size, **row, "p_holm": float(p)}
                for row, p in zip(rows, corrected, strict=True)
            ]
    return {
        "units": len(scores.rows),
        "seconds": round(sum(row["seconds"] for row in scores.rows)),
        "steps": next((row["steps"] for row in scores.rows if "steps" in row), None),  # of every fine-tuning
        "means": means(scores),
        "comparisons": compared,
    }


def comparison(scores: Scores, first: Way, second: Way, size: str) -> dict[str, Any] | None:
    """Two ways over all tasks that have both, and on each."""
    parts = {task: scores.paired(first, second, task, size) for task in scores.tasks()}
    known = {task: part for task, part in parts.items() if part is not None}
    if not known:
        return None
    each = {task: vars(across([part])) for task, part in known.items()}
    return {"first": str(first), "second": str(second), **vars(across(list(known.values()))), "by_task": each}


def means(scores: Scores) -> list[dict[str, Any]]:
    """AUROC of every way by task and number of labels: the mean over pre-trainings and draws, and how many there are."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for row in scores.rows:
        way = Way(row["encoder"] if row["method"] == "floor" else row["encoder"].rpartition("-")[0], row["method"])
        cells.setdefault((str(way), row["task"], row["labels"]), []).append(row["auroc"])
    return [
        {"way": way, "task": task, "labels": labels, "auroc": round(float(np.mean(values)), 4), "runs": len(values)}
        for (way, task, labels), values in cells.items()
    ]


def write(out: Path, place: Path) -> str:
    """`results.json`, `results.md` and the plots in `place`. Returns the tables."""
    report = summarise(Scores(out))
    write_json(place / "results.json", report)
    text = tables(report)
    write_whole(place / "results.md", text.encode())
    if report["means"]:
        plot(report, place / "labels.png")
    return text


def tables(report: Mapping[str, Any]) -> str:
    """Everything as Markdown."""
    steps = f" Fine-tunings have {report['steps']} steps." if report["steps"] else ""
    texts = [f"{report['units']:,} units, {report['seconds'] / 60:.0f} minutes of one core.{steps}\n"]
    tasks = list(dict.fromkeys(row["task"] for row in report["means"]))
    for size in SIZES:
        if rows := [row for row in report["means"] if row["labels"] == size]:
            texts.append(f"### {size} labels\n\n{mean_table(rows, tasks)}")
            texts += [
                f"{family}:\n\n{difference_table(chosen)}"
                for family in FAMILIES
                if (chosen := [r for r in report["comparisons"] if (r["family"], r["labels"]) == (family, size)])
            ]
    return "\n".join(texts)


def mean_table(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Ways down, tasks across, and means over all tasks and over the real ones; runs are those of the task with fewest."""
    sets = {"mean": list(tasks), "real": real_of(tasks)}
    head = f"| way | {' | '.join([*tasks, *sets])} | runs |\n|{' --- |' * (len(tasks) + 4)}\n"
    body = ""
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = {row["task"]: row for row in rows if row["way"] == way}
        values = [f"{cells[task]['auroc']:.3f}" if task in cells else "not run" for task in tasks]
        for some in sets.values():
            whole = [cells[task]["auroc"] for task in some if task in cells]
            values.append(f"{np.mean(whole):.3f}" if len(whole) == len(some) else "")
        body += f"| {way} | {' | '.join(values)} | {min(c['runs'] for c in cells.values())} |\n"
    return head + body


def real_of(tasks: Iterable[str]) -> list[str]:
    """The real tasks among these; all of them where there is none."""
    return [task for task in tasks if task in REAL] or list(tasks)


def difference_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences with their intervals."""
    head = "| first less second | AUROC | 95 % interval | p (Holm) | tasks, pre-trainings, draws |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {row['first']} less {row['second']} | {row['value']:+.3f} | {_interval(row)} | {row['tasks']}, {row['pretrainings']}, {row['draws']} |\n"
        for row in rows
    )


def _interval(row: Mapping[str, Any]) -> str:
    """The interval and the p value as two cells; without either where the two rank alike."""
    if not math.isfinite(row["low"]):
        return "none: equal scores | "
    return f"{row['low']:+.3f} to {row['high']:+.3f} | {row['p_holm']:.3g}"


def plot(report: Mapping[str, Any], file: Path) -> None:
    """Mean AUROC over the real tasks by the number of labels; only where each of them has its cell."""
    from matplotlib.figure import Figure

    tasks = real_of(dict.fromkeys(row["task"] for row in report["means"]))
    axes = (figure := Figure(figsize=(9, 4.5), layout="constrained")).subplots()
    for way in dict.fromkeys(row["way"] for row in report["means"]):
        points = []
        for number, size in enumerate(SIZES):
            rows = [r for r in report["means"] if (r["way"], r["labels"]) == (way, size)]
            cells = [r["auroc"] for r in rows if r["task"] in tasks]
            if len(cells) == len(tasks):
                points.append((number, float(np.mean(cells))))
        if points:
            marker = "os^"[len(axes.lines) // 10]  # there are ten colours
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=way, linewidth=1)
    axes.set_xticks(range(len(SIZES)), [f"{size} labels" for size in SIZES])
    axes.set_ylabel(f"AUROC, mean of {', '.join(tasks)}")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=120)
