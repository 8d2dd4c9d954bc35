"""An encoder measured on a labelled set: a probe and fine-tunings, on the same label subsets for every encoder."""

# Shapes: N records, C classes, D label subsets (draws), F features
from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import arms
import numpy as np
import probes
from units import Study, Unit, beside, require_finished

from mrm import runs
from mrm.data.records import Records
from mrm.inference import predict
from mrm.models import model_folder
from mrm.statistics import ranking

PAIRS = "pairs"  # the measure of true reports against those of others
REPORTS, VECTORS = "reports", "vectors"  # its scores: surprise of the report decoder, cosine of what contrast trained
CELLS = {"probe": 1, "probe-places": 4}  # of each side: one mean of all patches, or means that keep their places


@dataclass(frozen=True)
class Task:
    """A labelled set to measure encoders on: `file(study, "train")` is its CSV, `needs` the units that write it."""

    name: str
    classes: tuple[str, ...]
    file: Callable[[Study, str], Path]
    needs: tuple[str, ...]
    images: tuple[int, int, int]  # about how many: train, val, test
    prefix: str = ""  # of the encoders measured on it

    def load(self, study: Study, name: str) -> Records:
        """One of its sets."""
        return Records.load(self.file(study, name), self.classes)

    def unit(self, kind: str, name: str) -> str:
        """What a unit of this task is called."""
        return f"{self.name}/{kind}/{name}"


def without_texts(records: Records) -> Records:
    """The same images, so that only the image loss is trained."""
    return replace(records, rows=[replace(r, report="") for r in records])


def percent(fraction: float) -> str:
    """0.01 as "1"."""
    return f"{100 * fraction:g}"


def encoder_folder(study: Study, name: str) -> Path:
    """Where a pre-trained encoder is."""
    return study.out / "encoders" / name


def subset(n: int, fraction: float, number: int) -> np.ndarray:
    """Which of n training records have labels: the first of an order that follows from the number of the draw."""
    order = np.random.default_rng([7, number]).permutation(n)
    return np.sort(order[: max(1, round(fraction * n))])


def mean_auroc(labels_NC: np.ndarray, scores_NC: np.ndarray) -> float:
    """Mean over classes."""
    return float(np.nanmean([ranking.auroc(y, s) for y, s in zip(labels_NC.T, scores_NC.T, strict=True)]))


# Probe --------------------------------------------------------------------------------------------------


def probe_unit(study: Study, task: Task, encoder: str, needs: tuple[str, ...], kind: str = "probe") -> Unit:
    """Logistic regressions on an encoder's features, or on `pixels` or `hog`; `kind` is one of CELLS."""
    return Unit(
        task.unit(kind, encoder),
        partial(probe, task=task, encoder=encoder, kind=kind),
        (*needs, *task.needs),
        sum(task.images) / 400 + 30,
    )


def probe(study: Study, task: Task, encoder: str, kind: str = "probe") -> dict[str, Any]:
    """Probe every label subset; keeps the scores of the test images."""
    sets = {s: task.load(study, s) for s in ("train", "test")}
    if encoder in probes.FLOORS:
        table = {s: probes.FLOORS[encoder](records) for s, records in sets.items()}
    else:
        model = model_folder.load(encoder_folder(study, encoder))
        table = {s: probes.encoder_features(model, records, CELLS[kind]) for s, records in sets.items()}
    labels = {s: records.labels_NC for s, records in sets.items()}
    scores, strengths, aurocs = {}, {}, {}
    for fraction in study.size.fractions:
        fits = [
            probes.fit(table, labels, subset(len(sets["train"]), fraction, number))
            for number in range(1 if fraction == 1 else study.size.draws)
        ]
        key = percent(fraction)
        scores[key] = np.stack([scores_NC for scores_NC, _ in fits]).astype(np.float32)
        strengths[key] = [c for _, c in fits]
        aurocs[key] = [mean_auroc(labels["test"], scores_NC) for scores_NC in scores[key]]
    study.keep_arrays(task.unit(kind, encoder), **scores)
    says = ", ".join(f"{k} %: {np.mean(v):.3f}" for k, v in aurocs.items())
    return {"auroc": aurocs, "regularisation": strengths, "features": table["test"].shape[1], "says": says}


# Pairs of image and report -------------------------------------------------------------------------------


def pairs_unit(study: Study, task: Task, encoder: str, train: Path, test: Path, needs: tuple[str, ...]) -> Unit:
    """How well a held-out report is told from another patient's: by the surprise of the report decoder, and by contrast."""
    do = partial(tell_pairs, task=task, encoder=encoder, train=train, test=test)
    return Unit(task.unit(PAIRS, encoder), do, (*needs, *task.needs), 0.04 * study.size.pairs)


def tell_pairs(study: Study, task: Task, encoder: str, train: Path, test: Path) -> dict[str, Any]:
    """Surprise of the true reports, then of as many shuffled ones; the same pairs for every encoder.

    The same by the cosine of report and image, where the encoder was trained with contrast.
    """
    surprise, model = beside("surprise"), model_folder.load(encoder_folder(study, encoder))
    sections = (study.size.real if task.prefix else study.size.phantom).report.sections
    held_out = surprise.of_sections(Records.load(test), sections)
    held_out = held_out.select(np.arange(min(study.size.pairs, len(held_out))))
    scores = surprise.score(model, Records.load(train), held_out)
    scored = {REPORTS: np.concatenate([scores.own_N - scores.mean_N, scores.other_NP[:, 0] - scores.mean_N])}
    if scores.own_cosine_N is not None:
        scored[VECTORS] = np.concatenate([scores.own_cosine_N, scores.other_cosine_NP[:, 0]])
    study.keep_arrays(task.unit(PAIRS, encoder), **{k: v[None, :, None].astype(np.float32) for k, v in scored.items()})
    labels = np.repeat([1.0, 0.0], len(held_out))
    aurocs = {key: float(ranking.auroc(labels, values)) for key, values in scored.items()}
    says = ", ".join(f"by {key}: {value:.3f}" for key, value in aurocs.items())
    return {"auroc": aurocs, "people": [*held_out.people], "says": says}


# Fine-tuning --------------------------------------------------------------------------------------------


def finetune_unit(
    study: Study, task: Task, encoder: str, style: str, fraction: float, number: int, needs: tuple[str, ...]
) -> Unit:
    """One fine-tuning of one encoder on one label subset."""
    size, name = study.size, task.unit("finetune", f"{encoder}/{style}-{percent(fraction)}-{number}")
    do = partial(finetune, task=task, encoder=encoder, style=style, fraction=fraction, number=number, name=name)
    images = 3 * size.finetune_steps * size.finetune_batch + 4 * task.images[1] + task.images[2]
    return Unit(name, do, (*needs, *task.needs), images / 400)


def finetune(
    study: Study, task: Task, encoder: str, style: str, fraction: float, number: int, name: str
) -> dict[str, Any]:
    """Fine-tune on one label subset and score the test images; only the scores are kept."""
    lists, run = study.file("lists", name, ".csv"), study.out / "finetuned" / name
    train = task.load(study, "train")
    train.select(subset(len(train), fraction, number)).to_csv(lists)
    start = encoder_folder(study, encoder)
    config = arms.finetuning(
        study.size, style, lists, task.file(study, "val"), start, run, seed=number, classes=task.classes
    )
    runs.finetune(config)
    require_finished(run, config.training.steps)
    test = task.load(study, "test")
    scores_NC = predict.classify(model_folder.load(run), test, workers=0).logits_NC
    study.keep_arrays(name, scores=scores_NC[None].astype(np.float32))
    shutil.rmtree(run)
    auroc = mean_auroc(test.labels_NC, scores_NC)
    return {"auroc": auroc, "steps": config.training.steps, "style": style, "says": f"{auroc:.3f}"}
