"""Segmentation as a whole: the loop's contracts hold for it, thresholds, the test's page, masks and DICOM as files."""

import json

import numpy as np
import pytest
from scipy import ndimage

from mrm import runs
from mrm.data import images
from mrm.data.masks import IGNORED
from mrm.evaluation.segmenter_test import surface_distances
from mrm.models import model_folder
from mrm.system.errors import OutputError, RunError
from tests.support.run_files import table

# Tests and their page ----------------------------------------------------------------------------------


def test_a_trained_segmenter_finds_discs_and_says_how_well(disc_segmenter, discs, tmp_path):
    results = runs.evaluate(disc_segmenter, discs, tmp_path / "test", draws=200)
    disc = results["classes"]["disc"]
    assert disc["dice_positive"]["value"] > 0.8
    assert disc["dice_positive"]["n"] == 6
    assert disc["dice_published"]["n"] == 12
    assert set(disc) == set(results["measures"])
    assert disc["surface_distance"]["value"] < 4
    card = model_folder.read_card(disc_segmenter / "best")
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


def test_what_a_test_would_ignore_or_could_not_write_is_refused_at_once(disc_segmenter, disc_encoder, discs, tmp_path):
    with pytest.raises(RunError, match="is a segmenter, but --by groups the records"):
        runs.evaluate(disc_segmenter, discs, tmp_path / "out", by=["view"])
    for changes in ({"slide": True}, {"split": "validation"}):
        with pytest.raises(RunError, match="is not a segmenter; --split and --slide are for"):
            runs.evaluate(disc_encoder, discs, tmp_path / "out", **changes)
    (tmp_path / "file").touch()
    for model in (disc_segmenter, disc_encoder):  # before hours of work, not after them
        with pytest.raises(OutputError, match="file: is a file, but a folder is needed; choose another --out"):
            runs.evaluate(model, discs, tmp_path / "file")


def test_sliding_windows_and_a_named_split(disc_segmenter, discs, tmp_path):
    results = runs.evaluate(disc_segmenter, discs, tmp_path / "test", draws=0, split="validation", slide=True)
    assert results["inference"] == "sliding windows"
    assert results["classes"]["disc"]["dice_positive"]["value"] > 0.6


def test_a_test_of_images_the_model_has_seen_says_so(disc_segmenter, discs, tmp_path):
    with pytest.warns(UserWarning, match=r"training|segmentation"):
        results = runs.evaluate(disc_segmenter, discs, tmp_path / "test", draws=0, split="training")
    assert results["overlap"]
    assert "Before you read the numbers" in (tmp_path / "test" / "index.html").read_text()


def test_ignored_pixels_count_nowhere(disc_segmenter, discs, tmp_path):
    root = tmp_path / "partly"
    for kind in ("images", "annotations"):
        (root / kind / "test").mkdir(parents=True)
    source = discs / "images" / "test" / "test00.png"
    mask = np.uint8(images.read(discs / "annotations" / "test" / "test00.png") > 0)
    mask[:, :20] = IGNORED
    (root / "images" / "test" / "a.png").write_bytes(source.read_bytes())
    (root / "annotations" / "test" / "a.png").write_bytes(images.encode_png(mask))
    runs.evaluate(disc_segmenter, root, tmp_path / "test", draws=0)
    (row,) = table(tmp_path / "test" / "images.csv")
    assert int(row["pixels"]) == 80 * 40
    assert int(row["true"]) == (mask == 1).sum()


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
