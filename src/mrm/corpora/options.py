"""The options of `mrm prepare`.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from mrm.data.dates import DateOrder
from mrm.system import object_store
from mrm.system.errors import RecordError
from mrm.system.table_form import TableForm

Check = Literal["none", "header", "pixels"]
SplitBy = Literal["patient", "date", "file"]
KEYS = (  # columns by which rows find their images, most specific first
    *("image_path", "image_uid", "series_uid", "study_uid", "accession", "study_id", "patient_id"),
)
JOIN_BY = (*KEYS, "patient_id+date")


@dataclass(frozen=True)
class Options:
    """What a user may choose about the preparation of a corpus. A corpus uses the options that concern it."""

    # Splits
    splits: Path | None = None  # a folder of published label lists, used in place of our own splits
    val: float = 0.1  # share of the images for validation, where the publisher has no such set
    test: float = 0.2  # share of the images for the test, where the publisher has no such set
    fractions: tuple[int, ...] = (1, 10)  # percentages of the training labels to write beside all of them
    seed: int = 0  # of the splits
    split_by: SplitBy = "patient"  # date: later patients test; file: images of one patient may be in several sets
    test_from: str = ""  # split by date: the first day of the test set, such as 2024-01-01
    val_from: str = ""  # split by date: the first day of the validation set; by default a share of the earlier patients

    # Contents
    classes: tuple[str, ...] = ()  # only these classes; for custom, the label columns
    views: tuple[str, ...] = ()  # only these views, such as PA AP
    uncertain: str = ""  # in label lists: ones, zeros or ignore; by default as in the published lists of the corpus
    sections: tuple[str, ...] = ()  # sections of the reports to keep; by default those that suit the corpus
    reports: Path | None = None  # reports apart from the images: of MIMIC; of custom a folder of texts or HL7 messages
    remove_shared_lines: bool = False  # custom: remove what most reports share, such as a letterhead
    columns: Mapping[str, str] = field(default_factory=dict)  # custom: OUR-NAME=COLUMN, such as accession=Number
    table: tuple[Path, ...] = ()  # custom: tables, CSV, Parquet, .xlsx or .ods; by default the only one in the source
    sheet: str = ""  # custom: the sheet of the first table; by default the first that is not empty
    join_by: str = ""  # custom: what rows find images by, such as accession; by default the most specific that fits
    within_days: int = 0  # custom: how far a row's date may be from that of its study, for patient_id+date
    loose_keys: bool = False  # custom: match keys that differ in blanks, upper case or leading zeros alone
    date_order: DateOrder | None = None  # custom: which comes first in 03/04/2024, if no date of the column tells
    config: Path | None = None  # custom: the description.yaml of an earlier preparation; options override it

    # Images
    images: Path | None = None  # the address of the source's images in an object store, such as s3://bucket/nih
    size: int = 0  # segmentation: longer side of the images that are written, 0 keeps their size
    box_masks: bool = False  # also write segmentation folders: a mask is 1 inside the boxes of its image
    check: Check = "header"  # open each image for its size and end (header), decode it whole (pixels), or skip this

    # Machine
    workers: int = 0  # processes; 0 takes one per core

    # Labels
    values: Mapping[str, str] = field(default_factory=dict)  # custom: what words mean, such as ja=1,nein=0,unklar=-1
    label_column: str = ""  # custom: the column that names the findings, where classes have no columns of their own
    label_separator: str = ""  # custom: between findings in a cell; a sign, none, or by default what is found out

    # Tables
    encoding: str = ""  # custom: of tables and reports that are text, such as windows-1252; by default found out
    delimiter: str = ""  # custom: comma, semicolon, tab, bar or a sign; by default found out by the header
    header_lines: str = ""  # custom: lines of the first table that name its columns, such as 2, or 1-2 for two

    def __post_init__(self) -> None:
        TableForm(self.encoding, self.delimiter, header_lines=self.header_lines)
        for name in ("size", "workers", "within_days"):
            if getattr(self, name) < 0:
                raise RecordError(f"{name} {getattr(self, name)}: give 0 or more")
        check_join_by(self.join_by)
        self._check_days()
        if self.images and not object_store.address(self.images):
            raise RecordError(
                f"--images {self.images}: expected the address of a folder in an object store, such as s3://bucket/nih; images "
                "on this machine belong into the folder of --source"
            )
        if twice := [c for c, n in Counter(self.classes).items() if n > 1]:
            raise RecordError(f"classes: {', '.join(twice)} is named twice; name each once")

    def _check_days(self) -> None:
        """Raises RecordError for days that are none, that do not follow each other, or that nothing would use."""
        days = {"test_from": self.test_from, "val_from": self.val_from}
        if self.split_by != "date":
            if given := [_option(name) for name, text in days.items() if text]:
                raise RecordError(f"{' and '.join(given)} need --split-by date")
            return
        if not self.test_from:
            raise RecordError(
                "--split-by date needs the first day of the test set: --test-from 2024-01-01, for example"
            )
        if self.splits:
            raise RecordError("--splits and --split-by date exclude each other; give one of them")
        for name, text in days.items():
            if text and not _is_day(text):
                raise RecordError(f"{_option(name)} {text}: expected a day written as 2024-01-31")
        if self.val_from and self.val_from >= self.test_from:
            raise RecordError(f"--val-from {self.val_from} must be before --test-from {self.test_from}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_day(text: str) -> bool:
    """Whether a text is a day as 2024-01-31."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def check_join_by(join_by: str) -> None:
    """Raises RecordError for a column by which nothing is joined."""
    if join_by and join_by not in JOIN_BY:
        raise RecordError(f"join_by: unknown value {join_by!r}; choose from {', '.join(JOIN_BY)}")
