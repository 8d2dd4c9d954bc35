"""From units to tables and plots. Nothing here trains; it can be run at any time, on whatever is finished."""

# Shapes: N records, C classes, S runs of one arm (a pre-training with a label subset), P pre-trainings, D label subsets
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import arms
import numpy as np
import phantoms
import real
from measuring import CELLS, PAIRS, REPORTS, VECTORS, Task, mean_auroc, percent
from scipy.stats import t as student
from units import Study

from mrm.data.records import Records
from mrm.statistics import comparison, intervals, ranking
from mrm.statistics.intervals import Estimate
from mrm.system.files import write_json, write_whole

MEASURES = (*CELLS, *(f"finetune/{style}" for style in arms.STYLES))
FLOORS = ("pixels", "hog")
SHARES = {REPORTS: "true report against another's", VECTORS: "the same by contrast"}  # what stands above the columns
DRAWS = 500  # of patients, for an interval
STYLE_PAIRS = (("modern", "published"), ("tiny", "published"), ("modern", "tiny"))
QUESTIONS = (
    ("both", "image"), ("both", "none"), ("image", "none"), ("half-contrast", "image"), ("half-contrast", "none"),
    ("half-contrast", "half-visible"), ("half-contrast", "hog"), ("half-contrast", "pixels"),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Mean AUROC, or a difference of two, with an interval over test patients and over runs."""

    value: float
    low: float
    high: float
    p: float
    n: int
    patients: int
    pretrainings: int
    subsets: int
    runs: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: intervals.finite_or_none(v) if isinstance(v, float) else v for k, v in vars(self).items()}


def across(estimate: Estimate, patients: int, runs_PD: np.ndarray) -> Result:
    """An estimate over patients, widened by what runs differ in.

    The mean over runs has the variance over patients, plus that of P pre-trainings over P, plus that of D label
    subsets over D (crossed random effects; each is measured by the marginal means, which overstates it a little).
    With one pre-training, what another would give is not in the interval. Degrees of freedom: Satterthwaite 1946.
    """
    patient_se = (estimate.high - estimate.low) / (2 * 1.959964)
    pre, subsets = runs_PD.shape
    parts = [(patient_se**2, math.inf)]
    if pre > 1:
        parts.append((float(runs_PD.mean(axis=1).var(ddof=1)) / pre, pre - 1))
    if subsets > 1:
        parts.append((float(runs_PD.mean(axis=0).var(ddof=1)) / subsets, subsets - 1))
    variance = sum(v for v, _ in parts)
    slack = sum(v**2 / df for v, df in parts)
    df = variance**2 / slack if slack else math.inf
    half, value = float(student.ppf(0.975, df)) * math.sqrt(variance), float(runs_PD.mean())
    p = float(2 * student.sf(abs(value) / math.sqrt(variance), df)) if variance else math.nan
    return Result(value, value - half, value + half, p, estimate.n, patients, pre, subsets, runs_PD.ravel().tolist())


class Scores:
    """The finished runs of one measure, one of CELLS or `finetune/STYLE`, with the labels of the task's test set."""

    def __init__(self, study: Study, task: Task, measure: str) -> None:
        self.study, self.task, self.measure = study, task, measure
        if measure == PAIRS:
            done = [u for u in finished(study) if u["unit"].startswith(task.unit(PAIRS, ""))]
            people = done[0]["people"] if done else []  # the same pairs for every encoder
            self.labels_NC, self.patients = np.repeat([[1.0], [0.0]], len(people), axis=0), [*people, *people]
            self.people = set(people)
        else:
            test = task.load(study, "test")
            self.labels_NC, self.patients, self.people = test.labels_NC, test.patients, set(test.people)

    def runs(self, arm: str, key: str) -> np.ndarray | None:
        """Scores (P, D, N, C) of an arm at a share of labels. None without any."""
        names = [arm] if arm in FLOORS else [f"{self.task.prefix}{arm}-{run}" for run in range(self.study.pretrainings)]
        runs = [scores for name in names if (scores := self._of(name, key)) is not None]
        subsets = min(map(len, runs), default=0)
        return np.stack([s[:subsets] for s in runs]) if runs else None

    def _of(self, encoder: str, key: str) -> np.ndarray | None:
        if self.measure in (*CELLS, PAIRS):
            name = self.task.unit(self.measure, encoder)
            return self.study.arrays(name).get(key) if self.study.done(name) else None
        style = self.measure.removeprefix("finetune/")
        names = [
            self.task.unit("finetune", f"{encoder}/{style}-{key}-{d}") for d in range(self.study.size.finetune_draws)
        ]
        first = takewhile(self.study.done, names)  # draws are paired by their place: none may be left out between
        scores = [self.study.arrays(name)["scores"][0] for name in first]
        return np.stack(scores) if scores else None

    def mean(self, scores_PDNC: np.ndarray) -> Result:
        """Mean AUROC over classes and runs."""
        labels, scores, classes = self._flat(scores_PDNC)
        report = ranking.classification_report(labels, scores, classes, groups=self.patients, draws=DRAWS)
        return across(report["mean"]["auroc"], len(self.people), self._each(scores_PDNC))

    def difference(self, first_PDNC: np.ndarray, second_PDNC: np.ndarray) -> Result:
        """Mean AUROC of the first less that of the second, run by run and patient by patient."""
        pre, subsets = (min(a, b) for a, b in zip(first_PDNC.shape[:2], second_PDNC.shape[:2], strict=True))
        first_PDNC, second_PDNC = first_PDNC[:pre, :subsets], second_PDNC[:pre, :subsets]
        labels, first, classes = self._flat(first_PDNC)
        second = self._flat(second_PDNC)[1]
        compared = comparison.compare(labels, first, second, classes, groups=self.patients, draws=DRAWS)["mean"]
        return across(compared.difference, len(self.people), self._each(first_PDNC) - self._each(second_PDNC))

    def _flat(self, scores_PDNC: np.ndarray):
        """Every class of every run as a class of its own: their mean is drawn jointly, patient by patient."""
        pre, subsets, n, classes = scores_PDNC.shape
        names = [f"{i}-{c}" for i in range(pre * subsets) for c in range(classes)]
        flat = scores_PDNC.reshape(pre * subsets, n, classes).transpose(1, 0, 2).reshape(n, -1)
        return np.tile(self.labels_NC, (1, pre * subsets)), flat.astype(np.float64), names

    def _each(self, scores_PDNC: np.ndarray) -> np.ndarray:
        return np.array([[mean_auroc(self.labels_NC, s) for s in row] for row in scores_PDNC])


# Tables -------------------------------------------------------------------------------------------------


def write(study: Study) -> str:
    """`study.json`, `table.md` and the plots, from what is finished. Returns the table."""
    report = summarise(study)
    write_json(study.out / "study.json", report)
    text = table(report)
    write_whole(study.out / "table.md", text.encode())
    plot(study, report)
    return text


def summarise(study: Study) -> dict[str, Any]:
    """Every mean and every difference there is, with what it rests on, and the time it took."""
    keys = [percent(f) for f in study.size.fractions]
    tasks = [task for task in (phantoms.labelled(study), *real.tasks()) if task.file(study, "test").is_file()]
    pretraining = {unit["unit"]: unit for unit in finished(study) if "/pretrain/" in f"/{unit['unit']}"}
    return {
        "size": study.size_name,
        "pretraining": {n: {k: u[k] for k in ("held_out", "seconds") if k in u} for n, u in pretraining.items()},
        "tasks": {
            task.name: {
                "sets": {s: counted(task.load(study, s)) for s in arms.SETS[1:] if task.file(study, s).is_file()},
                **compared({measure: Scores(study, task, measure) for measure in MEASURES}, keys),
                PAIRS: measured(Scores(study, task, PAIRS), [REPORTS, VECTORS]),
            }
            for task in tasks
        },
        "seconds": sum(u["seconds"] for u in finished(study)),
        "processor_seconds": sum(u["processor_seconds"] for u in finished(study)),
    }


def finished(study: Study) -> list[dict[str, Any]]:
    """The finished units."""
    return [json.loads(p.read_bytes()) for p in sorted((study.out / "units").rglob("*.json"))]


def counted(records: Records) -> dict[str, Any]:
    """How many there are, and which."""
    positives = np.nansum(records.labels_NC, axis=0)
    return {
        "n": len(records),
        "patients": records.known_patients.count,
        "positives": {c: int(n) for c, n in zip(records.classes, positives, strict=True)},
        "fingerprint": records.fingerprint(),
    }


def measured(scores: Scores, keys: list[str]) -> dict[str, Any]:
    """Means of every arm, and differences: of each arm from both losses, and of the pairs that answer a question."""
    changes = tuple((arm, "both") for arm in arms.ARMS if arm not in ("both", "image", "none"))
    results: dict[str, Any] = {"means": {}, "differences": {}}
    for key in keys:
        runs = {arm: s for arm in arms.SAYS if (s := scores.runs(arm, key)) is not None}
        results["means"][key] = {arm: scores.mean(s).to_dict() for arm, s in runs.items()}
        pairs = [(a, b) for a, b in (*QUESTIONS, *changes) if a in runs and b in runs]
        most = max((len(s) for s in runs.values()), default=0)
        runs |= {floor: np.repeat(runs[floor], most, axis=0) for floor in FLOORS if floor in runs}  # of no pre-training
        differences = {f"{a} - {b}": scores.difference(runs[a], runs[b]).to_dict() for a, b in pairs}
        results["differences"][key] = corrected(differences)
    return results


def compared(scores: dict[str, Scores], keys: list[str]) -> dict[str, Any]:
    """Encoders by each measure, and styles of fine-tuning with each other."""
    tuned = {style: scores[f"finetune/{style}"] for style in arms.STYLES}
    return {"measures": {name: measured(one, keys) for name, one in scores.items()}, "styles": styles(tuned, keys)}


def styles(tuned: dict[str, Scores], keys: list[str]) -> dict[str, Any]:
    """Differences of the styles of fine-tuning, at equal steps, from the same encoder and on the same labels."""
    results: dict[str, Any] = {}
    for key in keys:
        differences = {}
        for arm in arms.MAIN:
            runs = {style: s for style, one in tuned.items() if (s := one.runs(arm, key)) is not None}
            for first, second in STYLE_PAIRS:
                if first in runs and second in runs:
                    gap = tuned[first].difference(runs[first], runs[second])
                    differences[f"{arm}: {first} - {second}"] = gap.to_dict()
        results[key] = corrected(differences)
    return results


def corrected(differences: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same differences, each with its p value by Holm's correction over all of them."""
    values = comparison.holm([one["p"] if one["p"] is not None else math.nan for one in differences.values()])
    return {
        name: {**one, "p_holm": intervals.finite_or_none(float(p))}
        for (name, one), p in zip(differences.items(), values, strict=True)
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Label efficiency",
        "",
        f"Size `{report['size']}`. Mean AUROC over classes; 95 % intervals over test patients and runs ",
    ]
    lines[-1] += "(pre-trainings x label subsets); p values by Holm's correction within a column."
    learnt = {name: one for name, one in report["pretraining"].items() if "held_out" in one}
    if learnt:
        lines += ["", "| encoder | nats a masked word, its image | another patient's | by frequency | seconds |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, one in learnt.items():
            h = one["held_out"]
            lines.append(
                f"| {name} | {h['right']:.3f} | {h['wrong']:.3f} | {h['unigram']:.3f} | {one['seconds']:.0f} |"
            )
    for name, task in report["tasks"].items():
        test, train = task["sets"]["test"], task["sets"]["train"]
        who = f"{test['patients']:,} patients" if test["patients"] else "patients not known"
        lines += [
            "",
            f"## {name}",
            "",
            f"{train['n']:,} with labels to train on; tested on {test['n']:,} images ({who}); positive: ",
        ]
        lines[-1] += ", ".join(f"{c} {n:,}" for c, n in test["positives"].items()) + "."
        for measure, results in task["measures"].items():
            lines += _measure_table(measure, results)
        lines += _measure_table(PAIRS, task[PAIRS])
        lines += _differences(task["styles"], "style of fine-tuning")
    hours = report["seconds"] / 3600
    return "\n".join(
        [*lines, "", f"Time: {hours:.2f} hours of one process. `study.json` has every number in full.", ""]
    )


def _measure_table(measure: str, results: dict[str, Any]) -> list[str]:
    keys = [k for k, means in results["means"].items() if means]
    if not keys:
        return []
    head = " | ".join(map(_share, keys))
    lines = ["", f"### {measure}", "", f"| encoder | {head} |", "| --- |" + " --- |" * len(keys)]
    for arm, says in arms.SAYS.items():
        if any(arm in results["means"][k] for k in keys):
            lines.append(f"| {says} | " + " | ".join(with_interval(results["means"][k].get(arm)) for k in keys) + " |")
    return lines + _differences(results["differences"], "difference")


def _differences(by_share: dict[str, Any], title: str) -> list[str]:
    keys = [k for k, differences in by_share.items() if differences]
    if not keys:
        return []
    head = " | ".join(map(_share, keys))
    lines = ["", f"| {title} | {head} |", "| --- |" + " --- |" * len(keys)]
    pairs = dict.fromkeys(p for k in keys for p in by_share[k])
    return lines + [
        f"| {pair} | " + " | ".join(with_interval(by_share[k].get(pair), "+") for k in keys) + " |" for pair in pairs
    ]


def _share(key: str) -> str:
    return SHARES.get(key, f"{key} % of labels")


def with_interval(one: dict[str, Any] | None, sign: str = "") -> str:
    """'0.712 (0.701 to 0.723), 1 x 10 runs'"""
    if one is None:
        return ""
    value, low, high = (f"{one[k]:{sign}.3f}" if one[k] is not None else "?" for k in ("value", "low", "high"))
    p = one.get("p_holm")
    tail = "" if p is None else ", p < 0.001" if p < 0.001 else f", p {p:.3f}"
    return f"{value} ({low} to {high}){tail}, {one['pretrainings']} x {one['subsets']} runs"


def plot(study: Study, report: dict[str, Any]) -> None:
    """A label-efficiency curve for each measure, and the pre-training curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for name, task in report["tasks"].items():
        for measure, results in task["measures"].items():
            for group, names in (("main", (*arms.MAIN, *FLOORS)), ("ablations", ("both", *arms.ABLATIONS))):
                drawn = [a for a in names if any(a in means for means in results["means"].values())]
                if len(drawn) > 1:
                    figure = _curves(pyplot, results["means"], drawn, f"{name}, {measure}")
                    figure.savefig(study.out / f"{name}-{measure.replace('/', '-')}-{group}.png", dpi=140)
                    pyplot.close(figure)
    curves = {u["unit"].replace("pretrain/", ""): u["curve"] for u in finished(study) if "curve" in u}
    if curves:
        figure, both = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        for name, curve in curves.items():
            for axes, loss in zip(both, ("image", "report"), strict=True):
                axes.plot(curve["step"], curve[loss], label=name, linewidth=1)
                axes.set(xlabel="step", title=f"{loss} loss")
        both[1].legend(fontsize=7)
        figure.savefig(study.out / "pretraining.png", dpi=140)
        pyplot.close(figure)


def _curves(pyplot, means: dict[str, Any], drawn: list[str], title: str):
    """Mean AUROC by share of labels, with intervals; arms stand a little beside each other."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for place, arm in enumerate(drawn):
        points = [(float(k) * 1.04**place, m[arm]) for k, m in means.items() if arm in m and m[arm]["low"] is not None]
        x, y = [p[0] for p in points], [p[1]["value"] for p in points]
        below, above = [p[1]["value"] - p[1]["low"] for p in points], [p[1]["high"] - p[1]["value"] for p in points]
        axes.errorbar(x, y, [below, above], marker="o", capsize=3, label=arms.SAYS[arm])
    axes.set(xscale="log", xlabel="labels (%)", ylabel="mean AUROC", title=title)
    axes.set_xticks([float(k) for k in means], list(means))
    axes.minorticks_off()
    axes.legend(fontsize=8)
    return figure
