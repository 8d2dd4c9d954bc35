"""A shard folder of any number of records, as `mrm pack` writes them; its files of images are all the same file.

    python -m benchmarks.scale.shard_folder --records 400000 --out DIR

The records are those of `table.py`. `DIR/shard-00000.arrow` holds 2,000 small images, and every other file of images is a hard
link to it. So 10 million records take a table and a few megabytes of images.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from benchmarks.scale import table
from mrm.data.config import PackConfig
from mrm.data.packing import open_source, pack
from mrm.data.record import RESERVED
from mrm.data.shard_rows import read_all
from mrm.data.shard_writing import shard_path
from mrm.data.shards import INDEX, LENGTH, OFFSET, SHARD, TABLE, File
from mrm.system.files import write_json

ROWS, SIDE = 2000, 64  # images of a file, and pixels of their sides


def main() -> None:
    """Write the folder, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, required=True, help=f"a multiple of {ROWS:,}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.records % ROWS:
        parser.error(f"--records must be a multiple of {ROWS:,}")
    start = time.perf_counter()
    write_folder(options.out, options.records, options.seed)
    print(f"{options.out}: {options.records:,} records, {time.perf_counter() - start:.0f} s")


def write_folder(out: Path, count: int, seed: int, rows: int = ROWS) -> None:
    """Pack the first `rows` records, and add files and rows up to `count` records, a multiple of them."""
    with tempfile.TemporaryDirectory() as source:
        table.write_images(Path(source, "images"), seed)
        file = table.write_table(Path(source, "training.csv"), rows, seed)
        pack(open_source(file), out, PackConfig(SIDE, rows=rows), workers=1)
    folder, part = read_all(out)
    places = [(image.offset, image.length) for image in part.images]
    files = [replace(folder.index.files[0], name=shard_path(out, number).name) for number in range(count // rows)]
    for file in files[1:]:
        os.link(shard_path(out, 0), out / file.name)
    write_rows(out / TABLE, count, seed, places)
    with open(out / TABLE, "rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
        content_table = File(TABLE, content.tell(), checksum, count)
    write_json(out / INDEX, asdict(replace(folder.index, rows=count, table=content_table, files=tuple(files))))


def write_rows(file: Path, count: int, seed: int, places: list[tuple[int, int]]) -> None:
    """Write the table of a shard folder: `count` records, and where the image of each lies."""
    texts = [(name, pyarrow.string()) for name in RESERVED]
    schema = pyarrow.schema([*texts, (SHARD, pyarrow.int32()), (OFFSET, pyarrow.int64()), (LENGTH, pyarrow.int64())])
    offsets, lengths = zip(*places, strict=True)
    rows = table.rows(count, seed)
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for number in range(count // len(places)):
            columns = [list(column) for column in zip(*itertools.islice(rows, len(places)), strict=True)]
            columns += [[number] * len(places), list(offsets), list(lengths)]
            writer.write_table(pyarrow.table(columns, schema=schema))


if __name__ == "__main__":
    main()
