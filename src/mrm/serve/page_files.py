"""The files of the page, read once at the start, so that no request names a file: one for each path, and their types."""

from __future__ import annotations

from pathlib import Path

from mrm.data import display
from mrm.inference import heat_maps

FOLDER = Path(__file__).parent / "page"
MODULES = ("page", "requests", "study", "viewer", "tile", "pixels", "findings", "report", "downloads", "elements")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PALETTE = "/palette.js"
NAMES = {"/": "page.html", "/page.css": "page.css", **{f"/{name}.js": f"{name}.js" for name in MODULES}}
PATHS = (*NAMES, PALETTE)


def page_files() -> dict[str, tuple[str, str]]:
    """The text and media type of each path of the page."""
    files = {path: ((FOLDER / name).read_text(), TYPES[Path(name).suffix]) for path, name in NAMES.items()}
    return {**files, PALETTE: (palette_script(), TYPES[".js"])}


def palette_script() -> str:
    """The colours of heat maps and classes for the page, so that it draws as the rest of the package does."""
    class_colours = [list(colour) for colour in display.CLASS_COLOURS]
    heat_colours = heat_maps.palette().tolist()
    return f"export const HEAT_COLOURS = {heat_colours};\nexport const CLASS_COLOURS = {class_colours};\n"
