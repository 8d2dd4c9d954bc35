"""Learning outlines from masks, from a pre-trained encoder."""

# Shapes: N images, C classes, H W pixels
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mrm.data import masks
from mrm.data.masks import MaskedImages
from mrm.data.samples import MaskData
from mrm.data.sampling import Balanced
from mrm.evaluation.classifier_test import overlaps
from mrm.inference import outlines
from mrm.models import model_folder
from mrm.models.card import Card, OutlineThreshold
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.recipes import SegmentConfig
from mrm.runs.run_folder import model_writer, note_seen, on_encoder, open_run, origin, warn_of
from mrm.system.errors import RunError
from mrm.training.tasks import SegmentTask
from mrm.training.trainer import Trainer


def segment(config: SegmentConfig) -> Path:
    """Learn outlines from masks, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    open_run(config)
    train, val = masked_images(config)
    model = segmenter(config)
    data = MaskData(train, config.image_size, config.crop, config.seed, config.on_error)
    order = Balanced(train.positive_N, config.negatives)
    records = train.records()
    facts = origin(config, records, config.train) | {"ignores_255": train.ignores_255}
    card = Card("segmenter", asdict(model.config), facts)
    seen = note_seen(config, "segmentation", records)
    warn_of(overlaps(seen, val.records(), "validation"))
    thresholds = last_thresholds(config.out)
    return Trainer(
        SegmentTask(model, config.focal_weight, config.dice_weight, config.auxiliary_weight),
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen, thresholds=thresholds),
        seed=config.seed,
        validate=dice_validation(config, val, thresholds),
        order=order,
        epoch=len(order),
    ).fit()


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


def last_thresholds(run: Path) -> dict[str, OutlineThreshold]:
    """Those of a run's last checkpoint, for a run that is resumed; none for a new one."""
    if not (run / "last" / "config.json").is_file():
        return {}
    return dict(model_folder.read_card(run / "last").outline_thresholds)


def dice_validation(config: SegmentConfig, val: MaskedImages, chosen: dict[str, OutlineThreshold]):
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
            world_size=state.num_processes,
            precision=config.training.precision,
        )
        levels_NC2L = state.reduce(torch.from_numpy(own).to(state.device), "sum").cpu().numpy()
        found = {
            name: outlines.choose(levels_NC2L[:, c]) for c, name in enumerate(val.classes) if levels_NC2L[:, c, 1].any()
        }
        chosen.update({name: threshold for name, (threshold, _) in found.items()})
        means = {
            m: float(np.mean([dice[m] for _, dice in found.values()] or [0.0]))
            for m in ("dice_positive", "dice_published")
        }
        return {**{f"val_{m}": v for m, v in means.items()}, "score": means["dice_published"]}

    return validate
