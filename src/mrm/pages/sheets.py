"""Sheets of images side by side as PNG, with titles and a scale: heat maps of a radiograph, or its reconstruction.

Shapes: H W pixels.
"""

import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from mrm.data.display import INK, MUTED, shrink
from mrm.inference import heat_maps
from mrm.inference.reconstruction import Reconstruction
from mrm.pages.figures import TEXT, png

SIDE = 512  # pixels of the longer side of an image on a sheet; the files beside it are in full size
ACROSS = 4  # images in a row
MEANING = (
    "Colour: share of each map's greatest value, covering the image by at most {:.0f} %. "
    "A map shows what moved its number, not where disease is."
)


def heat_sheet(
    image_HW: np.ndarray, overlays: Sequence[np.ndarray], titles: Sequence[str], heading: str, opacity: float
) -> bytes:
    """A radiograph, its overlays (H, W, 3) each with a title, and what their colours mean."""
    columns = min(ACROSS, 1 + len(overlays))
    rows = math.ceil((1 + len(overlays)) / columns)
    across, up = _panel_inches(image_HW.shape)
    with matplotlib.rc_context(TEXT):
        wide = across * columns + 0.9
        caption = _wrapped(f"{heading}\n{MEANING.format(100 * opacity)}", wide)
        size = (wide, (up + 0.45) * rows + 0.3 + 0.15 * len(caption.splitlines()))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        _show(grid[0], shrink(image_HW, SIDE), "image", cmap="gray", vmin=0, vmax=255)
        for axes, overlay, title in zip(grid[1:], overlays, titles, strict=False):
            _show(axes, shrink(overlay, SIDE), _wrapped(title, across))
        for axes in grid[1 + len(overlays) :]:
            axes.set_axis_off()
        figure.suptitle(caption, fontsize=9, color=MUTED, x=0.01, ha="left", parse_math=False)
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 1), ListedColormap(heat_maps.palette() / 255)),
            ax=list(grid),
            shrink=0.8,
            pad=0.02,
        )
        bar.set_label("share of the greatest value", color=INK, fontsize=8)
        return png(figure)


def restored_sheet(reconstruction: Reconstruction, heading: str) -> bytes:
    """Masked, restored, original and residual, each with its name; the residual on a scale symmetric about 0."""
    residual_HW = reconstruction.restored.astype(np.float32) - reconstruction.original
    limit = max(8.0, float(np.ceil(np.quantile(np.abs(residual_HW), 0.995))))
    across, up = _panel_inches(reconstruction.original.shape)
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(4 * across + 1.0, up + 0.75), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 4)
        for axes, image_HW, title in zip(
            panels,
            (reconstruction.masked, reconstruction.restored, reconstruction.original),
            ("masked", "restored", "original"),
            strict=False,
        ):
            _show(axes, image_HW, title, cmap="gray", vmin=0, vmax=255)
        drawn = _show(panels[3], residual_HW, "residual: restored − original", cmap="RdBu_r", vmin=-limit, vmax=limit)
        bar = figure.colorbar(drawn, ax=panels[3], shrink=0.85, pad=0.02, extend="both")
        bar.set_label("grey levels of 255", color=INK, fontsize=8)
        figure.suptitle(heading, fontsize=9, color=MUTED, x=0.01, ha="left", parse_math=False)
        return png(figure)


def _wrapped(text: str, inches: float) -> str:
    """The text in lines that fit a width, at the size of a title."""
    return "\n".join(textwrap.fill(line, max(12, int(13 * inches))) for line in text.split("\n"))


def _show(axes: Axes, image: np.ndarray, title: str, **options):
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", parse_math=False)
    axes.set_axis_off()
    return axes.imshow(image, interpolation="nearest", **options)


def _panel_inches(shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of an image on a sheet."""
    longer = max(shape[:2])
    return max(1.2, 2.9 * shape[1] / longer), max(0.8, 2.9 * shape[0] / longer)
