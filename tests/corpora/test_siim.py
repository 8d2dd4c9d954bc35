"""SIIM-ACR Pneumothorax: the segmentation folders, the real table, lists and image, bad downloads."""

import cv2
import numpy as np
import pytest

from mrm.corpora import mask_folders, prepare, splits
from mrm.corpora.contract import Options, Release, file_stem
from mrm.data import masks
from mrm.data.masks import decode
from mrm.system.errors import RecordError
from mrm.system.table_rows import read_table
from tests.support.corpora.official import read_with_images
from tests.support.corpora.siim import HEIGHT, ID, WIDTH, write_tree
from tests.support.dicom_files import write_dicom
from tests.support.image_files import contents, random_image, write_image


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "siim")


# ---- folders -----------------------------------------------------------------------------------------------


def test_the_download_becomes_segmentation_folders(source, tmp_path):
    before = contents(source)
    corpus = prepare("siim", source, tmp_path / "out", Options(val=0.2))
    assert contents(source) == before
    assert sum(len(corpus.splits[k]) for k in ("train", "val", "test")) == 24
    for split, folder in mask_folders.FOLDERS.items():
        names = {file_stem(r.name) for r in corpus.splits[split]}
        assert {p.stem for p in (tmp_path / "out/images" / folder).iterdir()} == names
        assert {p.stem for p in (tmp_path / "out/annotations" / folder).iterdir()} == names
    loaded = masks.load(tmp_path / "out", "training")
    assert loaded.positive_N.sum() == corpus.splits["train"].labels_NC.sum()
    people = [set(corpus.splits[k].patients) for k in ("train", "val", "test")]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert corpus.facts["found"]["positive Pneumothorax"] == 8
    assert (tmp_path / "out/train_list.txt").read_text().startswith("1.2.276")


def test_image_and_joined_mask_are_as_in_the_source(source, tmp_path):
    prepare("siim", source, tmp_path / "out", Options(val=0, test=0))
    mask = cv2.imread(str(tmp_path / f"out/annotations/training/{ID.format(0)}.png"), cv2.IMREAD_UNCHANGED)
    assert (mask.dtype, set(np.unique(mask))) == (np.uint8, {0, 1})
    assert mask.sum() == 9 + 9
    assert mask[2:5, 10:13].all()
    assert mask[20:23, 1:4].all()
    grey = cv2.imread(str(tmp_path / f"out/images/training/{ID.format(0)}.png"), cv2.IMREAD_UNCHANGED)
    assert (grey == random_image(0)).all()


def test_both_shrink_together_when_asked(source, tmp_path):
    prepare("siim", source, tmp_path / "out", Options(val=0, test=0, size=12))
    image, mask = (
        cv2.imread(str(tmp_path / f"out/{kind}/training/{ID.format(0)}.png"), cv2.IMREAD_UNCHANGED)
        for kind in ("images", "annotations")
    )
    means = random_image(0).reshape(12, 2, 10, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(image, means, atol=0.51)
    assert mask.shape == (12, 10)
    assert set(np.unique(mask)) == {0, 1}
    assert mask[1, 5] == mask[10, 1] == 1, "inside the lesions at rows 2 to 4 and 20 to 22"
    assert mask[4:9].sum() == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_flat_converted_images_do_as_well(source, tmp_path, suffix):
    for file in sorted(source.rglob("*.dcm")):
        write_image(source / f"{file.stem}{suffix}", 1, HEIGHT, WIDTH)
        file.unlink()
    corpus = prepare("siim", source, tmp_path / "out")
    assert len(corpus.records) == 24
    assert corpus.facts["found"]["positive Pneumothorax"] == 8


def test_an_interrupted_preparation_goes_on_and_redoes_nothing(source, tmp_path, monkeypatch):
    done = []
    write_pair = mask_folders.write_pair

    def interrupted(job):
        if len(done) == 10:
            raise KeyboardInterrupt
        done.append(job.name)
        return write_pair(job)

    monkeypatch.setattr(mask_folders, "write_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("siim", source, tmp_path / "out")
    assert not (tmp_path / "out/corpus.json").exists()
    first, done[:] = set(done), [""] * 11
    prepare("siim", source, tmp_path / "out")
    assert len(first) == 10
    assert len(done[11:]) == 14
    assert not first & set(done[11:])
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 24


def test_another_size_writes_all_again(source, tmp_path):
    prepare("siim", source, tmp_path / "out", Options(val=0, test=0))
    prepare("siim", source, tmp_path / "out", Options(val=0, test=0, size=12))
    sizes = {cv2.imread(str(p)).shape[:2] for p in (tmp_path / "out").rglob("*.png")}
    assert sizes == {(12, 10)}


def test_other_splits_leave_no_image_where_it_was(source, tmp_path):
    prepare("siim", source, tmp_path / "out", Options(seed=0))
    corpus = prepare("siim", source, tmp_path / "out", Options(seed=1))
    written = {p.stem for p in (tmp_path / "out/images/training").iterdir()}
    assert written == {file_stem(r.name) for r in corpus.splits["train"]}


def test_published_lists_may_have_an_image_in_two_sets(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_list.txt").write_text(f"{ID.format(3)}\n{ID.format(4)}\n")
    (lists / "test_list.txt").write_text(f"{ID.format(3)}\n{ID.format(99)}")
    corpus = prepare("siim", source, tmp_path / "out", Options(splits=lists))
    assert [r.labels for r in corpus.splits["train"]] == [(1,), (0,)]
    assert corpus.facts["excluded"] == {"image absent": 1}
    for folder in ("training", "test"):
        assert (tmp_path / f"out/annotations/{folder}/{ID.format(3)}.png").is_file()


def test_a_mask_beyond_its_image_and_an_unreadable_one_are_counted(source, tmp_path):
    table = source / "train-rle.csv"
    table.write_text(table.read_text().replace(f"{ID.format(3)},", f"{ID.format(3)},5 99999 "))
    next(source.rglob(f"{ID.format(4)}.dcm")).write_bytes(b"not an image")
    write_dicom(source / "other" / f"{ID.format(77)}.dcm", 1)
    write_dicom(source / "other" / f"{ID.format(5)}.dcm", 1)
    corpus = prepare("siim", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {
        "same file name in two folders, or in two formats": 1,
        "image without label": 1,
        "unreadable image": 1,
        "mask does not fit the image": 1,
    }
    assert len(corpus.records) == sum(len(corpus.splits[k]) for k in ("train", "val", "test")) == 22
    assert not list((tmp_path / "out").rglob(f"{ID.format(3)}.png"))


@pytest.mark.parametrize("text", ["4 9223372036854775807 9 9", "4 99999999999999999999999", "4 2 1"])
def test_run_lengths_of_no_image_are_counted(source, tmp_path, text):
    table = source / "train-rle.csv"
    table.write_text(f"{table.read_text()}{ID.format(3)},{text}\n")
    assert prepare("siim", source, tmp_path / "out").facts["excluded"] == {"mask does not fit the image": 1}


def test_repeated_and_contradictory_rows_are_counted(source, tmp_path):
    table = source / "train-rle.csv"
    table.write_text(table.read_text() + f"{ID.format(1)},-1\n{ID.format(3)},-1\n")
    corpus = prepare("siim", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {"duplicate row": 1, "rows contradict each other": 1}


@pytest.mark.parametrize("text", ["1 2 x", "-5 3", "", "1.5 2"])
def test_text_that_is_no_run_length_is_refused_with_its_line(source, tmp_path, text):
    table = source / "train-rle.csv"
    table.write_text(table.read_text() + f"{ID.format(1)},{text}\n")
    with pytest.raises(RecordError, match=r"train-rle.csv, line 27: .* is not a run length"):
        prepare("siim", source, tmp_path / "out")


# ---- the real table, lists and image ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> tuple[Release, dict[str, list[str]]]:
    """The real table, as if every image were there, and its run lengths."""
    table = tmp_path_factory.mktemp("siim") / "train-rle.csv.gz"
    table.write_bytes((shared_data / "official/siim-pneumothorax-train-rle.csv.gz").read_bytes())
    names = {row["ImageId"] for row in read_table(table, ("ImageId", "EncodedPixels"))}
    release = read_with_images("siim", table.parent, [f"{name}.dcm" for name in sorted(names)])
    return release, release.finish.args[0]


def test_the_real_table_has_the_publishers_counts(real):
    release, runs = real
    assert release.counts == {"rows": 12_954}
    assert len(release.records) == len(runs) == 12_047
    assert release.excluded == []
    assert release.records.labels_NC.sum() == 2_669
    assert sum(len(lesions) for lesions in runs.values()) == 3_576
    assert max(len(lesions) for lesions in runs.values()) > 1


def test_the_published_lists_join_and_overlap_as_is_known(real, shared_data):
    found = splits.published(real[0], shared_data / "reference-splits/SIIM-ACR_Pneumothorax")
    assert {k: len(v) for k, v in found.splits.items()} == {
        "train": 7_969,
        "val": 1_898,
        "test": 1_904,
        "train_10": 797,
    }
    assert found.excluded == []
    names = {k: {r.name for r in v} for k, v in found.splits.items()}
    shared = [len(names[a] & names[b]) for a, b in (("train", "test"), ("train", "val"), ("val", "test"))]
    assert shared == [494, 478, 124]
    assert found.splits["test"].labels_NC.sum() == 672


def test_real_lesions_lie_where_lungs_are_which_only_the_right_orientation_gives(real):
    total = np.zeros((1024, 1024))
    for lesions in list(real[1].values())[:1500]:
        for text in lesions:
            total += decode(text, 1024, 1024)
    sides = np.corrcoef(total.ravel(), total[:, ::-1].ravel())[0, 1]
    ends = np.corrcoef(total.ravel(), total[::-1].ravel())[0, 1]
    assert sides > 0.6  # left and right lung alike, apex and base not; read row by row it would be the reverse
    assert ends < 0.2
    assert total[:512].sum() > 2 * total[512:].sum()  # air rises to the apices
    assert total[:, 462:562].sum() < 0.07 * total.sum()  # and is not in the spine


def test_the_real_image_and_its_real_mask(shared_data, tmp_path):
    name = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    folder = tmp_path / "siim/dicom-images-train/a/b"
    folder.mkdir(parents=True)
    (folder / f"{name}.dcm").write_bytes((shared_data / f"dicom/{name}.dcm").read_bytes())
    table = shared_data / "official/siim-pneumothorax-train-rle.csv.gz"
    (tmp_path / "siim/train-rle.csv.gz").write_bytes(table.read_bytes())
    corpus = prepare("siim", tmp_path / "siim", tmp_path / "out", Options(val=0, test=0))
    record = corpus.records[0]
    header = {"sex": "M", "age": "62", "date": "1901-01-01"}  # the publisher put this day in place of all
    assert (record.patient[:8], record.view, record.extra) == ("16d7f894", "PA", header)
    mask = cv2.imread(str(tmp_path / f"out/annotations/training/{name}.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (1024, 1024)
    assert mask.sum() == 0  # the publisher's row says -1: no pneumothorax here
    assert corpus.facts["excluded"] == {"image absent": 12_046}
