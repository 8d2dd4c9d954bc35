"""Commands that put a model to use: predict, export."""

from __future__ import annotations

from pathlib import Path

from mrm.cli.command import commands
from mrm.recipes import ConfigError


def predict(model: Path, paths: tuple[Path, ...], /, out: Path, slide: bool = False, dicom_seg: bool = True) -> None:
    """Outline pictures with a segmenter: PNG masks at their own size, and DICOM SEG for DICOM.

    Args:
        model: a model folder or a run.
        paths: pictures, or folders of them.
        out: folder for NAME.png (class numbers, in colours) and NAME.seg.dcm.
        slide: outline by sliding windows, finer and slower than the whole picture at once.
        dicom_seg: write DICOM Segmentations for DICOM input; needs the extra `seg`.
    """
    from mrm.runs import segmenting

    left_out = segmenting.predict_masks(model, paths, out, slide, dicom_seg)
    print(f"{out}: masks of the pictures" + (f"; {len(left_out)} could not be read" if left_out else ""))


def export(model: Path, /, out: Path, format: str = "mrm") -> None:
    """Write a pre-trained model in the published layout (MRM.pth), which loads into timm.

    Args:
        model: a model folder or a run.
        out: the file to write.
        format: "mrm", the published layout.
    """
    from mrm import checkpoint

    if format != "mrm":
        raise ConfigError(f"no export format {format!r}; there is mrm")
    print(f"wrote {checkpoint.export_published(checkpoint.load(model), out)}")


COMMANDS = commands(predict, export)
