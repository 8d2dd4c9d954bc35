"""Segmentation folders: which mask belongs to which image, and mask files as class numbers.

    DIR/images/{training,validation,test}/NAME.png         images, in any format `mrm.data.images` reads
    DIR/annotations/{training,validation,test}/NAME.png    masks under the same names, or
    DIR/annotations/training.csv                           run lengths: ImageId, EncodedPixels
    DIR/patients.csv                                       optional, for intervals by patient: image_path, patient_id
    DIR/shards.json                                        the same, packed by `mrm pack`

A mask is (H, W) uint8: 0 background, 1 to C the classes, 255 ignored (not labelled, or padding). What the values in
the files mean is decided for all masks of a set together:

* in a palette of colours the indices count, in a palette of greys the grey values;
* with one class and no mask that has a 1, 255 is the lesion; otherwise values are class numbers and 255 is ignored.
"""

# Shapes: N images, C classes, H W pixels
from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mrm.data import headers, images, shards
from mrm.data.borders import Box
from mrm.data.config import OnError
from mrm.data.folders import is_system_file, system_note
from mrm.data.patients import PATIENTS, read_patients
from mrm.data.records import Record, Records
from mrm.data.shard_rows import read_all
from mrm.data.shards import PackedImage
from mrm.data.table_records import first_five
from mrm.system import hardware
from mrm.system.errors import ImageError, MaskError, UnreachableError, printable
from mrm.system.tables import read_rows, stated
from mrm.system.text_files import read_text

SPLITS = ("training", "validation", "test")
IGNORED = 255  # in a mask: padding, or pixels that are not labelled
CLASSES = frozenset(map(str, range(1, IGNORED)))  # class numbers in a table of run lengths; 0 is the background
FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG")  # of masks; Pillow would run other programs for some others
RELATIVE, ABSOLUTE = "EncodedPixels", "rle"  # columns of run lengths: SIIM's, and the usual ones


@dataclass(frozen=True)
class RunLengths:
    """A mask as text, as runs of one class each."""

    runs: tuple[tuple[int, str], ...]  # class number, run lengths; an empty mask has none
    relative: bool  # SIIM: gap after the previous run, and length; otherwise start (from 1), and length
    where: str

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class MaskedImage:
    """An image and the place of its mask."""

    name: str
    image: Path | PackedImage
    mask: Path | PackedImage | RunLengths
    patient: str = ""  # as `patients.csv` states it; "" if unknown


@dataclass(frozen=True)
class Scan:
    """The facts of a mask that are needed to check it."""

    size: tuple[int, int]
    image_size: tuple[int, int]
    values: dict[int, int]  # number of pixels of each value


@dataclass(frozen=True)
class MaskedImages(Sequence[MaskedImage]):
    """Images with masks of the same classes; every mask has been read once and checked."""

    rows: Sequence[MaskedImage]
    classes: tuple[str, ...]
    areas_NC: np.ndarray  # pixels of each class
    lesion_is_255: bool
    ignores_255: bool  # both are False if no mask has a pixel of 255
    source: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    @property
    def positive_N(self) -> np.ndarray:
        """Which images have a pixel of any class."""
        return np.asarray((self.areas_NC > 0).any(axis=1))

    def records(self) -> Records:
        """The images as records; a label states whether the class occurs in the mask."""
        labels = (self.areas_NC > 0).astype(float)
        pairs = zip(self.rows, labels, strict=True)
        rows = [Record(r.image, patient=r.patient, labels=tuple(v), name=r.name) for r, v in pairs]
        return Records(rows, self.classes, self.source)

    def image(self, index: int) -> np.ndarray:
        """The image (H, W) uint8. Raises ImageError."""
        return images.read(self.rows[index].image)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image and its mask. Raises ImageError, and MaskError if they differ in size."""
        image_HW = self.image(index)
        mask_HW = self.mask(index, image_HW.shape)
        if image_HW.shape != mask_HW.shape:
            raise MaskError(f"{self.rows[index].mask}: {mask_HW.shape} pixels, its image {image_HW.shape}")
        return image_HW, mask_HW

    def mask(self, index: int, image_size: tuple[int, ...] | None = None) -> np.ndarray:
        """The mask (H, W) uint8: 0, class numbers, 255 ignored. Raises MaskError.

        Run lengths need the size of the image, which is read from its header if it is not passed.
        """
        mask_HW = read_mask(self.rows[index], image_size)
        return (mask_HW == 255).astype(np.uint8) if self.lesion_is_255 else mask_HW


# A set of masks -----------------------------------------------------------------------------------------


def load(
    folder: Path | str,
    split: str = "training",
    classes: Sequence[str] = ("lesion",),
    on_error: OnError = "stop",
    only: Path | None = None,
) -> MaskedImages:
    """The images and masks of one split of a segmentation folder or its shards; every mask is read once.

    `folder` may also be the images of a split, `DIR/images/training`. `only` is a list of the images to take:
    one name a line, with or without suffix, or a CSV with the column image_path. Raises MaskError, naming the file, for
    an image without a mask, a mask without an image, a mask of another size, with unknown values or with every pixel
    ignored. With `on_error="skip"` these images are left out, with a warning that counts them.
    """
    rows, problems, source = list_masked_images(folder, split)
    if only:
        rows, problems = select_images(rows, only), []
    with ThreadPoolExecutor(min(8, hardware.cores())) as pool:
        scans = list(pool.map(_scanned, rows))
    readable = [scan for scan in scans if isinstance(scan, Scan)]
    has_255 = any(IGNORED in scan.values for scan in readable)
    lesion_is_255 = len(classes) == 1 and has_255 and not any(1 in scan.values for scan in readable)
    values = [255] if lesion_is_255 else range(1, len(classes) + 1)
    usable, areas = [], []
    for row, scan in zip(rows, scans, strict=True):
        problem = scan if isinstance(scan, str) else problem_of(row, scan, classes, lesion_is_255)
        if isinstance(scan, str) or problem:
            problems.append(problem)
            continue
        usable.append(row)
        areas.append([scan.values.get(value, 0) for value in values])
    _report(source, problems, on_error)
    if not usable:
        raise MaskError(f"{source}: no image of {split} has a mask that can be used")
    return MaskedImages(usable, tuple(classes), np.array(areas), lesion_is_255, has_255 and not lesion_is_255, source)


def list_masked_images(folder: Path | str, split: str) -> tuple[list[MaskedImage], list[str], str]:
    """Images and masks of a split, messages about files without a partner, and where they are. Raises MaskError."""
    if not shards.is_shard_folder(folder):
        root, split = find_split(Path(folder), split)
        return *pair(root, split), str(root / "images" / split)
    packed, part = read_all(folder)
    if packed.index.kind != "masks":
        raise MaskError(f"{packed.place}: these shards have no masks; pack a segmentation folder")
    columns = (part.columns[name] for name in ("image_path", "patient_id", "split"))
    rows = zip(*columns, part.images, part.masks, strict=True)
    return [MaskedImage(n, i, m, who) for n, who, at, i, m in rows if at == split], [], packed.place


def find_split(folder: Path, split: str) -> tuple[Path, str]:
    """The segmentation folder and the split that `folder` stands for. Raises MaskError if it is neither."""
    if (folder / "images" / split).is_dir():
        return folder, split
    if folder.parent.name == "images" and folder.is_dir():
        return folder.parents[1], folder.name
    raise MaskError(
        f"{folder}: not a segmentation folder; expected images/{split}/ and annotations/{split}/ in it, "
        f"or the images of one split, such as DIR/images/{SPLITS[0]}"
    )


def pair(root: Path, split: str) -> tuple[list[MaskedImage], list[str]]:
    """Images and masks of the same names, sorted, and messages about files without a partner. Raises MaskError."""
    images = _by_stem(root / "images" / split)
    folder, table = root / "annotations" / split, root / "annotations" / f"{split}.csv"
    if not folder.is_dir() and not table.is_file():
        raise MaskError(f"{folder}: no such folder of masks, and no {table.name} with run lengths beside it")
    masks = _by_stem(folder) if folder.is_dir() else read_run_lengths(table)
    listed = read_patients(root / PATIENTS) if (root / PATIENTS).is_file() else {}
    people = {stem(Path(name).name): patient for name, patient in listed.items()}
    rows = [
        MaskedImage(printable(p.name), p, masks[name], people.get(name, ""))
        for name, p in images.items()
        if name in masks
    ]
    problems = [f"{p}: an image without a mask" for stem, p in images.items() if stem not in masks]
    problems += [f"{m}: a mask without an image" for stem, m in masks.items() if stem not in images]
    return rows, problems


def select_images(rows: Sequence[MaskedImage], only: Path) -> list[MaskedImage]:
    """The images that a list names. Raises MaskError for names that are not among the images."""
    if not only.is_file():
        raise MaskError(f"{only}: no such list of images")
    if only.suffix == ".csv":
        header, lines = read_rows(only)
        if "image_path" not in header:
            raise MaskError(f"{only}: no column image_path; the columns found are {', '.join(header)}")
        names = [fields[header.index("image_path")] for _, fields in lines]
    else:
        names = [line.split()[0] for line in read_text(only).splitlines() if line.strip()]
    known = {stem(row.name): row for row in rows}
    stems = [stem(Path(name).name) for name in names]
    if absent := [name for name in stems if name not in known]:
        raise MaskError(
            f"{only}: {len(absent)} of its {len(stems)} images have no image and mask here; the first is {absent[0]}"
        )
    return [known[name] for name in dict.fromkeys(stems)]


def problem_of(row: MaskedImage, scan: Scan, classes: Sequence[str], lesion_is_255: bool) -> str:
    """What is wrong with a mask, as a message; '' if nothing is."""
    if scan.size != scan.image_size:
        (height, width), (image_height, image_width) = scan.size, scan.image_size
        return (
            f"{row.mask}: the mask has {height} x {width} pixels, its image {image_height} x {image_width}; "
            "a mask needs one pixel for each pixel of its image"
        )
    known = {0, 255} if lesion_is_255 else {*range(len(classes) + 1), IGNORED}
    if unknown := {v: n for v, n in scan.values.items() if v not in known}:
        counts = ", ".join(f"{v} ({n:,} pixels)" for v, n in sorted(unknown.items())[:5])
        names = ", ".join(f"{i} {name}" for i, name in enumerate(("background", *classes)))
        return (
            f"{row.mask}: unknown values {counts}; expected {names}, 255 ignored (or, with one class, 0 and 255). "
            "JPEG compression creates such values: save masks as PNG. Name further classes with --classes"
        )
    if not lesion_is_255 and set(scan.values) == {IGNORED}:
        return f"{row.mask}: every pixel is {IGNORED}, which is ignored; such a mask can neither train nor test a model"
    return ""


def _scanned(row: MaskedImage) -> Scan | str:
    try:
        image_size = images.size(row.image)
        mask_HW = read_mask(row, image_size)
    except UnreachableError:  # it was there when the folder was listed
        raise
    except (ImageError, OSError) as error:
        return str(error)
    counts = np.bincount(mask_HW.ravel(), minlength=256)
    return Scan(mask_HW.shape, image_size, {int(v): int(counts[v]) for v in np.flatnonzero(counts)})


def _by_stem(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names without suffix. Raises MaskError if two have the same name."""
    if not folder.is_dir():
        raise MaskError(f"{folder}: no such folder")
    every = sorted(p for p in folder.iterdir() if p.is_file())
    if left_out := [p.name for p in every if is_system_file(p.name)]:
        warnings.warn(f"{folder}: {system_note(left_out)}", stacklevel=5)
    files = [p for p in every if p.name not in left_out and not p.name.startswith(".")]
    stems = {stem(p.name): p for p in files}
    if len(stems) < len(files):
        repeated = next(name for name, n in Counter(stem(p.name) for p in files).items() if n > 1)
        raise MaskError(f"{folder}: more than one file is called {repeated}; keep one of them")
    return stems


def stem(name: str) -> str:
    """A file's name without its suffix; dots inside it, as in DICOM identifiers, stay."""
    before, _, suffix = name.rpartition(".")
    return before if before and not suffix.isdigit() else name


def _report(where: str, problems: Sequence[str], on_error: OnError) -> None:
    if not problems:
        return
    if on_error == "stop":
        raise MaskError(f"{first_five(problems)} ({where}; correct them, or leave them out with --on-error skip)")
    warnings.warn(f"{where}: left out {len(problems)} images or masks: {first_five(problems)}", stacklevel=3)


# One mask -----------------------------------------------------------------------------------------------


def read_mask(row: MaskedImage, image_size: tuple[int, ...] | None = None) -> np.ndarray:
    """The values in the mask's file, (H, W) uint8. Raises MaskError, or UnreachableError where it is absent.

    Run lengths need the size of the image, which is read from its header if it is not passed.
    """
    if isinstance(row.mask, RunLengths):
        height, width = image_size or images.size(row.image)
        return draw_runs(row.mask, height, width)
    content = headers.load(row.mask)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > images.MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {images.MAX_PIXELS:,}")
            palette = image.getpalette() if image.mode == "P" else None
            values = np.asarray(image)
    except Exception as error:  # damaged files make Pillow raise a dozen kinds
        raise MaskError(
            f"{row.mask}: cannot be read as a mask ({error}); download or copy it again, or save it as PNG"
        ) from error
    return _values(values, palette, row.mask)


def _values(values: np.ndarray, palette: Sequence[int] | None, path: Path | PackedImage) -> np.ndarray:
    """Grey values, palette indices, or the grey values of a palette without colours."""
    if palette is not None:
        colors = np.array(palette, dtype=np.uint8).reshape(-1, 3)
        used = colors[: int(values.max()) + 1]
        return used[values, 0] if len(used) > values.max() and (used == used[:, :1]).all() else values
    if values.ndim == 3 and values.shape[2] >= 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "bui" or int(values.max(initial=0)) > 255:
        raise MaskError(
            f"{path}: {values.dtype} of shape {values.shape} is not a mask; save class numbers, or 0 and 255, as 8-bit "
            "grey or with a palette"
        )
    return values.astype(np.uint8)


# Run lengths --------------------------------------------------------------------------------------------


def read_run_lengths(table: Path) -> dict[str, RunLengths]:
    """The masks in a CSV by image: ImageId, EncodedPixels (SIIM's relative runs; -1 for none), one row a lesion.

    A column `rle` in place of EncodedPixels has the usual runs: start, from 1, and length; empty for none. Both count
    down the columns of the image. An optional column ClassId has class numbers from 1. Raises MaskError.
    """
    header, lines = read_rows(table)
    column = RELATIVE if RELATIVE in header else ABSOLUTE
    if "ImageId" not in header or column not in header:
        raise MaskError(
            f"{table}: expected the columns ImageId and {RELATIVE} (or {ABSOLUTE}), found {', '.join(header)}"
        )
    runs: dict[str, list[tuple[int, str]]] = {}
    for number, fields in lines:
        row = dict(zip(header, (stated(f) for f in fields), strict=False))
        text, kind = row.get(column, ""), row.get("ClassId") or "1"
        if not (text == "-1" or all(n.isascii() and n.isdigit() for n in text.split())):
            raise MaskError(f"{table}: line {number}: {text[:40]!r} is not a run length; expected pairs of numbers")
        if kind not in CLASSES:
            raise MaskError(
                f"{table}: line {number}: ClassId {kind!r} is not a class number; expected 1 to {IGNORED - 1}, as 0 is "
                "the background"
            )
        runs_of_image = runs.setdefault(stem(row["ImageId"]), [])
        if text not in ("", "-1"):
            runs_of_image.append((int(kind), text))
    return {name: RunLengths(tuple(r), column == RELATIVE, f"{table}, {name}") for name, r in runs.items()}


def draw_runs(mask: RunLengths, height: int, width: int) -> np.ndarray:
    """Run lengths as class numbers (height, width) uint8. Raises MaskError if they extend beyond the image."""
    decode_runs = decode if mask.relative else decode_absolute
    mask_HW = np.zeros((height, width), np.uint8)
    for class_number, text in mask.runs:
        try:
            mask_HW[decode_runs(text, height, width)] = class_number
        except ValueError as error:
            raise MaskError(f"{mask}: {error}; run lengths need the image at its published size") from None
    return mask_HW


def decode(text: str, height: int, width: int) -> np.ndarray:
    """Relative run lengths as (height, width) bool. Raises ValueError if they extend beyond the image."""
    edges = list(accumulate(_numbers(text)))  # start, end, start, end, ...
    return _filled(list(zip(edges[::2], edges[1::2], strict=True)), height, width)


def decode_absolute(text: str, height: int, width: int) -> np.ndarray:
    """Starts, from 1, and lengths as (height, width) bool. Raises ValueError if they extend beyond the image."""
    numbers = _numbers(text)
    runs = zip(numbers[::2], numbers[1::2], strict=True)
    return _filled([(start - 1, start - 1 + length) for start, length in runs], height, width)


def _numbers(text: str) -> list[int]:
    numbers = [int(number) for number in text.split()]  # Python integers cannot overflow
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers, but pairs are expected")
    return numbers


def _filled(runs: Sequence[tuple[int, int]], height: int, width: int) -> np.ndarray:
    """(height, width) bool, True from each start up to its end; pixels are counted from 0, down the columns."""
    if any(not 0 <= start <= end <= height * width for start, end in runs):
        first, last = min(start for start, _ in runs), max(end for _, end in runs)
        raise ValueError(f"runs span pixels {first:,} to {last:,}, but the image has {height * width:,}")
    flat = np.zeros(height * width, dtype=bool)
    for start, end in runs:
        flat[start:end] = True
    return flat.reshape(width, height).T


def encode(mask_HW: np.ndarray) -> str:
    """The relative run lengths of a mask, which `decode` reads; "-1" for an empty mask."""
    flat = np.concatenate(([0], mask_HW.T.reshape(-1) != 0, [0])).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat))
    return " ".join(map(str, np.diff(edges, prepend=0))) if edges.size else "-1"


# Geometry -----------------------------------------------------------------------------------------------


def letterbox(height: int, width: int, size: tuple[int, int]) -> Box:
    """The box of an image in `size` (height, width): as large as fits, its aspect ratio kept, in the centre."""
    scale = min(size[0] / height, size[1] / width)
    new_height = min(size[0], max(1, round(height * scale)))
    new_width = min(size[1], max(1, round(width * scale)))
    return Box((size[0] - new_height) // 2, (size[1] - new_width) // 2, new_height, new_width)


def fit(image_HW: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Box]:
    """The whole image in `size`, the rest black; and the box it fills."""
    box = letterbox(image_HW.shape[0], image_HW.shape[1], size)
    return _padded(images.resize(image_HW, box.height, box.width), box, size, 0), box


def fit_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask of an image that `fit` resized: by nearest neighbours, the rest ignored."""
    box = letterbox(mask_HW.shape[0], mask_HW.shape[1], size)
    small = cv2.resize(mask_HW, (box.width, box.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return _padded(small, box, size, IGNORED)


def _padded(image: np.ndarray, box: Box, size: tuple[int, int], fill: int) -> np.ndarray:
    whole = np.full(size, fill, np.uint8)
    images.crop(whole, box)[:] = image
    return whole
