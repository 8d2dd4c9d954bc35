"""Images of squares and rings as records with boxes, for the classifier that has learnt them."""

from pathlib import Path

import numpy as np

from mrm.data import images
from mrm.system.files import write_csv
from tests.support.squares import SHAPES, square_and_ring

HEADER = ("image_path", "class", "x", "y", "width", "height", "reader", "text")


def write_squares(folder: Path, count: int = 24) -> Path:
    """Write `count` images of 64 pixels (three of four have a square, every other a ring), `records.csv` and `boxes.csv`.

    Two images in a row are of one patient. Returns the folder.
    """
    rng, records, boxes = np.random.default_rng(5), [], []
    for i in range(count):
        shown = (int(i % 4 != 3), int(i % 2 == 0))
        image, places = square_and_ring(rng, shown)
        name = f"images/{i:02d}.png"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images.encode_png(image))
        records.append([name, f"p{i // 2}", *shown])
        for shape in SHAPES:
            if places[shape].any():
                row, column = np.argwhere(places[shape])[0].tolist()
                boxes.append([name, shape, column, row, 16, 16, "", ""])
    write_csv(folder / "records.csv", ("image_path", "patient_id", *SHAPES), records)
    write_csv(folder / "boxes.csv", HEADER, boxes)
    return folder
