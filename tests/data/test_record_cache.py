"""A table that is converted once and then mapped: the same records, and what makes it be converted again."""

import json
import os
import pickle
import resource
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrm.data.mapped_rows import MappedRows, write_rows
from mrm.data.record import Record
from mrm.data.record_cache import INDEX, ROWS, mapped_records
from mrm.data.records import Records
from mrm.system.errors import OutputError, RecordError

ROW = 'images/{n}.png,"FINDINGS: {n} nodules.\nIMPRESSION: ""stable"".",patient {p},{n},AP,{n}\n'
HEADER = "image_path,report_content,patient_id,study_id,view,age\n"


@pytest.fixture
def table(tmp_path) -> Path:
    """Twenty records of ten patients; the last has neither report nor patient. It was written a minute ago."""
    rows = [ROW.format(n=n, p=n // 2) for n in range(19)]
    return written(tmp_path / "training.csv", HEADER + "".join(rows) + "/data/p10000032/s50414267/a.png,,,nan,-,\n")


def written(path: Path, text: str, ago: float = 60) -> Path:
    path.write_text(text)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - ago))
    return path


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """A change is taken for settled at once, as if the tables of these tests were older than they are."""
    monkeypatch.setattr("mrm.data.record_sources.RECENT", -1.0)


@pytest.fixture
def conversions(monkeypatch) -> list[Path]:
    """The tables that are converted, one entry for each time."""
    from mrm.data import record_cache

    noted, convert = [], record_cache._convert
    monkeypatch.setattr(
        record_cache, "_convert", lambda source, folder: noted.append(source.path) or convert(source, folder)
    )
    return noted


# The same records -------------------------------------------------------------------------------------------


def test_mapped_records_are_those_that_are_loaded(table, tmp_path):
    loaded, mapped = Records.load(table), mapped_records(table, tmp_path / "kept")
    assert list(mapped) == list(loaded)
    assert [mapped[i] for i in range(-20, 20)] == [*loaded, *loaded]
    assert (mapped.classes, mapped.source, len(mapped)) == ((), str(table), 20)
    assert mapped[3].extra == {"age": "3"}
    assert mapped[19].image == Path("/data/p10000032/s50414267/a.png")


def test_what_is_known_of_them_as_a_whole_is_the_same(table, tmp_path):
    loaded, mapped = Records.load(table), mapped_records(table, tmp_path / "kept")
    assert mapped.with_report == loaded.with_report == 19
    assert mapped.patient_count == loaded.patient_count == 11  # ten stated, and the one in a published file name
    assert mapped.fingerprint() == loaded.fingerprint()
    assert mapped.fingerprint_unordered() == loaded.fingerprint_unordered()
    assert mapped.table() == loaded.table()


def test_a_selection_keeps_numbers_and_no_records(table, tmp_path):
    loaded, mapped = Records.load(table), mapped_records(table, tmp_path / "kept")
    chosen = mapped.select([7, 2, 7, 19])
    assert isinstance(chosen.rows, MappedRows)
    assert list(chosen) == [loaded[i] for i in (7, 2, 7, 19)]
    assert list(chosen[1:][::-1]) == [loaded[i] for i in (19, 7, 2)]
    assert list(mapped.where(lambda r: r.patient == "patient 4")) == [loaded[8], loaded[9]]
    assert chosen.with_report == 3
    assert chosen.fingerprint() == loaded.select([7, 2, 7, 19]).fingerprint() != mapped.fingerprint()
    assert list(chosen.select([-1, 0])) == [loaded[19], loaded[7]]
    for outside in (4, -5):
        with pytest.raises(IndexError):
            chosen[outside]
        with pytest.raises(IndexError):
            chosen.select([outside])


def test_another_process_gets_the_place_of_the_records_and_not_the_records(table, tmp_path):
    mapped = mapped_records(table, tmp_path / "kept")
    sent = pickle.dumps(mapped.select(range(0, 20, 2)))
    assert b"nodules" not in sent
    assert list(pickle.loads(sent)) == list(Records.load(table))[::2]


def test_labels_other_columns_and_batches_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.data.mapped_rows.BATCH_ROWS", 3)
    monkeypatch.setattr("mrm.data.mapped_rows.BATCH_CHARACTERS", 1000)
    reports = ["Œdème 心臓 🫁", "long " * 500, ""] * 3
    rows = [
        Record(tmp_path / f"{n}.png", report, labels=(n % 2, float("nan")), extra={"name": str(n)}, name=f"{n}.png")
        for n, report in enumerate(reports)
    ]
    write_rows(tmp_path / "rows.arrow", rows, ("mass", "report"), ("name",))
    mapped = MappedRows(tmp_path / "rows.arrow", tmp_path)
    assert len(mapped) == 9
    np.testing.assert_array_equal([r.labels for r in mapped], [(n % 2, np.nan) for n in range(9)])
    for n, row in enumerate(rows):
        assert (mapped[n].image, mapped[n].report, mapped[n].extra) == (row.image, row.report, row.extra)


def test_images_are_sought_where_the_command_says(table, tmp_path):
    mapped_records(table, tmp_path / "kept")
    assert mapped_records(table, tmp_path / "kept", images=Path("/disk"))[0].image == Path("/disk/images/0.png")


def test_bad_lines_are_told_at_each_start(table, tmp_path):
    written(table, "image_path,report_content\na.png,clear\nb.png,no effusion, no mass\n")
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"training\.csv: left out 1 lines: line 3: 3 fields, but the header has 2"
        ):
            assert [r.name for r in mapped_records(table, tmp_path / "kept", on_error="skip")] == ["a.png"]
        with pytest.raises(RecordError, match=r"training\.csv: 1 bad lines: line 3: 3 fields"):
            mapped_records(table, tmp_path / "kept")


def test_what_is_doubtful_in_a_table_is_told_at_each_start(table, tmp_path):
    table.write_bytes(b"image_path,report_content\nb.jpg,\x8cd\xe8me\n")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"training\.csv: read as Windows-1252"):
            assert mapped_records(table, tmp_path / "kept")[0].report == "Œdème"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\na.png\n", "no column image_path"),
        ("image_path\n", "has no records"),
        ("image_path,view\n,AP\n", "1 bad lines: line 2: empty image_path"),
    ],
)
def test_a_table_that_cannot_be_used_leaves_nothing_behind(table, tmp_path, text, words):
    with pytest.raises(RecordError, match=rf"training\.csv: {words}"):
        mapped_records(written(table, text), tmp_path / "kept", on_error="skip")
    assert list((tmp_path / "kept").iterdir()) == []


# The next start ---------------------------------------------------------------------------------------------


def test_a_second_start_reads_nothing_of_the_table(table, tmp_path, monkeypatch):
    first = mapped_records(table, tmp_path / "kept")
    monkeypatch.setattr("mrm.data.record_sources.open_table", lambda *_: pytest.fail("the table was read"))
    monkeypatch.setattr("mrm.data.record_sources.Table.state", lambda *_: pytest.fail("the table was read"))
    assert list(mapped_records(table, tmp_path / "kept")) == list(first)


def test_a_table_with_another_time_and_the_same_content_is_converted_once(table, tmp_path, conversions):
    mapped_records(table, tmp_path / "kept")
    os.utime(table)
    mapped_records(table, tmp_path / "kept")
    copied = written(tmp_path / "copy.csv", table.read_text())
    assert [r.name for r in mapped_records(copied, tmp_path / "kept")] == [r.name for r in Records.load(table)]
    assert conversions == [table]


def changed_content(table: Path, kept: Path) -> None:
    """Another report of the same length, and the same modification time."""
    before = table.stat()
    table.write_text(table.read_text().replace("3 nodules", "4 nodules"))
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_records(table: Path, kept: Path) -> None:
    other = written(kept.parent / "other.csv", "image_path\nz.png\n")
    table.unlink()
    mapped_records(other, kept)
    other.rename(table)
    table.write_text("image_path\nz.png\ny.png\n")


def damaged_index(table: Path, kept: Path) -> None:
    (kept / INDEX).write_text((kept / INDEX).read_text()[:100])


def other_version(table: Path, kept: Path) -> None:
    index = json.loads((kept / INDEX).read_text())
    (kept / INDEX).write_text(json.dumps(index | {"version": 0}))


def index_without_facts(table: Path, kept: Path) -> None:
    index = json.loads((kept / INDEX).read_text())
    (kept / INDEX).write_text(json.dumps(index | {"facts": {"n": 20}}))


def cut_off(table: Path, kept: Path) -> None:
    os.truncate(kept / ROWS, (kept / ROWS).stat().st_size // 2)


def end_overwritten(table: Path, kept: Path) -> None:
    content = (kept / ROWS).read_bytes()
    (kept / ROWS).write_bytes(content[:-100] + bytes(100))


def places_overwritten(table: Path, kept: Path) -> None:
    """The places of the texts of a column, which would lead anywhere in the memory of the process."""
    content = (kept / ROWS).read_bytes()
    names = [f"images/{n}.png" for n in range(19)]
    places = np.cumsum([0, *map(len, names)], dtype=np.int32).tobytes()
    assert content.count(places) == 1
    (kept / ROWS).write_bytes(content.replace(places, places[:20] + b"\xff\xff\xff\x7f" + places[24:]))


def rows_removed(table: Path, kept: Path) -> None:
    (kept / ROWS).unlink()


CHANGES = {
    changed_content: "it holds the records of .*training.csv as they were before",
    other_records: "it holds the records of .*other.csv as they were before",
    damaged_index: r"records\.json is damaged",
    other_version: r"records\.json is of version 0, and this mrm writes version 3",
    index_without_facts: r"records\.json is damaged",
    cut_off: r"records\.arrow has [\d,]+ bytes, but [\d,]+ were written",
    end_overwritten: r"records\.arrow is damaged \((?!.*remove it)",
    places_overwritten: r"records\.arrow is damaged \(texts that overlap\)",
    rows_removed: r"records\.arrow cannot be read \(No such file or directory\)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_do_not_fit_are_made_again_and_that_is_said_once(table, tmp_path, change):
    kept = tmp_path / "kept"
    mapped_records(table, kept)
    change(table, kept)
    with pytest.warns(UserWarning, match=rf"kept: .*({CHANGES[change]}).*; the records are converted again"):
        mapped = mapped_records(table, kept)
    assert list(mapped) == list(Records.load(table))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped_records(table, kept)


def test_a_damaged_file_that_is_opened_is_named(table, tmp_path):
    mapped_records(table, tmp_path / "kept")
    end_overwritten(table, tmp_path / "kept")
    with pytest.raises(
        RecordError, match=r"records\.arrow: cannot be read \(.*\); remove it and run the same command again"
    ):
        mapped_records(table, tmp_path / "kept", prepares=False)


def test_a_table_that_changes_while_it_is_read_is_refused(table, tmp_path, monkeypatch):
    from mrm.data import record_cache

    def appended(*arguments):
        written(table, table.read_text() + "late.png,,,,,\n")
        write_rows(*arguments)

    monkeypatch.setattr(record_cache, "write_rows", appended)
    with pytest.raises(RecordError, match=r"training\.csv: was changed while it was read; run the same command again"):
        mapped_records(table, tmp_path / "kept")
    monkeypatch.undo()
    assert len(mapped_records(table, tmp_path / "kept")) == 21


# One folder, many processes ---------------------------------------------------------------------------------


def test_two_starts_at_once_convert_once(table, tmp_path, conversions, monkeypatch):
    """Threads stand for processes: a lock file keeps out both alike."""
    together = threading.Barrier(2)

    def start(_: int) -> Records:
        together.wait()
        return mapped_records(table, tmp_path / "kept")

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(start, range(2)))
    assert [list(records) for records in both] == [list(Records.load(table))] * 2
    assert conversions == [table]


def test_a_rank_that_does_not_prepare_opens_what_the_first_has_made(table, tmp_path, conversions):
    first = mapped_records(table, tmp_path / "kept")
    os.utime(table)  # a copy on another node has another time
    assert list(mapped_records(table, tmp_path / "kept", prepares=False)) == list(first)
    assert conversions == [table]


def test_a_node_without_the_shared_folder_is_told(table, tmp_path):
    with pytest.raises(RecordError, match=r"kept: the records .* are not there .* on storage that all nodes share"):
        mapped_records(table, tmp_path / "kept", prepares=False)
    assert not (tmp_path / "kept").exists()


def test_a_disk_that_fills_is_an_error_that_leaves_no_half_written_file(table, tmp_path):
    """A limit on the size of files stands for the full disk: the system refuses to write more in the same way."""
    written(table, HEADER + "".join(ROW.format(n=n, p=n) for n in range(500)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError, match=r"kept: cannot be written .*File too large.*Free disk space"):
            mapped_records(table, tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []
    assert len(mapped_records(table, tmp_path / "kept")) == 500
