"""The training of a segmenter: the loop's contracts hold for it, and bad input is named before it starts."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrm import cli, recipes, runs
from mrm.data import images
from mrm.models import model_folder
from mrm.system.errors import ConfigError, MaskError, RunError
from mrm.training.trainer import Stopped
from tests.support.commands import run_ranks
from tests.support.configs import segment_config
from tests.support.run_files import sigterm_after, table, trace


@pytest.fixture(scope="module")
def whole(discs, disc_encoder, tmp_path_factory) -> Path:
    """A run from start to end, to compare with."""
    return runs.segment(segment_config(discs, disc_encoder, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize("stop_at", [1, 4])
def test_stop_and_resume_is_the_same_run(whole, discs, disc_encoder, tmp_path, stop_at):
    run = tmp_path / "run"
    with sigterm_after(stop_at), pytest.raises(Stopped):
        runs.segment(segment_config(discs, disc_encoder, run))
    assert len(trace(run)) == stop_at
    runs.segment(segment_config(discs, disc_encoder, tmp_path / "run"))
    assert trace(run) == trace(whole)
    ours, theirs = (model_folder.read_weights(r / "last" / "model.safetensors") for r in (run, whole))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert (
        model_folder.read_card(run / "last").outline_thresholds
        == model_folder.read_card(whole / "last").outline_thresholds
    )


def test_4_by_1_equals_1_by_4(whole, discs, disc_encoder, tmp_path):
    """The first gradient to the last digits; later ones drift apart by rounding, which AdamW amplifies."""
    run = runs.segment(segment_config(discs, disc_encoder, tmp_path / "run", micro_batch=1))
    for a, b in zip(trace(run), trace(whole), strict=True):
        for name in ("focal", "dice", "auxiliary_focal", "auxiliary_dice"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3)
    assert float(trace(run)[0]["gradient"]) == pytest.approx(float(trace(whole)[0]["gradient"]), rel=1e-5)


@pytest.mark.slow  # starting two processes; pre-training has such a test among the quick ones
def test_two_processes_equal_one(whole, discs, disc_encoder, tmp_path):
    cfg = segment_config(discs, disc_encoder, tmp_path / "two")
    (tmp_path / "two.yaml").write_text(recipes.to_yaml(cfg))
    run_ranks([sys.executable, "-m", "mrm", "segment", "--config", str(tmp_path / "two.yaml")], processes=2)
    for a, b in zip(trace(cfg.out), trace(whole), strict=True):
        assert float(a["focal"]) == pytest.approx(float(b["focal"]), rel=1e-3)
        assert float(a["dice"]) == pytest.approx(float(b["dice"]), rel=1e-3)
    for a, b in zip(table(cfg.out / "validation.csv"), table(whole / "validation.csv"), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)


def test_an_epoch_is_all_positives_and_some_negatives(whole):
    """16 positive images and 0.4 times as many negative ones, of 24: 22 an epoch, in batches of four."""
    assert float(trace(whole)[-1]["epoch"]) == pytest.approx(6 * 4 / (16 + 6))


def test_batch_size_one_works(discs, disc_encoder, tmp_path):
    assert len(trace(runs.segment(segment_config(discs, disc_encoder, tmp_path / "run", global_batch=1, steps=2)))) == 2


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_lighter_heads_train(discs, disc_encoder, tmp_path, head):
    run = runs.segment(segment_config(discs, disc_encoder, tmp_path / "run", head=head, steps=2, ema=0.9))
    assert model_folder.load(run).config.head == head


def test_random_weights_for_comparison(discs, disc_encoder, tmp_path):
    run = runs.segment(segment_config(discs, disc_encoder, tmp_path / "run", scratch=True, steps=1))
    assert model_folder.load(run).card.origin["init"] is None
    assert recipes.read_yaml(recipes.SegmentConfig, run / "config.yaml").training.layer_decay is None


def test_no_positive_image(discs, disc_encoder, tmp_path):
    root = tmp_path / "empty"
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
    for i in range(20, 30):
        for kind in ("images", "annotations"):
            source = discs / kind / "training" / f"training{i}.png"
            (root / kind / "training" / source.name).symlink_to(source)
    with pytest.raises(
        RunError, match=r"images/training: none of the 10 masks has a pixel of disc, so there is nothing to learn"
    ):
        runs.segment(replace(segment_config(discs, disc_encoder, tmp_path / "run"), train=root))


def test_a_size_that_the_patch_does_not_divide(discs, disc_encoder, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"64 x 50 does not divide"):
        runs.segment(segment_config(discs, disc_encoder, tmp_path / "run", image_size=(64, 50)))
    (tmp_path / "bad.yaml").write_text(
        recipes.to_yaml(segment_config(discs, disc_encoder, tmp_path / "b", image_size=(64, 50)))
    )
    with pytest.raises(SystemExit):
        cli.main(["segment", "--config", str(tmp_path / "bad.yaml")])
    assert "mrm: error: image_size 64 x 50" in capsys.readouterr().err


def test_bad_masks_stop_a_run_before_it_starts(discs, disc_encoder, tmp_path):
    root = tmp_path / "bad"
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
        (root / kind / "training" / "a.png").write_bytes(images.encode_png(np.full((20, 30), 7, np.uint8)))
    with pytest.raises(MaskError, match=r"annotations/training/a\.png: unknown values 7 \(600 pixels\)"):
        runs.segment(replace(segment_config(discs, disc_encoder, tmp_path / "run"), train=root))


def test_255_is_never_ignored_in_training_and_the_lesion_in_a_test(discs, disc_encoder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(discs, mixed)
    for split in ("training", "validation"):
        for file in (mixed / "annotations" / split).iterdir():
            mask = (images.read(file) > 0).astype(np.uint8)
            mask[0] = 255  # nobody has labelled the first row
            file.write_bytes(images.encode_png(mask))
    run = runs.segment(segment_config(mixed, disc_encoder, tmp_path / "run", steps=1, validate_every=1, save_every=1))
    with pytest.raises(RunError, match="test: its masks have 255 and no 1"):
        runs.evaluate(run, mixed, tmp_path / "out")
    assert runs.evaluate(run, mixed, tmp_path / "out", split="validation", draws=20)
    shutil.rmtree(mixed / "annotations" / "validation")
    shutil.copytree(discs / "annotations" / "validation", mixed / "annotations" / "validation")
    with pytest.raises(RunError, match="validation: its masks have 255 and no 1"):
        runs.segment(segment_config(mixed, disc_encoder, tmp_path / "other"))
