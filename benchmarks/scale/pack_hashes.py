"""What it costs to hash images while they are packed, beside packing alone and beside an audit that reads the packed images.

    python -m benchmarks.scale.pack_hashes --images DIR --out pack_hashes.json

Radiographs in DIR are enlarged to 2544 x 3056 with a little noise, and shrunk to 512 pixels, written as JPEG of quality 95, and packed
with a shorter side of 512. All is done in one process and one thread, the ways in turn; times are those of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from benchmarks.scale.hashing import SMALL, enlarged, shrunk
from mrm import runs
from mrm.audit.fingerprints import fingerprint
from mrm.data import images
from mrm.data.config import PackConfig
from mrm.data.records import Record, Records


def main() -> None:
    """Measure, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="images")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    files = sorted(options.images.iterdir())
    originals = [images.read(file) for file in files[:: max(1, len(files) // options.count)][: options.count]]
    rows: dict[str, Any] = {}
    for name, change in (("2544 x 3056", enlarged), ("512", lambda image, _: shrunk(image, SMALL))):
        with tempfile.TemporaryDirectory() as folder:
            table = written(Path(folder), [change(image, seed) for seed, image in enumerate(originals)])
            for kind in ("jpeg", "png", "pgm"):
                rows[f"{name}, packed as {kind}"] = row = milliseconds(table, kind, options.turns)
                print(name, kind, row, flush=True)
    report = {"images": len(originals), "turns": options.turns, "milliseconds of the processor for an image": rows}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def written(folder: Path, grey: list[Any]) -> Path:
    """A table of images as JPEG files in the folder."""
    for number, image in enumerate(grey):
        (folder / f"{number}.jpg").write_bytes(images.encode_jpeg(image, 95))
    return Records([Record(folder / f"{number}.jpg") for number in range(len(grey))]).to_csv(folder / "records.csv")


def milliseconds(table: Path, kind: Any, turns: int) -> dict[str, float]:
    """Of packing an image, of packing and hashing it, and of an audit that reads the packed one; medians of all turns."""
    seconds: dict[str, list[float]] = {"packing": [], "packing and hashing": [], "hashing what was packed": []}
    pack = partial(runs.pack, table, config=PackConfig(SMALL, kind), workers=1)
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            plain, hashed = Path(folder) / "plain", Path(folder) / "hashed"
            seconds["packing"].append(timed(partial(pack, out=plain, hashes=False)))
            seconds["packing and hashing"].append(timed(partial(pack, out=hashed)))
            seconds["hashing what was packed"].append(timed(partial(fingerprint, Records.load(plain), workers=1)))
    count = len(Records.load(table))
    row = {way: round(1e3 * statistics.median(times) / count, 2) for way, times in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["packing"], seconds["packing and hashing"], strict=True)]
    return row | {"times, the median of pairs": round(statistics.median(ratios), 3)}


def timed(do: Callable[[], object]) -> float:
    """Seconds of the processor, without what is printed."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        before = time.process_time()
        do()
        return time.process_time() - before


if __name__ == "__main__":
    main()
