"""Joining prepared corpora: sets, classes, patients, provenance, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrm import recipes, runs
from mrm.audit import fingerprints
from mrm.audit.fingerprints import fingerprint
from mrm.corpora.options import Options
from mrm.data.records import Records
from mrm.models import model_folder
from mrm.system.errors import ConfigError, RecordError
from mrm.system.files import write_csv
from mrm.training.tasks import ClassifyTask
from mrm.training.trainer import Stopped
from tests.support.configs import MICRO, finetune_config, pretrain_config
from tests.support.corpora.downloads import write_download
from tests.support.run_files import sigterm_after, table, trace, weights

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


# Training -----------------------------------------------------------------------------------------------

CHESTX_DET, VINDR = 13, 28  # classes, all of which a corpus states for its images
NODULES, FRACTURE = "Diffuse Nodules", "Clavicle Fracture"  # each stated by one corpus alone


@pytest.fixture(scope="module")
def merged(prepared, tmp_path_factory):
    """Two training images of each corpus, under one name for each finding."""
    out = tmp_path_factory.mktemp("merged") / "both"
    runs.merge([prepared / "chestx-det", prepared / "vindr"], out, harmonize=True)
    return out


def configuration(merged, out, **changes):
    """Four steps of three, with the images of ChestX-Det twice in an epoch: six samples, two steps."""
    usual = {"encoder": MICRO.encoder, "encoder_options": MICRO.encoder_options, "image_size": 64, "steps": 4}
    usual |= {"global_batch": 3, "save_every": 2, "validate_every": 4, "warmup_steps": 1, "log_every": 1}
    files = {"train": merged / "train.csv", "val": merged / "test.csv"}
    return finetune_config(merged, None, out, **files, **{**usual, "site_weights": {"chestx-det": 2}, **changes})


def test_a_merged_set_is_trained_on_and_unknown_labels_are_left_out_of_the_loss(merged, tmp_path, monkeypatch):
    steps, forward = [], ClassifyTask.forward

    def watched(self, batch):
        terms = forward(self, batch)
        if self.training:
            self.eval()  # without dropped paths, to compute the loss of these labels again
            logits_BC = self.logits(batch.image_BHW).detach().double().numpy()
            self.train()
            steps.append((batch.labels_BC.double().numpy(), logits_BC, terms["labels"]))
        return terms

    monkeypatch.setattr(ClassifyTask, "forward", watched)
    run = runs.finetune(configuration(merged, tmp_path / "run", drop_path=0.0))
    classes = model_folder.load(run).config.classes
    labels_SC = np.concatenate([labels for labels, *_ in steps])
    of_vindr = ~np.isnan(labels_SC[:, classes.index(FRACTURE)])
    assert len(labels_SC) == 4 * 3
    assert of_vindr.sum() == 2 * 2  # two epochs of six samples: each image of VinDr once, each of ChestX-Det twice
    assert (np.isnan(labels_SC[:, classes.index(NODULES)]) == of_vindr).all()
    assert (~np.isnan(labels_SC)).sum(axis=1).tolist() == np.where(of_vindr, VINDR, CHESTX_DET).tolist()
    assert sum(int(term.count) for *_, term in steps) == 8 * CHESTX_DET + 4 * VINDR == 216
    for labels_BC, logits_BC, term in steps:  # the binary cross-entropy of the stated labels, and of no others
        stated = ~np.isnan(labels_BC)
        expected = (np.logaddexp(0, logits_BC) - labels_BC * logits_BC)[stated].sum()
        assert term.sum.item() == pytest.approx(expected, rel=1e-5)
    assert [float(row["epoch"]) for row in trace(run)] == [0.5, 1.0, 1.5, 2.0]


def test_a_run_with_weights_of_sites_resumes_to_the_same_bits(merged, tmp_path):
    whole = runs.finetune(configuration(merged, tmp_path / "whole"))
    config = configuration(merged, tmp_path / "stopped")
    with sigterm_after(3), pytest.raises(Stopped):
        runs.finetune(config)
    runs.finetune(config)
    assert [row["labels"] for row in trace(config.out)] == [row["labels"] for row in trace(whole)]
    assert all(torch.equal(a, b) for a, b in zip(weights(config.out).values(), weights(whole).values(), strict=True))


def test_a_site_that_no_record_has_is_refused_before_anything_is_written(merged, tmp_path):
    with pytest.raises(ConfigError, match="unknown site 'nih'; choose from chestx-det, vindr"):
        runs.finetune(configuration(merged, tmp_path / "run", site_weights={"nih": 2}))
    assert not list((tmp_path / "run").glob("*"))


def test_pretraining_takes_weights_of_sites_too(phantoms, tmp_path):
    rows = [
        row | {"site": "a" if number < 16 else "b"} for number, row in enumerate(table(phantoms / "records.csv")[:24])
    ]
    file = write_csv(tmp_path / "sites.csv", rows[0], rows)
    config = pretrain_config(phantoms, tmp_path / "run", steps=2, images=phantoms)
    config = replace(config, records=file, site_weights={"a": 0.25, "b": 0.5})
    run = runs.pretrain(config)
    assert [float(row["epoch"]) for row in trace(run)] == [1.0, 2.0]  # four of each: an epoch is one step of eight
    with pytest.raises(ConfigError, match="unknown site 'c'; choose from a, b"):
        runs.pretrain(replace(config, out=tmp_path / "other", site_weights={"c": 1.0}))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much", True])
def test_a_weight_that_is_no_number_from_0_on_is_refused(weight, tmp_path):
    with pytest.raises(ConfigError, match="site_weights: the weight of nih must be a number from 0 on"):
        recipes.tiny_finetune(tmp_path, tmp_path, None, tmp_path, site_weights={"nih": weight})


def test_joining_reads_no_image_that_the_preparation_has_read_and_neither_does_a_training(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(fingerprints.images, "read", lambda _: pytest.fail("an image was read"))
    report = runs.merge([prepared / "chestx-det", prepared / "vindr"], tmp_path, harmonize=True)
    assert {name: part.images for name, part in report.sets.items()} == {"train": 4, "test": 2}
    assert fingerprint(Records.load(tmp_path / "train.csv")).exact.all()
