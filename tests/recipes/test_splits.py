"""Published splits: which images a number was measured on, told by name, count and digest; and what may not be compared."""

import hashlib
import re

import pytest

from mrm.corpora import description
from mrm.recipes import splits
from mrm.system.errors import ConfigError

NIH = [f"{i:08}_000.png" for i in range(25_596)]


def test_a_digest_is_that_of_the_sorted_names_without_folders_and_suffix():
    expected = hashlib.blake2b(b"a\nb\nc.1", digest_size=8).hexdigest()
    assert splits.digest_of(["x/b.PNG", "c.1", "/y/a.dcm"]) == expected
    assert splits.digest_of(["one/b.png", "two/b.png"], 2) != splits.digest_of(["one/b.png", "one/b.png"], 2)
    assert splits.key_of("CheXpert-v1.0/valid/patient1/study1/view1_frontal.jpg", 3) == "patient1/study1/view1_frontal"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("nih-mrm", "NIH_ChestX-ray"),
        ("chexpert-valid", "CheXpert"),
        ("rsna-mrm", "RSNA_Pneumonia"),
        ("siim-mrm", "SIIM-ACR_Pneumothorax"),
    ],
)
def test_the_published_lists_are_their_splits_and_one_image_less_is_not(shared_data, name, folder):
    lines = (shared_data / "reference-splits" / folder / "test_list.txt").read_text().splitlines()
    names = [f"/somewhere/else/{line.split()[0]}" for line in lines if line.strip()]
    assert splits.identify(names, splits.find(name).corpus) == name
    assert splits.why_not(name, names) == ""
    fewer = splits.why_not(name, names[1:])
    assert f"tested were {len(names) - 1:,} images (no split that numbers are published on)" in fewer
    assert splits.why_not(name, [*names[1:], "another.png"]).endswith("(as many, but other images)")


def test_the_frontal_images_of_chexpert_are_another_split_than_all_of_them(shared_data):
    lines = (shared_data / "reference-splits/CheXpert/test_list.txt").read_text().splitlines()
    frontal = [line.split()[0] for line in lines if "frontal" in line]
    assert len(frontal) == 202
    assert splits.identify(frontal, "chexpert") == "chexpert-valid-frontal"
    assert splits.why_not("chexpert-valid", frontal) == (
        "the published number is on chexpert-valid (234 images: valid.csv of the publisher, frontal and lateral), tested were "
        "202 images (chexpert-valid-frontal: the frontal images of valid.csv)"
    )


def test_the_official_list_of_nih_is_not_the_random_one():
    assert splits.identify(NIH, "nih") == "nih-official"
    assert splits.why_not("nih-official", NIH) == ""
    assert splits.why_not("nih-mrm", NIH) == (
        "the published number is on nih-mrm (22,433 images: the published MRM lists, 20 % at random by patient), tested were "
        "25,596 images (nih-official: test_list.txt of the publisher)"
    )
    assert splits.identify([f"x{name}" for name in NIH], "nih") == ""  # as many, of other names


def test_the_234_and_the_668_images_of_chexpert_are_told_apart():
    names = [f"test/patient{64741 + i}/study1/view{1 + v}_frontal.jpg" for i in range(334) for v in range(2)]
    assert splits.identify(names, "chexpert") == "chexpert-test"
    assert "tested were 668 images (chexpert-test: the test set of 500 studies)" in splits.why_not(
        "chexpert-valid", names
    )


def test_a_split_on_which_sources_differ_is_never_comparable():
    names = [f"h{i:04}.png" for i in range(1260)]
    assert splits.why_not("tbx11k-benchx", names) == (
        "the published number is on tbx11k-benchx, which is not settled: the paper tests the 2,800 test images, its list has "
        "1,260 of the 8,400 images with annotations"
    )
    assert "a number of images that is not stated here" in splits.why_not("siim-eva-x", names)


def test_the_counts_are_those_that_the_corpora_expect():
    """The publishers' own test sets, as the descriptions of `mrm prepare` count them."""
    for name, key in {
        "nih-official": "test_list.txt",
        "chexpert-valid": "rows of valid.csv",
        "covidx3-test": "rows of test.txt",
        "covidx4-test": "rows of test.txt",
        "covidx4-val": "rows of val.txt",
        "object-cxr-official": "rows of test.csv",
        "vindr-official": "rows of image_labels_test.csv",
    }.items():
        split = splits.find(name)
        assert description.load(split.corpus).expected[key] == split.images
    assert description.load("chexpert-test").expected["images"] == splits.find("chexpert-test").images


def test_each_split_has_a_corpus_and_what_it_is_told_by():
    for name, split in splits.known().items():
        assert description.load(split.corpus) is not None
        if split.images and not split.unsettled:
            assert bool(split.digest) != bool(split.form), name
        assert re.compile(split.form or ".")


def test_an_unknown_split_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"unknown split 'nih-random'; choose from nih-mrm, nih-official"):
        splits.why_not("nih-random", NIH)
