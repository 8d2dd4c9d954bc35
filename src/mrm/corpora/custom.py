"""Your own images and reports: a table with any column names, or a folder of images.

A table (CSV, Parquet, or a sheet of an Excel or LibreOffice workbook) needs one column that names the image.
`options.columns` maps our names to its columns, such as `image_path=Path, report_content=Text, patient_id=MRN,
study_id=Accession, view=View, split=Set`, and `options.classes` names the label columns (1, 0, -1 uncertain, empty not
stated; yes, no and the like too).

Without a table, each image under the source is a record. With `options.classes`, folders determine the label: 1
in a folder named like the class, 0 in any other; folders named train, val and test are the splits.

In both cases `scan.txt` beside `scan.png` is its report, unless the table has one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from mrm.corpora.contract import (
    ABSENT,
    IMAGES,
    Exclusion,
    Options,
    Release,
    Row,
    every_file,
    file_stem,
    inside,
    list_images,
    read_table,
    unique_rows,
    without_label,
)
from mrm.data.folders import is_image, is_system_file, may_be_image, system_note
from mrm.data.records import RESERVED, UNCERTAIN, Record, Records
from mrm.data.sections import select_sections
from mrm.system.errors import RecordError
from mrm.system.tables import stated
from mrm.system.text_files import encoding_of

TABLES = (".csv", ".csv.gz", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")
NAMES = (*RESERVED, "split", "sex", "age")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
VALUES = {
    **dict.fromkeys(("1", "1.0", "yes", "true", "y", "positive", "present"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "false", "n", "negative", "absent"), 0.0),
    **dict.fromkeys(("-1", "-1.0", "uncertain"), UNCERTAIN),
    **dict.fromkeys(("", "nan", "na", "n/a"), float("nan")),
}
BAD_LABEL = "label not understood"
BAD_SPLIT = "split not understood"
SEVERAL = "name fits several images"
NO_NAME = "row without image name"


def read(source: Path, options: Options) -> Release:
    """Records of a table, or of a folder if there is no table. Raises RecordError for missing columns."""
    table = options.table or _only_table(source)
    if table and not table.is_file():
        raise RecordError(f"--table {table}: no such file")
    excluded: list[Exclusion] = []
    images, left_out = _find_images(source)
    if not images:
        raise RecordError(f"{source}: has no images; expected PNG, JPEG, TIFF or DICOM files")
    if table is None and options.columns:
        raise RecordError(f"{source}: --columns needs a table, but there is none; name it with --table FILE")
    sidecars = Sidecars(list_images(source, suffixes=(".txt",)))
    if table is None:
        rows = _from_folder(images, sidecars, options)
    else:
        rows = _from_table(source, table, images, sidecars, options, excluded)
    records = Records(rows, options.classes, str(table or source))
    return Release(
        records=records,
        inputs=[table] if table else [],
        version="by a table" if table else "by folders",
        splits=_splits(records),
        excluded=excluded,
        counts={"images with report": sum(bool(r.report) for r in records)},
        purpose="labels" if options.classes else "reports",
        notes=[*left_out, *sidecars.notes(), *_notes(records)],
        patient_advice="name their column with --columns patient_id=COLUMN" if table else "give a table that has them",
    )


def _find_images(source: Path) -> tuple[dict[str, Path], list[str]]:
    """The images under the source, and notes that count the other files.

    DICOM from a PACS or a CD often has no suffix, or a number as its suffix: where the name does not tell, the first
    bytes of the file do.
    """
    images: dict[str, Path] = {}
    system, others = list[str](), list[str]()
    for name, file in every_file(source).items():
        path = PurePosixPath(name)
        if is_system_file(path):
            system.append(name)
        elif path.name.startswith(".") or not may_be_image(path):
            continue
        elif name.lower().endswith(IMAGES) or is_image(file):
            images[name] = file
        else:
            others.append(name)
    notes = [system_note(system)] if system else []
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        notes.append(f"{len(others):,} files that are no images by name or content are left out ({shown})")
    return images, notes


def _only_table(source: Path) -> Path | None:
    named = [p for p in sorted(source.iterdir()) if p.name.lower().endswith(TABLES)]
    tables = [p for p in named if not p.name.startswith((".", "~$"))]  # the latter: Excel's lock
    if len(tables) > 1:
        names = ", ".join(p.name for p in tables)
        raise RecordError(f"{source}: several tables ({names}); choose one with --table FILE")
    return tables[0] if tables else None


@dataclass
class Sidecars:
    """The text files that lie beside images of their name."""

    files: Mapping[str, Path]
    replaced: int = 0

    def report(self, image: str, sections: Sequence[str]) -> str:
        """The text beside the image; empty if there is none."""
        plain = PurePosixPath(image).with_suffix("").as_posix()
        file = self.files.get(f"{plain}.txt") or self.files.get(f"{image}.txt")
        if file is None:
            return ""
        raw = file.read_bytes()
        text = stated(raw.decode(encoding_of(raw), errors="replace"))
        self.replaced += "\ufffd" in text
        return select_sections(text, sections)

    def notes(self) -> list[str]:
        """Warns if any text was not UTF-8, and returns the warning as a note for `corpus.json`."""
        if not self.replaced:
            return []
        note = f"{self.replaced} report files have bytes that are not UTF-8, replaced by \ufffd"
        warnings.warn(note, stacklevel=3)
        return [note]


# Table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finder:
    """Finds the image that a row names: by a path from the source or the table's folder, or by a unique name."""

    source: Path
    beside: str  # the table's folder relative to the source; empty if it is elsewhere
    images: Mapping[str, Path]
    by_stem: Mapping[str, list[str]]

    @classmethod
    def of(cls, source: Path, table: Path, images: Mapping[str, Path]) -> Finder:
        folder, root = table.absolute().parent, source.absolute()
        by_stem: dict[str, list[str]] = {}
        for name in images:
            by_stem.setdefault(file_stem(name), []).append(name)
        return cls(
            source,
            folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "",
            images,
            by_stem,
        )

    def __call__(self, row: Row, name: str) -> list[str]:
        """The images that the name fits. Raises RecordError if it leads out of the source."""
        name = inside(self.source, name, row.where)
        for candidate in (name, (PurePosixPath(self.beside) / name).as_posix()):
            if candidate in self.images:
                return [candidate]
        return [p for p in self.by_stem.get(file_stem(name), []) if _fits(p, name)]


def _fits(image: str, name: str) -> bool:
    """Whether the image has the folders and the suffix in the name, if it has any."""
    name_path, image_path = PurePosixPath(name), PurePosixPath(image)
    folders = name_path.parent.parts
    both_have_suffix = file_stem(name) != name_path.name and file_stem(image) != image_path.name
    if both_have_suffix and name_path.suffix.lower() != image_path.suffix.lower():
        return False
    return not folders or image_path.parent.parts[-len(folders) :] == folders


def _from_table(
    source: Path,
    table: Path,
    images: Mapping[str, Path],
    sidecars: Sidecars,
    options: Options,
    excluded: list[Exclusion],
) -> list[Record]:
    rows = read_table(table, (), options.sheet)
    column = _columns(table, rows, options)
    find, chosen = Finder.of(source, table, images), dict[int, str]()
    for row in rows:
        name = row[column["image_path"]]
        matches = find(row, name) if name else []
        if len(matches) == 1:
            chosen[row.line] = matches[0]
        else:
            reason = (SEVERAL if matches else ABSENT) if name else NO_NAME
            excluded.append(Exclusion(name or row.where, reason, row.where))
    kept = []
    joined = (row for row in rows if row.line in chosen)
    for name, row in unique_rows(joined, lambda r: chosen[r.line], excluded):
        record = _record(name, images[name], row, column, sidecars, options)
        if isinstance(record, Exclusion):
            excluded.append(record)
        else:
            kept.append(record)
    excluded += without_label(images, chosen.values())
    return kept


def _columns(table: Path, rows: Sequence[Row], options: Options) -> dict[str, str]:
    """Our name -> the table's column: as in the options, else the column of the same name."""
    if unknown := set(options.columns) - set(NAMES):
        raise RecordError(f"--columns: unknown name {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    if not rows:
        raise RecordError(f"{table}: has no rows")
    header = list(rows[0].cells)
    column = {name: name for name in NAMES if name in header} | dict(options.columns)
    columns_found = f"the columns found are {', '.join(header)}"
    if "image_path" not in column:
        raise RecordError(f"{table}: name the column of image names with --columns image_path=COLUMN; {columns_found}")
    if missing := [c for c in (*column.values(), *options.classes) if c not in header]:
        raise RecordError(f"{table}: no column {', '.join(missing)}; {columns_found}")
    return column


def _record(
    name: str, file: Path, row: Row, column: Mapping[str, str], sidecars: Sidecars, options: Options
) -> Record | Exclusion:
    """The record of a row, or the reason why there is none."""
    cells = {ours: row[theirs] for ours, theirs in column.items()}
    labels = [VALUES.get(row[c].lower()) for c in options.classes]
    if None in labels:
        bad = options.classes[labels.index(None)]
        return Exclusion(name, BAD_LABEL, f"{row.where}: {row[bad]!r} in column {bad}")
    split = cells.get("split", "").lower()
    if split and split not in SPLITS:
        return Exclusion(name, BAD_SPLIT, f"{row.where}: {split!r}")
    stated = select_sections(cells.get("report_content", ""), options.sections)
    return Record(
        image=file,
        report=stated or sidecars.report(name, options.sections),
        patient=cells.get("patient_id", ""),
        study=cells.get("study_id", ""),
        view=cells.get("view", ""),
        labels=tuple(v for v in labels if v is not None),
        extra=_extra(SPLITS.get(split, ""), cells),
        name=name,
    )


def _extra(split: str, cells: Mapping[str, str]) -> dict[str, str]:
    kept = {name: cells[name] for name in ("sex", "age") if cells.get(name)}
    return {"split": split, **kept} if split else kept


# Folder ---------------------------------------------------------------------------------------------------


def _from_folder(images: Mapping[str, Path], sidecars: Sidecars, options: Options) -> list[Record]:
    rows = []
    for name, file in images.items():
        folders = [part.lower() for part in PurePosixPath(name).parent.parts]
        split = next((SPLITS[f] for f in folders if f in SPLITS), "")
        labels = tuple(float(c.lower() in folders) for c in options.classes)
        report = sidecars.report(name, options.sections)
        rows.append(Record(file, report, labels=labels, extra=_extra(split, {}), name=name))
    for i, c in enumerate(options.classes):
        if not any(r.labels[i] for r in rows):
            inner = sorted({PurePosixPath(n).parent.name for n in images} - {""})
            raise RecordError(
                f"no folder {c} with images; the folders with images are {', '.join(inner[:20]) or 'none'}"
            )
    return rows


def _splits(records: Records) -> dict[str, Records]:
    named = {r.extra.get("split", "") for r in records} - {""}
    return {name: records.where(partial(_is_in, name)) for name in SPLITS.values() if name in named}


def _is_in(split: str, record: Record) -> bool:
    return record.extra.get("split") == split


def _notes(records: Records) -> list[str]:
    notes = []
    split = sum("split" in r.extra for r in records)
    if 0 < split < len(records):
        notes.append(f"{len(records) - split:,} images belong to no split and are in records.csv only")
    return notes
