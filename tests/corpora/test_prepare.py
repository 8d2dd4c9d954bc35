"""What `prepare` does for every corpus: folders, options, bad files, a full disk, several processes."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mrm import runs
from mrm.audit import fingerprints
from mrm.corpora import catalogue, description, inspection, prepare
from mrm.corpora import preparing as corpus_preparing
from mrm.corpora.contract import Options, Release, inside
from mrm.data.records import Record, Records
from mrm.runs import preparing
from mrm.system.errors import OutputError, RecordError, UnreachableError
from mrm.system.worker_pool import each
from tests.support.image_files import write_image

LABELS = {"0": 0.0, "1": 1.0, "": float("nan"), "-": -1.0}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for number in range(30):
        write_image(folder / f"images/{number:02}.png", number)
    (folder / "table.csv").write_text("name,label\n")
    return folder


def release_of(source, labels: str = "01" * 15, **fields) -> Release:
    rows = [
        Record(source / f"images/{i:02}.png", patient=f"p{i // 2}", labels=(LABELS[v],), name=f"images/{i:02}.png")
        for i, v in enumerate(labels)
    ]
    return Release(Records(rows, ("Finding",), "table.csv"), [source / "table.csv"], "1", **fields)


@pytest.fixture
def use(monkeypatch):
    """A function that makes `nih` return a given release."""
    return lambda release: monkeypatch.setattr(corpus_preparing, "read", lambda *_, **__: release)


def test_every_corpus_has_its_description_or_module_and_is_named_for_an_unknown_one(tmp_path):
    for name, title in catalogue.CORPORA.items():
        if name in (*corpus_preparing.PROGRAMS, "custom"):
            assert callable(__import__(f"mrm.corpora.{name}", fromlist=["read"]).read)
        else:
            assert description.load(name).corpus == title
    with pytest.raises(RecordError, match=r"unknown corpus 'imagenet'; choose from nih, chexpert, rsna"):
        prepare("imagenet", tmp_path, tmp_path / "out")


def test_the_source_must_exist_and_lie_apart_from_the_output(tmp_path):
    with pytest.raises(RecordError, match=r"no such folder; --source is the folder the corpus was downloaded to"):
        prepare("nih", tmp_path / "nowhere", tmp_path / "out")
    for source, out in ((tmp_path, tmp_path / "out"), (tmp_path, tmp_path)):
        with pytest.raises(RecordError, match=r"overlap; nothing may be written into the source"):
            prepare("nih", source, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RecordError, match=r"has no Data_Entry_2017_v2020.csv or .*check that this is the folder of the download"
    ):
        prepare("nih", tmp_path / "empty", tmp_path / "out")


def test_tables_without_any_image_say_so(source, tmp_path, use):
    use(release_of(source, ""))
    with pytest.raises(RecordError, match=r"has the tables of NIH ChestX-ray14 but none of its images"):
        prepare("nih", source, tmp_path / "out")


def test_unstated_and_uncertain_labels_stay_in_the_tables_and_out_of_the_lists(source, tmp_path, use):
    use(replace(release_of(source, "01" * 10), records=release_of(source, ["0", "1", "-", "1"] * 5).records))
    corpus = prepare("nih", source, tmp_path / "out", Options(val=0, test=0, fractions=()))
    assert len(corpus.splits["train"]) == 20
    assert len((tmp_path / "out/train_list.txt").read_text().splitlines()) == 15
    assert corpus.facts["notes"][0].startswith("train_list.txt: 5 of 20 records are in train.csv only")
    prepare("nih", source, tmp_path / "out", Options(val=0, test=0, fractions=(), uncertain="ones"))
    assert len((tmp_path / "out/train_list.txt").read_text().splitlines()) == 20


def test_images_without_any_label_are_records_of_no_set(source, tmp_path, use):
    use(release_of(source, ["0", "1", ""] * 8))
    corpus = prepare("nih", source, tmp_path / "out")
    assert len(corpus.records) == 24
    assert sum(len(corpus.splits[k]) for k in ("train", "val", "test")) == 16


def test_reports_give_training_csv_and_no_lists(source, tmp_path, use):
    use(release_of(source, purpose="reports"))
    prepare("nih", source, tmp_path / "out")
    assert Records.load(tmp_path / "out/training.csv")[0].image.is_file()
    assert not list((tmp_path / "out").glob("*.txt"))
    assert not (tmp_path / "out/train_1.csv").exists()


def test_sets_under_other_names_are_written_as_they_are(source, tmp_path, use):
    release = release_of(source)
    use(replace(release, splits={"task1/train": release.records[:20], "task1/test": release.records[20:]}))
    prepare("nih", source, tmp_path / "out")
    assert len((tmp_path / "out/task1/train_list.txt").read_text().splitlines()) == 20
    assert len(Records.load(tmp_path / "out/task1/test.csv")) == 10


def test_an_earlier_preparation_leaves_nothing_behind(source, tmp_path, use):
    use(release_of(source))
    prepare("nih", source, tmp_path / "out", Options(fractions=(1, 10, 50)))
    mine = tmp_path / "out/mine.txt"
    mine.write_text("stays")
    prepare("nih", source, tmp_path / "out", Options(fractions=(40,)))
    assert (tmp_path / "out/train_40.csv").is_file()
    assert not list((tmp_path / "out").glob("train_50.*"))
    assert mine.is_file()


def test_equal_options_give_equal_files_and_another_seed_other_sets(source, tmp_path, use):
    use(release_of(source))
    runs = [(0, "a"), (0, "b"), (1, "c")]
    facts = [prepare("nih", source, tmp_path / out, Options(seed=seed)).facts for seed, out in runs]
    assert facts[0]["files"] == facts[1]["files"]
    assert facts[0]["files"]["test.csv"] != facts[2]["files"]["test.csv"]
    parquet = Records.load(tmp_path / "a/train.parquet", ("Finding",))
    assert [r.labels for r in parquet] == [r.labels for r in Records.load(tmp_path / "a/train.csv", ("Finding",))]


def test_only_the_requested_views_are_kept_and_none_is_an_error(source, tmp_path, use):
    release = release_of(source)
    rows = [replace(r, view="PA" if i % 2 else "AP") for i, r in enumerate(release.records)]
    use(replace(release, records=replace(release.records, rows=rows)))
    assert len(prepare("nih", source, tmp_path / "out", Options(views=("PA",))).records) == 15
    with pytest.raises(
        RecordError, match=r"no record is left.*another view.*The views of the readable images are AP, PA"
    ):
        prepare("nih", source, tmp_path / "out", Options(views=("LL",)))


# ---- images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", ["header", "pixels"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"<html>", lambda b: b[:30], lambda b: b[:-40]])
def test_images_that_cannot_be_read_are_left_out_and_counted(source, tmp_path, use, check, damage):
    file = source / "images/03.png"
    file.write_bytes(damage(file.read_bytes()))
    use(release_of(source))
    corpus = prepare("nih", source, tmp_path / "out", Options(check=check))
    assert corpus.facts["excluded"] == {"unreadable image": 1}
    assert "03.png" not in (tmp_path / "out/records.csv").read_text()


@pytest.mark.parametrize("check", ["header", "pixels"])
def test_an_image_that_goes_out_of_reach_is_no_damaged_one_and_tried_again(source, tmp_path, use, check, monkeypatch):
    """It was there when the publisher's folder was listed."""
    use(release_of(source))
    whole = prepare("nih", source, tmp_path / "whole", Options(check=check))
    (source / "images/03.png").rename(tmp_path / "aside")
    for _ in range(2):
        with pytest.raises(
            UnreachableError, match=r"^1 images of table\.csv could not be reached; first error: .*03\.png"
        ):
            prepare("nih", source, tmp_path / "out", Options(check=check))
        assert not (tmp_path / "out/corpus.json").exists()
    (tmp_path / "aside").rename(source / "images/03.png")
    seen = []
    real = inspection._facts_of
    monkeypatch.setattr(inspection, "_facts_of", lambda kind, pair: (seen.append(pair[0].name), real(kind, pair))[1])
    corpus = prepare("nih", source, tmp_path / "out", Options(check=check))
    assert seen == ["03.png"]
    assert (corpus.facts["found"], corpus.facts["excluded"]) == (whole.facts["found"], {})


def test_an_audit_that_is_kept_waits_for_images_out_of_reach(source, tmp_path, use, monkeypatch):
    """The share goes away between the inspection of the images and the audit of the sets."""
    use(release_of(source))
    real = preparing.audit_splits

    def gone(*arguments):
        (source / "images/03.png").rename(tmp_path / "aside")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "audit_splits", gone)
        with pytest.raises(UnreachableError, match=r"03\.png: no such file.*Run the same command again"):
            runs.prepare("nih", source, tmp_path / "out")
    assert not (tmp_path / "out/audit.json").exists()
    (tmp_path / "aside").rename(source / "images/03.png")
    report = runs.prepare("nih", source, tmp_path / "out")
    assert not any(coverage.unreadable for coverage in report.sets.values())


def test_without_a_check_no_image_is_opened(source, tmp_path, use):
    (source / "images/03.png").write_bytes(b"")
    use(release_of(source))
    assert len(prepare("nih", source, tmp_path / "out", Options(check="none")).records) == 30


def test_many_items_go_to_several_processes_in_order(capsys):
    assert list(each(abs, range(-2000, 0), 2, "counting")) == list(range(2000, 0, -1))


# ---- disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["records.csv", "train_10.parquet", "val_list.txt", "excluded.csv", "corpus.json"])
def test_a_full_disk_is_named_and_leaves_nothing_half_written(source, tmp_path, use, monkeypatch, file):
    use(release_of(source))
    move = os.replace

    def full(old, new):
        if os.path.basename(new) == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(old, new)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"out: cannot be written \(No space left on device\)"):
        prepare("nih", source, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert not {file, "corpus.json"} & names
    assert not [n for n in names if n.endswith(".tmp")]
    monkeypatch.setattr(os, "replace", move)
    prepare("nih", source, tmp_path / "out")
    assert json.loads((tmp_path / "out/corpus.json").read_text())["found"]["images"] == 30


def test_what_an_interrupted_preparation_wrote_does_not_stay_for_another(source, tmp_path, use, monkeypatch):
    use(release_of(source))
    monkeypatch.setattr("mrm.corpora.writing._facts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("nih", source, tmp_path / "out")
    assert (tmp_path / "out/train_10.csv").is_file()
    monkeypatch.undo()
    use(release_of(source))
    corpus = prepare("nih", source, tmp_path / "out", Options(fractions=()))
    assert "train_10" not in corpus.splits
    assert not list((tmp_path / "out").glob("train_10*"))
    assert not list((tmp_path / "out").glob(".*"))


def test_a_verdict_on_other_sets_does_not_stay(source, tmp_path, use, monkeypatch):
    use(release_of(source))
    out = tmp_path / "out"
    runs.prepare("nih", source, out)
    assert (out / "audit.json").is_file()
    monkeypatch.setattr(preparing, "audit_splits", lambda *_: 1 / 0)  # interrupted in the audit
    with pytest.raises(ZeroDivisionError):
        runs.prepare("nih", source, out, Options(seed=1))
    assert (out / "corpus.json").is_file()
    assert not (out / "audit.json").exists()


def test_an_interrupted_audit_reads_no_image_twice(source, tmp_path, use, monkeypatch):
    use(release_of(source))
    out, whole = tmp_path / "out", runs.prepare("nih", source, tmp_path / "whole")
    read, hashed = fingerprints.images.read, []

    def read_some(image, *rest):
        hashed.append(image)
        if len(hashed) == 12:
            raise KeyboardInterrupt
        return read(image, *rest)

    monkeypatch.setattr(fingerprints.images, "read", read_some)
    with pytest.raises(KeyboardInterrupt):
        runs.prepare("nih", source, out)
    first = len(hashed)
    assert runs.prepare("nih", source, out) == whole
    assert len(hashed) - first <= sum(c.images for c in whole.sets.values()) - 5
    hashed.clear()
    assert runs.prepare("nih", source, out, Options(seed=1)).sets.keys() == whole.sets.keys()
    assert not hashed  # of other sets of the same images, either


def test_one_set_alone_is_not_called_clean(source, tmp_path, use, capsys):
    use(release_of(source))
    verdict = runs.prepare("nih", source, tmp_path / "out", Options(val=0, test=0))
    assert not verdict.compared
    assert "nothing was compared" in capsys.readouterr().out
    assert not (tmp_path / "out/audit.json").exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"size": -5}, "size -5: give 0 or more"),
    ({"workers": -1}, "workers -1: give 0 or more"),
    ({"classes": ("A", "B", "A")}, "classes: A is named twice"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RecordError, match=message):
        Options(**options)


def test_workers_end_with_a_command_that_is_killed(source, tmp_path):
    code = (
        "import time; from mrm.system.worker_pool import each\n"
        "if __name__ == '__main__':\n"
        "    for _ in each(time.sleep, [0.02] * 5000, 2, 'sleeping'): print('.', flush=True)\n"
    )
    (tmp_path / "command.py").write_text(code)
    command = subprocess.Popen([sys.executable, tmp_path / "command.py"], stdout=subprocess.PIPE)
    command.stdout.readline()
    workers = [
        int(n) for t in Path(f"/proc/{command.pid}/task").iterdir() for n in (t / "children").read_text().split()
    ]
    command.kill()
    command.wait()
    assert len(workers) >= 2
    until = time.monotonic() + 20
    while any(Path(f"/proc/{n}").exists() for n in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [n for n in workers if Path(f"/proc/{n}").exists()]


def test_an_output_that_is_a_file_is_named(source, tmp_path, use):
    use(release_of(source))
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"out: is a file, but a folder is needed"):
        prepare("nih", source, tmp_path / "out")


# ---- paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a.png", "a/../../b", "/etc/passwd", "..", "C:/a.png", "a\\..\\..\\b"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(RecordError, match=r"table.csv, line 3: the path .* leads out of the source folder"):
        inside(tmp_path, name, "table.csv, line 3")


def test_paths_that_stay_inside_are_made_relative(tmp_path):
    assert inside(tmp_path, "a/./b/../c.png", "") == "a/c.png"
    assert inside(tmp_path, f"{tmp_path}/a.png", "") == "a.png"
