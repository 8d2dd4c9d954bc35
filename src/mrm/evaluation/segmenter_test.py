"""The test of a segmenter: outlines compared with masks, image by image, and what the model folder keeps of it."""

# Shapes: N images, C classes, H W pixels
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from mrm.data.masks import IGNORED, MaskedImages
from mrm.data.reach import Reach
from mrm.evaluation import results
from mrm.evaluation.results import Report
from mrm.inference.outlines import outline, thresholds_of
from mrm.models.card import Card, OutlineThreshold
from mrm.models.segmenter import Segmenter, probabilities
from mrm.statistics.dice import MEASURES, PixelCounts, mean_over, overlap_report
from mrm.statistics.intervals import Bootstrap
from mrm.system.errors import ImageError, RunError, UnreachableError
from mrm.system.files import write_csv, write_json
from mrm.system.progress import Progress

SURFACES = {
    "surface_distance": "mean distance between the two outlines, in pixels, where there are two",
    "hausdorff_95": "distance below which 95 % of the points of both outlines lie, in pixels, where there are two",
}


# Testing ------------------------------------------------------------------------------------------------


@dataclass
class Tested:
    """What a test counted, image by image: for each class intersection, predicted and true pixels, and all pixels."""

    names: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of the images that could be read
    counts: list[np.ndarray] = field(default_factory=list)  # (C, 4) each
    surfaces: list[np.ndarray] = field(default_factory=list)  # (C, 2) each; NaN where an outline is missing
    unreadable: dict[str, str] = field(default_factory=dict)

    def overlap(self, number: int) -> PixelCounts:
        """The counts of class `number`, from 0."""
        return PixelCounts(*np.array(self.counts)[:, number].T)


def run_test(
    model: Segmenter,
    masked: MaskedImages,
    thresholds: Sequence[OutlineThreshold],
    slide: bool = False,
) -> Tested:
    """Outline every image at its own size and count. Raises RunError where no image can be read."""
    tested, reach = Tested(), Reach(masked.records())
    with Progress("outlining", len(masked)) as progress:
        for index, row in progress.over(enumerate(masked.rows)):
            try:
                image_HW, mask_HW = masked.read(index)
            except (ImageError, OSError) as error:
                tested.unreadable[row.name] = str(error)
                if isinstance(error, UnreachableError | OSError):
                    reach.miss(str(error))
                continue
            reach.reached()
            found_HW = np.where(mask_HW == IGNORED, 0, outline(probabilities(model, image_HW, slide), thresholds))
            numbers = range(1, len(thresholds) + 1)
            tested.names.append(row.name)
            tested.indices.append(index)
            tested.counts.append(np.array([_counts(found_HW == k, mask_HW == k, mask_HW != IGNORED) for k in numbers]))
            tested.surfaces.append(np.array([surface_distances(found_HW == k, mask_HW == k) for k in numbers]))
    if not tested.names:
        name, reason = next(iter(tested.unreadable.items()))
        kind = UnreachableError if reach.missed else RunError
        raise kind(f"{masked.source}: none of the {len(masked)} images could be read; first error: {name}: {reason}")
    return tested


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


def report_of(
    tested: Tested, classes: Sequence[str], patients: Sequence[str], draws: int = 2000, seed: int = 0
) -> Report:
    """All measures of every class, with intervals over the patients (N,) of the tested images."""
    bootstrap = Bootstrap.from_groups(patients, len(tested.names), draws, seed)
    surfaces_NC2, report = np.array(tested.surfaces), {}
    for number, name in enumerate(classes):
        counts = tested.overlap(number)
        report[name] = overlap_report(counts, patients, draws, seed)
        for column, measure in enumerate(SURFACES):
            values_N = surfaces_NC2[:, number, column]
            both_N = ~np.isnan(values_N)
            report[name][measure] = mean_over(np.nan_to_num(values_N), both_N, both_N, bootstrap)
    return report


def cases(tested: Tested, number: int = 0, each: int = 3) -> Iterator[tuple[str, int, float]]:
    """Images to look at for class `number`: (kind, row of `tested`, Dice): best, median and worst Dice of
    those with a lesion, then the largest predictions where there is none (Dice 0)."""
    counts = tested.overlap(number)
    dice_N = counts.dice()
    order = [int(i) for i in np.argsort(-dice_N, kind="stable") if counts.positive[i]]
    middle = max(0, (len(order) - each) // 2)
    chosen = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    yielded: set[int] = set()
    for kind, rows in chosen.items():
        for row in rows:
            if row not in yielded:
                yielded.add(row)
                yield kind, row, float(dice_N[row])
    false_positives = np.flatnonzero(~counts.positive & (counts.predicted > 0))
    for place in sorted(false_positives.tolist(), key=lambda i: -counts.predicted[i])[:each]:
        yield "predicted where there is none", place, 0.0


def summary(
    model: Path, card: Card, masked: MaskedImages, tested: Tested, report: Report, leaks: list[str]
) -> dict[str, Any]:
    """What was tested, on what, and how it went: the content of `results.json`."""
    return {
        **results.summary(model, card, masked.source, masked.records().fingerprint(), len(tested.names), report, leaks),
        **masked.records().select(tested.indices).known_patients.facts(),
        "positives": int(masked.positive_N[tested.indices].sum()),
        "unreadable": tested.unreadable,
        "thresholds": {
            c: asdict(threshold)
            for c, threshold in zip(masked.classes, thresholds_of(card, masked.classes), strict=True)
        },
        "measures": {**MEASURES, **SURFACES},
    }


def write_results(
    out: Path, summarised: dict[str, Any], tested: Tested, classes: Sequence[str], patients: Sequence[str]
) -> None:
    """`results.json`, and `images.csv`: the patient, counts, Dice and surface distances of every image and class."""
    write_json(Path(out) / "results.json", summarised)
    columns = ["name", "class", "patient_id", "intersection", "predicted", "true", "pixels", "dice", *SURFACES]
    rows: list[list[object]] = []
    for number, label in enumerate(classes):
        dice_N = tested.overlap(number).dice()
        for row, name in enumerate(tested.names):
            numbers = [dice_N[row], *tested.surfaces[row][number]]
            texts = ["" if math.isnan(v) else f"{v:.6g}" for v in numbers]
            rows.append([name, label, patients[row], *map(int, tested.counts[row][number]), *texts])
    write_csv(Path(out) / "images.csv", columns, rows)


def note_test(path: Path, summarised: dict[str, Any]) -> None:
    """Write into the model folder which images it was tested on, and how it did."""
    folder = "/".join(Path(summarised["records"]).parts[-3:])
    results.note_test(path, summarised, folder, summarised["classes"])
