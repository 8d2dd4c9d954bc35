"""Whatever a command writes is for its user alone, though the umask of the shell lets everyone read and write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import run_cli
from tests.support.corpora.custom import write_tree
from tests.support.models import probed_classifier
from tests.support.permissions import modes_below, readable_by_others
from tests.support.predictions import Stopped, stop_after


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    assert os.umask(before) == 0


@pytest.fixture(scope="module")
def classifier(phantoms, tmp_path_factory) -> Path:
    return probed_classifier(phantoms, tmp_path_factory.mktemp("model") / "classifier")


@pytest.fixture
def run(capsys):
    def succeed(*words: object) -> str:
        code, out, err = run_cli(capsys, *map(str, words))
        assert code in (0, 1), err  # 1: an audit that finds something
        return out

    return succeed


def prepared(run, source: Path, folder: Path) -> Path:
    columns = "image_path=Path,report_content=Text,patient_id=MRN"
    run("prepare", "custom", "--source", source, "--out", folder, "--columns", columns, "--classes", "Effusion")
    return folder


def test_of_commands_that_prepare_data(tmp_path, run):
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    data = prepared(run, write_tree(tmp_path / "export"), out / "prepared")
    run("audit", data / "train.csv", data / "val.csv", "--json", out / "audits" / "a.json")
    run("pack", data / "train.csv", "--out", out / "packed", "--size", "32", "--workers", "1")
    run("phantoms", "--out", out / "phantoms", "--count", "2", "--size", "64")
    assert readable_by_others(out) == []
    assert {"prepared/train.csv", "audits/a.json", "packed/shard-00000.arrow", "phantoms/records.csv"} <= set(
        modes_below(out)
    )


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_of_commands_that_use_a_model(tmp_path, phantoms, classifier, run, monkeypatch):
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    image, records = phantoms / "images" / "S0-000000.jpg", phantoms / "records.csv"
    run("predict", classifier, image, "--out", out / "new" / "predictions.csv", "--workers", "0")
    run("embed", classifier, image, "--out", out / "features.npy", "--workers", "0")
    run("explain", classifier, image, "--out", out / "heat", "--finding", "effusion", "--workers", "0")
    run("evaluate", classifier, "--records", records, "--out", out / "test", "--draws", "20", "--workers", "0")
    run("export", classifier, "--out", out / "hub", "--format", "hub")
    with monkeypatch.context() as patch:  # what an interruption leaves behind
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run("predict", classifier, phantoms / "images", "--out", out / "b.csv", "--workers", "0", "--batch", "8")
    assert readable_by_others(out) == []
    assert {"b.csv.partial/part-1-of-1.jsonl", "test/predictions.csv", "test/index.html", "heat/maps.csv"} <= set(
        modes_below(out)
    )


def test_of_a_calibration_in_the_folder_of_the_model(tmp_path, phantoms, run):
    model = probed_classifier(phantoms, tmp_path / "own" / "model")
    run("calibrate", model, "--val", phantoms / "records.csv", "--no-outliers", "--workers", "0")
    assert readable_by_others(tmp_path) == []
    assert (model / "calibrated-on" / "calibration.npz").is_file()


def test_a_group_can_read_where_it_shares_the_files(tmp_path, run, monkeypatch):
    monkeypatch.setenv("MRM_ACCESS", "group")
    data = prepared(run, write_tree(tmp_path / "export"), tmp_path / "prepared")
    modes = modes_below(data)
    assert set(modes.values()) == {0o640}
    assert data.stat().st_mode & 0o777 == 0o750


def test_an_unknown_access_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MRM_ACCESS", "public")
    code, _, err = run_cli(capsys, "phantoms", "--out", str(tmp_path / "p"), "--count", "1")
    assert (code, err) == (
        2,
        "mrm: error: MRM_ACCESS: unknown access 'public'; choose from private, group, group-write\n",
    )
    assert not (tmp_path / "p").exists()
