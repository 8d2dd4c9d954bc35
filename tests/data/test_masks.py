"""Masks as files come: every format gives the same class numbers, and what cannot be trusted is named."""

import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mrm.data import images, masks
from mrm.data.config import CropConfig
from mrm.data.masks import IGNORED, decode, encode, fit, fit_mask
from mrm.data.samples import MaskData
from mrm.data.sampling import balanced
from mrm.system.errors import MaskError, RecordError

LESION = np.zeros((20, 30), np.uint8)
LESION[4:9, 10:22] = 1


def write(root, name, mask, image=None, split="training", suffix="png"):
    """An image and its mask, an array or a PIL image, in the published places."""
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    image = np.full((20, 30), 90, np.uint8) if image is None else image
    (root / "images" / split / f"{name}.png").write_bytes(images.encode_png(image))
    if mask is not None:
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        mask.save(root / "annotations" / split / f"{name}.{suffix}")
    return root


def palette(mask, colors):
    image = Image.fromarray(mask, mode="P")
    image.putpalette(np.array(colors, np.uint8).ravel().tolist())
    return image


FORMATS = {
    "0 and 1": LESION,
    "0 and 255": LESION * 255,
    "one bit": Image.fromarray(LESION * 255).convert("1"),
    "palette of colours": palette(LESION, [(0, 0, 0), (200, 30, 40)]),
    "palette of greys": palette(1 - LESION, [(255, 255, 255), (0, 0, 0)]),
    "palette of greys before colours": palette(1 - LESION, [(255, 255, 255), (0, 0, 0), (200, 30, 40)]),
    "grey as colour": np.repeat(LESION[..., None] * 255, 3, axis=2),
    "grey as colour with alpha": np.dstack([*[LESION * 255] * 3, np.full_like(LESION, 200)]),
    "16 bit": LESION.astype(np.uint16),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_mask_gives_class_numbers(tmp_path, kind):
    found = masks.load(write(tmp_path, "a", FORMATS[kind]))
    np.testing.assert_array_equal(found.mask(0), LESION)
    assert found.areas_NC.tolist() == [[60]]
    assert found.positive_N.tolist() == [True]


def test_run_lengths_in_a_table_are_siims_or_the_usual_ones(tmp_path):
    two = LESION.copy()
    two[15:18, 2:4] = 1
    for name in ("a", "b"):
        write(tmp_path, name, None)
    (tmp_path / "annotations" / "training").rmdir()
    table = tmp_path / "annotations" / "training.csv"
    upper, lower = two.copy(), two.copy()
    upper[10:], lower[:10] = 0, 0
    table.write_text(f"ImageId, EncodedPixels\na, {encode(upper)}\na, {encode(lower)}\nb, -1\n")
    found = masks.load(tmp_path)
    np.testing.assert_array_equal(found.mask(0), two)
    assert not found.mask(1).any()
    assert found.records().labels_NC.tolist() == [[1], [0]]
    table.write_text("ImageId,rle,ClassId\na,1 2 21 1,2\nb,,\n")
    found = masks.load(tmp_path, classes=("x", "y"))
    assert np.argwhere(found.mask(0) == 2).tolist() == [[0, 0], [0, 1], [1, 0]]
    assert found.areas_NC.tolist() == [[0, 3], [0, 0]]


SHAPES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


@settings(max_examples=40)
@given(SHAPES)
def test_run_lengths_are_the_inverse_of_drawing_them(mask):
    """Relative ones of each class, and the usual ones written from the pixels counted down the columns."""
    height, width = mask.shape
    kinds = [int(kind) for kind in np.unique(mask) if kind]
    relative = masks.RunLengths(tuple((kind, encode(mask == kind)) for kind in kinds), True, "a")
    np.testing.assert_array_equal(masks.draw_runs(relative, height, width), mask)
    flat = mask.T.ravel()
    pixels = [(kind, " ".join(f"{at + 1} 1" for at in np.flatnonzero(flat == kind))) for kind in kinds]
    np.testing.assert_array_equal(masks.draw_runs(masks.RunLengths(tuple(pixels), False, "a"), height, width), mask)
    assert encode(mask * 0) == "-1"
    for kind in kinds:
        np.testing.assert_array_equal(decode(encode(mask == kind), height, width), mask == kind)


def test_run_lengths_by_hand():
    """Down the columns of 3 x 4 pixels: two from the second on, then the last two."""
    mask = np.zeros((3, 4), np.uint8)
    mask[1:, 0] = mask[1:, 3] = 1
    assert encode(mask) == "1 2 7 2"
    np.testing.assert_array_equal(decode("1 2 7 2", 3, 4), mask)
    np.testing.assert_array_equal(masks.decode_absolute("2 2 11 2", 3, 4), mask)
    np.testing.assert_array_equal(masks.decode_absolute("1 12", 3, 4), np.ones((3, 4)))
    for text in ("11 3", "0 1", "13 1"):
        with pytest.raises(ValueError, match="but the image has 12"):
            masks.decode_absolute(text, 3, 4)


def test_a_published_mask_lies_in_its_image(shared_data):
    """The published run lengths of the one SIIM image at hand fit its DICOM file."""
    from mrm.system.tables import read_csv_rows

    file = next((shared_data / "dicom").glob("1.2.276*.dcm"))
    _, rows = read_csv_rows(shared_data / "official" / "siim-pneumothorax-train-rle.csv.gz")
    runs = {name: text for _, (name, text) in rows if name == file.stem}
    assert list(runs) == [file.stem]
    text = runs[file.stem].replace("-1", "")
    mask = decode(text, *images.size(file))
    assert mask.shape == (1024, 1024)
    assert mask.any() == bool(text)


def test_classes_and_what_is_ignored(tmp_path):
    mask = LESION * 2
    mask[0] = IGNORED
    mask[19] = 1
    found = masks.load(write(tmp_path, "a", mask), classes=("lung", "heart"))
    np.testing.assert_array_equal(found.mask(0), mask)
    assert found.areas_NC.tolist() == [[30, 60]]
    assert found.records().labels_NC.tolist() == [[1, 1]]


def test_with_class_numbers_in_the_set_255_is_ignored(tmp_path):
    write(tmp_path, "a", LESION)
    found = masks.load(write(tmp_path, "b", LESION[::-1] * 255))
    assert found.lesion_is_255 is False
    assert set(np.unique(found.mask(1))) == {0, IGNORED}


@pytest.mark.parametrize(
    ("shape", "size", "box"),
    [
        ((20, 31), (64, 64), (11, 0, 41, 64)),  # 20 x 64 / 31 is 41.3, and 23 rows are left
        ((31, 20), (64, 64), (0, 11, 64, 41)),
        ((10, 10), (30, 50), (0, 10, 30, 30)),
        ((1, 500), (32, 96), (15, 0, 1, 96)),  # a fifth of a row is one
        ((500, 1), (96, 32), (0, 15, 96, 1)),
        ((40, 60), (40, 60), (0, 0, 40, 60)),
    ],
)
def test_the_box_of_an_image_by_hand(shape, size, box):
    place = masks.letterbox(*shape, size)
    assert (place.top, place.left, place.height, place.width) == box


def test_class_numbers_of_run_lengths_reach_from_1_to_254(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("ImageId,rle,ClassId\na.png,1 2,1\na.png,4 1,254\nb,-1,7\n")
    runs = masks.read_run_lengths(table)
    assert {name: run.runs for name, run in runs.items()} == {"a": ((1, "1 2"), (254, "4 1")), "b": ()}
    assert not runs["a"].relative


def test_a_mask_may_have_as_many_pixels_as_an_image_and_values_up_to_255(tmp_path, monkeypatch):
    (row,), _ = masks.pair(write(tmp_path, "a", LESION.astype(np.uint16) * 255), "training")
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    np.testing.assert_array_equal(masks.read_mask(row), LESION * 255)
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(MaskError, match="30 x 20 pixels, more than 599"):
        masks.read_mask(row)
    monkeypatch.undo()
    write(tmp_path, "a", LESION.astype(np.uint16) * 256)
    with pytest.raises(MaskError, match=r"uint16 of shape .* is not a mask"):
        masks.read_mask(row)


def test_255_is_the_lesion_of_one_class_alone(tmp_path):
    write(tmp_path, "a", LESION * 255)
    one = masks.load(tmp_path)
    assert (one.lesion_is_255, one.ignores_255, one.areas_NC.tolist()) == (True, False, [[60]])
    two = masks.load(tmp_path, classes=("x", "y"))
    assert (two.lesion_is_255, two.ignores_255, two.areas_NC.tolist()) == (False, True, [[0, 0]])
    plain = masks.load(write(tmp_path, "a", LESION))
    assert (plain.lesion_is_255, plain.ignores_255, plain.areas_NC.tolist()) == (False, False, [[60]])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_by_name_or_by_its_folder(tmp_path, split):
    write(tmp_path, "a", LESION, split=split)
    assert len(masks.load(tmp_path, split)) == len(masks.load(tmp_path / "images" / split)) == 1


# Bad input, each named ---------------------------------------------------------------------------------


def refused(root, match, **options):
    with pytest.raises(MaskError, match=match):
        masks.load(root, **options)


def test_a_mask_of_another_size(tmp_path):
    root = write(tmp_path, "a", LESION, image=np.zeros((40, 60), np.uint8))
    refused(root, r"a\.png: the mask has 20 x 30 pixels, its image 40 x 60")


def test_unknown_values(tmp_path):
    refused(
        write(tmp_path, "a", LESION * 7),
        r"a\.png: unknown values 7 \(60 pixels\); expected 0 background, 1 lesion",
    )
    seven = np.zeros_like(LESION)
    seven[0, :7] = range(9, 2, -1)
    five = ", ".join(rf"{value} \(1 pixels\)" for value in range(3, 8))
    refused(write(tmp_path, "a", seven), f"unknown values {five}; expected")  # the first of them


def test_a_mask_saved_as_jpeg(tmp_path):
    noisy = cv2.GaussianBlur(LESION * 255, (5, 5), 2)
    refused(write(tmp_path, "a", noisy, suffix="jpg"), r"a\.jpg: unknown values .* JPEG compression")


def test_more_classes_than_named(tmp_path):
    write(tmp_path, "a", LESION * 2)
    refused(tmp_path, r"values 2 .* --classes")


def test_an_image_without_a_mask_and_the_reverse(tmp_path):
    write(tmp_path, "a", LESION)
    write(tmp_path, "b", None)
    refused(tmp_path, r"images/training/b\.png: an image without a mask")
    (tmp_path / "images" / "training" / "b.png").unlink()
    (tmp_path / "images" / "training" / "a.png").rename(tmp_path / "images" / "training" / "c.png")
    refused(tmp_path, r"c\.png: an image without a mask; .*annotations/training/a\.png: a mask without an image")


def test_two_masks_of_one_name(tmp_path):
    for suffix in ("png", "tif"):
        write(tmp_path, "b", LESION, suffix=suffix)
    refused(write(tmp_path, "a", LESION), "annotations/training: more than one file is called b; keep one of them")


def test_all_pixels_ignored(tmp_path):
    write(tmp_path, "a", LESION)
    write(tmp_path, "b", np.full_like(LESION, IGNORED))
    refused(tmp_path, r"b\.png: every pixel is 255, which is ignored")


def test_a_damaged_mask(tmp_path):
    write(tmp_path, "a", LESION)
    file = tmp_path / "annotations" / "training" / "a.png"
    file.write_bytes(file.read_bytes()[:60])
    refused(tmp_path, r"a\.png: cannot be read as a mask")
    file.write_text("no image at all")
    refused(tmp_path, r"a\.png: cannot be read as a mask")


def test_a_mask_in_colours(tmp_path):
    colours = np.stack([LESION * 200, LESION * 10, LESION], axis=2)
    refused(write(tmp_path, "a", colours), r"a\.png: uint8 of shape \(20, 30, 3\) is not a mask")


def test_no_segmentation_folder(tmp_path):
    refused(tmp_path, r"not a segmentation folder; expected images/training/ and annotations/training/")
    write(tmp_path, "a", None)
    (tmp_path / "annotations" / "training").rmdir()
    refused(tmp_path, "no such folder of masks, and no training.csv")


def test_run_lengths_that_do_not_fit(tmp_path):
    write(tmp_path, "a", None)
    (tmp_path / "annotations" / "training").rmdir()
    table = tmp_path / "annotations" / "training.csv"
    table.write_text("ImageId,EncodedPixels\na,590 20\n")
    refused(tmp_path, r"training.csv, a: runs span pixels 590 to 610, but the image has 600; .* published size")
    table.write_text("ImageId,EncodedPixels\na,3 x\n")
    refused(tmp_path, r"line 2: '3 x' is not a run length")
    for number in ("0", "255", "300", "x"):  # numbered from 0, the first class would be drawn as background
        table.write_text(f"ImageId,rle,ClassId\na,1 2,{number}\n")
        refused(
            tmp_path, f"line 2: ClassId '{number}' is not a class number; expected 1 to 254, as 0 is the background"
        )
    for header in ("name,mask", "ImageId,mask", "name,EncodedPixels", "name,rle"):
        table.write_text(f"{header}\na,1 2\n")
        refused(tmp_path, f"columns ImageId and EncodedPixels .*, found {header.replace(',', ', ')}")


def test_run_lengths_from_the_start_may_stand_in_any_order():
    assert (masks.decode_absolute("7 2 1 3", 3, 4) == masks.decode("0 3 3 2", 3, 4)).all()
    for text in ("0 3", "11 3", "3", "1 99999999999999999999"):
        with pytest.raises(ValueError, match=r"runs span|pairs are expected"):
            masks.decode_absolute(text, 3, 4)


def test_bad_images_can_be_left_out(tmp_path):
    write(tmp_path, "a", LESION)
    write(tmp_path, "b", LESION * 7)
    write(tmp_path, "c", None)
    with pytest.warns(UserWarning, match="left out 2 images or masks"):
        found = masks.load(tmp_path, on_error="skip")
    assert [r.name for r in found.rows] == ["a.png"]


def test_a_list_says_which_images_to_take(tmp_path):
    for name in ("1.2.840.11", "1.2.840.12", "c"):
        write(tmp_path, name, LESION)
    names = tmp_path / "train_10.txt"
    names.write_text("1.2.840.12\nc.png 1\n")
    assert [r.name for r in masks.load(tmp_path, only=names).rows] == ["1.2.840.12.png", "c.png"]
    table = tmp_path / "train_10.csv"
    table.write_text("image_path,patient_id\nimages/training/c.png,7\n")
    assert [r.name for r in masks.load(tmp_path, only=table).rows] == ["c.png"]
    names.write_text("c\nd\n")
    refused(tmp_path, r"train_10\.txt: 1 of its 2 images have no image and mask here; the first is d", only=names)
    refused(tmp_path, "no such list", only=tmp_path / "none.txt")


# Geometry and samples ----------------------------------------------------------------------------------


def test_shape_is_kept_and_padding_is_ignored():
    image, box = fit(np.full((20, 30), 200, np.uint8), (60, 60))
    mask = fit_mask(LESION, (60, 60))
    assert (box.top, box.left, box.height, box.width) == (10, 0, 40, 60)
    assert (mask[:10] == IGNORED).all()
    assert (mask[50:] == IGNORED).all()
    assert (image[:10] == 0).all()
    np.testing.assert_array_equal(mask[10:50], LESION.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 32)])
def test_any_shape_fits_into_any_size(size):
    for shape in ((20, 30), (30, 20), (200, 31), (1, 500)):
        image, box = fit(np.full(shape, 9, np.uint8), size)
        assert image.shape == size
        assert (fit_mask(np.zeros(shape, np.uint8), size) == 0).sum() == box.height * box.width


def masked_images(tmp_path, count=6, empty=()):
    """Images whose mask is their bright part, so that a sample shows whether both moved together."""
    for i in range(count):
        mask = np.zeros((40, 60), np.uint8)
        if i not in empty:
            mask[5 + i : 20, 10 : 30 + i] = 1
        write(tmp_path, f"p{i}", mask, image=np.uint8(50 + 150 * mask))
    return masks.load(tmp_path)


def test_a_sample_follows_from_seed_epoch_and_index(tmp_path):
    masked = masked_images(tmp_path)
    data = MaskData(masked, (32, 48), CropConfig(area=(0.3, 0.9)), seed=3)
    again = MaskData(masked, (32, 48), CropConfig(area=(0.3, 0.9)), seed=3)
    for epoch, index in ((0, 0), (5, 3)):
        a, b = data.sample(epoch, index), again.sample(epoch, index)
        assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not np.array_equal(data.sample(0, 0)["image"], data.sample(1, 0)["image"])


@pytest.mark.parametrize("crop", [CropConfig(area=(0.3, 0.9)), CropConfig(area=(1.0, 1.0)), None])
def test_crop_and_flip_take_the_mask_along(tmp_path, crop):
    data = MaskData(masked_images(tmp_path), (32, 48), crop)
    for epoch in range(4):
        sample = data.sample(epoch, epoch)
        labelled = sample["mask"] != IGNORED
        agree = (sample["image"] > 125) == (sample["mask"] == 1)
        assert agree[labelled].mean() > 0.97


def test_every_epoch_has_all_positives_and_some_negatives():
    positive = np.array([True, False, True, False, False, False, False, True, False, True, True, False])
    order = balanced(positive, 0.4)
    assert len(order) == 5 + 2
    stream = order(0, len(order), 0)
    epochs = [[next(stream).index for _ in range(7)] for _ in range(20)]
    for epoch in epochs:
        assert {i for i in epoch if positive[i]} == set(np.flatnonzero(positive))
        assert len(set(epoch)) == 7
    assert {i for epoch in epochs for i in epoch} == set(range(12))
    assert len(balanced(positive, 100)) == 12


def test_the_order_goes_on_where_it_was_left():
    order = balanced(np.arange(30) % 3 == 0, 0.4)
    whole = [s for s, _ in zip(order(1, len(order), 0), range(60), strict=False)]
    for seen in (1, 13, 14, 29):
        assert [s for s, _ in zip(order(1, len(order), seen), range(60 - seen), strict=False)] == whole[seen:]


# Patients ---------------------------------------------------------------------------------------------------


def test_patients_come_from_the_table_beside_the_folders_or_from_published_names(tmp_path):
    names = ["a", "b", "c", "00000013_000", "00000013_001"]
    for name in names:
        for kind in ("images", "annotations"):
            (tmp_path / kind / "test").mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / "test" / f"{name}.png").write_bytes(images.encode_png(np.eye(8, dtype=np.uint8)))
    table = tmp_path / "patients.csv"
    table.write_text("image_path,patient_id\nimages/test/a.png,P1\nb.jpg,P1\nelsewhere.png,P2\n")
    records = masks.load(tmp_path, "test").records()
    patients = dict(zip([r.name for r in records], records.patients, strict=True))
    assert patients == {
        "a.png": "P1", "b.png": "P1", "c.png": "", "00000013_000.png": "00000013", "00000013_001.png": "00000013",
    }  # fmt: skip
    assert records.known_patients.facts() == {"patients": 2, "patients_inferred": 2, "patients_unknown": 1}
    table.write_text("name,patient\na,P1\n")
    with pytest.raises(
        RecordError, match=r"patients\.csv: no column image_path, patient_id; the columns found are name"
    ):
        masks.load(tmp_path, "test")


def test_system_files_are_left_out_with_a_count_and_names_that_are_not_utf8_are_kept(tmp_path):
    for kind in ("images", "annotations"):
        folder = tmp_path / kind / "training"
        folder.mkdir(parents=True)
        for name in (b"a.png", b"b\xf6.png"):
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                file.write(images.encode_png(np.eye(8, dtype=np.uint8)))
        for name in ("Thumbs.db", "._a.png", "desktop.ini"):
            (folder / name).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"3 system files are left out \(._a.png, Thumbs.db, desktop.ini\)"):
        masked = masks.load(tmp_path)
    assert [row.name for row in masked] == ["a.png", r"b\xf6.png"]
    assert masked.areas_NC.tolist() == [[8], [8]]


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", b"8BPS\0\x01", b"GIF89a"]
)
def test_masks_in_formats_that_need_other_programs_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MaskError, match=r"a\.png: cannot be read as a mask"):
        masks.read_mask(masks.MaskedImage("a", tmp_path / "a.png", tmp_path / "a.png"))


def test_a_mask_of_more_pixels_than_any_radiograph_is_refused_by_its_header(tmp_path):
    from tests.support.image_files import png_of_size

    (tmp_path / "a.png").write_bytes(png_of_size(10_001, 10_000))
    with pytest.raises(MaskError, match=r"a\.png: .*10000 x 10001 pixels, more than 100,000,000"):
        masks.read_mask(masks.MaskedImage("a", tmp_path / "a.png", tmp_path / "a.png"))
