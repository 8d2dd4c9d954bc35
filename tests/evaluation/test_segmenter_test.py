"""Segmentation as a whole: the loop's contracts hold for it, thresholds, the test's page, masks and DICOM as files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mrm import cli, recipes, runs
from mrm.data import images, masks
from mrm.data.masks import IGNORED
from mrm.evaluation.segmenter_test import surface_distances
from mrm.inference.outlines import LEVELS, choose, levels_of, outline
from mrm.models import model_folder
from mrm.models.card import OutlineThreshold
from mrm.system.errors import MaskError, OutputError, RecordError, RunError, SegmenterError
from tests.support.configs import segment_config
from tests.support.discs import write_discs
from tests.support.models import save_encoder
from tests.support.run_files import table, trace


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def whole(folder, encoder, tmp_path_factory) -> Path:
    """A run from start to end, to compare with."""
    return runs.segment(segment_config(folder, encoder, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="session")
def trained(folder, encoder, tmp_path_factory) -> Path:
    """A run long enough to find discs."""
    cfg = segment_config(
        folder, encoder, tmp_path_factory.mktemp("trained") / "run", steps=60, warmup_steps=5, lr=4e-3, drop_path=0.0,
        global_batch=8, validate_every=20, save_every=60, log_every=20,
    )  # fmt: skip
    return runs.segment(cfg)


# The loop's contracts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4])
def test_stop_and_resume_is_the_same_run(whole, folder, encoder, tmp_path, stop_at, monkeypatch):
    from mrm.training.trainer import Stopped, Trainer

    after = Trainer._after_step

    def stop(self):
        after(self)
        if self.step == stop_at and not resumed:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_after_step", stop)
    resumed = False
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        runs.segment(segment_config(folder, encoder, run))
    assert len(trace(run)) == stop_at
    resumed = True
    runs.segment(segment_config(folder, encoder, tmp_path / "run"))
    assert trace(run) == trace(whole)
    ours, theirs = (model_folder.read_weights(r / "last" / "model.safetensors") for r in (run, whole))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert (
        model_folder.read_card(run / "last").outline_thresholds
        == model_folder.read_card(whole / "last").outline_thresholds
    )


def test_4_by_1_equals_1_by_4(whole, folder, encoder, tmp_path):
    """The first gradient to the last digits; later ones drift apart by rounding, which AdamW amplifies."""
    run = runs.segment(segment_config(folder, encoder, tmp_path / "run", micro_batch=1))
    for a, b in zip(trace(run), trace(whole), strict=True):
        for name in ("focal", "dice", "auxiliary_focal", "auxiliary_dice"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3)
    assert float(trace(run)[0]["gradient"]) == pytest.approx(float(trace(whole)[0]["gradient"]), rel=1e-5)


def test_two_processes_equal_one(whole, folder, encoder, tmp_path):
    cfg = segment_config(folder, encoder, tmp_path / "two")
    (tmp_path / "two.yaml").write_text(recipes.to_yaml(cfg))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "mrm", "segment", "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    for a, b in zip(trace(cfg.out), trace(whole), strict=True):
        assert float(a["focal"]) == pytest.approx(float(b["focal"]), rel=1e-3)
        assert float(a["dice"]) == pytest.approx(float(b["dice"]), rel=1e-3)
    for a, b in zip(table(cfg.out / "validation.csv"), table(whole / "validation.csv"), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)


def test_an_epoch_is_all_positives_and_some_negatives(whole):
    """16 positive images and 0.4 times as many negative ones, of 24: 22 an epoch, in batches of four."""
    assert float(trace(whole)[-1]["epoch"]) == pytest.approx(6 * 4 / (16 + 6))


def test_batch_size_one_works(folder, encoder, tmp_path):
    assert len(trace(runs.segment(segment_config(folder, encoder, tmp_path / "run", global_batch=1, steps=2)))) == 2


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_lighter_heads_train(folder, encoder, tmp_path, head):
    run = runs.segment(segment_config(folder, encoder, tmp_path / "run", head=head, steps=2, ema=0.9))
    assert model_folder.load(run).config.head == head


def test_random_weights_for_comparison(folder, encoder, tmp_path):
    run = runs.segment(segment_config(folder, encoder, tmp_path / "run", scratch=True, steps=1))
    assert model_folder.load(run).card.origin["init"] is None


# Bad input ---------------------------------------------------------------------------------------------


def test_no_positive_image(folder, encoder, tmp_path):
    root = tmp_path / "empty"
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
    for i in range(20, 30):
        for kind in ("images", "annotations"):
            source = folder / kind / "training" / f"training{i}.png"
            (root / kind / "training" / source.name).symlink_to(source)
    with pytest.raises(
        RunError, match=r"images/training: not one of 10 masks has a pixel of disc: there is nothing to learn"
    ):
        runs.segment(replace(segment_config(folder, encoder, tmp_path / "run"), train=root))


def test_a_size_that_the_patch_does_not_divide(folder, encoder, tmp_path, capsys):
    with pytest.raises(SegmenterError, match=r"64 x 50 does not divide"):
        runs.segment(segment_config(folder, encoder, tmp_path / "run", image_size=(64, 50)))
    (tmp_path / "bad.yaml").write_text(
        recipes.to_yaml(segment_config(folder, encoder, tmp_path / "b", image_size=(64, 50)))
    )
    with pytest.raises(SystemExit):
        cli.main(["segment", "--config", str(tmp_path / "bad.yaml")])
    assert "mrm: error: image_size 64 x 50" in capsys.readouterr().err


def test_bad_masks_stop_a_run_before_it_starts(folder, encoder, tmp_path):
    root = tmp_path / "bad"
    for kind in ("images", "annotations"):
        (root / kind / "training").mkdir(parents=True)
        (root / kind / "training" / "a.png").write_bytes(images.encode_png(np.full((20, 30), 7, np.uint8)))
    with pytest.raises(MaskError, match=r"annotations/training/a\.png: values 7 \(600 pixels\) are unknown"):
        runs.segment(replace(segment_config(folder, encoder, tmp_path / "run"), train=root))


def test_another_kind_of_model_is_refused(folder, encoder, tmp_path):
    with pytest.raises(RunError, match="expected a segmenter, found a classifier; train one"):
        runs.outline(encoder, [folder / "images" / "test"], tmp_path / "out")


# Thresholds --------------------------------------------------------------------------------------------


def test_levels_count_every_labelled_pixel():
    rng = np.random.default_rng(0)
    probability, mask = rng.random((2, 20, 30), dtype=np.float32), rng.integers(0, 3, (20, 30)).astype(np.uint8)
    mask[:3] = IGNORED
    levels = levels_of(probability, mask)
    assert levels.shape == (2, 2, LEVELS + 1)
    assert (levels.sum(axis=(1, 2)) == 17 * 30).all()
    for c, k in ((0, 25), (1, 80)):
        above = (probability[c] >= k / LEVELS) & (mask != IGNORED)
        assert levels[c, :, k:].sum() == above.sum()
        assert levels[c, 1, k:].sum() == (above & (mask == c + 1)).sum()


def images_with(probabilities, truths):
    return np.stack(
        [levels_of(p[None].astype(np.float32), t.astype(np.uint8)) for p, t in zip(probabilities, truths, strict=True)]
    )[:, 0]


def test_the_threshold_is_where_dice_is_best():
    truth = np.zeros((40, 40))
    truth[:20] = 1
    found = np.where(truth, 0.37, 0.2)
    threshold, dice = choose(images_with([found], [truth]))
    assert 0.2 < threshold.probability <= 0.37
    assert dice == {"dice_positive": 1.0, "dice_published": 1.0}


def test_a_least_area_removes_specks_from_empty_images():
    truth, empty = np.zeros((100, 100)), np.zeros((100, 100))
    truth[:30] = 1
    speck = np.zeros((100, 100))
    speck[:2, :10] = 0.9  # 20 of 10,000 pixels
    threshold, dice = choose(images_with([truth * 0.9, speck], [truth, empty]))
    assert 20e-4 < threshold.area < 0.3
    assert dice["dice_published"] == 1.0


def test_predicting_nothing_is_never_chosen():
    """Nine of ten images are empty and look like lesions: the published Dice alone would give the lesion up."""
    truth, empty = np.zeros((20, 20)), np.zeros((20, 20))
    truth[:10] = 1
    _, dice = choose(images_with([0.5 * truth + 0.1] + [np.full((20, 20), 0.6)] * 9, [truth] + [empty] * 9))
    assert dice == {"dice_positive": 1.0, "dice_published": pytest.approx(0.1)}
    with pytest.raises(ValueError, match="no image with a lesion"):
        choose(images_with([empty], [empty]))


def test_outlines_are_exclusive_and_large_enough():
    probability = np.zeros((2, 10, 10), np.float32)
    probability[0, :5] = 0.6
    probability[1, 4:6] = 0.8
    found = outline(probability, [OutlineThreshold(0.5), OutlineThreshold(0.7)])
    assert (found[:4] == 1).all()
    assert (found[4:6] == 2).all()
    assert (found[6:] == 0).all()
    assert set(np.unique(outline(probability, [OutlineThreshold(0.5), OutlineThreshold(0.7, area=0.3)]))) == {0, 1}


# Tests and their page ----------------------------------------------------------------------------------


def test_a_trained_segmenter_finds_discs_and_says_how_well(trained, folder, tmp_path):
    results = runs.evaluate(trained, folder, tmp_path / "test", draws=200)
    disc = results["classes"]["disc"]
    assert disc["dice_positive"]["value"] > 0.8
    assert disc["dice_positive"]["n"] == 6
    assert disc["dice_published"]["n"] == 12
    assert set(disc) == set(results["measures"])
    assert disc["surface_distance"]["value"] < 4
    card = model_folder.read_card(trained / "best")
    assert results["thresholds"]["disc"]["probability"] == card.outline_thresholds["disc"].probability
    assert card.tested[0].n == 12
    rows = table(tmp_path / "test" / "images.csv")
    assert len(rows) == 12
    assert {int(r["pixels"]) for r in rows} == {80 * 60}
    assert json.loads((tmp_path / "test" / "results.json").read_text())["n"] == 12
    page = (tmp_path / "test" / "index.html").read_text()
    for kind in ("best", "median", "worst"):
        assert f"disc: {kind}" in page
    for words in (
        "Dice, as published",
        "without lesion 1 if nothing is predicted",
        "50.0&nbsp;% here",
        "data:image/jpeg",
    ):
        assert words in page


def test_what_a_test_would_ignore_or_could_not_write_is_refused_at_once(trained, encoder, folder, tmp_path):
    with pytest.raises(RunError, match="a segmenter; --by groups the records"):
        runs.evaluate(trained, folder, tmp_path / "out", by=["view"])
    for changes in ({"slide": True}, {"split": "validation"}):
        with pytest.raises(RunError, match="no segmenter; --split and --slide are for"):
            runs.evaluate(encoder, folder, tmp_path / "out", **changes)
    (tmp_path / "file").touch()
    for model in (trained, encoder):  # before hours of work, not after them
        with pytest.raises(OutputError, match="file: is a file, but a folder is needed; choose another --out"):
            runs.evaluate(model, folder, tmp_path / "file")


def test_sliding_windows_and_a_named_split(trained, folder, tmp_path):
    results = runs.evaluate(trained, folder, tmp_path / "test", draws=0, split="validation", slide=True)
    assert results["inference"] == "sliding windows"
    assert results["classes"]["disc"]["dice_positive"]["value"] > 0.6


def test_a_test_of_images_the_model_has_seen_says_so(trained, folder, tmp_path):
    with pytest.warns(UserWarning, match=r"training|segmentation"):
        results = runs.evaluate(trained, folder, tmp_path / "test", draws=0, split="training")
    assert results["overlap"]
    assert "Before you read the numbers" in (tmp_path / "test" / "index.html").read_text()


def test_ignored_pixels_count_nowhere(trained, folder, tmp_path):
    root = tmp_path / "partly"
    for kind in ("images", "annotations"):
        (root / kind / "test").mkdir(parents=True)
    source = folder / "images" / "test" / "test00.png"
    mask = np.uint8(images.read(folder / "annotations" / "test" / "test00.png") > 0)
    mask[:, :20] = IGNORED
    (root / "images" / "test" / "a.png").write_bytes(source.read_bytes())
    (root / "annotations" / "test" / "a.png").write_bytes(images.encode_png(mask))
    runs.evaluate(trained, root, tmp_path / "test", draws=0)
    (row,) = table(tmp_path / "test" / "images.csv")
    assert int(row["pixels"]) == 80 * 40
    assert int(row["true"]) == (mask == 1).sum()


def test_255_is_never_ignored_in_training_and_the_lesion_in_a_test(folder, encoder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    for split in ("training", "validation"):
        for file in (mixed / "annotations" / split).iterdir():
            mask = (images.read(file) > 0).astype(np.uint8)
            mask[0] = 255  # nobody has labelled the first row
            file.write_bytes(images.encode_png(mask))
    run = runs.segment(segment_config(mixed, encoder, tmp_path / "run", steps=1, validate_every=1, save_every=1))
    with pytest.raises(RunError, match="test: its masks have 255 and no 1"):
        runs.evaluate(run, mixed, tmp_path / "out")
    assert runs.evaluate(run, mixed, tmp_path / "out", split="validation", draws=20)
    shutil.rmtree(mixed / "annotations" / "validation")
    shutil.copytree(folder / "annotations" / "validation", mixed / "annotations" / "validation")
    with pytest.raises(RunError, match="validation: its masks have 255 and no 1"):
        runs.segment(segment_config(mixed, encoder, tmp_path / "other"))


def test_surface_distances_by_hand():
    """A square moved by three columns: corners and sides away from each other by 0 to 3 pixels."""
    true, found = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    true[10:20, 10:20], found[10:20, 13:23] = True, True
    mean, most = surface_distances(found, true)
    edge = lambda m: np.argwhere(m & ~ndimage.binary_erosion(m))  # noqa: E731
    a, b = edge(true), edge(found)
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    assert mean == pytest.approx(np.concatenate([apart.min(0), apart.min(1)]).mean())
    assert most == 3.0
    assert surface_distances(true, true) == (0.0, 0.0)
    assert np.isnan(surface_distances(found, np.zeros_like(true))).all()


# Predictions as files ----------------------------------------------------------------------------------


def test_masks_are_written_at_the_size_of_the_image(trained, folder, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    names = [str(folder / "images" / "test"), str(tmp_path / "bad.png")]
    with pytest.warns(UserWarning, match=r"left out .*bad\.png"):
        cli.main(["predict", str(trained), *names, "--out", str(tmp_path / "out")])
    assert "1 could not be read" in capsys.readouterr().out
    written = sorted((tmp_path / "out").glob("*.png"))
    assert len(written) == 12
    row = masks.MaskedImage("a", folder / "images" / "test" / "test00.png", written[0])
    found = masks.read_mask(row)
    true = images.read(folder / "annotations" / "test" / "test00.png") > 0
    assert found.shape == true.shape
    assert set(np.unique(found)) <= {0, 1}
    assert 2 * (true & (found > 0)).sum() / (true.sum() + (found > 0).sum()) > 0.6


def test_masks_never_overwrite_images_and_want_a_folder(trained, folder, tmp_path):
    image = folder / "images" / "test" / "test00.png"
    (tmp_path / "x.png").write_bytes(image.read_bytes())
    with pytest.raises(RunError, match=r"x\.png: is read, and would be overwritten; choose another --out"):
        runs.outline(trained, [tmp_path], tmp_path)
    assert (tmp_path / "x.png").read_bytes() == image.read_bytes()
    with pytest.raises(OutputError, match=r"x\.png: is a file, but a folder is needed; choose another --out"):
        runs.outline(trained, [image], tmp_path / "x.png")
    for _ in range(2):  # the second time the masks of the first are there
        assert runs.outline(trained, [tmp_path], tmp_path / "masks").n == 1


def test_dicom_gets_a_segmentation_that_refers_to_it(trained, shared_data, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    file = next((shared_data / "dicom").glob("1.2.276*.dcm"))
    runs.outline(trained, [file], tmp_path)
    source, made = pydicom.dcmread(file), highdicom.seg.segread(tmp_path / f"{file.stem}.seg.dcm")
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert (
        made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    assert [made.get_segment_description(1).segment_label] == ["disc"]
    png = masks.read_mask(masks.MaskedImage("a", file, tmp_path / f"{file.stem}.png"))
    np.testing.assert_array_equal(made.pixel_array.squeeze() > 0, png == 1)


def test_a_radiograph_that_no_segmentation_can_refer_to_keeps_its_mask(trained, shared_data, tmp_path):
    pytest.importorskip("highdicom")
    import pydicom

    radiograph = pydicom.dcmread(next((shared_data / "dicom").glob("1.2.276*.dcm")))
    del radiograph.StudyInstanceUID
    radiograph.save_as(tmp_path / "radiograph.dcm")
    with pytest.warns(UserWarning, match="no DICOM Segmentation can refer to it"):
        assert runs.outline(trained, [tmp_path / "radiograph.dcm"], tmp_path / "out").unreadable == 0
    [row] = table(tmp_path / "out" / "masks.csv")
    found = masks.read_mask(masks.MaskedImage("a", tmp_path / "radiograph.dcm", tmp_path / "out" / "radiograph.png"))
    assert float(row["disc area"]) == pytest.approx((found == 1).mean())
    assert (row["mask"], row["error"]) == ("radiograph.png", "")
    assert "no DICOM Segmentation" in row["warning"]


def test_without_highdicom_the_extra_is_named(trained, shared_data, tmp_path, monkeypatch):
    import importlib.util

    file = next((shared_data / "dicom").glob("1.2.276*.dcm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MaskError, match=r"mrm-radiograph\[seg\].*--no-dicom-seg"):
        runs.outline(trained, [file], tmp_path)
    runs.outline(trained, [file], tmp_path, dicom=False)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".png"]


def test_two_images_of_one_name_are_refused(trained, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(images.encode_png(np.zeros((20, 20), np.uint8)))
    with pytest.raises(RunError, match=r"would both be written as x\.png"):
        runs.outline(trained, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(RecordError, match="no such file or folder"):
        runs.outline(trained, [tmp_path / "none"], tmp_path / "out")


@pytest.mark.parametrize("name", recipes.SEGMENT)
def test_recipes_can_be_written_and_read_back(name, tmp_path):
    made = recipes.SEGMENT[name].make(*[tmp_path] * 4)
    assert recipes.from_yaml(recipes.SegmentConfig, recipes.to_yaml(made)) == made


def test_the_published_recipe_in_numbers(tmp_path):
    made = recipes.SEGMENT["siim-100"].make(*[tmp_path] * 4)
    t = made.training
    assert (t.steps, t.warmup_steps, t.global_batch, t.lr, t.weight_decay, t.layer_decay) == (
        160_000,
        1_500,
        8,
        2e-5,
        0.05,
        0.65,
    )
    assert (t.optimizer, t.schedule, made.image_size, made.channels, made.auxiliary) == (
        "adamw",
        "polynomial",
        (512, 512),
        768,
        256,
    )
    assert (made.focal_weight, made.dice_weight, made.auxiliary_weight, made.negatives) == (2.0, 1.0, 0.4, 0.4)
    assert (made.crop.area[0], made.crop.flip) == (1.0, 0.5)
    ten = recipes.SEGMENT["siim-10"].make(*[tmp_path] * 4).training
    assert (ten.steps, ten.warmup_steps) == (5_000, 100)
