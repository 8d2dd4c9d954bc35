"""The parts of a segmentation run, its test and its predictions; `mrm.runs` puts them in order."""

# Shapes: N pictures, C classes, H W pixels
from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from mrm import checkpoint, dicom_seg, images, masks, pages, segmentation
from mrm.evaluate import RunError, overlaps
from mrm.headers import kind_of
from mrm.images import ImageError
from mrm.masks import MaskedPictures
from mrm.recipes import SegmentConfig
from mrm.runs.opening import best_device, on_encoder, show_progress, warn_of
from mrm.segmentation import Threshold
from mrm.segmenter import Segmenter, SegmenterConfig, probabilities

COLOURS = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0))


# Training -----------------------------------------------------------------------------------------------


def masked_pictures(config: SegmentConfig) -> tuple[MaskedPictures, MaskedPictures]:
    """Training and validation pictures with their masks. Raises RunError where one has no positive picture."""
    train = masks.load(config.train, "training", config.classes, config.on_error, config.only)
    val = masks.load(config.val, "validation", config.classes, config.on_error)
    for found, why in ((train, "there is nothing to learn"), (val, "no checkpoint or threshold can be chosen")):
        if not found.positive_N.any():
            raise RunError(
                f"{found.source}: not one of {len(found)} masks has a pixel of {', '.join(config.classes)}: {why}"
            )
    return train, val


def segmenter(config: SegmentConfig) -> Segmenter:
    """A segmenter on the encoder of `--init`, with its weights unless `--scratch`."""
    source = checkpoint.architecture(config.init)
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
    return dict(checkpoint.read_card(run / "last").thresholds) if (run / "last" / "config.json").is_file() else {}


def dice_check(config: SegmentConfig, val: MaskedPictures, chosen: dict[str, float]):
    """Dice of the validation pictures, each class at its best threshold; leaves the thresholds in `chosen`.

    The mean over classes of the published Dice chooses the best checkpoint.
    """

    def check(model: nn.Module, step: int, state) -> dict[str, float]:
        assert isinstance(model, Segmenter)
        own = segmentation.held_out_levels(
            model,
            val,
            workers=config.training.workers,
            rank=state.process_index,
            world=state.num_processes,
            precision=config.training.precision,
        )
        levels_NC2L = state.reduce(torch.from_numpy(own).to(state.device), "sum").cpu().numpy()
        found = {
            name: segmentation.choose(levels_NC2L[:, c])
            for c, name in enumerate(val.classes)
            if levels_NC2L[:, c, 1].any()
        }
        chosen.update(segmentation.write_thresholds({name: threshold for name, (threshold, _) in found.items()}))
        means = {
            m: float(np.mean([dice[m] for _, dice in found.values()] or [0.0]))
            for m in ("dice_positive", "dice_published")
        }
        return {**{f"val_{m}": v for m, v in means.items()}, "score": means["dice_published"]}

    return check


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
    """Test a segmenter: `results.json`, `pictures.csv`, and a page with overlays. Returns the results."""
    network = segmentation.load_segmenter(model).to(best_device())
    classes = network.config.classes
    masked = masks.load(folder, split, classes, on_error="stop")
    thresholds = segmentation.read_thresholds(network.card, classes)
    show = lambda done, n: show_progress("outlining", done, n)  # noqa: E731
    tested = segmentation.test(network, masked, thresholds, slide, show)
    report = segmentation.report_of(tested, classes, draws, seed)
    leaks = overlaps(checkpoint.find_model(model) / "seen", masked.records(), "test")
    warn_of(leaks)
    results = segmentation.summary(model, network.card, masked, tested, report, leaks)
    results |= {"split": split, "inference": "sliding windows" if slide else "whole picture"}
    segmentation.write_results(out, results, tested, classes)
    pages.segmentation(out, results, report, list(shown_cases(network, masked, tested, thresholds, slide)))
    segmentation.note_test(model, results)
    return results


def shown_cases(
    model: Segmenter,
    masked: MaskedPictures,
    tested: segmentation.Tested,
    thresholds: Sequence[Threshold],
    slide: bool,
) -> Iterable[pages.Case]:
    """Best, median and worst pictures of every class, outlined once more for the page."""
    for number, name in enumerate(masked.classes):
        for kind, row, dice in segmentation.cases(tested, number):
            index = tested.indices[row]
            picture_HW, mask_HW = masked.picture(index), masked.mask(index)
            found_HW = segmentation.outline(probabilities(model, picture_HW, slide), thresholds)
            yield pages.Case(
                name, kind, tested.names[row], dice, picture_HW, mask_HW == number + 1, found_HW == number + 1
            )


# Predicting ---------------------------------------------------------------------------------------------


def predict_masks(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    slide: bool = False,
    dicom: bool = True,
) -> dict[str, str]:
    """Write NAME.png for each picture: class numbers at its own size, in colours; for DICOM also NAME.seg.dcm.

    Folders are searched for files. Returns what could not be read, and why. Raises RunError where nothing could,
    and MaskError where DICOM Segmentations are wanted but highdicom is not there.
    """
    files = input_files(paths)
    if dicom and any(is_dicom(file) for file in files.values()):
        dicom_seg.require_highdicom()
    network = segmentation.load_segmenter(model).to(best_device())
    thresholds = segmentation.read_thresholds(network.card, network.config.classes)
    unreadable: dict[str, str] = {}
    Path(out).mkdir(parents=True, exist_ok=True)
    for done, (name, file) in enumerate(files.items(), 1):
        try:
            picture_HW = images.read(file)
            mask_HW = segmentation.outline(probabilities(network, picture_HW, slide), thresholds)
            write_mask(Path(out) / f"{name}.png", mask_HW)
            if dicom and is_dicom(file):
                version = str(network.card.origin.get("versions", {}).get("mrm", "unknown"))
                dicom_seg.write(Path(out) / f"{name}.seg.dcm", file, mask_HW, network.config.classes, version)
        except (ImageError, OSError) as error:
            unreadable[str(file)] = str(error)
            warnings.warn(f"left out {file}: {error}", stacklevel=2)
        show_progress("outlining", done, len(files))
    if len(unreadable) == len(files):
        raise RunError(
            f"not one of {len(files)} pictures could be outlined; the first: {next(iter(unreadable.values()))}"
        )
    return unreadable


def input_files(paths: Sequence[Path]) -> dict[str, Path]:
    """The files named, and those in the folders named, by the names of their predictions. Raises RunError."""
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise RunError(f"{path}: no such file or folder")
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        for file in inside if path.is_dir() else [path]:
            name = masks.stem(file.name)
            if name in found and found[name] != file:
                raise RunError(f"{file} and {found[name]} would both be written as {name}.png; predict them one by one")
            found[name] = file
    if not found:
        raise RunError(f"{', '.join(map(str, paths))}: no files in it")
    return found


def is_dicom(file: Path) -> bool:
    """Whether a file's first bytes are those of DICOM."""
    try:
        with open(file, "rb") as content:
            return kind_of(content.read(1024), str(file)) == "dicom"
    except (ImageError, OSError):
        return False


def write_mask(path: Path, mask_HW: np.ndarray) -> None:
    """Class numbers as a PNG with a palette, so that a viewer shows colours and `mrm.masks` reads the numbers."""
    image = Image.fromarray(mask_HW, mode="P")
    colours = [COLOURS[0], *(COLOURS[1 + i % (len(COLOURS) - 1)] for i in range(255))]
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)
