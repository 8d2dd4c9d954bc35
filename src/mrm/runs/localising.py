"""Where a model looks, against boxes: the part of `mrm evaluate` that `--boxes` adds.

    boxes.csv --> boxes of the tested images --> what enough readers drew --+
    classifier --> heat maps, segmenter --> outlines -----------------------+--> measures, beside two maps that know nothing

The boxes are read and checked before any image is computed, so that a file that does not fit costs no time.
"""

# Shapes: H W pixels, C classes
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.masks import MaskedImages
from mrm.data.records import Records
from mrm.evaluation import localisation_test
from mrm.evaluation.box_truths import Truths, truths_of
from mrm.evaluation.localisation_test import MAP_COLUMNS, MARK_COLUMNS, Located, Map, Maps, Report, Settings, Tested
from mrm.evaluation.map_measures import hot
from mrm.evaluation.predictions import Predictions
from mrm.inference import heat_maps
from mrm.inference.heat_maps import Method
from mrm.inference.predictor import Predictor
from mrm.models.classifier import Classifier
from mrm.models.segmenter import Segmenter
from mrm.pages.localisation import Localised
from mrm.runs.reading_options import Reading
from mrm.system.errors import MRMError, RunError
from mrm.system.files import write_csv
from mrm.system.progress import Progress
from mrm.system.text_table import text_table, wrapped
from mrm.targets import target_of

SHOWN = ("pointing", "energy", "iou_0.1", "iou_0.3", "iou_0.5", "found_mean")  # in the terminal
TITLES = {
    "pointing": "peak in a box",
    "energy": "heat in boxes",
    "iou_0.1": "IoU from 0.1",
    "iou_0.3": "IoU from 0.3",
    "iou_0.5": "IoU from 0.5",
    "found_mean": "boxes found",
}


@dataclass(frozen=True)
class Boxes:
    """The options of `mrm evaluate` that say which boxes count and how maps are measured. Raises RunError out of range."""

    file: Path
    agree: int | None = None  # readers who must have drawn a box; None: one, or two where an image has several readers
    tolerance: float = 0.03  # of the peak, as a share of the longer side of the image
    level: float = 0.5  # of the greatest heat, at which a part of a heat map begins
    method: Method = "gradcam"  # of the heat maps

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise RunError(
                f"--tolerance is {self.tolerance:g}; a share of the longer side from 0 to below 1 is expected"
            )
        if not 0 < self.level <= 1:
            raise RunError(f"--level is {self.level:g}; a share of the greatest heat above 0 and up to 1 is expected")


@dataclass(frozen=True)
class Localisation:
    """A test of maps that can start: the truths of the records, the maps of the model, and the settings."""

    truths: Truths
    maps: Maps
    settings: Settings
    about: dict[str, Any]  # what is said of it beside the numbers

    def run(self, images: Iterable[Tested], records: Records, draws: int, seed: int) -> Outcome:
        """Measure the maps of images of the records."""
        located = localisation_test.run_test(images, self.truths, self.maps, self.settings)
        report = localisation_test.report_of(located, records.patients, draws, seed)
        facts = {**self.about, **localisation_test.summary(located, self.truths, report, self.settings)}
        return Outcome(located, report, facts, records)


@dataclass(frozen=True)
class Outcome:
    """What a test of maps found; `facts` is `localisation` in `results.json`."""

    located: Located
    report: Report
    facts: dict[str, Any]
    records: Records

    def write(self, out: Path) -> None:
        """Write `localisation.csv`, a row for each image and class with boxes, and `marks.csv`, one for each mark."""
        names = [record.name for record in self.records]
        rows = localisation_test.map_rows(self.located, names, self.records.patients)
        write_csv(out / "localisation.csv", MAP_COLUMNS, rows)
        write_csv(out / "marks.csv", MARK_COLUMNS, localisation_test.mark_rows(self.located, names))

    @property
    def page(self) -> Localised:
        """What the page shows of it."""
        classes = [name for name in self.report if name in self.located.judged]
        return Localised(self.facts, self.report, localisation_test.curves(self.located, classes))


# Before any image is computed ---------------------------------------------------------------------------


def of_classifier(
    boxes: Boxes, network: Classifier, model: Path, records: Records, reading: Reading, seed: int
) -> Localisation:
    """The test of a classifier's heat maps.

    Raises RunError for a model that has none and for boxes that do not fit, ExplainError where captum is missing.
    """
    if reading.by_study or reading.flip or reading.crop_borders:
        raise RunError(
            "--boxes measures the maps of single images as they are stored; leave out --by-study, --flip and --crop-borders"
        )
    target_of(network.card.architecture).require_probabilities(f"{model}: --boxes, which scores marks,")
    heat_maps.require_library(boxes.method)
    try:
        heat_maps.heat_map(network, np.zeros((64, 64), np.uint8), 0, boxes.method)
    except MRMError as error:
        raise RunError(f"{model}: --boxes needs heat maps, and this model gives none: {error}") from error
    predictor = Predictor(network, precision=reading.precision)
    settings = Settings(boxes.tolerance, boxes.level, network.encoder.patch_embed.grid_size, seed)
    about = {"boxes": str(boxes.file), "maps": f"heat maps ({boxes.method})"}
    return Localisation(truths_of(boxes.file, records, boxes.agree), classifier_maps(predictor, boxes), settings, about)


def classifier_maps(predictor: Predictor, boxes: Boxes) -> Maps:
    """Heat maps of a classifier; a part begins at the level of the greatest heat."""

    def of_image(image: Tested) -> Callable[[str], Map]:
        assert image.probability_C is not None
        probabilities = dict(zip(predictor.classes, image.probability_C.tolist(), strict=True))

        def of_class(name: str) -> Map:
            heat_HW = predictor.heat_map(image.image_HW, name, boxes.method)
            return Map(heat_HW, hot(heat_HW, boxes.level), probabilities[name])

        return of_class

    return of_image


def of_segmenter(
    boxes: Boxes, network: Segmenter, masked: MaskedImages, reading: Reading, slide: bool, seed: int
) -> Localisation:
    """The test of a segmenter's outlines. Raises RunError for options of heat maps, and for boxes that do not fit."""
    default = Boxes(boxes.file)
    if (boxes.method, boxes.level) != (default.method, default.level):
        raise RunError("--method and --level are of heat maps, and a segmenter has outlines; leave them out")
    predictor = Predictor(network, precision=reading.precision)
    settings = Settings(boxes.tolerance, boxes.level, seed=seed)
    about = {"boxes": str(boxes.file), "maps": "outlines"}
    return Localisation(
        truths_of(boxes.file, masked.records(), boxes.agree), segmenter_maps(predictor, slide), settings, about
    )


def segmenter_maps(predictor: Predictor, slide: bool) -> Maps:
    """Outlines of a segmenter: the probability within each, as a share of the greatest, and 0 outside."""

    def of_image(image: Tested) -> Callable[[str], Map]:
        outlined = predictor.outline(image.image_HW, slide)

        def of_class(name: str) -> Map:
            number = predictor.classes.index(name)
            probability_HW, inside_HW = outlined.probability_CHW[number], outlined.mask_HW == number + 1
            greatest = float(probability_HW.max())
            return Map(np.where(inside_HW, probability_HW / greatest, 0).astype(np.float32), inside_HW, greatest)

        return of_class

    return of_image


# Images -------------------------------------------------------------------------------------------------


def images_of(records: Records, predictions: Predictions) -> Iterator[Tested]:
    """The records that were tested, by their names, as they were predicted; others could not be read, or were left out."""
    probabilities = dict(zip(predictions.names, predictions.probabilities_NC, strict=True))
    wanted = [(index, record) for index, record in enumerate(records) if record.name in probabilities]
    with Progress("localising", len(wanted)) as progress:
        for index, record in progress.over(wanted):
            yield Tested(index, images.read(record.image), probabilities[record.name])


def masked_images(masked: MaskedImages, tested: Sequence[int]) -> Iterator[Tested]:
    """The same of a segmentation folder, by the numbers of its images."""
    with Progress("localising", len(tested)) as progress:
        for index in progress.over(tested):
            yield Tested(index, masked.image(index))


# For people ---------------------------------------------------------------------------------------------


def localisation_table(facts: dict[str, Any]) -> str:
    """The measures of every class beside what they exceed the two other maps by, as text to print, and what to know."""
    rows = []
    for name, measures in facts["classes"].items():
        for measure in SHOWN:
            if own := measures.get(measure):
                model = own["model"]
                gaps = [_span(own[f"over_{source}"], signed=True) for source in ("centre", "random")]
                rows.append([name, TITLES[measure], _value(model), _span(model), *gaps, f"{model['n']:,}"])
    head = ("finding", "measure", "value", "95 % interval", "over the centre", "over chance", "n")
    notes = [f"note: {note}" for note in facts["notes"]]
    return "\n".join([text_table(head, rows, text_columns=2), wrapped([_explained(facts), *notes])])


def _value(estimate: dict[str, Any]) -> str:
    return "undefined" if estimate["value"] is None else f"{estimate['value']:.3f}"


def _span(estimate: dict[str, Any], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    if estimate["low"] is None:
        return "no interval"
    return f"{estimate['low']:{form}} to {estimate['high']:{form}}"


def _explained(facts: dict[str, Any]) -> str:
    return (
        f"{facts['maps']} against {Path(facts['boxes']).name}; peaks up to {100 * facts['tolerance']:g} % of the longer side beside a "
        'box count; "over" is the 95 % interval of the difference from a map of the centre and from a random map; "boxes found" '
        "is the mean over 1/8 to 8 false marks an image"
    )
