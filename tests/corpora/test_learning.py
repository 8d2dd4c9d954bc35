"""What `prepare` makes of each publisher's tree is what training takes: from the download to a tested model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mrm import recipes, runs
from mrm.corpora.contract import Options
from mrm.data.records import Records
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.system.errors import RecordError
from tests.support.configs import MICRO, pretrain_config, segment_config
from tests.support.corpora import chexpert, covid, custom, mimic, nih, openi, rsna, siim
from tests.support.models import save_encoder
from tests.support.run_files import trace

SHORT = {"steps": 2, "warmup_steps": 1, "global_batch": 2, "validate_every": 2, "save_every": 2}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    with noise.seeded(0):
        return model_folder.save(tmp_path_factory.mktemp("model") / "mrm", MRM(MICRO))


def write_chexpert(root: Path) -> Path:
    """The made-up tree, with oedema stated present on lateral views, so that one class has both values."""
    chexpert.write_tree(root)
    lines = (root / "train.csv").read_text().splitlines()
    changed = [line.replace(",0.0", ",1.0") if "_lateral" in line else line for line in lines]
    (root / "train.csv").write_text("\n".join(changed) + "\n")
    return root


TREES = {
    "chexpert": write_chexpert,
    "covid": covid.write_tree,
    "custom": custom.write_tree,
    "mimic": mimic.write_tree,
    "nih": nih.write_tree,
    "openi": openi.write_tree,
    "rsna": rsna.write_tree,
    "siim": siim.write_tree,
}


def prepared(tmp_path: Path, name: str, options: Options | None = None) -> Path:
    """The folder that `mrm prepare` writes for the tree of that name."""
    out = tmp_path / "prepared"
    runs.prepare(name, TREES[name](tmp_path / name), out, options)
    return out


@pytest.mark.parametrize(("name", "pairs"), [("mimic", True), ("openi", True), ("covid", True)])
def test_reports_and_images_pretrain(tmp_path, name, pairs):
    out = prepared(tmp_path, name)
    records = Records.load(out / "training.csv")
    assert any(r.report for r in records) == pairs
    cfg = replace(pretrain_config(tmp_path, tmp_path / "run", **SHORT), records=out / "training.csv")
    run = runs.pretrain(cfg)
    assert len(trace(run)) == 2
    assert float(trace(run)[-1]["report"]) > 0  # words were asked for
    origin = model_folder.load(run).card.origin
    assert (origin["n"], origin["with_report"]) == (len(records), sum(bool(r.report) for r in records))
    verdict = json.loads((out / "audit.json").read_text())
    assert origin["audit"]["clean"] == verdict["clean"]


@pytest.mark.parametrize(
    ("name", "folder", "changes"),
    [
        ("nih", "", {}),
        pytest.param("chexpert", "", {"uncertain": "zeros"}, marks=pytest.mark.slow),
        pytest.param("rsna", "", {}, marks=pytest.mark.slow),
        ("covid", "covid1", {}),
        pytest.param("covid", "viral5", {}, marks=pytest.mark.slow),
        ("custom", "", {"classes": ("Effusion",)}),
    ],
)
def test_labels_fine_tune_and_test(tmp_path, pretrained, name, folder, changes):
    options = Options(columns=custom.COLUMNS, classes=("Effusion", "Nodule")) if name == "custom" else None
    sets = prepared(tmp_path, name, options) / folder
    train, val, test = (sets / f"{part}.csv" for part in ("train", "val", "test"))
    training = replace(recipes.tiny_finetune(train, val, pretrained, tmp_path).training, workers=0, **SHORT)
    cfg = recipes.FinetuneConfig(train, val, pretrained, tmp_path / "run", training=training, audit="names", **changes)
    run = runs.finetune(cfg)
    results = runs.evaluate(run, test, tmp_path / "test", draws=20, reading=runs.Reading(workers=0))
    tested = Records.load(test, model_folder.load(run).config.classes)
    assert results["n"] == len(tested)
    assert set(results["classes"]) == {*tested.classes, "mean"} if len(tested.classes) > 1 else True
    assert results["origin"]["audit"] == model_folder.load(run).card.origin["audit"]


def test_shares_of_the_labels_fine_tune(tmp_path, pretrained):
    out = prepared(tmp_path, "nih")
    shares = {
        share: Records.load(out / f"train_{share}.csv") for share in (10, 100) if (out / f"train_{share}.csv").is_file()
    }
    assert shares
    small, whole = Records.load(out / "train_10.csv"), Records.load(out / "train.csv")
    assert {r.name for r in small} <= {r.name for r in whole}
    cfg = recipes.tiny_finetune(out / "train_10.csv", out / "val.csv", pretrained, tmp_path / "run")
    batch = min(2, len(small))
    runs.finetune(
        replace(cfg, audit="names", training=replace(cfg.training, workers=0, **{**SHORT, "global_batch": batch}))
    )


def test_masks_segment_and_test(tmp_path):
    out = prepared(tmp_path, "siim")
    classes = {"classes": ("pneumothorax",), "image_size": (48, 48)}
    run = runs.segment(segment_config(out, save_encoder(tmp_path / "encoder"), tmp_path / "run", **SHORT, **classes))
    results = runs.evaluate(run, out, tmp_path / "test", draws=20)
    assert results["n"] == len(list((out / "images" / "test").iterdir()))
    assert results["origin"]["audit"] is not None


def test_an_audit_that_found_something_follows_into_the_model_and_its_results(tmp_path, pretrained):
    out = prepared(tmp_path, "rsna")
    val = Records.load(out / "val.csv", None)
    Records([*Records.load(out / "train.csv", None), *val], val.classes).to_csv(out / "train.csv")
    runs.audit([out / "train.csv", out / "val.csv"], out / "audit.json", True, False, 1)
    cfg = recipes.tiny_finetune(out / "train.csv", out / "val.csv", pretrained, tmp_path / "run")
    with pytest.warns(UserWarning, match="share a"):
        run = runs.finetune(replace(cfg, training=replace(cfg.training, workers=0, **SHORT)))
    found = model_folder.load(run).card.origin["audit"]
    assert not found["clean"]
    assert any("patient" in line for line in found["overlaps"])


def test_a_damaged_verdict_is_named_before_training_starts(tmp_path, pretrained):
    out = prepared(tmp_path, "rsna")
    (out / "audit.json").write_text("{")
    cfg = recipes.tiny_finetune(out / "train.csv", out / "val.csv", pretrained, tmp_path / "run")
    with pytest.raises(RecordError, match="run mrm audit again"):
        runs.finetune(replace(cfg, training=replace(cfg.training, workers=0, **SHORT)))
