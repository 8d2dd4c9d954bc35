"""The test of where a model looks: its maps against boxes, beside a prior that knows the middle and a map of chance.

Each image is read once. For each class that has boxes, the model's map, a centre prior and a random map are measured in the
same way (`map_measures`), and the parts of each are marks for the free-response ROC (`mrm.statistics.detection`): the score of
a mark is the mean heat in it times the model's probability of the finding in the image, and a mark is on a box if its
hottest point lies in it. All differences are paired: same images, same draws of patients.
"""

# Shapes: N images, C classes, H W pixels, K boxes, M marks; the 4 of a box are x, y, width and height in pixels
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from mrm.data.borders import Box as View
from mrm.evaluation.box_truths import Truth, Truths
from mrm.evaluation.map_measures import Measured, centre_prior, contain, hot, measure, parts_of
from mrm.inference.heat_maps import spread
from mrm.statistics import detection
from mrm.statistics.detection import FALSE_MARKS, Marked
from mrm.statistics.intervals import Array, Bootstrap, Estimate, mean, wilson

IOUS = (0.1, 0.3, 0.5)
MODEL, CENTRE, RANDOM = SOURCES = ("model", "centre", "random")
ALL = "all"  # maps of all classes together
MEASURES = {
    "pointing": "share of maps whose peak is in a box, or no further from one than the tolerance",
    "energy": "mean share of a map's heat that lies in the boxes",
    **{
        f"iou_{least:g}": f"share of maps whose own boxes overlap the boxes by IoU of at least {least:g}"
        for least in IOUS
    },
    **{f"found_{rate:g}": f"share of boxes found at {rate:g} false marks an image" for rate in FALSE_MARKS},
    f"found_{detection.MEAN}": "the mean of these seven",
}


@dataclass(frozen=True)
class Map:
    """Where a model sees a class: heat (H, W) from 0 to 1, the region (H, W) bool whose parts are marks, and the probability of
    the class in the image."""

    heat_HW: np.ndarray
    region_HW: np.ndarray
    probability: float


class Tested(NamedTuple):
    """An image (H, W) uint8 that was tested, by the number of its record, and the probabilities that a classifier gave it."""

    number: int
    image_HW: np.ndarray
    probability_C: np.ndarray | None = None


Maps = Callable[[Tested], Callable[[str], Map]]  # of an image, then of a class


@dataclass(frozen=True)
class Settings:
    """How maps are measured: `tolerance` of the peak as a share of the longer side of the image, `level` of the greatest heat
    at which a part begins, and the patches (rows, columns) of a random map with its seed."""

    tolerance: float = 0.03
    level: float = 0.5
    grid: tuple[int, int] = (14, 14)
    seed: int = 0


class Mark(NamedTuple):
    """A part of the model's map: its box, x and y of its hottest point, its score, and whether that point lies "on a box", on a
    "disputed" one, or the mark is "false"."""

    image: int
    name: str  # of the class
    box: list[float]
    peak: list[float]
    score: float
    verdict: str


@dataclass
class Scores:
    """The marks of one source for one class: image and best score of each box, image and score of each false mark."""

    lesions: list[tuple[int, float]] = field(default_factory=list)
    false: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Located:
    """What a test found: by class the images whose marks are judged and, of those with boxes, the measures by source."""

    judged: dict[str, list[int]]
    measured: dict[str, dict[int, dict[str, Measured]]]
    scores: dict[tuple[str, str], Scores]  # of a class and a source
    marks: list[Mark] = field(default_factory=list)

    @classmethod
    def of(cls, classes: Iterable[str]) -> Located:
        """Nothing yet, of these classes."""
        names = list(classes)
        empty = {(name, source): Scores() for name in names for source in SOURCES}
        return cls({name: [] for name in names}, {name: {} for name in names}, empty)


# Measuring ----------------------------------------------------------------------------------------------


def run_test(images: Iterable[Tested], truths: Truths, maps: Maps, settings: Settings) -> Located:
    """Measure the maps of images."""
    located = Located.of(truths.classes)
    for image in images:
        index = image.number
        map_of: Callable[[str], Map] | None = None
        for number, (name, own) in enumerate(truths.classes.items()):
            if not own[index].counts:
                continue
            map_of = map_of or maps(image)
            seen = map_of(name)
            located.judged[name].append(index)
            for source, heat_HW, region_HW in _sources(seen, settings, (index, number)):
                _note(located, index, name, source, heat_HW, region_HW, seen.probability, own[index], settings)
    return located


def _sources(seen: Map, settings: Settings, place: tuple[int, int]) -> Iterable[tuple[str, np.ndarray, np.ndarray]]:
    """The model's map and the two it is compared with: name, heat and region."""
    yield MODEL, seen.heat_HW, seen.region_HW
    shape = seen.heat_HW.shape
    for source, heat_HW in ((CENTRE, centre_prior(shape)), (RANDOM, random_map(shape, settings, place))):
        yield source, heat_HW, hot(heat_HW, settings.level)


def random_map(shape: tuple[int, ...], settings: Settings, place: tuple[int, int]) -> np.ndarray:
    """A map of chance (H, W): a uniform number for each patch, spread over the image as heat maps are."""
    numbers = np.random.default_rng([settings.seed, *place]).random(settings.grid)
    return spread(numbers, shape, View(0, 0, *shape))


def _note(
    located: Located,
    index: int,
    name: str,
    source: str,
    heat_HW: np.ndarray,
    region_HW: np.ndarray,
    probability: float,
    truth: Truth,
    settings: Settings,
) -> None:
    """Measure one map and judge its marks."""
    parts = parts_of(region_HW, heat_HW)
    if truth.has_boxes:
        each = located.measured[name].setdefault(index, {})
        each[source] = measure(heat_HW, parts, truth.box_K4, settings.tolerance)
    x_M, y_M = parts.peak_M2.T
    score_M = probability * parts.heat_M
    on_MK = contain(truth.box_K4, x_M, y_M)
    best_K = np.where(on_MK, score_M[:, None], -np.inf).max(axis=0, initial=-np.inf)
    disputed_MJ = contain(truth.disputed_J4, x_M, y_M)
    scores = located.scores[name, source]
    scores.lesions += [(index, best) for best in best_K.tolist()]
    places = parts.box_M4.tolist(), parts.peak_M2.tolist(), score_M.tolist()
    for box, peak, score, on_K, disputed_J in zip(*places, on_MK, disputed_MJ, strict=True):
        verdict = "on a box" if on_K.any() else "disputed" if disputed_J.any() else "false"
        if verdict == "false":
            scores.false.append((index, score))
        if source == MODEL:
            located.marks.append(Mark(index, name, box, peak, score, verdict))


# Reporting ----------------------------------------------------------------------------------------------

Report = dict[str, dict[str, dict[str, Estimate]]]  # class: measure: source, or "over_" and a source


def report_of(located: Located, patients: Sequence[str], draws: int = 2000, seed: int = 0) -> Report:
    """All measures of every class, with intervals by the patients (N,) of the records; and the maps of all classes together."""
    names = [name for name, each in located.measured.items() if each]  # a class whose images can all be read
    report = {name: {**_of_maps(located, [name], patients, draws, seed)} for name in names}
    for name in names:
        report[name] |= _of_marks(located, name, patients, draws, seed)
    if len(names) > 1:
        report = {ALL: _of_maps(located, names, patients, draws, seed), **report}
    return report


def _of_maps(
    located: Located, names: Sequence[str], patients: Sequence[str], draws: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    """The measures of maps, one for each image and class that has boxes."""
    rows = [(index, each) for name in names for index, each in located.measured[name].items()]
    bootstrap = Bootstrap.from_groups([patients[index] for index, _ in rows], len(rows), draws, seed)
    columns = {source: np.array([each[source] for _, each in rows], float) for source in SOURCES}
    report: dict[str, dict[str, Estimate]] = {}
    for measure_name in MEASURES:
        if measure_name.startswith("found"):
            continue
        values = {source: _values(measure_name, column_N3) for source, column_N3 in columns.items()}
        report[measure_name] = {source: _estimate(measure_name, v_N, bootstrap) for source, v_N in values.items()}
        for other in (CENTRE, RANDOM):
            report[measure_name][f"over_{other}"] = mean(values[MODEL] - values[other], bootstrap)
    return report


def _values(name: str, column_N3: Array) -> Array:
    """The values (N,) of a measure, of measured maps."""
    pointing_N, energy_N, iou_N = column_N3.T
    if name.startswith("iou"):
        return (iou_N >= float(name.rpartition("_")[2])).astype(float)
    return pointing_N if name == "pointing" else energy_N


def _estimate(name: str, values_N: Array, bootstrap: Bootstrap) -> Estimate:
    """A share with its Wilson interval, a mean with that of the bootstrap."""
    return mean(values_N, bootstrap) if name == "energy" else replace(wilson(values_N, 0, bootstrap), positives=None)


def marked(located: Located, name: str, source: str) -> Marked:
    """The marks of one source for one class, images numbered among those that are judged."""
    place = {index: i for i, index in enumerate(located.judged[name])}
    scores = located.scores[name, source]
    (lesions, lesion_images), (false, false_images) = (
        (np.array([score for _, score in pairs]), np.array([place[index] for index, _ in pairs], dtype=np.intp))
        for pairs in (scores.lesions, scores.false)
    )
    return Marked(lesions, lesion_images, false, false_images, len(place))


def _of_marks(
    located: Located, name: str, patients: Sequence[str], draws: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    judged = located.judged[name]
    bootstrap = Bootstrap.from_groups([patients[index] for index in judged], len(judged), draws, seed)
    each = {source: detection.free_response(marked(located, name, source), bootstrap) for source in SOURCES}
    return detection.report(each, bootstrap, len(located.measured[name]))


def summary(located: Located, truths: Truths, report: Report, settings: Settings) -> dict[str, Any]:
    """How it was measured, on what, and how it went: `localisation` in `results.json`."""
    return {
        "agree": truths.agree,
        "readers": truths.readers,
        "tolerance": settings.tolerance,
        "level": settings.level,
        "seed": settings.seed,
        "notes": list(truths.notes),
        "measures": MEASURES,
        "counts": {
            name: {
                "images with boxes": len(located.measured[name]),
                "boxes": len(located.scores[name, MODEL].lesions),
                "images judged": len(located.judged[name]),
            }
            for name in truths.classes
        },
        "classes": {
            name: {m: {s: e.to_dict() for s, e in own.items()} for m, own in measures.items()}
            for name, measures in report.items()
        },
    }


# Files --------------------------------------------------------------------------------------------------

MAP_COLUMNS = ("name", "class", "patient_id", *(f"{source} {m}" for source in SOURCES for m in Measured._fields))
MARK_COLUMNS = ("name", "class", "x", "y", "width", "height", "peak_x", "peak_y", "score", "verdict")


def map_rows(located: Located, names: Sequence[str], patients: Sequence[str]) -> Iterable[list[Any]]:
    """A row for each image and class with boxes: the measures of the three maps."""
    for name, each in located.measured.items():
        for index, measured in each.items():
            numbers = (f"{value:.6g}" for source in SOURCES for value in measured[source])
            yield [names[index], name, patients[index], *numbers]


def mark_rows(located: Located, names: Sequence[str]) -> Iterable[list[Any]]:
    """A row for each mark of the model."""
    for mark in located.marks:
        places = (f"{number:g}" for number in (*mark.box, *mark.peak))
        yield [names[mark.image], mark.name, *places, f"{mark.score:.6g}", mark.verdict]


def curves(located: Located, classes: Iterable[str]) -> Mapping[str, dict[str, tuple[Array, Array]]]:
    """False marks an image and sensitivity of each class, by source, to draw."""
    return {name: {s: detection.curve(marked(located, name, s)) for s in SOURCES} for name in classes}
