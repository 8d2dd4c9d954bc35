"""Packing: what goes in comes out, no file is half-written, and a packing that was stopped resumes to the same bytes."""

import csv
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mrm import cli
from mrm.data import image_encoding, images, masks
from mrm.data.config import PackConfig
from mrm.data.image_encoding import encode, shrunk
from mrm.data.packing import of_records, open_source, pack
from mrm.data.records import Record, Records
from mrm.data.shard_rows import read_all
from mrm.runs import packing
from mrm.system.errors import ImageError, MaskError, OutputError, PackError, RecordError, ShardError, UnreachableError
from tests.support.dicom_files import dataset

SMALL = PackConfig(size=64, rows=20)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def packed(phantoms, tmp_path_factory) -> Path:
    """The 48 phantoms at 64 pixels, in three files."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(open_source(phantoms / "records.csv"), out, SMALL, workers=1)
    return out


# What is in it ---------------------------------------------------------------------------------------


def test_every_column_of_the_records_comes_back(phantoms, packed):
    for classes in ((), None, ("effusion", "pneumothorax")):
        before, after = Records.load(phantoms / "records.csv", classes), Records.load(packed, classes)
        assert after.fingerprint() == before.fingerprint()
        assert after.classes == before.classes
        assert [r.extra for r in after] == [r.extra for r in before]
        assert np.array_equal(after.labels_NC, before.labels_NC, equal_nan=True)
    assert Records.load(packed / "shards.json").fingerprint() == Records.load(packed).fingerprint()


def test_an_image_is_what_shrinking_and_encoding_it_gives(phantoms, packed):
    for before, after in zip(Records.load(phantoms / "records.csv"), Records.load(packed), strict=True):
        image = images.resize(images.read(before.image, min_side=64), 64, 64)
        assert bytes(after.image.read_bytes()) == images.encode_jpeg(image, SMALL.quality)


def test_the_index_says_how_it_was_made(phantoms, packed):
    index = json.loads((packed / "shards.json").read_text())
    assert (index["version"], index["rows"], index["failed"], index["size"]) == (1, 48, 0, 64)
    assert (index["format"], index["quality"]) == ("jpeg", 90)
    assert [f["rows"] for f in index["files"]] == [20, 20, 8]
    assert [f["bytes"] for f in index["files"]] == [(packed / f["name"]).stat().st_size for f in index["files"]]
    assert index["fingerprint"] == Records.load(phantoms / "records.csv").fingerprint()
    assert sorted(p.name for p in packed.iterdir()) == [
        *("failures.csv", "packing.json", "records.parquet"),
        *("shard-00000.arrow", "shard-00001.arrow", "shard-00002.arrow", "shards.json"),
    ]


def test_any_arrow_reader_opens_a_file_of_images(packed):
    with pyarrow.memory_map(str(packed / "shard-00001.arrow")) as file:
        table = pyarrow.ipc.open_file(file).read_all()
        row = table.slice(3, 1).to_pylist()[0]
    record = Records.load(packed)[23]
    assert (row["image_path"], row["report_content"]) == (record.name, record.report)
    assert row["image_bytes"] == bytes(record.image.read_bytes())


def test_shapes_are_kept_and_small_images_are_not_enlarged():
    assert shrunk(2544, 3056, 512) == (512, 615)
    assert shrunk(3056, 2544, 512) == (615, 512)
    assert shrunk(512, 900, 512) == (512, 900)
    assert shrunk(100, 90, 512) == (100, 90)
    assert shrunk(5000, 3, 512) == (5000, 3)


@pytest.mark.parametrize("kind", ["jpeg", "png", "pgm"])
def test_every_format_becomes_one_channel_of_the_requested_size(tmp_path, kind):
    rng = np.random.default_rng(0)
    colour = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)
    deep = (colour[..., 0].astype(np.uint16) << 8) + 5
    Image.fromarray(colour).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(colour).save(tmp_path / "b.png")
    cv2.imwrite(str(tmp_path / "c.png"), deep)
    cv2.imwrite(str(tmp_path / "d.tif"), deep)
    names = ["a.jpg", "b.png", "c.png", "d.tif", *_dicom(tmp_path, deep)]
    records = Records([Record(tmp_path / name) for name in names])
    pack(of_records(records), tmp_path / "out", PackConfig(60, kind), workers=1)
    for record in Records.load(tmp_path / "out"):
        data = record.image.read_bytes()
        assert Image.open(io.BytesIO(data)).mode == "L"
        assert images.read(record.image).shape == (60, 80)
        exact = images.resize(images.read(record.name), 60, 80).astype(int)
        assert np.abs(images.read(record.image) - exact).max() <= (8 if kind == "jpeg" else 0)


def _dicom(folder: Path, pixels: np.ndarray) -> list[str]:
    dataset(pixels).save_as(folder / "e.dcm", enforce_file_format=True)
    return ["e.dcm"]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)), min_size=1, max_size=6),
    st.integers(1, 3),
    st.sampled_from(["png", "pgm"]),
)
def test_whatever_is_packed_without_loss_is_read_as_it_was(tmp_path, pixels, rows, kind):
    records = Records([Record(images.encode_png(image), name=f"{i}.png") for i, image in enumerate(pixels)])
    out = tmp_path / str(len(list(tmp_path.iterdir())))
    pack(of_records(records), out, PackConfig(40, kind, rows=rows), workers=1)
    packed = Records.load(out)
    assert [record.name for record in packed] == [record.name for record in records]
    for record, image in zip(packed, pixels, strict=True):
        np.testing.assert_array_equal(images.read(record.image), image)


def test_real_dicom_and_large_images_are_packed(shared_data, tmp_path):
    files = sorted(p for folder in ("dicom", "raw") for p in (shared_data / folder).iterdir() if p.is_file())
    files = [f for f in files if f.suffix.lower() in (".dcm", ".jpg", ".png")]
    result = pack(of_records(Records([Record(f) for f in files])), tmp_path / "out", PackConfig(256), workers=1)
    assert not result.failures
    assert result.index.rows == len(files) > 3
    shorter = [min(images.read(f).shape) for f in files]
    packed = [min(images.read(r.image).shape) for r in Records.load(tmp_path / "out")]
    assert packed == [min(side, 256) for side in shorter]  # a smaller image stays as it is
    assert max(shorter) > 256 > min(shorter)


def test_names_that_occur_twice_stay_two_records(phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")
    twice = Records([records[0], replace(records[0], report="Another reading."), records[1]])
    pack(of_records(twice), tmp_path / "out", SMALL, workers=1)
    after = Records.load(tmp_path / "out")
    assert after.fingerprint() == twice.fingerprint()
    assert after[1].report == "Another reading."
    assert after[0].image.read_bytes() == after[1].image.read_bytes()


def test_a_label_list_keeps_its_labels_by_place(phantoms, tmp_path):
    before = Records.load(phantoms / "records.csv", ("effusion", "pneumothorax"))
    before.to_list(phantoms / "list.txt")
    pack(open_source(phantoms / "list.txt"), tmp_path / "a", SMALL, workers=1)
    assert Records.load(tmp_path / "a").classes == ("label0", "label1")
    after = Records.load(tmp_path / "a", ("Effusion", "Pneumothorax"))
    assert after.classes == ("Effusion", "Pneumothorax")
    assert np.array_equal(after.labels_NC, before.labels_NC)
    with pytest.raises(RecordError, match="packed from a list of 2 labels, expected 1"):
        Records.load(tmp_path / "a", ("Effusion",))
    pack(open_source(phantoms / "list.txt", classes=("x", "y")), tmp_path / "b", SMALL, workers=1)
    assert Records.load(tmp_path / "b").classes == ("x", "y")
    with pytest.raises(RecordError, match="no column z"):
        Records.load(tmp_path / "b", ("x", "z"))


def test_shards_can_be_packed_smaller(packed, tmp_path):
    pack(open_source(packed), tmp_path / "out", PackConfig(32), workers=1)
    after = Records.load(tmp_path / "out")
    assert after.fingerprint() == Records.load(packed).fingerprint()
    assert images.size(after[0].image) == (32, 32)


# What cannot be read ---------------------------------------------------------------------------------


@pytest.fixture
def flawed(phantoms, tmp_path) -> Records:
    """Five records: the second is cut off, the fourth is absent."""
    records = list(Records.load(phantoms / "records.csv")[:5])
    (tmp_path / "cut.jpg").write_bytes(records[1].image.read_bytes()[:900])
    records[1] = Record(tmp_path / "cut.jpg", name="cut.jpg")
    records[3] = Record(tmp_path / "absent.jpg", name="absent.jpg")
    return Records(records)


def test_failures_are_left_out_listed_and_counted(flawed, tmp_path, capsys):
    flawed.to_csv(tmp_path / "records.csv")
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"2 images could not be read, see .*failures.csv; first error: .*cut.jpg"):
        packing.pack(tmp_path / "records.csv", out, SMALL, workers=1, on_error="skip")
    assert "3 images in 1 files" in (output := capsys.readouterr().out)
    assert "2 left out" in output
    with open(out / "failures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(r["image_path"]).name for r in rows] == ["cut.jpg", "absent.jpg"]
    assert "cut off" in rows[0]["reason"]
    assert "no such file" in rows[1]["reason"]
    kept = Records.load(out)
    assert json.loads((out / "shards.json").read_text())["failed"] == 2
    for before, after in zip([flawed[i] for i in (0, 2, 4)], kept, strict=True):
        assert (after.report, after.patient) == (before.report, before.patient)
        assert bytes(after.image.read_bytes()) == encode(before.image, SMALL).image


def test_a_set_without_a_readable_image_is_refused_and_leaves_nothing(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    records = Records([Record(tmp_path / f"{i}.jpg") for i in range(3)])
    with pytest.raises(PackError, match=r"none of the 3 images could be read; first error: .*0\.jpg: not a JPEG"):
        pack(of_records(records), tmp_path / "out", SMALL, workers=1)
    assert not list((tmp_path / "out").iterdir())


def test_an_absent_image_keeps_its_file_of_images_open_until_it_is_there(flawed, phantoms, tmp_path):
    """Files of two images: 0 and 1, 2 and the absent 3, and 4 alone."""
    source, config, out = of_records(flawed), replace(SMALL, rows=2), tmp_path / "out"
    for _ in range(2):
        with pytest.raises(
            UnreachableError, match=r"^1 images could not be reached, .*absent\.jpg: no such file.*--on-error skip"
        ):
            pack(source, out, config, workers=1)
        assert sorted(p.name for p in out.iterdir()) == [
            "packing.json",
            *(f"shard-0000{n}.arrow{end}" for n in (0, 2) for end in ("", ".json")),
        ]
    image = sorted((phantoms / "images").iterdir())[3]
    (tmp_path / "absent.jpg").write_bytes(image.read_bytes())
    assert pack(source, out, config, workers=1).index.rows == 4
    with open(out / "failures.csv", newline="") as file:
        assert [Path(row["image_path"]).name for row in csv.DictReader(file)] == ["cut.jpg"]
    assert [bytes(r.image.read_bytes()) for r in Records.load(out)][2] == encode(image, SMALL).image


@pytest.mark.parametrize("missing", ["stop", "skip"])
def test_a_folder_of_images_that_goes_away_stops_a_packing(phantoms, tmp_path, monkeypatch, missing):
    share, aside = tmp_path / "share", tmp_path / "aside"
    shutil.copytree(phantoms / "images", share)
    source = of_records(Records([Record(path) for path in sorted(share.iterdir())]))
    whole = pack(source, tmp_path / "whole", replace(SMALL, rows=8), workers=1)
    real, count = image_encoding.encode, iter(range(100))

    def encode_until_it_goes(item, *options):
        if next(count) == 20:
            share.rename(aside)
        return real(item, *options)

    with monkeypatch.context() as patch:
        patch.setattr(image_encoding, "encode", encode_until_it_goes)
        with pytest.raises(UnreachableError, match=r"share: the folder of the images is not there"):
            pack(source, tmp_path / "out", replace(SMALL, rows=8), workers=1, missing=missing)
    aside.rename(share)
    again = pack(source, tmp_path / "out", replace(SMALL, rows=8), workers=1)
    assert again.index == whole.index
    assert again.index.failed == 0


def test_an_absent_mask_is_out_of_reach_too(tmp_path):
    mask = masks.MaskedImage("a", tmp_path / "a.png", tmp_path / "gone.png")
    with pytest.raises(UnreachableError, match=r"gone\.png: no such file"):
        masks.read_mask(mask)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 4}, "size is 4"),
        ({"quality": 101}, "quality is 101"),
        ({"rows": 0}, "rows is 0"),
        ({"format": "gif"}, "'gif'"),
    ],
)
def test_settings_without_meaning_are_refused(wrong, message):
    with pytest.raises(PackError, match=message):
        PackConfig(**wrong)


def test_a_column_of_the_packed_images_name_is_refused(phantoms, tmp_path):
    record = Records.load(phantoms / "records.csv")[0]
    with pytest.raises(PackError, match="a column is called image_bytes"):
        pack(of_records(Records([replace(record, extra={"image_bytes": "x"})])), tmp_path / "out")


# The folder ------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_left_alone(phantoms, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"is not empty and holds no packing \(no packing\.json\); choose another --out"
    ):
        pack(open_source(phantoms / "records.csv"), tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="is a file, but a folder is needed"):
        pack(open_source(phantoms / "records.csv"), tmp_path / "notes.txt", SMALL)


def test_another_packing_is_not_mixed_in(phantoms, packed):
    source = open_source(phantoms / "records.csv")
    before = bytes_of(packed)
    with pytest.raises(OutputError, match=r"holds another packing \(quality: 90, now 80\)"):
        pack(source, packed, replace(SMALL, quality=80))
    with pytest.raises(OutputError, match=r"holds another packing \(records: "):
        pack(of_records(Records.load(phantoms / "records.csv")[:40]), packed, SMALL)
    assert pack(source, packed, SMALL).index.rows == 48
    assert bytes_of(packed) == before


def test_two_commands_do_not_write_one_folder(phantoms, tmp_path):
    source = open_source(phantoms / "records.csv")
    counts = []

    def second(done, n):
        with pytest.raises(OutputError, match="out: another process is writing here"):
            pack(source, tmp_path / "out", SMALL, workers=1)
        counts.append(done)

    pack(source, tmp_path / "out", SMALL, workers=1, progress=second)
    assert counts == [20, 40, 48]


def test_two_commands_that_start_at_once_do_not_write_one_folder(phantoms, tmp_path, monkeypatch):
    """The second looked into the folder just before the first wrote its plan there."""
    source, is_file = open_source(phantoms / "records.csv"), Path.is_file

    def second(done, n):
        with monkeypatch.context() as before:
            before.setattr(Path, "is_file", lambda path: path.name != "packing.json" and is_file(path))
            before.setattr(Path, "iterdir", lambda path: iter(()))
            with pytest.raises(OutputError, match="out: another process is writing here"):
                pack(source, tmp_path / "out", SMALL, workers=1)

    assert pack(source, tmp_path / "out", SMALL, workers=1, progress=second).index.rows == 48


def test_a_packing_that_was_stopped_resumes_to_the_same_bytes(phantoms, packed, tmp_path):
    """Stopped inside the second file: the first is kept as it is, the second is written anew."""
    source = open_source(phantoms / "records.csv")

    def stop(done, n):
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "out", SMALL, workers=1, progress=stop)
    assert sorted(bytes_of(tmp_path / "out")) == ["packing.json", "shard-00000.arrow", "shard-00000.arrow.json"]
    with pytest.raises(ShardError, match="expected a folder that `mrm pack` has finished"):
        read_all(tmp_path / "out")
    first = (tmp_path / "out" / "shard-00000.arrow").stat()
    seen = []
    pack(source, tmp_path / "out", SMALL, workers=1, progress=lambda done, n: seen.append(done))
    assert seen == [20, 40, 48]
    assert (tmp_path / "out" / "shard-00000.arrow").stat().st_mtime_ns == first.st_mtime_ns
    assert bytes_of(tmp_path / "out") == bytes_of(packed)


@pytest.mark.slow
def test_killed_outright_it_resumes_to_the_same_bytes_and_leaves_no_process(phantoms, packed, tmp_path):
    """SIGKILL once the first file is there; two processes encode."""
    records = Records.load(phantoms / "records.csv")
    Records(list(records) * 20).to_csv(tmp_path / "records.csv")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "records.csv"), "--out", str(out), "--size", "64", "--rows", "32", "--workers", "2"]
    with subprocess.Popen([sys.executable, "-m", "mrm", "pack", *arguments], start_new_session=True) as process:
        until = time.monotonic() + 300  # three processes start, on a machine that may have other work
        while not (out / "shard-00000.arrow.json").is_file() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert (out / "shard-00000.arrow.json").is_file()
    assert not (out / "shards.json").exists()
    until = time.monotonic() + 20
    while _alive(process.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert not _alive(process.pid), "processes that encode outlive the command"
    cli.main(["pack", *arguments[:-1], "1"])
    pack(open_source(tmp_path / "records.csv"), tmp_path / "whole", PackConfig(64, rows=32), workers=1)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def _alive(group: int) -> bool:
    """Whether a process of that group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_number_of_processes_changes_nothing(phantoms, packed, tmp_path):
    pack(open_source(phantoms / "records.csv"), tmp_path / "out", SMALL, workers=2)
    assert bytes_of(tmp_path / "out") == bytes_of(packed)


def test_a_full_disk_is_an_error_that_leaves_whole_files_and_can_be_resumed(phantoms, packed, tmp_path):
    """A limit on the size of files stands for the full disk: the system refuses to write more in the same way."""
    source = open_source(phantoms / "records.csv")
    config = replace(SMALL, rows=40)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(
            OutputError, match=r"out: cannot be written \(File too large\).*Free disk space .* the same command again"
        ):
            pack(source, tmp_path / "out", config, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(bytes_of(tmp_path / "out")) == ["packing.json"]
    assert pack(source, tmp_path / "out", config, workers=1).index.rows == 48


# The command -----------------------------------------------------------------------------------------


def test_the_command_packs_and_checks(phantoms, tmp_path, capsys):
    out = str(tmp_path / "out")
    cli.main(["pack", str(phantoms / "records.csv"), "--out", out, "--size", "32", "--format", "png", "--workers", "1"])
    assert "48 images in 1 files" in capsys.readouterr().out
    cli.main(["pack", "--check", out])
    assert "all 2 files are undamaged" in capsys.readouterr().out
    file = tmp_path / "out" / "shard-00000.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        cli.main(["pack", "--check", out])
    assert end.value.code == 2
    assert "1 of 2 files are damaged or missing" in (output := capsys.readouterr().err)
    assert "shard-00000.arrow" in output


@pytest.mark.parametrize("words", [[], ["."], ["--out", "x"], [".", "--out", "x", "--check", "."]])
def test_the_command_says_what_it_needs(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["pack", *words])
    assert end.value.code == 2
    assert "give RECORDS and --out DIR to pack, or --check DIR alone" in capsys.readouterr().err


# Segmentation folders --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outlined(tmp_path_factory) -> Path:
    """A segmentation folder: two splits, masks as palette, 0 and 255, run lengths."""
    root = tmp_path_factory.mktemp("outlined")
    rng = np.random.default_rng(0)
    for split, count in (("training", 5), ("validation", 3)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            height, width = (90, 70) if i % 2 else (60, 100)
            image = cv2.GaussianBlur(rng.integers(0, 256, (height, width), dtype=np.uint8), (0, 0), 2)
            mask = np.zeros((height, width), np.uint8)
            mask[20:40, 10 : 30 + i] = 255 * (i != 1)
            (root / "images" / split / f"{i}.png").write_bytes(images.encode_png(image))
            (root / "annotations" / split / f"{i}.png").write_bytes(images.encode_png(mask))
    (root / "images" / "test").mkdir()
    (root / "images" / "test" / "0.png").write_bytes(images.encode_png(image))
    (root / "annotations" / "test.csv").write_text(f"ImageId,EncodedPixels\n0,{masks.encode(mask)}\n")
    return root


def unpacked(folder: Path, out: Path) -> Path:
    """The images and masks of shards, as they were packed, as a segmentation folder."""
    part = read_all(folder)[1]
    rows = zip(part.columns["image_path"], part.columns["split"], part.images, part.masks, strict=True)
    for name, split, image, mask in rows:
        for kind, content in (("images", image), ("annotations", mask)):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
            (out / kind / split / name).write_bytes(content.read_bytes())
    return out


@pytest.mark.parametrize("config", [PackConfig(512), PackConfig(32), PackConfig(32, "png")])
def test_segmentation_shards_give_what_the_same_files_give(outlined, tmp_path, config):
    result = pack(open_source(outlined), tmp_path / "shards", config, workers=1)
    assert result.index.kind == "masks"
    assert result.index.rows == 9
    files = unpacked(tmp_path / "shards", tmp_path / "files")
    for split, count in (("training", 5), ("validation", 3), ("test", 1)):
        from_files, from_shards = masks.load(files, split), masks.load(tmp_path / "shards", split)
        assert len(from_shards) == count
        assert from_shards.lesion_is_255 == from_files.lesion_is_255
        assert np.array_equal(from_shards.areas_NC, from_files.areas_NC)
        assert from_shards.records().fingerprint() == from_files.records().fingerprint()
        for i in range(count):
            assert np.array_equal(from_shards.image(i), from_files.image(i))
            assert np.array_equal(from_shards.mask(i), from_files.mask(i))
    if config.size == 512:  # nothing to shrink: the masks are those of the folder
        assert np.array_equal(masks.load(tmp_path / "shards").mask(2), masks.load(outlined).mask(2))


def test_a_segmenters_samples_are_the_same_bits_from_shards(outlined, tmp_path):
    from mrm.data.config import CropConfig
    from mrm.data.samples import MaskData

    pack(open_source(outlined), tmp_path / "shards", PackConfig(48), workers=1)
    files = unpacked(tmp_path / "shards", tmp_path / "files")
    from_files, from_shards = (
        MaskData(masks.load(f), (64, 64), CropConfig((0.3, 1.0)), seed=1) for f in (files, tmp_path / "shards")
    )
    for index in range(len(from_shards)):
        first, second = from_files.sample(3, index), from_shards.sample(3, index)
        assert np.array_equal(first["image"], second["image"])
        assert np.array_equal(first["mask"], second["mask"])


def test_only_some_images_can_be_taken_from_segmentation_shards(outlined, tmp_path):
    pack(open_source(outlined), tmp_path / "shards", PackConfig(48), workers=1)
    (tmp_path / "only.txt").write_text("3\n0\n")
    assert [m.name for m in masks.load(tmp_path / "shards", only=tmp_path / "only.txt")] == ["3.png", "0.png"]


def test_segmentation_folders_that_do_not_fit_are_refused(outlined, packed, tmp_path):
    with pytest.raises(MaskError, match="these shards have no masks; pack a segmentation folder"):
        masks.load(packed)
    root = tmp_path / "lone"
    (root / "images" / "training").mkdir(parents=True)
    (root / "annotations" / "training").mkdir(parents=True)
    with pytest.raises(MaskError, match="no images in images"):
        open_source(root)
    (root / "images" / "training" / "a.png").write_bytes(images.encode_png(np.zeros((20, 20), np.uint8)))
    with pytest.raises(MaskError, match=r"a\.png: an image without a mask"):
        open_source(root)
    (root / "annotations" / "training" / "a.png").write_bytes(images.encode_png(np.zeros((20, 21), np.uint8)))
    with pytest.raises(PackError, match=r"none of the 1 images could be read; first error: .*a\.png"):
        pack(open_source(root), tmp_path / "out", SMALL, workers=1)
    with pytest.raises(ImageError):
        masks.load(tmp_path / "out")
