"""The work on images one after the other: stopped, resumed, divided over ranks, and the warnings it gives."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import mrm
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.runs import work
from mrm.system.errors import OutputError, RunError
from mrm.system.partial_results import Partial
from tests.support.commands import run_ranks
from tests.support.models import classifier_of, with_card
from tests.support.predictions import IN_PROCESS, Stopped, predicted_rows, stop_after, write_awkward_files
from tests.support.run_files import table


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of())


@pytest.fixture(scope="module")
def awkward(phantoms, tmp_path_factory) -> Path:
    return write_awkward_files(tmp_path_factory.mktemp("awkward"), phantoms)


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
    lines = (left / "part-0.jsonl").read_bytes().splitlines()
    assert len(lines) == 3 * 8 + 1
    seen = []
    real = images.read
    monkeypatch.setattr(images, "read", lambda source, **k: (seen.append(source), real(source, **k))[1])
    assert predicted_rows(model, given, tmp_path / "a.csv") == whole
    assert len(seen) == len(whole) - 24
    assert not left.exists()


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
        OutputError, match=r"a\.csv\.partial: holds another unfinished table .*precision: fp32, now bf16"
    ):
        predicted_rows(model, given, out, replace(IN_PROCESS, precision="bf16"))
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
    outputs = run_ranks([sys.executable, "-m", "mrm", *words], processes=2)
    assert "".join(outputs).count("wrote") == 1
    together = table(tmp_path / "a.csv")
    assert [r["path"] for r in together] == [r["path"] for r in alone]
    for a, b in zip(alone, together, strict=True):
        assert a["error"] == b["error"]
        assert [a[c] == "" or float(a[c]) == pytest.approx(float(b[c]), rel=1e-4, abs=1e-7) for c in FINDINGS]
