"""WebDataset shards: what the library writes is packed as the same records from files are, and damage is named."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from mrm.data import webdataset
from mrm.data.config import PackConfig
from mrm.data.packing import open_source, pack
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.commands import run_cli

COLUMNS = ("patient_id", "study_id", "view", "sex", "age")
SMALL = PackConfig(64, rows=5)


@pytest.fixture(scope="module")
def listed(phantoms) -> Records:
    """Ten phantoms with a label."""
    return Records.load(phantoms / "records.csv", ("effusion",))[:10]


@pytest.fixture(scope="module")
def tars(listed, tmp_path_factory) -> Path:
    """Two tar files of the ten phantoms, as the library `webdataset` writes them."""
    library = pytest.importorskip("webdataset")
    folder = tmp_path_factory.mktemp("wds")
    for number in range(2):
        with library.TarWriter(str(folder / f"train-{number:03d}.tar")) as tar:
            for record in listed[number::2]:
                known = {"patient_id": record.patient, "study_id": record.study, "view": record.view, **record.extra}
                sample = {"__key__": record.name.removesuffix(".jpg"), "jpg": record.image.read_bytes()}
                facts = {"effusion": record.labels[0], "device": None, "checked": True, "boxes": [[1, 2]], **known}
                tar.write(sample | {"txt": record.report, "json": facts, "cls": int(record.labels[0])})
    return folder


def tar_of(path: Path, files: dict[str, bytes], **options) -> Path:
    """A tar file of these files, in order."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def sample(listed) -> dict[str, bytes]:
    """The files of two samples."""
    first, second = (record.image.read_bytes() for record in listed[:2])
    return {"a.jpg": first, "a.txt": b"Clear.", "b.jpg": second, "b.txt": b"Effusion."}


# What comes out -------------------------------------------------------------------------------------------


def test_the_records_and_images_are_those_of_the_files(tars, listed, tmp_path, capsys):
    given = [str(tars / "train-{000..001}.tar"), "--from", "webdataset", "--out", str(tmp_path / "out")]
    assert run_cli(capsys, "pack", *given, "--size", "64", "--rows", "5", "--workers", "1")[0] == 0
    expected = [*listed[0::2], *listed[1::2]]
    found = Records.load(tmp_path / "out", ("effusion",))
    assert [r.name for r in found] == [r.name for r in expected]
    assert [r.report for r in found] == [r.report for r in expected]
    assert [(r.patient, r.study, r.view, r.labels) for r in found] == [
        (r.patient, r.study, r.view, r.labels) for r in expected
    ]
    first = found[0].extra
    assert (first["device"], first["checked"], json.loads(first["boxes"])) == ("", "1", [[1, 2]])
    assert [r.extra["cls"] for r in found] == [str(int(r.labels[0])) for r in expected]
    pack(open_source(listed_as_csv(expected, tmp_path)), tmp_path / "files", SMALL, workers=1)
    files = Records.load(tmp_path / "files")
    assert [bytes(r.image.read_bytes()) for r in found] == [bytes(r.image.read_bytes()) for r in files]


def listed_as_csv(records, folder: Path) -> Path:
    return Records(records, ("effusion",)).to_csv(folder / "listed.csv")


def test_a_folder_a_pattern_and_braces_mean_the_same_files(tars):
    whole = webdataset.load(tars).fingerprint()
    for place in ("*.tar", "train-*.tar", "train-{000..001}.tar", "train-0{00..01}.tar"):
        assert webdataset.load(tars / place).fingerprint() == whole
    assert len(webdataset.load(tars / "train-001.tar")) == 5
    assert webdataset.expanded("a-{08..11}-{0..1}.tar")[-3:] == ["a-10-1.tar", "a-11-0.tar", "a-11-1.tar"]


def test_a_store_holds_the_same_samples(tars, tmp_path):
    from tests.support.buckets import running

    with running() as bucket:
        bucket.put(tars, "wds")
        for place in ("wds", "wds/train-*.tar", "wds/train-{000..001}.tar"):
            assert len(webdataset.tars_at(bucket.address(place))) == 2
        pack(open_source(bucket.address("wds"), layout="webdataset"), tmp_path / "store", SMALL, workers=1)
    pack(open_source(tars, layout="webdataset"), tmp_path / "files", SMALL, workers=1)
    for file in (tmp_path / "files").iterdir():
        assert file.read_bytes() == (tmp_path / "store" / file.name).read_bytes()


def test_the_number_of_a_class_chooses_it(tars, listed):
    records = webdataset.load(tars, ("none", "fluid"))
    assert [(r.extra["none"], r.extra["fluid"]) for r in records][:5] == [
        ("0", "1") if r.labels[0] else ("1", "0") for r in listed[0::2]
    ]
    with pytest.raises(RecordError, match=r"\.cls is '1', but the classes are 0 to 0 \(--classes\)"):
        webdataset.load(tars, ("none",))


def test_images_of_one_key_are_one_study(sample, tmp_path):
    jpg = sample["a.jpg"]
    files = {"x/7.pa.jpg": jpg, "x/7.lateral.jpg": jpg, "x/7.report.txt": b" Clear. ", "x/7.findings.txt": b"Nodule."}
    (first, second) = webdataset.load(tar_of(tmp_path / "a.tar", files))
    assert [first.name, second.name] == ["x/7.pa.jpg", "x/7.lateral.jpg"]
    assert {first.study, second.study} == {"x/7"}
    assert {first.report, second.report} == {"Clear."}
    assert first.extra == {"findings": "Nodule."}


def test_what_belongs_to_no_sample_is_passed_over(sample, tmp_path):
    files = {"._a.jpg": b"x", "README": b"x", **sample, "b.npy": b"x", "b.JSON": b'{"age": "61"}'}
    with pytest.warns(UserWarning, match=r"files of these kinds are not packed: \.npy \(1\)"):
        records = webdataset.load(tar_of(tmp_path / "a.tar", files, format=tarfile.PAX_FORMAT))
    assert [(r.name, r.report, r.extra) for r in records] == [
        ("a.jpg", "Clear.", {"age": ""}),
        ("b.jpg", "Effusion.", {"age": "61"}),
    ]


def test_images_without_a_report_are_counted(sample, tmp_path):
    del sample["b.txt"]
    with pytest.warns(UserWarning, match=r"1 of 2 images have no report \(\.txt\)"):
        assert [r.report for r in webdataset.load(tar_of(tmp_path / "a.tar", sample))] == ["Clear.", ""]


# What cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c.txt": b"Clear."}, "c has no image, only .txt"),
        ({"c.npy": b"x"}, "c has no image, only other files"),
        ({"c.jpg": b"x", "c.txt": b"\xff\xfe"}, "c .txt is not UTF-8 (invalid start byte at byte 0)"),
        ({"c.jpg": b"x", "c.json": b"{"}, "c .json is not JSON ("),
        ({"c.jpg": b"x", "c.json": b"[1]"}, "c .json is no JSON object, whose keys would be columns"),
        ({"c.jpg": b"x", "c.JPG": b"x"}, "c has two files .jpg"),
        ({"a.png": b"x"}, "a is also in {tar}: keys must be unique"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named_or_left_out(sample, tmp_path, changes, message):
    tar = tar_of(tmp_path / "a.tar", sample | changes)
    message = f"{tar}: {message.format(tar=tar)}"
    with pytest.raises(RecordError) as refused:
        webdataset.load(tar)
    assert f"1 problems: {message}" in str(refused.value)
    assert str(refused.value).endswith("leave these samples out with --on-error skip")
    with pytest.warns(UserWarning, match="left out") as warned:
        records = webdataset.load(tar, on_error="skip")
    assert [record.name for record in records] == ["a.jpg", "b.jpg"]
    assert str(warned[0].message).startswith(f"left out {message}")


def cut_inside(content: bytes) -> bytes:
    return content[: 512 * 7 + 100]  # in the image of a


def cut_between(content: bytes) -> bytes:
    return content[: content.index(b"b.jpg")]  # before the header of b


def cut_header(content: bytes) -> bytes:
    return content[: content.index(b"b.jpg") + 200]


def spoil_header(content: bytes) -> bytes:
    at = content.index(b"b.jpg")
    return content[:at] + b"#" + content[at + 1 :]


def two_in_one(content: bytes) -> bytes:
    return content + content


@pytest.mark.parametrize(
    ("spoil", "reason", "left"),
    [
        (cut_inside, "unexpected end of data", []),
        (cut_between, "the end of the archive is missing", []),  # more files of a may have followed
        (cut_header, "the end of the archive is missing", []),
        (spoil_header, "no header at byte", []),
        (two_in_one, "no header at byte", ["a.jpg"]),
        (gzip.compress, "it is compressed; unpack it with gunzip", []),
        (lambda content: b"", "empty file", []),
        (lambda content: b"not a tar file" * 99, "header", []),
    ],
)
def test_a_damaged_tar_is_named_and_what_precedes_the_damage_can_be_kept(sample, tmp_path, spoil, reason, left):
    tar = tar_of(tmp_path / "a.tar", sample)
    tar.write_bytes(spoil(tar.read_bytes()))
    with pytest.raises(
        RecordError, match=rf"a\.tar: damaged or cut off after \d+ samples \(.*{reason}.*\); copy it again"
    ):
        webdataset.load(tar)
    other = tar_of(tmp_path / "b.tar", {"z.jpg": sample["a.jpg"], "z.txt": b"Clear."})
    with pytest.warns(UserWarning, match="left out .*damaged or cut off"):
        records = webdataset.load(tmp_path / "*.tar", on_error="skip")
    assert [record.name for record in records] == [*left, "z.jpg"]
    assert other.exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("train-{000..002}.tar", "train-002.tar: no such file"),
        ("none-*.tar", "no tar files; give one, a folder of them, or a quoted pattern"),
        ("train-{5..2}.tar", "{5..2} is no range; expected the smaller number first"),
    ],
)
def test_places_without_tar_files_are_named(tars, place, message):
    with pytest.raises(RecordError) as refused:
        webdataset.load(tars / place)
    assert message in str(refused.value)


def test_what_is_on_a_web_server_has_to_be_downloaded_first():
    with pytest.raises(RecordError, match="is not read from there; download the tar files first"):
        webdataset.load("https://example.org/train-{000..009}.tar")
