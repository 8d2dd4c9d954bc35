"""Learning outlines from masks, from a pre-trained encoder."""

# Shapes: N images, C classes, H W pixels
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mrm.audit.hash_keeping import HashKeeper
from mrm.data import masks
from mrm.data.masks import MaskedImages
from mrm.data.samples import MaskData
from mrm.data.sampling import balanced
from mrm.evaluation.classifier_test import overlaps
from mrm.inference import outlines
from mrm.models import model_folder
from mrm.models.card import Card, OutlineThreshold
from mrm.models.limits import as_levels
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.recipes import SegmentConfig
from mrm.runs.output_lock import alone_in
from mrm.runs.run_folder import (
    learning_alike,
    model_writer,
    note_seen,
    on_encoder,
    open_run,
    origin,
    print_best,
    warn_of,
)
from mrm.runs.same_records import require_same_records
from mrm.system import hardware
from mrm.system.errors import RunError
from mrm.training.patience import Patience
from mrm.training.tasks import SegmentTask
from mrm.training.trainer import Trainer


@alone_in("config.out")
def segment(config: SegmentConfig) -> Path:
    """Learn outlines from masks, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    config = open_run(learning_alike(config))
    train, val = masked_images(config)
    sets = {"training": (config.train, train.records()), "validation": (config.val, val.records())}
    require_same_records(config.out, sets, {"training": train.areas_NC, "validation": val.areas_NC})
    model = segmenter(config)
    data = MaskData(train, config.image_size, config.crop, config.seed, config.on_error)
    order = balanced(train.positive_N, config.negatives)
    records = train.records()
    facts = origin(config, records, config.train) | {"ignores_255": train.ignores_255}
    card = Card("segmenter", asdict(model.config), facts)
    seen = note_seen(config, "segmentation", records)
    warn_of(overlaps(seen, val.records(), "validation", hashes=HashKeeper()))
    thresholds = last_thresholds(config.out)
    run = Trainer(
        SegmentTask(model, config.focal_weight, config.dice_weight, config.auxiliary_weight),
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen, thresholds=thresholds),
        seed=config.seed,
        validate=dice_validation(config, val, thresholds),
        order=order,
        patience=Patience(config.patience, config.patience_gain),
    ).fit()
    print_best(run, len(val), int(val.positive_N.sum()))
    return run


def masked_images(config: SegmentConfig) -> tuple[MaskedImages, MaskedImages]:
    """Training and validation images with their masks. Raises RunError if there is no positive image in one of them."""
    train = masks.load(config.train, "training", config.classes, config.on_error, config.only)
    val = masks.load(config.val, "validation", config.classes, config.on_error)
    for masked, consequence in (
        (train, "there is nothing to learn"),
        (val, "no checkpoint or threshold can be chosen"),
    ):
        if not masked.positive_N.any():
            raise RunError(
                f"{masked.source}: none of the {len(masked)} masks has a pixel of {', '.join(config.classes)}, so {consequence}"
            )
    require_meaning(val, train.ignores_255)
    return train, val


def require_meaning(masked: MaskedImages, ignores_255: bool) -> None:
    """Raises RunError if 255 means ignored in the masks of the training set but lesion in these masks."""
    if masked.lesion_is_255 and ignores_255:
        raise RunError(
            f"{masked.source}: its masks have 255 and no 1, so 255 would mean lesion, but in the masks that the model is "
            "trained on 255 stands beside 1 and means ignored. Write the lesion as 1, or leave these images out"
        )


def segmenter(config: SegmentConfig) -> Segmenter:
    """A segmenter with the encoder of `--init`; its weights are loaded unless `--scratch` is given."""
    source = model_folder.architecture(config.init)
    shape = SegmenterConfig(
        classes=config.classes,
        encoder=source.encoder,
        encoder_options=source.encoder_options,
        image_size=config.image_size,
        mean=as_levels(config.mean) if config.mean else source.mean,
        std=as_levels(config.std) if config.std else source.std,
        blocks=config.blocks,
        head=config.head,
        channels=config.channels,
        auxiliary=config.auxiliary,
        drop_path=config.drop_path,
        head_dropout=config.head_dropout,
        feature_norm=config.feature_norm,
        relative_positions=config.relative_positions,
        layer_scale=config.layer_scale,
    )
    return on_encoder(Segmenter, shape, config)


def last_thresholds(run: Path) -> dict[str, OutlineThreshold]:
    """The thresholds of a run's last checkpoint if the run is resumed; none for a new run."""
    if not (run / "last" / "config.json").is_file():
        return {}
    return dict(model_folder.read_card(run / "last").outline_thresholds)


def dice_validation(
    config: SegmentConfig, val: MaskedImages, thresholds: dict[str, OutlineThreshold]
) -> Callable[[Any, int, Accelerator], dict[str, float]]:
    """The validation of segmentation: Dice of each class at its best threshold, which is put into `thresholds`.

    The mean over classes of the published Dice chooses the best checkpoint.
    """

    def validate(model: Any, step: int, state: Accelerator) -> dict[str, float]:
        levels_of_rank = outlines.held_out_levels(
            model,
            val,
            workers=config.training.workers,
            rank=state.process_index,
            world_size=state.num_processes,
            precision=hardware.settled(config.training.precision, state.device),
        )
        levels_NC2L = state.reduce(torch.from_numpy(levels_of_rank).to(state.device), "sum").cpu().numpy()
        dice: dict[str, list[float]] = {"dice_positive": [], "dice_published": []}
        for c, name in enumerate(val.classes):
            if levels_NC2L[:, c, 1].any():
                thresholds[name], values = outlines.choose(levels_NC2L[:, c])
                for measure in dice:
                    dice[measure].append(values[measure])
        means = {measure: float(np.mean(values or [0.0])) for measure, values in dice.items()}
        return {**{f"val_{measure}": mean for measure, mean in means.items()}, "score": means["dice_published"]}

    return validate
