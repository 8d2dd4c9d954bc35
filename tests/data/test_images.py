"""Images: any file to (H, W) uint8, bad ones named, crops that follow from the generator."""

import io
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mrm.data import images
from mrm.data.borders import Box
from mrm.data.headers import parse
from mrm.system.errors import ImageError
from tests.support.dicom_files import dicom_bytes


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    """A smooth synthetic image, not square, not constant, different in every corner."""
    y, x = np.mgrid[0:150, 0:200]
    return (128 + 60 * np.sin(x / 17) + 60 * np.cos(y / 11 + x / 90)).astype(np.uint8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opencv(array: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def plain_tiff(array: np.ndarray, photometric: int) -> bytes:
    """An uncompressed grey TIFF written by hand, values exactly as given."""
    height, width = array.shape
    bits = array.dtype.itemsize * 8
    fields = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8 + 2 + 9 * 12 + 4),
    ]
    fields += [(277, 1), (278, height), (279, array.nbytes)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + array.tobytes()


# ---- files -------------------------------------------------------------------------------------------------


def test_png_tiff_and_pgm_come_back_exactly(radiograph):
    commented = b"P5 # by hand\n# 0 1 2\n200\t150 # size\n255\n" + radiograph.tobytes()
    exact = (images.encode_png(radiograph), images.encode_pgm(radiograph), opencv(radiograph, ".tif"))
    for data in (*exact, plain_tiff(radiograph, 1), commented):
        np.testing.assert_array_equal(images.read(data), radiograph)
        assert images.size(data) == radiograph.shape


def test_jpeg_is_close_and_has_its_size(radiograph):
    data = images.encode_jpeg(radiograph)
    assert np.abs(images.read(data).astype(int) - radiograph).max() <= 6
    assert images.size(data) == (150, 200)


def test_path_string_bytes_memoryview_and_array_agree(radiograph, tmp_path):
    path = tmp_path / "radiograph.png"
    path.write_bytes(images.encode_png(radiograph))
    for source in (path, str(path), path.read_bytes(), memoryview(path.read_bytes()), radiograph):
        np.testing.assert_array_equal(images.read(source), radiograph)
        assert images.size(source) == radiograph.shape


def test_content_decides_not_the_name(radiograph, tmp_path):
    path = tmp_path / "radiograph.jpg"
    path.write_bytes(images.encode_png(radiograph))
    np.testing.assert_array_equal(images.read(path), radiograph)


def test_sixteen_bits_are_scaled_from_least_to_greatest(radiograph):
    deep = radiograph.astype(np.uint16) * 37 + 1000
    low, high = int(radiograph.min()), int(radiograph.max())
    expected = np.rint((radiograph.astype(float) - low) * 255 / (high - low))
    for data in (
        opencv(deep, ".png"),
        opencv(deep, ".tif"),
        opencv(deep, ".pgm"),
        opencv(deep.astype(np.float32), ".tif"),
        deep,
    ):
        got = images.read(data)
        assert got.dtype == np.uint8
        assert np.abs(got - expected).max() <= 1
        assert (got.min(), got.max()) == (0, 255)


def test_a_constant_deep_image_is_black_and_black_is_accepted():
    assert not images.read(opencv(np.full((4, 5), 700, np.uint16), ".png")).any()
    assert not images.read(images.encode_png(np.zeros((4, 5), np.uint8))).any()
    assert (images.read(images.encode_png(np.full((4, 5), 9, np.uint8))) == 9).all()


def test_white_is_zero_tiff_is_turned_at_any_depth(radiograph):
    np.testing.assert_array_equal(images.read(plain_tiff(radiograph, 0)), 255 - radiograph)
    deep = radiograph.astype(np.uint16) * 9
    up, down = images.read(plain_tiff(deep, 1)).astype(int), images.read(plain_tiff(deep, 0)).astype(int)
    assert np.abs(up + down - 255).max() <= 1


def test_alpha_is_dropped_not_composited(radiograph):
    clear = np.zeros_like(radiograph)
    for kind in ("PNG", "TIFF"):
        for layers in ([radiograph, clear], [radiograph, radiograph, radiograph, clear]):
            data = saved(Image.fromarray(np.dstack(layers)), kind)
            np.testing.assert_array_equal(images.read(data), radiograph)
    np.testing.assert_array_equal(images.read(np.dstack([radiograph, clear])), radiograph)


def test_palette_and_one_bit(radiograph):
    np.testing.assert_array_equal(images.read(saved(Image.fromarray(radiograph).convert("P"), "PNG")), radiograph)
    dots = radiograph > 128
    for data in (saved(Image.fromarray(dots), "PNG"), saved(Image.fromarray(dots), "TIFF"), dots):
        np.testing.assert_array_equal(images.read(data), dots * 255)


def test_colour_becomes_luma(radiograph):
    colour = np.dstack([radiograph, radiograph[::-1], 255 - radiograph])
    luma = colour @ np.array([0.299, 0.587, 0.114])
    for data in (saved(Image.fromarray(colour), "PNG"), saved(Image.fromarray(colour), "TIFF"), colour):
        assert np.abs(images.read(data) - luma).max() < 1.1  # libpng rounds down
    lossy = saved(Image.fromarray(colour), "JPEG", quality=95, subsampling=0)
    assert np.abs(images.read(lossy) - luma).mean() < 2


def test_orientation_tags_are_ignored(radiograph):
    exif = Image.Exif()
    exif[0x112] = 6
    image = Image.fromarray(radiograph)
    sideways = [saved(image, "JPEG", exif=exif), saved(image, "PNG", exif=exif)]
    sideways += [saved(im, "TIFF", tiffinfo={0x112: 6}) for im in (image, image.convert("RGB"))]
    for data in sideways:
        assert images.size(data) == radiograph.shape
        assert np.abs(images.read(data).astype(int) - radiograph).max() <= 12


def test_progressive_jpeg_with_a_long_header_and_a_thumbnail(radiograph, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd8 no \xff\xd9"
    data = saved(Image.fromarray(radiograph), "JPEG", quality=95, progressive=True, exif=exif)
    padded = data[:2] + (b"\xff\xe2\xff\xff" + b"\xff\xd9" + bytes(65531)) * 5 + data[2:] + bytes(20)
    path = tmp_path / "long.jpg"
    path.write_bytes(padded)
    assert len(padded) > images.HEAD_BYTES
    assert images.size(path) == radiograph.shape
    np.testing.assert_array_equal(images.read(path), images.read(data))
    with pytest.raises(ImageError, match="cut off"):
        images.read(padded[: -len(data) // 2])


def test_size_of_a_tiff_whose_directory_stands_last(tmp_path):
    noise = rng().integers(0, 256, (700, 600), dtype=np.uint8)
    path = tmp_path / "late.tif"
    path.write_bytes(opencv(noise, ".tif"))
    assert path.stat().st_size > images.HEAD_BYTES
    assert images.size(path) == (700, 600)


# ---- bad input ---------------------------------------------------------------------------------------------


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("a.txt", "hello")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"name,label\nfilm.png,1\n" * 9, "text, beginning"),
        (archive(), "zip archive"),
        (b"\x93NUMPY" + bytes(200), "something beginning"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "header is cut off"),
        (b"\x89PNG\r\n\x1a\n\0\0", "header is cut off"),
        (b"II*\0\x08\0\0\0\x01", "header is cut off"),
        (b"\x08\0", "not a JPEG"),
        (b"P5 3 2 15\n" + bytes(6), "PGM header is cut off or damaged"),
        (b"P5 3 # two\n2 255", "PGM header is cut off or damaged"),
        (b"P5 " + b"# # " * 5000, "PGM header is cut off or damaged"),
    ],
)
def test_what_is_no_image_is_named(content, message, tmp_path):
    path = tmp_path / "radiograph.png"
    path.write_bytes(content)
    for function in (images.read, images.size):
        with pytest.raises(ImageError, match=message) as error:
            function(path)
        assert str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        images.read(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        images.size(tmp_path)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".pgm"])
def test_cut_off_files_are_refused(radiograph, suffix, kept):
    data = opencv(cv2.resize(radiograph, (400, 300)), suffix)
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        images.read(data[: int(len(data) * kept)])


def test_a_tail_of_zeros_is_a_cut_off_file(radiograph):
    for data in (images.encode_jpeg(radiograph), images.encode_png(radiograph)):
        half = len(data) // 2
        with pytest.raises(ImageError, match="cut off"):
            images.read(data[:half] + bytes(len(data) - half))


def test_a_flipped_bit_in_a_png_is_found(radiograph):
    data = bytearray(images.encode_png(radiograph))
    data[len(data) // 2] ^= 4
    with pytest.raises(ImageError, match="damaged"):
        images.read(bytes(data))


def test_a_bomb_is_refused_before_decoding():
    data = bytearray(images.encode_png(np.zeros((8, 8), np.uint8)))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    assert images.size(bytes(data)) == (60_000, 60_000)
    with pytest.raises(ImageError, match="60000 x 60000 pixels, more than 100,000,000"):
        images.read(bytes(data))
    with pytest.raises(ImageError, match="more than"):
        images.read_crop(bytes(data), rng(), 32)


def test_the_limit_can_be_changed(radiograph, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="more than 100"):
        images.read(images.encode_jpeg(radiograph))


def test_nan_is_counted(radiograph):
    bad = radiograph.astype(np.float32)
    bad[3, :7] = np.nan
    bad[4, 0] = np.inf
    for source in (opencv(bad, ".tif"), bad):
        with pytest.raises(ImageError, match="8 of 30,000 pixels"):
            images.read(source)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 5), (2, 2, 2, 2)])
def test_arrays_that_are_no_image(shape):
    for function in (images.read, images.size):
        with pytest.raises(ImageError, match="is not an image; expected numbers"):
            function(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="is not an image; expected numbers"):
        images.read(np.zeros((4, 4), complex))


@pytest.mark.parametrize("cut", range(0, 700, 23))
def test_a_header_cut_anywhere_gives_an_image_error(radiograph, cut):
    for data in (images.encode_jpeg(radiograph), images.encode_png(radiograph), plain_tiff(radiograph, 1)):
        with pytest.raises(ImageError):
            images.read(data[:cut])


# ---- geometry ----------------------------------------------------------------------------------------------


def test_the_box_lies_inside_and_keeps_to_its_ranges():
    generator = rng(1)
    for _ in range(500):
        box = images.random_resized_box(300, 400, generator, (0.3, 0.6), (0.8, 1.25))
        assert 0 <= box.top <= 300 - box.height
        assert 0 <= box.left <= 400 - box.width
        assert 0.29 < box.height * box.width / 120_000 < 0.61
        assert 0.78 < box.width / box.height < 1.27


def test_box_statistics_are_those_of_the_formula():
    """Uniform area of mean 0.6 (less the few draws that do not fit), log-uniform aspect of median 1."""
    generator = rng(2)
    boxes = [images.random_resized_box(1000, 1000, generator, (0.2, 0.6)) for _ in range(4000)]
    assert np.mean([b.height * b.width / 1e6 for b in boxes]) == pytest.approx(0.4, abs=0.01)
    assert np.median([b.width / b.height for b in boxes]) == pytest.approx(1.0, abs=0.02)
    share = np.mean([b.left / (1000 - b.width) for b in boxes])
    assert share == pytest.approx(0.5, abs=0.02)


def test_the_central_square_leaves_as_much_on_either_side():
    assert images.center_box(100, 70) == Box(15, 0, 70, 70)
    assert images.center_box(70, 105) == Box(0, 17, 70, 70)  # the odd pixel is left on the right
    assert images.center_box(64, 64) == Box(0, 0, 64, 64)


def test_only_a_dicom_file_says_whose_it_is(radiograph):
    header = {"PatientID": "P7", "StudyInstanceUID": "1.2.3"}
    known = images.identity(images.open_image(dicom_bytes(radiograph, **header)))
    assert known == {"patient_id": "P7", "study_id": "1.2.3"}
    assert images.identity(images.open_image(images.encode_png(radiograph))) == {}
    assert images.identity(radiograph) == {}


def test_a_png_whose_pixels_cannot_be_unpacked_is_refused(radiograph):
    """Its chunks are whole and match their checksums, but what is in them is not compressed data."""
    png = images.encode_png(radiograph)
    start = png.index(b"IDAT") - 4
    data = b"IDAT" + bytes(100)
    broken = (
        png[:start]
        + struct.pack(">I", 100)
        + data
        + struct.pack(">I", zlib.crc32(data))
        + png[png.index(b"IEND") - 4 :]
    )
    with pytest.raises(ImageError, match="damaged, or a kind of PNG that OpenCV cannot decode"):
        images.read(broken)


def test_by_area_alone_a_jpeg_is_decoded_smaller(large):
    jpeg = images.encode_jpeg(large)
    for method, min_side in (("area", 3 * 96), ("bilinear", None), ("bicubic", None)):
        expected = images.resize(images.read(jpeg, min_side), 96, 96, method)
        np.testing.assert_array_equal(images.eval_image(jpeg, 96, method=method), expected)
    smaller = images.resize(images.read(jpeg, 3 * 96), 96, 96, "bilinear")
    assert not np.array_equal(images.eval_image(jpeg, 96, method="bilinear"), smaller)


def test_box_falls_back_to_the_centre():
    assert images.random_resized_box(10, 1000, rng(), (0.9, 1.0)) == Box(0, 493, 10, 13)
    assert images.random_resized_box(1000, 9, rng(), (0.9, 1.0)) == Box(494, 0, 12, 9)
    assert images.random_resized_box(100, 100, rng(), (5.0, 6.0)) == Box(0, 0, 100, 100)


def test_same_seed_same_box_and_no_global_generator():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert images.random_resized_box(90, 70, rng(7)) == images.random_resized_box(90, 70, rng(7))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (2, 900)])
def test_thin_images_can_be_read_and_cropped(shape):
    image = rng().integers(0, 256, shape, dtype=np.uint8)
    for data in (images.encode_png(image), images.encode_jpeg(image)):
        assert images.read(data, min_side=1).ndim == 2
        assert images.read(data).shape == shape
        assert images.read_crop(data, rng(), 32).shape == (32, 32)
    assert images.random_crop(image, rng(), 16).shape == (16, 16)
    assert images.fit(image, 64)[0].shape == (64, 64)


def test_crop_flip_and_center(radiograph):
    np.testing.assert_array_equal(images.crop(radiograph, Box(3, 5, 20, 30)), radiograph[3:23, 5:35])
    np.testing.assert_array_equal(images.flip(radiograph), radiograph[:, ::-1])
    assert images.flip(radiograph).flags.c_contiguous
    assert images.center_box(150, 200) == Box(0, 25, 150, 150)
    for box in (Box(-1, 0, 5, 5), Box(0, 0, 151, 5), Box(0, 196, 5, 5), Box(0, 0, 0, 5)):
        with pytest.raises(ValueError, match="does not lie"):
            images.crop(radiograph, box)


def test_resize_averages_when_shrinking_and_is_cubic_when_enlarging(radiograph):
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    assert np.abs(images.resize(checks.astype(np.uint8), 16, 16).astype(int) - 127.5).max() <= 1
    expected = cv2.resize(radiograph, (400, 300), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(images.resize(radiograph, 300, 400), expected)
    assert images.resize(radiograph, 50, 400).shape == (50, 400)
    np.testing.assert_array_equal(images.resize(radiograph, *radiograph.shape), radiograph)


def test_fit_keeps_the_whole_image_and_its_shape(radiograph):
    square, box = images.fit(radiograph, 64)
    assert (square.shape, box) == ((64, 64), Box(8, 0, 48, 64))
    np.testing.assert_array_equal(images.crop(square, box), images.resize(radiograph, 48, 64))
    assert not square[:8].any()
    assert not square[56:].any()
    padded, box = images.pad_to_square(radiograph)
    assert padded.shape == (200, 200)
    np.testing.assert_array_equal(images.crop(padded, box), radiograph)


# ---- decoding at a reduced scale ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(radiograph) -> np.ndarray:
    return images.resize(radiograph, 1203, 1601)


@pytest.mark.parametrize(
    ("min_side", "height"), [(None, 1203), (1203, 1203), (602, 1203), (601, 602), (300, 301), (9, 151)]
)
def test_reduced_decoding_keeps_the_shorter_side(large, min_side, height):
    assert images.read(images.encode_jpeg(large), min_side).shape[0] == height
    assert images.read(images.encode_png(large), min_side).shape == large.shape


def test_read_crop_shows_the_same_part_at_any_scale(large):
    jpeg, png = images.encode_jpeg(large, 100), images.encode_png(large)
    for seed in range(20):
        from_jpeg = images.read_crop(jpeg, rng(seed), 96).astype(int)
        np.testing.assert_array_equal(images.read_crop(png, rng(seed), 96), images.random_crop(large, rng(seed), 96))
        assert np.abs(from_jpeg - images.random_crop(large, rng(seed), 96)).mean() < 1.5


def test_a_filter_that_is_read_from_a_file_is_that_of_the_code(large):
    """A word of its own, not the one that stands in the code: the JPEG is decoded at the same reduced size."""
    jpeg = images.encode_jpeg(large)
    for word in ("area", "bilinear"):
        expected = images.read_crop(jpeg, rng(3), 96, method=word)
        np.testing.assert_array_equal(images.read_crop(jpeg, rng(3), 96, method="".join(word)), expected)
        expected = images.eval_image(jpeg, 96, method=word)
        np.testing.assert_array_equal(images.eval_image(jpeg, 96, method="".join(word)), expected)


def test_read_crop_never_decodes_below_the_size_wanted(large, monkeypatch):
    seen = []
    resize = images.resize
    monkeypatch.setattr(images, "resize", lambda image, *to: seen.append(image.shape) or resize(image, *to))
    jpeg = images.encode_jpeg(large)
    for seed in range(40):
        images.read_crop(jpeg, rng(seed), 96)
    assert min(min(shape) for shape in seen) >= 96
    assert max(max(shape) for shape in seen) < 300  # and no more than twice of what is needed, but for aspect


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(60, 70), (37, 200), (300, 400), (150, 200)])
def test_the_published_filters_are_those_of_torch_with_antialiasing(radiograph, method, height, width):
    """Another library's filters: they widen with the factor of shrinking, on one side or on both."""
    image = torch.from_numpy(radiograph)[None, None].float()
    expected = F.interpolate(image, (height, width), mode=method, antialias=True).clamp(0, 255)[0, 0].numpy()
    resized = images.resize(radiograph, height, width, method)
    assert (resized.dtype, resized.shape) == (np.uint8, (height, width))
    assert np.abs(resized - expected).max() <= 1.5  # Pillow rounds after each direction


def test_the_published_filters_take_parts_of_images_and_read_nothing_beside_them(radiograph):
    part = images.crop(radiograph, Box(10, 20, 80, 60))  # a view
    np.testing.assert_array_equal(
        images.resize(part, 40, 30, "bilinear"), images.resize(np.ascontiguousarray(part), 40, 30, "bilinear")
    )


def test_with_a_published_filter_a_crop_comes_from_the_image_at_full_size(large):
    jpeg = images.encode_jpeg(large)
    whole = images.read(jpeg)
    for seed in range(5):
        expected = images.random_crop(whole, rng(seed), 96, method="bilinear")
        np.testing.assert_array_equal(images.read_crop(jpeg, rng(seed), 96, method="bilinear"), expected)
        np.testing.assert_array_equal(images.read_crop(whole, rng(seed), 96, method="bilinear"), expected)


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(512, 512), (400, 600)])
def test_crops_are_as_large_as_those_of_torchvision(area, height, width):
    """Its RandomResizedCrop is what the published code crops with; 4,000 draws of either."""
    from torchvision.transforms import RandomResizedCrop

    generator, image = rng(1), torch.zeros(1, height, width)
    ours = [images.random_resized_box(height, width, generator, area) for _ in range(4_000)]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = [RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(4_000)]
    shares = np.array([b.height * b.width for b in ours]) / (height * width)
    expected = np.array([h * w for _, _, h, w in theirs]) / (height * width)
    assert shares.mean() == pytest.approx(expected.mean(), abs=5 * 0.27 * (2 / 4_000) ** 0.5)
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), np.quantile(expected, [0.1, 0.5, 0.9]), atol=0.03)


def test_scaled_boxes_stay_inside_and_large_enough():
    generator = rng(3)
    for _ in range(3000):
        height, width = generator.integers(1, 400, 2)
        box = images.random_resized_box(int(height), int(width), generator)
        for by in (1, 2, 4, 8):
            small = images._scaled(box, by)
            assert small.height >= box.height // by
            assert small.width >= box.width // by
            assert small.top + small.height <= -(-height // by)
            assert small.left + small.width <= -(-width // by)


def test_threads_read_the_same(radiograph):
    data = images.encode_jpeg(radiograph)
    with ThreadPoolExecutor(4) as pool:
        crops = list(pool.map(lambda seed: images.read_crop(data, rng(seed % 5), 64), range(40)))
    for i, image in enumerate(crops):
        np.testing.assert_array_equal(image, crops[i % 5])


def test_only_grey_bytes_are_written(radiograph):
    for bad in (radiograph.astype(float), np.dstack([radiograph] * 3)):
        with pytest.raises(ImageError, match="uint8 can be written"):
            images.encode_png(bad)


# ---- real images -----------------------------------------------------------------------------------------


def test_real_images_agree_with_pillow(shared_data):
    files = sorted((shared_data / "covid-cxr" / "images").glob("*.jpg"))[::60] + sorted((shared_data / "raw").iterdir())
    for file in files:
        with Image.open(file) as image:
            expected = np.asarray(image.convert("L")).astype(int)
        assert images.size(file) == expected.shape
        assert np.abs(images.read(file) - expected).mean() < 1


def test_a_bigtiff_header():
    entry = struct.Struct("<HHQQ")
    body = entry.pack(256, 4, 1, 30) + entry.pack(257, 3, 1, 20)
    data = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2) + body + bytes(8)
    header = parse(data, "big.tif", "tiff")
    assert (header.height, header.width) == (20, 30)


def tiff(*entries: tuple[int, int, int]) -> bytes:
    """A grey TIFF of 20 x 30 pixels, uncompressed; `entries` are tag, type and value of its size."""
    rest = ((258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 20), (279, 4, 600))
    packed = b"".join(struct.pack("<HHIi", tag, kind, 1, value) for tag, kind, value in (*entries, *rest))
    count = struct.pack("<H", len(entries) + len(rest))
    return b"II*\0" + struct.pack("<I", 608) + bytes(range(150)) * 4 + count + packed + bytes(4)


@pytest.mark.parametrize(
    "size",
    [
        ((256, 4, 30), (257, 4, 20)),
        ((256, 4, 30), (256, 4, 2), (257, 4, 20), (257, 4, 3)),  # said twice
        ((256, 9, 30), (257, 8, 20)),  # signed
    ],
)
def test_the_size_of_a_tiff_is_the_one_it_is_decoded_to(size, monkeypatch):
    """Else a bomb that gives two sizes passes by the small one."""
    image = images.read(tiff(*size))
    np.testing.assert_array_equal(image.ravel(), [*range(150)] * 4)
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(ImageError, match="the header says 20 x 30 pixels"):
        images.read(tiff(*size))


def test_a_large_signed_size_is_seen_whole():
    assert images.size(tiff((256, 9, 100_000), (257, 9, 100_000))) == (100_000, 100_000)
    with pytest.raises(ImageError, match="has 20 x -30 pixels"):
        images.size(tiff((256, 9, -30), (257, 9, 20)))


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32, np.float64, np.int32])
def test_scaling_some_rows_at_a_time_gives_what_the_formula_gives(monkeypatch, kind):
    monkeypatch.setattr(images, "SCALED", 100)
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(37, 11)) * 1000 + (3000 if kind == np.uint16 else 0)).astype(kind)
    exact = values.astype(np.float64)
    share = (exact - exact.min()) / (exact.max() - exact.min())
    assert np.abs(images.to_uint8(values).astype(int) - share * 255).max() <= 0.5 + 1e-3
    assert np.abs(images.to_uint8(values, inverted=True).astype(int) - (1 - share) * 255).max() <= 0.5 + 1e-3


def test_scaling_takes_little_memory_beside_the_image():
    import tracemalloc

    deep = np.random.default_rng(0).integers(0, 65536, (3000, 4000), dtype=np.uint16)
    tracemalloc.start()
    images.to_uint8(deep)
    images.to_uint8(deep.astype(np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48_000_000 + 12_000_000 + 110_000_000  # the float image, the result, and some rows in float64
