"""A segmenter put to use: thresholds chosen for it, the outlines of pictures, and its test.

A probability becomes an outline by a threshold, and an outline smaller than a least area is dropped; both are chosen
on validation pictures, and kept in the model folder. All counts come from one table a picture: how many pixels of each
class, and how many besides, lie at each of 101 levels of probability.
"""

# Shapes: N pictures, C classes, L levels of probability, H W pixels
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from mrm.data import loader, samples, sampling
from mrm.data.images import ImageError
from mrm.data.masks import MaskedPictures
from mrm.evaluation.classifier_test import RunError
from mrm.models import model_folder
from mrm.models.model_folder import Card
from mrm.models.mrm import normalise
from mrm.models.segmenter import Segmenter, probabilities
from mrm.statistics.dice import MEASURES, Overlap, mean_over, overlap_report
from mrm.statistics.intervals import Bootstrap, Estimate
from mrm.system.tables import write_whole
from mrm.training.losses import IGNORED

LEVELS = 100  # steps of probability at which a threshold may lie
AREAS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # least areas that are tried, as shares of the picture
KEPT = 0.9  # of the best positive-only Dice must stay, whatever the empty pictures ask for
SURFACES = {
    "surface_distance": "mean distance between the two outlines, in pixels, where there are two",
    "hausdorff_95": "distance below which 95 % of the points of both outlines lie, in pixels, where there are two",
}
Report = dict[str, dict[str, Estimate]]  # class: measure: estimate


@dataclass(frozen=True)
class Threshold:
    """Where probabilities become an outline: at `probability`, and not if it covers less than `area` of the picture."""

    probability: float = 0.5
    area: float = 0.0


# Choosing the threshold ---------------------------------------------------------------------------------------


def levels_of(probability_CHW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Pixels at each level of probability, (C, 2, L): those outside a class, those inside; ignored ones left out."""
    labelled = mask_HW != IGNORED
    level_CP = (probability_CHW[:, labelled] * LEVELS).astype(np.intp)
    inside_CP = mask_HW[labelled] == np.arange(1, len(probability_CHW) + 1)[:, None]
    size = LEVELS + 1
    both = [
        np.bincount(level + size * inside, minlength=2 * size)
        for level, inside in zip(level_CP, inside_CP, strict=True)
    ]
    return np.stack(both).reshape(-1, 2, size)


def held_out_levels(
    model: Segmenter,
    masked: MaskedPictures,
    batch: int = 8,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    precision: str = "fp32",
) -> np.ndarray:
    """`levels_of` pictures (N, C, 2, L), at the size of the input. A rank of several leaves the others' rows zero."""
    data = samples.MaskData(masked, model.config.image_size)
    device = next(model.parameters()).device
    levels_NC2L = np.zeros((len(masked), len(masked.classes), 2, LEVELS + 1), dtype=np.int64)
    mine = (b for i, b in enumerate(sampling.in_order(len(masked), batch)) if i % world == rank)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for loaded in loader.loader(data, mine, workers, pin=device.type == "cuda"):
            picture_BHW = loaded.picture_BHW.to(device)
            logits_BCHW = model(normalise(picture_BHW, model.config.mean, model.config.std)).logits_BCHW
            found_BCHW = logits_BCHW.float().sigmoid().cpu().numpy()
            for index, found_CHW, mask_HW in zip(loaded.index_B, found_BCHW, loaded.mask_BHW, strict=True):
                levels_NC2L[int(index)] = levels_of(found_CHW, mask_HW.numpy())
    return levels_NC2L


def choose(levels_N2L: np.ndarray) -> tuple[Threshold, dict[str, float]]:
    """The threshold of one class, and the Dice it gives: of positive pictures, and by the published convention.

    Of all thresholds that keep KEPT of the best positive-only Dice, the one with the best published Dice. The published
    Dice alone would choose to predict nothing wherever most pictures are empty. Raises ValueError without positives.
    """
    reached_N2L = levels_N2L[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:LEVELS]  # pixels at this level or above
    both_NL, predicted_NL = reached_N2L[:, 1], reached_N2L.sum(axis=1)
    true_N1, pixels_N1 = levels_N2L[:, 1].sum(axis=1)[:, None], levels_N2L.sum(axis=(1, 2))[:, None]
    has_N = true_N1[:, 0] > 0
    if not has_N.any():
        raise ValueError("no picture with a lesion, so no threshold can be chosen")
    positive_AL, published_AL = np.empty((2, len(AREAS), LEVELS - 1))
    for row, area in enumerate(AREAS):
        kept_NL = predicted_NL >= np.maximum(1, area * pixels_N1)
        dice_NL = 2 * both_NL * kept_NL / np.maximum(predicted_NL * kept_NL + true_N1, 1)
        dice_NL = np.where(has_N[:, None], dice_NL, ~kept_NL)
        positive_AL[row], published_AL[row] = dice_NL[has_N].mean(axis=0), dice_NL.mean(axis=0)
    allowed_AL = positive_AL >= KEPT * positive_AL.max()
    best = np.unravel_index(np.argmax(np.where(allowed_AL, published_AL, -1.0)), published_AL.shape)
    threshold = Threshold((int(best[1]) + 1) / LEVELS, AREAS[int(best[0])])
    return threshold, {"dice_positive": float(positive_AL[best]), "dice_published": float(published_AL[best])}


def write_thresholds(thresholds: Mapping[str, Threshold]) -> dict[str, float]:
    """Thresholds as a model's card keeps them."""
    return {
        k: v
        for name, threshold in thresholds.items()
        for k, v in ((name, threshold.probability), (f"{name}: least area", threshold.area))
    }


def read_thresholds(card: Card, classes: Sequence[str]) -> list[Threshold]:
    """The thresholds of a model's card; 0.5 where none was chosen."""
    return [Threshold(card.thresholds.get(c, 0.5), card.thresholds.get(f"{c}: least area", 0.0)) for c in classes]


# Outlines -----------------------------------------------------------------------------------------------


def load_segmenter(path: Path) -> Segmenter:
    """The segmenter at `path`. Raises RunError for another kind of model."""
    model = model_folder.load(path)
    if not isinstance(model, Segmenter):
        raise RunError(
            f"{path}: a model of the kind {model_folder.kind_of(model)}, not a segmenter; train one with `mrm segment`"
        )
    return model


def outline(probability_CHW: np.ndarray, thresholds: Sequence[Threshold]) -> np.ndarray:
    """Class numbers (H, W) uint8: of the classes above their thresholds the likeliest, 0 where there is none."""
    least = np.array([threshold.probability for threshold in thresholds], dtype=probability_CHW.dtype)[:, None, None]
    above_CHW = np.where(probability_CHW >= least, probability_CHW, -1.0)
    found_HW = np.where(above_CHW.max(axis=0) >= 0, above_CHW.argmax(axis=0) + 1, 0).astype(np.uint8)
    for number, threshold in enumerate(thresholds, 1):
        here = found_HW == number
        if here.sum() < threshold.area * here.size:
            found_HW[here] = 0
    return found_HW


# Testing ------------------------------------------------------------------------------------------------


@dataclass
class Tested:
    """What a test counted, picture by picture: for each class intersection, predicted and true pixels, and all pixels."""

    names: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of the pictures that could be read
    counts: list[np.ndarray] = field(default_factory=list)  # (C, 4) each
    surfaces: list[np.ndarray] = field(default_factory=list)  # (C, 2) each; NaN where an outline is missing
    unreadable: dict[str, str] = field(default_factory=dict)

    def overlap(self, number: int) -> Overlap:
        """The counts of class `number`, from 0."""
        return Overlap(*np.array(self.counts)[:, number].T)


def test(
    model: Segmenter,
    masked: MaskedPictures,
    thresholds: Sequence[Threshold],
    slide: bool = False,
    progress: Callable[[int, int], None] = lambda done, n: None,
) -> Tested:
    """Outline every picture at its own size and count. Raises RunError where not one picture can be read."""
    tested = Tested()
    for index, row in enumerate(masked.rows):
        try:
            picture_HW, mask_HW = masked.picture(index), masked.mask(index)
        except (ImageError, OSError) as error:
            tested.unreadable[row.name] = str(error)
            continue
        found_HW = np.where(mask_HW == IGNORED, 0, outline(probabilities(model, picture_HW, slide), thresholds))
        numbers = range(1, len(thresholds) + 1)
        tested.names.append(row.name)
        tested.indices.append(index)
        tested.counts.append(np.array([_counts(found_HW == k, mask_HW == k, mask_HW != IGNORED) for k in numbers]))
        tested.surfaces.append(np.array([surface_distances(found_HW == k, mask_HW == k) for k in numbers]))
        progress(index + 1, len(masked))
    if not tested.names:
        name, reason = next(iter(tested.unreadable.items()))
        raise RunError(f"{masked.source}: not one of {len(masked)} pictures could be read; the first, {name}: {reason}")
    return tested


test.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


def _counts(found_HW: np.ndarray, true_HW: np.ndarray, labelled_HW: np.ndarray) -> tuple[int, int, int, int]:
    return (found_HW & true_HW).sum(), found_HW.sum(), true_HW.sum(), labelled_HW.sum()


def surface_distances(found_HW: np.ndarray, true_HW: np.ndarray) -> tuple[float, float]:
    """Mean distance between two outlines, both ways, and its 95 % quantile, in pixels; NaN where one is missing.

    An outline is the pixels of a mask that have a side neighbour outside of it. Heimann et al. 2009,
    doi:10.1109/TMI.2009.2013851 (average symmetric surface distance).
    """
    if not found_HW.any() or not true_HW.any():
        return np.nan, np.nan
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (found_HW, true_HW)]
    away = [ndimage.distance_transform_edt(~edge) for edge in edges]
    distances = np.concatenate([away[1][edges[0]], away[0][edges[1]]])
    return float(distances.mean()), float(np.quantile(distances, 0.95))


def report_of(tested: Tested, classes: Sequence[str], draws: int = 2000, seed: int = 0) -> Report:
    """All measures of every class, with intervals over pictures."""
    bootstrap = Bootstrap.over(None, len(tested.names), draws, seed)
    surfaces_NC2, found = np.array(tested.surfaces), {}
    for number, name in enumerate(classes):
        counts = tested.overlap(number)
        found[name] = overlap_report(counts, draws=draws, seed=seed)
        for column, measure in enumerate(SURFACES):
            values_N = surfaces_NC2[:, number, column]
            both_N = ~np.isnan(values_N)
            found[name][measure] = mean_over(np.nan_to_num(values_N), both_N, both_N, bootstrap)
    return found


def cases(tested: Tested, number: int = 0, each: int = 3) -> Iterator[tuple[str, int, float]]:
    """Pictures to look at for class `number`: (kind, row of `tested`, Dice): best, median and worst Dice of
    those with a lesion, then the largest predictions where there is none (Dice 0)."""
    counts = tested.overlap(number)
    dice_N = counts.dice()
    order = [int(i) for i in np.argsort(-dice_N, kind="stable") if counts.positive[i]]
    middle = max(0, (len(order) - each) // 2)
    chosen = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    shown: set[int] = set()
    for kind, rows in chosen.items():
        for row in rows:
            if row not in shown:
                shown.add(row)
                yield kind, row, float(dice_N[row])
    false = np.flatnonzero(~counts.positive & (counts.predicted > 0))
    for place in sorted(false.tolist(), key=lambda i: -counts.predicted[i])[:each]:
        yield "predicted where there is none", place, 0.0


def summary(
    model: Path, card: Card, masked: MaskedPictures, tested: Tested, report: Report, leaks: list[str]
) -> dict[str, Any]:
    """What was tested, on what, and how it went: the content of `results.json`."""
    return {
        "model": str(model),
        "records": masked.source,
        "fingerprint": masked.records().fingerprint(),
        "n": len(tested.names),
        "positives": int(masked.positive_N[tested.indices].sum()),
        "overlap": leaks,
        "unreadable": tested.unreadable,
        "thresholds": {
            c: asdict(threshold)
            for c, threshold in zip(masked.classes, read_thresholds(card, masked.classes), strict=True)
        },
        "classes": {c: {m: e.to_dict() for m, e in per.items()} for c, per in report.items()},
        "measures": {**MEASURES, **SURFACES},
        "origin": card.origin,
    }


def write_results(out: Path, results: dict[str, Any], tested: Tested, classes: Sequence[str]) -> None:
    """`results.json`, and `pictures.csv`: the counts, Dice and surface distances of every picture and class."""
    write_whole(Path(out) / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "class", "intersection", "predicted", "true", "pixels", "dice", *SURFACES])
    for number, label in enumerate(classes):
        dice_N = tested.overlap(number).dice()
        for row, name in enumerate(tested.names):
            numbers = [dice_N[row], *tested.surfaces[row][number]]
            shown = ["" if v != v else f"{v:.6g}" for v in numbers]
            writer.writerow([name, label, *map(int, tested.counts[row][number]), *shown])
    write_whole(Path(out) / "pictures.csv", text.getvalue().encode())


def note_test(path: Path, results: dict[str, Any]) -> None:
    """Write into the model folder what it was tested on, and how it did."""
    folder = model_folder.find_model(Path(path))
    card = model_folder.read_card(folder)
    keys = ("fingerprint", "n", "positives", "overlap", "classes")
    entry = {"records": "/".join(Path(results["records"]).parts[-3:]), **{k: results[k] for k in keys}}
    others = [t for t in card.tested if t["fingerprint"] != entry["fingerprint"]]
    model_folder.write_card(folder, replace(card, tested=[*others, entry]))
