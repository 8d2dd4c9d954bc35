"""The parts of a segmentation run and of its test; `mrm.runs` puts them in order."""

# Shapes: N images, C classes, H W pixels
from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrm.data import masks
from mrm.data.masks import MaskedImages
from mrm.evaluation import segmenter_test
from mrm.evaluation.classifier_test import overlaps
from mrm.inference import outlines
from mrm.inference.outlines import Threshold
from mrm.models import model_folder
from mrm.models.segmenter import Segmenter, SegmenterConfig, probabilities
from mrm.pages.segmentation import Case, write_segmentation_page
from mrm.recipes import SegmentConfig
from mrm.runs.run_folder import on_encoder, results_folder, warn_of
from mrm.system.errors import RunError
from mrm.system.hardware import best_device
from mrm.system.progress import Progress

# Training -----------------------------------------------------------------------------------------------


def masked_images(config: SegmentConfig) -> tuple[MaskedImages, MaskedImages]:
    """Training and validation images with their masks. Raises RunError where one has no positive image."""
    train = masks.load(config.train, "training", config.classes, config.on_error, config.only)
    val = masks.load(config.val, "validation", config.classes, config.on_error)
    for found, why in ((train, "there is nothing to learn"), (val, "no checkpoint or threshold can be chosen")):
        if not found.positive_N.any():
            raise RunError(
                f"{found.source}: not one of {len(found)} masks has a pixel of {', '.join(config.classes)}: {why}"
            )
    require_meaning(val, train.ignores_255)
    return train, val


def require_meaning(masked: MaskedImages, ignores_255: bool) -> None:
    """Raises RunError where 255, ignored in what a model was trained on, would be the lesion in what it is tested on."""
    if masked.lesion_is_255 and ignores_255:
        raise RunError(
            f"{masked.source}: its masks have 255 and no 1, so 255 would be the lesion, but the masks that the model "
            "is trained on have it beside 1, as ignored. Write the lesion as 1, or leave these images out"
        )


def segmenter(config: SegmentConfig) -> Segmenter:
    """A segmenter on the encoder of `--init`, with its weights unless `--scratch`."""
    source = model_folder.architecture(config.init)
    shape = SegmenterConfig(
        classes=config.classes,
        encoder=source.encoder,
        encoder_options=source.encoder_options,
        image_size=config.image_size,
        mean=source.mean,
        std=source.std,
        blocks=config.blocks,
        head=config.head,
        channels=config.channels,
        auxiliary=config.auxiliary,
        drop_path=config.drop_path,
    )
    return on_encoder(Segmenter, shape, config)


def last_thresholds(run: Path) -> dict[str, float]:
    """Those of a run's last checkpoint, for a run that is taken up again; none for a new one."""
    return dict(model_folder.read_card(run / "last").thresholds) if (run / "last" / "config.json").is_file() else {}


def dice_validation(config: SegmentConfig, val: MaskedImages, chosen: dict[str, float]):
    """Dice of the validation images, each class at its best threshold; leaves the thresholds in `chosen`.

    The mean over classes of the published Dice chooses the best checkpoint.
    """

    def validate(model: nn.Module, step: int, state) -> dict[str, float]:
        assert isinstance(model, Segmenter)
        own = outlines.held_out_levels(
            model,
            val,
            workers=config.training.workers,
            rank=state.process_index,
            world=state.num_processes,
            precision=config.training.precision,
        )
        levels_NC2L = state.reduce(torch.from_numpy(own).to(state.device), "sum").cpu().numpy()
        found = {
            name: outlines.choose(levels_NC2L[:, c]) for c, name in enumerate(val.classes) if levels_NC2L[:, c, 1].any()
        }
        chosen.update(outlines.write_thresholds({name: threshold for name, (threshold, _) in found.items()}))
        means = {
            m: float(np.mean([dice[m] for _, dice in found.values()] or [0.0]))
            for m in ("dice_positive", "dice_published")
        }
        return {**{f"val_{m}": v for m, v in means.items()}, "score": means["dice_published"]}

    return validate


# Testing ------------------------------------------------------------------------------------------------


def evaluate_masks(
    model: Path,
    folder: Path,
    out: Path,
    split: str = "test",
    slide: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Test a segmenter: `results.json`, `images.csv`, and a page with overlays. Returns the results."""
    network, out = outlines.load_segmenter(model).to(best_device()), results_folder(Path(out))
    classes = network.config.classes
    masked = masks.load(folder, split, classes, on_error="stop")
    require_meaning(masked, network.card.origin.get("ignores_255", False))
    thresholds = outlines.read_thresholds(network.card, classes)
    tested = segmenter_test.test(network, masked, thresholds, slide, Progress("outlining"))
    report = segmenter_test.report_of(tested, classes, draws, seed)
    leaks = overlaps(model_folder.find_model(model) / "seen", masked.records(), "test")
    warn_of(leaks)
    results = segmenter_test.summary(model, network.card, masked, tested, report, leaks)
    results |= {"split": split, "inference": "sliding windows" if slide else "whole image"}
    segmenter_test.write_results(out, results, tested, classes)
    write_segmentation_page(out, results, report, list(shown_cases(network, masked, tested, thresholds, slide)))
    segmenter_test.note_test(model, results)
    return results


def shown_cases(
    model: Segmenter,
    masked: MaskedImages,
    tested: segmenter_test.Tested,
    thresholds: Sequence[Threshold],
    slide: bool,
) -> Iterable[Case]:
    """Best, median and worst images of every class, outlined once more for the page."""
    for number, name in enumerate(masked.classes):
        for kind, row, dice in segmenter_test.cases(tested, number):
            index = tested.indices[row]
            image_HW, mask_HW = masked.read(index)
            found_HW = outlines.outline(probabilities(model, image_HW, slide), thresholds)
            yield Case(name, kind, tested.names[row], dice, image_HW, mask_HW == number + 1, found_HW == number + 1)
