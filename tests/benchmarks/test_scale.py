"""The tables on which starts are measured: each record has a name of its own, and few files are behind them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.scale import comparison, hashing, mimic_tree, preparing, shard_folder, start, table
from mrm.audit.perceptual_hashes import distance
from mrm.data import images
from mrm.data.records import Records
from tests.support.image_files import radiograph


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a table of 250 records."""
    folder = tmp_path_factory.mktemp("scale")
    table.write_images(folder / "images", 0)
    table.write_table(folder / "training.csv", 250, 0)
    return folder


def test_every_record_has_a_name_of_its_own_and_an_image(made):
    records = Records.load(made / "training.csv")
    assert len({r.name for r in records}) == len(records) == 250
    assert images.read(records[249].image).shape == (256, 256)
    assert all(r.image.is_file() for r in records)
    assert len([p for p in (made / "images").iterdir() if not p.is_symlink()]) == 64


def test_images_of_a_study_share_its_report_and_patient(made):
    records = Records.load(made / "training.csv")
    studies = {r.study: (r.report, r.patient) for r in records}
    assert [(r.report, r.patient) for r in records] == [studies[r.study] for r in records]
    assert len(studies) == 151  # 250 images, 1.655 a study
    assert len({r.report for r in records}) > 145
    assert 50 < sum(len(r.report.split()) for r in records) / 250 < 70


def test_names_differ_up_to_ten_million_records():
    paths = [table.path_of(number, 0) for number in (0, 99, 100, 9_999, 10_000, 999_999, 1_000_000, 9_999_999)]
    assert len(set(paths)) == len(paths)
    assert table.path_of(1_234_567, 8) == "images/23/45/67/01/0008.png"


def test_labels_of_all_kinds_belong_to_the_records_of_the_table(made, tmp_path):
    listed, labelled = (
        Records.load(made / "training.csv"),
        Records.load(table.write_labels(tmp_path / "labels.csv", 250, 0), table.FINDINGS),
    )
    assert [(r.name, r.patient, r.study) for r in labelled] == [(r.name, r.patient, r.study) for r in listed]
    stated, counts = np.unique(labelled.labels_NC[~np.isnan(labelled.labels_NC)], return_counts=True)
    assert (stated.tolist(), counts.min() > 100) == ([-1, 0, 1], True)


def test_a_shard_folder_has_the_records_of_the_table_and_one_file_of_images(tmp_path):
    shard_folder.write_folder(tmp_path / "shards", 40, 0, rows=10)
    table.write_table(tmp_path / "training.csv", 40, 0)
    packed, listed = Records.load(tmp_path / "shards"), Records.load(tmp_path / "training.csv")
    assert packed.fingerprint() == listed.fingerprint()
    assert len({(tmp_path / "shards" / f"shard-0000{number}.arrow").stat().st_ino for number in range(4)}) == 1
    assert np.array_equal(images.read(packed[37].image), images.read(packed[7].image))


@pytest.mark.parametrize("report_files", [False, True])
def test_a_tree_of_mimic_is_prepared_whole(tmp_path, report_files):
    assert mimic_tree.write(tmp_path / "tree", 30, report_files, 0) == 49  # 30 studies of 1.655 images
    assert preparing.prepared(tmp_path / "tree", tmp_path / "out")["images"] == 49
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["excluded"] == {}
    assert (facts["found"]["studies"], facts["found"]["reports"]) == (30, 30)
    shared, linked = ([p.stat() for p in (tmp_path / "tree" / name).rglob("*.jpg")] for name in ("shared", "files"))
    assert (len(shared), len(linked)) == (64, 49)
    assert {state.st_ino for state in linked} < {state.st_ino for state in shared}


def test_drawn_hashes_are_as_far_apart_as_those_they_are_drawn_from():
    """Of signs of which half are one sign and half are independent, two agree in three quarters, or in one quarter."""
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(4_000, 256), dtype=np.uint8)
    bits[:, 1:128] = bits[:, :1]
    drawn = comparison.drawn(comparison.mixing_of(comparison.packed(bits)), 4_000, rng)
    agreement = np.corrcoef(2.0 * comparison.bits_of(drawn).T - 1)
    assert agreement[:128, :128].min() > 0.9
    assert abs(agreement[:128, 128:]).max() < 0.1


def test_copies_are_planted_at_the_distance_that_is_said():
    rng = np.random.default_rng(0)
    first = rng.integers(2**63, size=(500, 4), dtype=np.uint64)
    copies, (originals, changes) = comparison.planted(first, 100, rng)
    np.testing.assert_array_equal(distance(first[originals], copies), changes)
    assert set(changes.tolist()) <= set(range(37))
    assert len(set(originals.tolist())) == 100


def test_a_large_image_has_the_pixels_that_are_measured():
    large = hashing.enlarged(radiograph(0), 0)
    assert large.shape == (3056, 2544)
    result = hashing.found([large], lambda image: 255 - image)
    assert result["halved"]["found"] == result["not halved"]["found"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--shards"], ["--finetune"]])
def test_a_start_is_measured_twice(tmp_path, options):
    command = [sys.executable, start.__file__, "--records", "2000", "4000", "--folder", tmp_path, *options]
    subprocess.run([*command, "--out", tmp_path / "start.json"], check=True)
    report = json.loads((tmp_path / "start.json").read_text())
    assert report["by records"].keys() == {"2000", "4000"}
    assert report["by records"]["4000"]["second start"]["seconds of the processor"] > 0


@pytest.mark.slow
def test_hashing_and_comparing_are_measured(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(300):
        (tmp_path / f"images/{i}.png").write_bytes(images.encode_png(radiograph(i)))
    command = [
        sys.executable,
        hashing.__file__,
        "--images",
        tmp_path / "images",
        "--count",
        "2",
        "--out",
        tmp_path / "h.json",
    ]
    subprocess.run(command, check=True)
    assert json.loads((tmp_path / "h.json").read_text())["images"] == 2
    command = [sys.executable, comparison.__file__, "--images", tmp_path / "images", "--hashes", "3000"]
    subprocess.run([*command, "--out", tmp_path / "c.json"], check=True)
    measured = json.loads((tmp_path / "c.json").read_text())["by hashes"]["3000"]
    assert measured["found"] == measured["copies"] == 30
