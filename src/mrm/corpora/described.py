"""Reads a corpus as its description says (`mrm.corpora.description`): rows to images, columns to labels, boxes and sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from mrm.corpora.contract import (
    ABSENT,
    CONTRADICTORY,
    DUPLICATE,
    TWICE,
    UNLABELLED,
    Exclusion,
    Options,
    Release,
    by_key,
    file_stem,
    images_of,
    inside,
    plain_age,
    unique_rows,
)
from mrm.corpora.described_tables import Opened, folder_of, open_tables
from mrm.corpora.description import BOX, SPLITS, CorpusDescription, Table, reader, readers
from mrm.corpora.mask_folders import run_lengths, write_folders
from mrm.corpora.stated_labels import StatedLabels
from mrm.data.box_cells import boxes_in
from mrm.data.boxes import Box
from mrm.data.folders import IMAGES, image_key
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Record, Records
from mrm.data.report_languages import language_notes
from mrm.data.sections import select_sections
from mrm.system.errors import RecordError
from mrm.system.table_rows import Row
from mrm.system.text_files import read_text


class Files:
    """The images of a download, by path or by name, as the description says."""

    def __init__(
        self, corpus: CorpusDescription, source: Path, root: Path, excluded: list[Exclusion], options: Options
    ) -> None:
        self.by_name, self.root = corpus.images.by == "name", root
        self.below = "" if root == source else f"{root.relative_to(source).as_posix()}/"
        self.key = file_stem if self.by_name else image_key
        suffixes = ("",) if corpus.images.any_suffix else IMAGES
        listed = images_of(options, source, root, *corpus.images.folders, suffixes=suffixes)
        self.known = by_key(listed, self.key, excluded, first=corpus.images.first)
        self.excluded = excluded

    def keys(self, table: Table, row: Row) -> tuple[str, ...]:
        """What the image of a row may be found by. Raises RecordError for a path that leads out of the folder."""
        rule = table.columns["image_path"]
        paths = [inside(self.root, text, row.where) for read in readers(rule) if (text := read(row.cells))]
        if not paths:
            raise RecordError(f"{row.where}: names no image in {rule}")
        return tuple([self.key(path) for path in paths])

    def find(self, keys: Sequence[str]) -> tuple[str, Path | PlacedImage] | None:
        """Name and file of the first of the keys that is there; copies in other folders or formats are excluded."""
        there = [self.known[key] for key in dict.fromkeys(keys) if key in self.known]
        if not there:
            return None
        (first, file), *others = there
        self.excluded += [Exclusion(name, TWICE, first) for name, _ in others]
        return f"{self.below}{first}", file


def read(corpus: CorpusDescription, source: Path, options: Options) -> Release:
    """The records of a described corpus, with its sets and boxes. Raises RecordError for tables that do not fit."""
    root = folder_of(corpus, source)
    excluded: list[Exclusion] = []
    corpus, opened, notes = open_tables(corpus, root, excluded, partial(images_of, options, source, root))
    files = Files(corpus, source, root, excluded, options)
    of_records = [one for one in opened if one.table.holds == "records"]
    groups, mentioned = _grouped(corpus, files, of_records, excluded)
    stated = StatedLabels(corpus.labels, (row for group in groups.values() for _, row in group))
    records, boxes, runs = list[Record](), dict[str, list[Box]](), dict[str, list[str]]()
    for key, group in groups.items():
        lesions = run_lengths((row for _, row in group), corpus.masks) if corpus.masks else None
        labels = stated([row for _, row in group], [table.states("reader", row.cells) for table, row in group])
        if labels is None:
            excluded.append(Exclusion(_image_of(*group[0]), CONTRADICTORY, _lines(group)))
        elif place := files.find(key):
            records.append(_record(corpus, root, *place, *group[0], labels, options))
            if lesions is not None:
                runs[file_stem(place[0])] = lesions
            if own := [box for table, row in group if table.states_boxes for box in _boxes_of(table, row, corpus)]:
                boxes[place[0]] = own
        else:
            excluded.append(Exclusion(_image_of(*group[0]), ABSENT))
    _add_boxes(corpus, files, opened, {record.name for record in records}, boxes)
    excluded += [Exclusion(name, UNLABELLED) for key, (name, _) in files.known.items() if key not in mentioned]
    every = Records(records, stated.classes, str(of_records[0].path))
    sets, lists, missing = _sets(corpus, root, every)
    return Release(
        records=every,
        inputs=[*(one.path for one in opened if one.path.is_file()), *(root / file for file in lists)],
        version=corpus.version,
        splits=sets,
        excluded=excluded,
        expected={k: v for k, v in corpus.expected.items() if k not in corpus.sets.values() or (root / k).is_file()},
        counts=_counts(of_records, lists) | _studies(corpus, records),
        purpose=corpus.purpose,
        key=partial(_plain, corpus),
        list_classes=corpus.labels.listed or (stated.classes if corpus.purpose != "masks" else ()),
        uncertain=corpus.labels.uncertain,
        unstated_absent=corpus.labels.unstated_absent,
        notes=[*corpus.notes, *notes, *missing, *language_notes(records, corpus.language)],
        boxes=boxes,
        finish=partial(write_folders, runs) if corpus.masks else None,
    )


# Rows and records -------------------------------------------------------------------------------------------


def _image_of(table: Table, row: Row) -> str:
    """The image as the row names it."""
    return table.states("image_path", row.cells)


def _lines(group: Sequence[tuple[Table, Row]]) -> str:
    return f"lines {', '.join(str(row.line) for _, row in group)}"


def _grouped(
    corpus: CorpusDescription, files: Files, opened: Sequence[Opened], excluded: list[Exclusion]
) -> tuple[dict[tuple[str, ...], list[tuple[Table, Row]]], set[str]]:
    """The rows of each image, by what it may be found by; and all that any row may find. Repeated rows are excluded; where a
    row is an image, also rows that contradict each other."""
    groups: dict[tuple[str, ...], list[tuple[Table, Row]]] = {}
    mentioned = set[str]()
    for one in opened:
        keys = {id(row): files.keys(one.table, row) for row in one.rows}
        mentioned.update(*keys.values())
        rows: Iterable[Row] = one.rows
        if corpus.labels.rows == "image":
            named = unique_rows(rows, lambda row, table=one.table: _image_of(table, row), excluded)  # type: ignore[misc]
            rows = (row for _, row in named)
        else:
            rows = _different(one, excluded)
        for row in rows:
            groups.setdefault(keys[id(row)], []).append((one.table, row))
    return groups, mentioned


def _different(opened: Opened, excluded: list[Exclusion]) -> Iterator[Row]:
    """The rows of a table, each once."""
    seen = set[tuple[str, ...]]()
    for row in opened.rows:
        cells = tuple(row.cells.values())
        if cells in seen:
            excluded.append(Exclusion(_image_of(opened.table, row), DUPLICATE, f"line {row.line}"))
        else:
            yield row
        seen.add(cells)


def _record(
    corpus: CorpusDescription,
    root: Path,
    name: str,
    file: Path | PlacedImage,
    table: Table,
    row: Row,
    labels: tuple[float, ...],
    options: Options,
) -> Record:
    parts = [f"{title}: {text}" for title, rule in corpus.report.items() if (text := reader(rule)(row.cells))]
    report = "\n".join(parts) or table.states("report_content", row.cells)
    extra = {c: read(row.cells) for c, read in table.attributes.items()}
    if "age" in extra:
        extra["age"] = plain_age(extra["age"])
    for column in [c for c in extra if c.endswith("mask_path")]:
        paths = (text for read in readers(table.columns[column]) if (text := read(row.cells)))
        masks = (root / inside(root, path, row.where) for path in paths)
        extra[column] = next((str(mask.absolute()) for mask in masks if mask.is_file()), "")
    extra["split"] = _set_of(table, row)
    return Record(
        image=file,
        report=select_sections(report, options.sections) if report else "",
        patient=table.states("patient_id", row.cells),
        study=table.states("study_id", row.cells),
        view=table.states("view", row.cells),
        labels=labels,
        extra={c: text for c, text in extra.items() if text},
        name=name,
    )


def _set_of(table: Table, row: Row) -> str:
    """The publisher's set of a row: train, val, test, or nothing."""
    text = table.split or table.states("split", row.cells)
    if text and text.lower() not in SPLITS:
        raise RecordError(f"{row.where}: unknown set {text!r}; known are {', '.join(SPLITS)}")
    return SPLITS[text.lower()] if text else ""


def _boxes_of(table: Table, row: Row, corpus: CorpusDescription) -> Iterator[Box]:
    """The boxes that a row states, under the names of the classes."""
    cells = {name: read(row.cells) for name, read in table.readers.items() if name in (*BOX, "reader")}
    cells["class"] = corpus.labels.names.get(cells["class"], cells["class"])
    yield from boxes_in(cells, corpus.box, row.where)


def _add_boxes(
    corpus: CorpusDescription, files: Files, opened: Sequence[Opened], names: set[str], boxes: dict[str, list[Box]]
) -> None:
    """Add the boxes of tables that hold nothing else; those of images that are no records are not counted."""
    for one in (one for one in opened if one.table.holds == "boxes"):
        for row in one.rows:
            place = files.find(files.keys(one.table, row))
            if place and place[0] in names:
                boxes.setdefault(place[0], []).extend(_boxes_of(one.table, row, corpus))


# Sets -------------------------------------------------------------------------------------------------------


def _sets(
    corpus: CorpusDescription, root: Path, records: Records
) -> tuple[dict[str, Records], dict[str, list[str]], list[str]]:
    """The publisher's sets, by the tables or by lists of names; the lists, and notes on those that are missing."""
    if corpus.sets:
        if missing := [file for file in corpus.sets.values() if not (root / file).is_file()]:
            return {}, {}, [f"{' and '.join(missing)} not in the source: the official test set is unknown"]
        lists = {file: _names(root / file) for file in corpus.sets.values()}
        names = {split: {_plain(corpus, name) for name in lists[file]} for split, file in corpus.sets.items()}
        chosen = {split: records.where(lambda r, n=n: _plain(corpus, r.name) in n) for split, n in names.items()}  # type: ignore[misc]
        return chosen, lists, []
    stated = dict.fromkeys(SPLITS.values())
    sets = {split: records.where(lambda r, s=split: r.extra.get("split") == s) for split in stated}  # type: ignore[misc]
    return {split: part for split, part in sets.items() if part}, {}, []


def _names(path: Path) -> list[str]:
    """The image names in a publisher's list. Raises RecordError for a list without any."""
    names = read_text(path).split()
    if not any(name.lower().endswith(IMAGES) for name in names):
        raise RecordError(f"{path}: has no image names; download the publisher's list, or remove this one")
    return names


def _plain(corpus: CorpusDescription, name: str) -> str:
    """What a name in a list and that of a record have in common."""
    return file_stem(name) if "name" in (corpus.images.by, corpus.lists_by) else _list_key(corpus, name)


def _list_key(corpus: CorpusDescription, name: str) -> str:
    """`CheXpert-v1.0/train/p/s/v.jpg` -> `train/p/s/v`: without the folder of the corpus, and the format."""
    folder = next((f for f in corpus.folders if name.startswith(f"{f}/")), "")
    return image_key(name.removeprefix(f"{folder}/"))


def _counts(opened: Sequence[Opened], lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Rows of each table, and names in each list."""
    rows = {f"rows of {one.table.name}": one.total for one in opened}
    counts = {"rows": sum(rows.values())} if len(rows) == 1 else rows
    return counts | {file: len(names) for file, names in lists.items()}


def _studies(corpus: CorpusDescription, records: Sequence[Record]) -> dict[str, int]:
    """The number of studies, where the publisher states one."""
    return {"studies": len({r.study for r in records})} if "studies" in corpus.expected else {}
