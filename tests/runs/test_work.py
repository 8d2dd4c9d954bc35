"""The work on images one after the other: stopped, resumed, divided over ranks, and the warnings it gives."""

import errno
import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import mrm
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import headers, images, reach
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.runs import predicting, work
from mrm.system.errors import OutputError, RunError, UnreachableError
from mrm.system.lock import only_writer
from mrm.system.partial_results import Partial
from tests.support.commands import run_ranks
from tests.support.models import with_card
from tests.support.predictions import IN_PROCESS, Stopped, predicted_rows, stop_after
from tests.support.run_files import table


def opened_files(monkeypatch) -> list[Path]:
    """The files of images that are opened from now on."""
    seen, real = [], images.open_image

    def noted(source):
        seen.extend([source] if isinstance(source, Path) else [])
        return real(source)

    monkeypatch.setattr(images, "open_image", noted)
    return seen


def test_warnings_beyond_the_first_stand_in_the_table_alone(model, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(9):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RunError, match=r"none of the 9 images could be read; first error: .*0\.png: empty"):
            predicted_rows(model, [tmp_path / "in"], tmp_path / "a.csv")
    assert len(caught) == work.SHOWN + 1
    assert "only in the table" in str(caught[-1].message)
    assert all("empty" in row["error"] for row in table(tmp_path / "a.csv"))  # written all the same
    assert not (tmp_path / "a.csv.partial").exists()


def test_the_same_command_goes_on_and_the_table_is_the_same(model, awkward, phantoms, tmp_path, monkeypatch):
    given = [phantoms / "images", awkward]
    whole = predicted_rows(model, given, tmp_path / "whole.csv")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            predicted_rows(model, given, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    left = Partial(tmp_path / "a.csv").folder
    lines = (left / "part-1-of-1.jsonl").read_bytes().splitlines()
    assert [len(json.loads(line)) for line in lines[:-1]] == [8, 8, 8]  # a line for each batch
    seen = opened_files(monkeypatch)
    assert predicted_rows(model, given, tmp_path / "a.csv") == whole
    assert len(seen) == len(whole) - 24
    assert (
        len(Partial(tmp_path / "a.csv").done()) == len(whole) - 1
    )  # a link to a file that is not there is tried again


def test_images_that_came_meanwhile_are_taken_along(model, phantoms, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    names = sorted(p.name for p in (phantoms / "images").iterdir())[:20]
    for name in names[1:]:
        (folder / name).write_bytes((phantoms / "images" / name).read_bytes())
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predicted_rows(model, [folder], tmp_path / "a.csv")
    (folder / names[0]).write_bytes((phantoms / "images" / names[0]).read_bytes())
    (folder / names[5]).unlink()  # predicted already, and no longer asked for
    got = predicted_rows(model, [folder], tmp_path / "a.csv")
    assert [Path(r["path"]).name for r in got] == names[:5] + names[6:]


def test_another_model_or_other_options_are_refused(model, phantoms, tmp_path, monkeypatch):
    given, out = [phantoms / "images"], tmp_path / "a.csv"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predicted_rows(model, given, out)
    with pytest.raises(
        OutputError, match=r"a\.csv\.partial: holds another unfinished table .*precision: fp32, now fp16"
    ):
        predicted_rows(model, given, out, replace(IN_PROCESS, precision="fp16"))
    with pytest.raises(OutputError, match="crop_borders: False, now True"):
        predicted_rows(model, given, out, replace(IN_PROCESS, crop_borders=True))
    with pytest.raises(OutputError, match="card: "):
        predicted_rows(with_card(model, tmp_path / "cut", thresholds={"nodule": 0.5}), given, out)
    with noise.seeded(1):
        other = model_folder.save(tmp_path / "other", Classifier(mrm.load(model).config))
    with pytest.raises(OutputError, match="model: "):
        predicted_rows(other, given, out)
    assert len(predicted_rows(model, given, out, replace(IN_PROCESS, batch=3, workers=1))) == 48  # these may change


def test_a_folder_in_the_way_is_left_alone(model, phantoms, tmp_path):
    (tmp_path / "a.csv.partial").mkdir()
    (tmp_path / "a.csv.partial" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"is not empty and holds no unfinished table \(no settings\.json\)"):
        predicted_rows(model, [phantoms / "images"], tmp_path / "a.csv")
    assert (tmp_path / "a.csv.partial" / "mine.txt").read_text() == "x"


def test_one_image_given_twice_has_two_rows(model, phantoms, tmp_path):
    image = phantoms / "images" / "S0-000000.jpg"
    first, second = predicted_rows(model, [image, image], tmp_path / "a.csv")
    assert first == second


@pytest.mark.slow
def test_several_processes_share_the_images_and_merge_them_in_order(model, awkward, phantoms, tmp_path):
    given = [phantoms / "images", awkward]
    alone = predicted_rows(model, given, tmp_path / "alone.csv", replace(IN_PROCESS, batch=4))
    words = [
        "predict",
        str(model),
        *map(str, given),
        "--out",
        str(tmp_path / "a.csv"),
        "--batch",
        "4",
        "--workers",
        "0",
    ]
    outputs = run_ranks([sys.executable, "-m", "mrm", *words], processes=2, statuses=(3, 0))
    assert "".join(outputs).count("wrote") == 1
    together = table(tmp_path / "a.csv")
    assert [r["path"] for r in together] == [r["path"] for r in alone]
    for a, b in zip(alone, together, strict=True):
        assert a["error"] == b["error"]
        assert [a[c] == "" or float(a[c]) == pytest.approx(float(b[c]), rel=1e-4, abs=1e-7) for c in FINDINGS]


# Out of reach ---------------------------------------------------------------------------------------------


@pytest.fixture
def share(phantoms, tmp_path) -> Path:
    """A folder of 20 images, as on a network share."""
    folder = tmp_path / "share" / "images"
    folder.mkdir(parents=True)
    for file in sorted((phantoms / "images").iterdir())[:20]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def listed(share, tmp_path) -> Path:
    """A list of the images of the share."""
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{path}\n" for path in sorted(share.iterdir())))
    return file


def test_an_image_that_was_out_of_reach_is_tried_again_and_no_other(model, share, listed, tmp_path, monkeypatch):
    whole = predicted_rows(model, [listed], tmp_path / "whole.csv")
    third = sorted(share.iterdir())[2]
    third.rename(tmp_path / "aside")
    written = predicting.predict_table(model, [listed], tmp_path / "a.csv", IN_PROCESS)
    assert (written.n, written.unreadable, written.again) == (20, 1, 1)
    assert str(written).endswith("run the same command again to try the 1 that could not be reached")
    assert [row["path"] for row in table(tmp_path / "a.csv") if row["error"]] == [str(third)]
    (tmp_path / "aside").rename(third)
    seen = opened_files(monkeypatch)
    got = predicted_rows(model, [listed], tmp_path / "a.csv")
    assert [row["path"] for row in got] == [row["path"] for row in whole]
    for a, b in zip(got, whole, strict=True):  # the one was predicted in a batch of its own
        assert [float(a[c]) for c in FINDINGS] == pytest.approx([float(b[c]) for c in FINDINGS], rel=1e-4)
    assert seen == [third]
    assert not Partial(tmp_path / "a.csv").folder.exists()


def test_a_share_that_goes_away_stops_the_command_and_costs_nothing(model, share, listed, tmp_path, monkeypatch):
    """The folder of the images is gone from the ninth image on, as where a share is unmounted."""
    whole = predicted_rows(model, [listed], tmp_path / "whole.csv")
    aside, real, count = tmp_path / "aside", images.read, iter(range(100))

    def read(source, **options):
        if next(count) == 8:
            share.parent.rename(aside)
        return real(source, **options)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read", read)
        with pytest.raises(UnreachableError, match=r"share/images: the folder of the images is not there, or empty"):
            predicted_rows(model, [listed], tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    assert len(Partial(tmp_path / "a.csv").done()) == 8
    aside.rename(share.parent)
    assert predicted_rows(model, [listed], tmp_path / "a.csv") == whole


def test_many_images_out_of_reach_in_a_row_stop_the_command(model, share, listed, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "IN_A_ROW", 5)
    for file in sorted(share.iterdir())[4:9]:
        file.unlink()
    with pytest.raises(UnreachableError, match=r"5 images in a row could not be reached, the last: .*; leave images"):
        predicted_rows(model, [listed], tmp_path / "a.csv")
    monkeypatch.setattr(reach, "IN_A_ROW", 6)
    assert sum(bool(row["error"]) for row in predicted_rows(model, [listed], tmp_path / "b.csv")) == 5


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTCONN])
def test_a_disk_that_does_not_answer_is_no_damaged_image(model, share, listed, tmp_path, monkeypatch, number):
    third = sorted(share.iterdir())[2]

    def opened(path, *modes):
        if str(path) == str(third):
            raise OSError(number, os.strerror(number))
        return open(path, *modes)

    monkeypatch.setattr(headers, "open", opened, raising=False)
    assert predicting.predict_table(model, [listed], tmp_path / "a.csv", IN_PROCESS).again == 1


def test_a_second_start_is_refused_while_the_first_one_works(model, share, tmp_path):
    with (
        only_writer([tmp_path / "a.csv"]),
        pytest.raises(OutputError, match=r"a\.csv: another process is writing here \(process \d+ on "),
    ):
        predicted_rows(model, [share], tmp_path / "a.csv")
    assert len(predicted_rows(model, [share], tmp_path / "a.csv")) == 20
