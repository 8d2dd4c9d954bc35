"""mrm beside other libraries at the same work, in turns.

    python -m benchmarks.peers --images DIR --out peers.json [--line NAME ...] [--quick]

Started in the folder of the project. The other libraries are those of `benchmarks/peers/requirements.txt`; one that is
not installed is named as missing. `--images` is a folder of real radiographs, whose largest are enlarged to the size of
originals and written as JPEG. `--line` measures some lines only and keeps the others of an earlier file. `--quick` shows
that everything works, with small models and images: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import speed

from benchmarks.peers import fine_tuning, intervals, loading, prediction, pretraining, table
from benchmarks.peers.turns import Gate, Line, Setting, measure
from mrm.system.files import write_json

LINES: dict[str, Line] = {
    **pretraining.LINES,
    **fine_tuning.LINES,
    **loading.LINES,
    **prediction.LINES,
    **intervals.LINES,
}
WITH_IMAGES = {*loading.LINES, "predict"}


def main() -> None:
    """Measure the chosen lines, write JSON, print tables; or be one way of a line."""
    options = arguments()
    if options.table:
        print(table.rows(json.loads(options.out.read_text())), end="")
        return
    if options.way:
        be(*options.way, Setting(options.quick, options.folder))
        return
    results = json.loads(options.out.read_text()) if options.out.exists() and options.line else {}
    results |= {"quick": options.quick}
    with tempfile.TemporaryDirectory() as temporary:
        setting = Setting(options.quick, options.folder or Path(temporary))
        for name in options.line or LINES:
            prepare(name, setting, options.images)
            print(f"--- {name}", flush=True)
            results[name] = {**measure(name, LINES[name], setting, options.ways), "machine": speed.machine()}
            print(speed.table(results[name]), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.out, results)
    print(f"wrote {options.out}" + ("; --quick: its numbers mean nothing" if options.quick else ""))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("peers.json"), help="the JSON file to write")
    parser.add_argument("--images", type=Path, help="a folder of radiographs; the largest are used")
    parser.add_argument("--line", choices=sorted(LINES), action="append", help="only this line; may be repeated")
    parser.add_argument("--ways", nargs="+", help="of the line, only mrm and these ways")
    parser.add_argument("--folder", type=Path, help="keep the prepared files here, for another run")
    parser.add_argument("--table", action="store_true", help="only print the file as the table of docs/peers.md")
    parser.add_argument("--quick", action="store_true", help="small models and images, to see that everything works")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)  # this command starts itself
    options = parser.parse_args()
    chosen = set(options.line or LINES)
    if not (options.way or options.table) and not options.images and chosen & WITH_IMAGES:
        parser.error("the lines of loading and prediction need --images DIR, a folder of real radiographs")
    return options


def prepare(line: str, setting: Setting, images: Path | None) -> None:
    """Write the files that a line needs, unless they are there."""
    if line in WITH_IMAGES and images:
        loading.write_images(setting, images)
    if line in ("network", "network-int8"):
        prediction.write_onnx(setting)


def be(line: str, way: str, setting: Setting) -> None:
    """Be one way of a line until there are no more turns."""
    gate = Gate()
    try:
        LINES[line].ways[way](gate, setting)
    except ModuleNotFoundError as error:
        gate.answer(missing=error.name)


if __name__ == "__main__":
    main()
