"""Joining prepared corpora: sets, classes, patients, provenance, and what is refused."""

import json

import pytest

from mrm import runs
from mrm.corpora.options import Options
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.downloads import write_download

NOT_DRAWN = Options(val=0, test=0, fractions=(), workers=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """ChestX-Det (train, test) and VinDr (train, test), whose class is called Pleural effusion."""
    root = tmp_path_factory.mktemp("merging")
    for name in ("chestx-det", "vindr"):
        runs.prepare(name, write_download(name, root / f"{name}-source"), root / name, NOT_DRAWN)
    return root


def by_name(file, classes=None) -> dict[str, dict[str, str]]:
    records = Records.load(file, classes)
    return {
        "/".join(r.name.split("/")[-2:]): dict(zip(records.classes, map(str, r.labels), strict=True)) | dict(r.extra)
        for r in records
    }


def test_sets_are_joined_by_name_and_what_a_corpus_does_not_state_stays_unknown(prepared, tmp_path, capsys):
    runs.merge([prepared / "chestx-det", prepared / "vindr"], tmp_path / "both", harmonize=True)
    train, test = by_name(tmp_path / "both/train.csv"), by_name(tmp_path / "both/test.csv")
    assert set(train) == {"train_data/36199.png", "train_data/36200.png", "train/aa01.dicom", "train/aa02.dicom"}
    assert set(test) == {"test_data/36199.png", "test/bb01.dicom"}
    nih, vindr = train["train_data/36199.png"], train["train/aa01.dicom"]
    assert (nih["Pleural Effusion"], nih["Diffuse Nodules"], nih["Cardiomegaly"], nih["site"]) == (
        "1.0",
        "1.0",
        "0.0",
        "chestx-det",
    )
    assert (vindr["Pleural Effusion"], vindr["Cardiomegaly"], vindr["Diffuse Nodules"], vindr["site"]) == (
        "0.0",
        "1.0",
        "nan",
        "vindr",
    )
    assert nih["Tuberculosis"] == "nan"
    facts = json.loads((tmp_path / "both/merged.json").read_text())
    assert facts["corpora"] == {"chestx-det": {"train": 2, "test": 1}, "vindr": {"train": 2, "test": 1}}
    assert (
        facts["renamed"]["vindr"]["Pleural effusion"]
        == facts["renamed"]["chestx-det"]["Effusion"]
        == "Pleural Effusion"
    )
    assert facts["sets"]["train"]["classes"]["Pleural Effusion"] == {
        "positive": 1,
        "negative": 3,
        "uncertain": 0,
        "not stated": 0,
    }
    assert (tmp_path / "both/audit.json").is_file()
    assert "train: 4 images (chestx-det 2, vindr 2)" in capsys.readouterr().out


def test_without_harmonize_names_stay_as_they_are(prepared, tmp_path):
    runs.merge([prepared / "chestx-det", prepared / "vindr"], tmp_path / "both")
    row = by_name(tmp_path / "both/train.csv")["train_data/36199.png"]
    assert (row["Effusion"], row["Pleural effusion"]) == ("1.0", "nan")


def test_a_table_of_ones_own_takes_the_place_of_the_packages(prepared, tmp_path):
    (tmp_path / "mine.csv").write_text("finding,names\nFluid,Effusion;Pleural effusion\n")
    runs.merge([prepared / "chestx-det", prepared / "vindr"], tmp_path / "both", True, tmp_path / "mine.csv")
    train = by_name(tmp_path / "both/train.csv")
    assert [train[n]["Fluid"] for n in ("train_data/36199.png", "train/aa01.dicom")] == ["1.0", "0.0"]
    (tmp_path / "mine.csv").write_text("finding,names\nShadow,Effusion;Mass\n")
    with pytest.raises(RecordError, match="the classes Effusion, Mass would become one"):
        runs.merge([prepared / "chestx-det", prepared / "vindr"], tmp_path / "other", True, tmp_path / "mine.csv")


def test_an_image_in_two_corpora_and_patients_of_one_number(tmp_path):
    """The test image of one corpus is a training image of the other; both number their patients from 1."""
    for name in ("a", "b"):
        source = write_download("covidx-cxr3", tmp_path / name / "source")
        (source / "train.txt").write_text("1 a.png positive cohen\n2 b.jpg negative rsna\n")
        if name == "b":
            (source / "test/d.png").write_bytes((tmp_path / "a/source/train/a.png").read_bytes())
            (source / "train/a.png").write_bytes((tmp_path / "a/source/test/d.png").read_bytes())
            (source / "train/b.jpg").unlink()
        runs.prepare("covidx-cxr3", source, tmp_path / name / "out", NOT_DRAWN)
    facts = tmp_path / "b/out/corpus.json"
    facts.write_text(facts.read_text().replace('"corpus": "covidx-cxr3"', '"corpus": "mine"'))
    report = runs.merge([tmp_path / "a/out", tmp_path / "b/out"], tmp_path / "both")
    assert {o.kind for o in report.overlaps} >= {"image"}
    assert not report.clean
    assert Records.load(tmp_path / "both/train.csv").patients == ["covidx-cxr3:1", "covidx-cxr3:2", "mine:1"]


def test_what_is_no_prepared_folder_is_refused(prepared, tmp_path):
    both = [prepared / "vindr", prepared / "vindr"]
    with pytest.raises(RecordError, match="vindr is named twice"):
        runs.merge(both, tmp_path / "out")
    with pytest.raises(RecordError, match="name two prepared folders or more"):
        runs.merge(both[:1], tmp_path / "out")
    with pytest.raises(RecordError, match=r"has no corpus.json; name a folder that mrm prepare has finished"):
        runs.merge([prepared / "vindr", tmp_path], tmp_path / "out")
    with pytest.raises(RecordError, match="--vocabulary needs --harmonize"):
        runs.merge([prepared / "vindr", prepared / "chestx-det"], tmp_path / "out", vocabulary=tmp_path / "mine.csv")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/corpus.json").write_text('{"corpus": "x"}')
    with pytest.raises(RecordError, match=r"corpus.json: is damaged"):
        runs.merge([prepared / "vindr", tmp_path / "bad"], tmp_path / "out")
