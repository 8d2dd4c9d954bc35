"""Each corpus that is read by a description: its official layout end to end, cell by cell, and what fails for all of them."""

import re
from pathlib import Path

import pyarrow.parquet
import pytest

from mrm.corpora import CORPORA, described, description, prepare
from mrm.corpora.contract import Options, file_stem
from mrm.corpora.preparing import PROGRAMS
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.downloads import BOXES, DOWNLOADS, EXCLUDED, RECORDS, cells, write_download
from tests.support.paths import ROOT
from tests.support.run_files import table

DESCRIBED = {name for name in CORPORA if name not in (*PROGRAMS, "custom")}
FACTS = ("image_path", "report_content", "patient_id", "study_id", "view")


def rows_of(file: Path, source: Path) -> list[dict[str, str]]:
    """The rows of a table that was written, with paths relative to the source."""
    return [{c: text.removeprefix(f"{source}/") for c, text in row.items()} for row in table(file)]


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_cell_of_a_download_is_that_written_by_hand(name, tmp_path):
    source, out = write_download(name, tmp_path / "source"), tmp_path / "out"
    corpus = prepare(name, source, out, Options(val=0, test=0, fractions=(), workers=1))
    classes = corpus.records.classes
    expected = {row["image_path"]: row for row in cells(RECORDS[name])}
    found = {row["image_path"]: row for row in rows_of(out / "records.csv", source)}
    assert found.keys() == expected.keys()
    for path, row in expected.items():
        rest = row.pop("*", None)
        assert {c: found[path].get(c, "") for c in row} == row
        assert {found[path][c] for c in classes if c not in row} <= {rest}
    if classes:  # what fine-tuning takes for classes, where none are named
        assert set(Records.load(out / "records.csv", None).classes) <= set(classes)
    boxes = rows_of(out / "boxes.csv", source) if (out / "boxes.csv").exists() else []
    assert boxes == cells(BOXES.get(name, "image_path"))
    assert corpus.facts["excluded"] == EXCLUDED.get(name, {})
    for split, part in corpus.splits.items():
        stated = {r.extra["split"] for r in part if "split" in r.extra}
        assert stated <= {split}


def test_every_described_corpus_has_a_download_and_a_table_of_cells():
    assert DESCRIBED - {"nih", "chexpert", "rsna", "siim"} == set(DOWNLOADS) == set(RECORDS)


LISTED = {"chexpert-test", "shenzhen", "montgomery"}  # whose images are found by listing a folder


@pytest.mark.parametrize("name", DOWNLOADS)
def test_one_missing_image_is_named_and_a_partial_download_is_read(name, tmp_path):
    source, corpus = write_download(name, tmp_path / "source"), description.load(name)
    whole = described.read(corpus, source, Options()).records
    (source / whole[-1].name).unlink()
    rest = described.read(corpus, source, Options())
    assert [(r.name, r.labels, r.report) for r in rest.records] == [(r.name, r.labels, r.report) for r in whole][:-1]
    absent = [file_stem(e.name) for e in rest.excluded if e.reason == "image absent"]
    assert absent == [] if name in LISTED else absent == [file_stem(whole[-1].name)]
    for record in whole[1:-1]:
        (source / record.name).unlink()
    assert described.read(corpus, source, Options()).records[0].name == whole[0].name


@pytest.mark.parametrize("name", sorted(set(DOWNLOADS) - {"shenzhen", "montgomery"}))
def test_another_releases_columns_and_a_damaged_table_are_refused_with_the_file(name, tmp_path):
    source, corpus = write_download(name, tmp_path / "source"), description.load(name)
    table = next(t for t in corpus.tables if "*" not in t.file)
    file = source / description.alternatives(table.file)[0]
    text = file.read_text()
    if table.header:
        sign = "\t" if "\t" in text else " "
        file.write_text(re.sub(rf"{sign}[^{sign}\n]*$", "", text, count=1, flags=re.MULTILINE))  # one field fewer
    else:
        columns = [sorted(one)[0] for one in description.columns_of([*table.match, *table.columns.values()][0])]
        for number, column in enumerate(columns):
            text = text.replace(column, f"renamed{number}")
        file.write_text(text)
        with pytest.raises(
            RecordError, match=rf"{file.name}.*: no column {columns[0]}.*; the columns found are .*renamed"
        ):
            described.read(corpus, source, Options())
        file.write_text(text[: len(text) // 2].rstrip(",\n") + '"')  # cut off
    with pytest.raises(RecordError, match=file.name):
        described.read(corpus, source, Options())


@pytest.mark.parametrize("name", ["shenzhen", "montgomery"])
def test_a_folder_without_the_images_that_make_the_rows_is_refused(name, tmp_path):
    (tmp_path / "CXR_png").mkdir()
    with pytest.raises(RecordError, match=r"has no CXR_png/\*.*check that this is the folder of the download"):
        described.read(description.load(name), tmp_path, Options())


def test_rocov2_in_parquet_becomes_the_same_files_by_the_lines_in_the_manual(tmp_path, monkeypatch):
    source = write_download("rocov2", tmp_path / "folder")
    (tmp_path / "ROCOv2/data").mkdir(parents=True)
    for part, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        captions, concepts = (rows_of(source / f"{part}_{kind}.csv", source) for kind in ("captions", "concepts"))
        rows = [
            {
                "image": {"bytes": (source / f"{part}/{a['ID']}.jpg").read_bytes(), "path": None},
                **{"image_id": a["ID"], "caption": a["Caption"], "cui": b["CUIs"].split(";")},
            }
            for a, b in zip(captions, concepts, strict=True)
            if (source / f"{part}/{a['ID']}.jpg").exists()
        ]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows), tmp_path / f"ROCOv2/data/{name}-00000-of-00001.parquet"
        )
    page = (ROOT / "docs/corpora/image-report.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
    both = [
        described.read(description.load("rocov2"), place, Options()).records for place in (source, tmp_path / "ROCOv2")
    ]
    assert [(r.name, r.report, r.extra) for r in both[0]] == [(r.name, r.report, r.extra) for r in both[1]]
    assert all((tmp_path / "ROCOv2" / r.name).read_bytes() == (source / r.name).read_bytes() for r in both[1])
