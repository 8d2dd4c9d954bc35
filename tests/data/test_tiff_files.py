"""TIFF in every layout of samples, written by tifffile and Pillow: right values, or refused where data are missing."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrm.data import images, tiff_files
from mrm.system.errors import ImageError

# 48 x 64, different in each pixel of a row and between rows
RAMP = np.arange(100, 4196, 64)[None] + np.arange(48)[:, None]
LUMA = np.array([0.299, 0.587, 0.114])
TYPES = ["u1", "i1", "f2", "u2", "i2", "u4", "i4", "f4", "f8"]


def values_of(kind: str) -> np.ndarray:
    """The ramp in this type; signed ones are partly negative."""
    ramp = RAMP // 32 if kind[1] == "1" else RAMP
    lowest = {"i": -64 if kind[1] == "1" else -2000, "f": -2000.5, "u": 0}[kind[0]]
    return (ramp + lowest).astype(kind)


def layers_of(grey: np.ndarray, samples: int) -> np.ndarray:
    """(H, W, samples): grey, grey with alpha, colour, colour with alpha; alpha is at its greatest value."""
    alpha = np.full_like(grey, 1 if grey.dtype.kind == "f" else np.iinfo(grey.dtype).max)
    colour = [grey, grey[:, ::-1], grey[::-1]]
    return np.dstack({1: [grey], 2: [grey, alpha], 3: colour, 4: [*colour, alpha]}[samples])


def expected_of(layers: np.ndarray) -> np.ndarray:
    """Luma without alpha; 8-bit unsigned as it is, others from minimum to maximum."""
    grey = layers[..., 0].astype(float) if layers.shape[2] < 3 else layers[..., :3] @ LUMA
    return grey if layers.dtype == np.uint8 else (grey - grey.min()) * 255 / (grey.max() - grey.min())


def written(layers: np.ndarray, planes: bool, **options) -> bytes:
    file, samples = io.BytesIO(), layers.shape[2]
    if samples > 1:
        options |= {"planarconfig": "separate" if planes else "contig"}
        options |= {"extrasamples": ["unassalpha"]} if samples in (2, 4) else {}
    content = np.moveaxis(layers, 2, 0) if planes else layers[..., 0] if samples == 1 else layers
    tifffile.imwrite(file, content, photometric="rgb" if samples > 2 else "minisblack", **options)
    return file.getvalue()


def close(data: bytes, expected: np.ndarray) -> None:
    assert np.abs(images.read(data) - expected).max() <= 1.1  # luma of 8-bit colour is rounded by parts
    assert images.size(data) == expected.shape


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", TYPES)
def test_every_layout_of_samples(kind, samples, planes):
    """In strips and tiles, either byte order, compressed or not, BigTIFF or not."""
    layers = layers_of(values_of(kind), samples)
    expected = expected_of(layers)
    for order, tile, zipped, big in itertools.product("<>", (None, (32, 16)), (None, "zlib"), (False, True)):
        rows = {"tile": tile} if tile else {"rowsperstrip": 7}
        close(
            written(layers, planes and samples > 1, byteorder=order, compression=zipped, bigtiff=big, **rows), expected
        )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_differences_between_pixels_are_added_up_by_sample(bits, tiled, order):
    """Predictor 2 (TIFF 6.0, section 14), which tifffile leaves to another library: differenced here, by tile."""
    layers = layers_of(values_of(f"u{bits // 8}"), 4)
    parts = np.split(layers, 4, axis=1) if tiled else [layers]
    stored = np.concatenate([np.diff(part, axis=1, prepend=part[:, :1] * 0) for part in parts], axis=1)
    rows = {"tile": (48, 16)} if tiled else {}
    plain = written(stored, False, byteorder=order, compression="zlib", **rows)
    found = tiff_files.directory(plain)
    entries = {**found.entries, tiff_files.PREDICTOR: tiff_files.Entry(3, 1, struct.pack(order + "H", 2))}
    close(bytes(tiff_files.with_directory(plain, found, entries)), expected_of(layers))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [1, 3])
def test_floating_point_differences_are_added_up(kind, order, samples):
    """Predictor 3 (Adobe's TIFF technical note 3): the bytes of a row by significance, then differenced, here by hand."""
    layers = layers_of(values_of(kind), samples)
    size = layers.dtype.itemsize
    big = np.ascontiguousarray(layers.astype(layers.dtype.newbyteorder(">"))).view("u1").reshape(48, 64 * samples, size)
    by_rank = big.swapaxes(1, 2).reshape(48, 64 * size, samples)
    stored = np.diff(by_rank, axis=1, prepend=by_rank[:, :1] * 0).reshape(48, -1)
    as_floats = np.ascontiguousarray(stored).view(layers.dtype.newbyteorder(order)).reshape(48, 64, samples)
    plain = written(as_floats, False, byteorder=order, compression="zlib")
    found = tiff_files.directory(plain)
    entries = {**found.entries, tiff_files.PREDICTOR: tiff_files.Entry(3, 1, struct.pack(order + "H", 3))}
    close(bytes(tiff_files.with_directory(plain, found, entries)), expected_of(layers))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits(bits):
    """Values without gaps between them, the highest bit first, rows on whole bytes: written by hand."""
    grey = 2 * RAMP[:, :61] >> (14 - bits)
    digits = (grey[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(digits.reshape(48, -1), axis=1).tobytes()
    fields = [(256, 61), (257, 48), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4)]
    fields += [(277, 1), (278, 48), (279, len(rows))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    close(b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + rows, expected_of(grey[..., None]))


def test_alpha_is_not_multiplied_whatever_it_is():
    for kind in ("u1", "u2"):
        layers = layers_of(values_of(kind), 2)
        layers[..., 1] = 7
        for name in ("unassalpha", "assocalpha", "unspecified"):
            file = io.BytesIO()
            tifffile.imwrite(file, layers, photometric="minisblack", planarconfig="contig", extrasamples=[name])
            close(file.getvalue(), expected_of(layers))


def test_palettes_and_few_bits_by_pillow():
    grey = values_of("u1")
    for mode in ("P", "L", "1"):
        file, image = io.BytesIO(), Image.fromarray(grey).convert(mode)
        image.save(file, "TIFF")
        close(file.getvalue(), np.asarray(image.convert("L"), float))
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16) * 257
    file = io.BytesIO()
    tifffile.imwrite(file, grey, photometric="palette", colormap=colours)
    close(file.getvalue(), (colours.T[grey] // 257) @ LUMA)


def test_white_is_zero_at_several_depths():
    for kind in ("u1", "u2", "f4"):
        grey, file = values_of(kind), io.BytesIO()
        tifffile.imwrite(file, grey, photometric="miniswhite")
        close(file.getvalue(), 255 - expected_of(grey[..., None]))


def test_grey_with_alpha_in_a_16_bit_png():
    """The same kind in another format: written by hand, since no writer at hand does (PNG, colour type 4)."""
    layers = layers_of(values_of("u2"), 2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in layers)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    head = struct.pack(">IIBBBBB", 64, 48, 16, 4, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    close(png, expected_of(layers))


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_strips_that_stop_early_are_refused(compression):
    """OpenCV fills the rest with black and says nothing; a JPEG strip has its end marker all the same."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 200)).astype(np.uint8)).save(
        file, "TIFF", compression=compression
    )
    whole = file.getvalue()
    assert images.read(whole).shape == (150, 200)
    found = tiff_files.directory(whole)
    offset, count = found.values(273)[0], found.values(279)[0]
    damaged = bytearray(whole)
    damaged[offset + count // 2 : offset + count] = b"\xff\xd9" + bytes(count - count // 2 - 2)
    with pytest.raises(ImageError, match=r"damaged|cut off"):
        images.read(bytes(damaged))


@pytest.mark.parametrize("kind", ["u2", "f4"])
@pytest.mark.parametrize("samples", [1, 2])
def test_deep_strips_that_stop_early_are_refused(kind, samples):
    rough = np.random.default_rng(0).integers(0, 4000, (48, 64, samples)).astype(kind)
    whole = written(rough, False, compression="zlib")
    found = tiff_files.directory(whole)
    offset, count = found.values(273)[0], found.values(279)[0]
    with pytest.raises(ImageError, match=r"damaged|cut off"):
        images.read(whole[: offset + count // 2] + bytes(count - count // 2) + whole[offset + count :])


def test_what_is_not_read_is_refused_in_words():
    plain = written(layers_of(values_of("u2"), 3), False)
    found = tiff_files.directory(plain)
    for tag, values, message in (
        (tiff_files.BITS, (16, 16, 8), "the samples of a pixel differ in depth"),
        (tiff_files.COMPRESSION, (34892,), "a kind of TIFF that cannot be decoded"),
    ):
        entry = tiff_files.Entry(3, len(values), struct.pack(f"<{len(values)}H", *values))
        with pytest.raises(ImageError, match=message):
            images.read(bytes(tiff_files.with_directory(plain, found, {**found.entries, tag: entry})))


def test_several_deep_samples_that_take_too_much_memory_are_refused(monkeypatch):
    monkeypatch.setattr(tiff_files, "MAX_BYTES", 1 << 10)
    with pytest.raises(ImageError, match="MiB, more than"):
        images.read(written(layers_of(values_of("u2"), 3), False))
