"""`mrm pack --deidentified`: images that may name a person are left out by name, and no id or file name is packed."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mrm import runs
from mrm.audit import fingerprints
from mrm.audit.fingerprints import fingerprint
from mrm.audit.kept_hashes import FILE, KeptHashes
from mrm.data import images, masks
from mrm.data.config import PackConfig
from mrm.data.records import Records
from mrm.system.files import write_csv
from mrm.system.shares import Share
from tests.support.dicom_files import dicom_bytes


def write_records(folder):
    plain = np.full((400, 300), 60, np.uint8)
    marked = cv2.putText(plain.copy(), "SMITH JOHN", (5, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
    cv2.imwrite(str(folder / "4711_smith.png"), plain)
    cv2.imwrite(str(folder / "b.png"), plain + 1)
    cv2.imwrite(str(folder / "marked.png"), marked)
    (folder / "named.dcm").write_bytes(dicom_bytes(plain, PatientName="Smith^John"))
    header = ["image_path", "report_content", "patient_id", "study_id", "date", "Effusion"]
    names = ["4711_smith.png", "b.png", "marked.png", "named.dcm"]
    write_csv(
        folder / "records.csv",
        header,
        [[n, "Clear.", "4711", f"s{i}", "2024-01-31", i % 2] for i, n in enumerate(names)],
    )
    return folder / "records.csv"


@pytest.mark.filterwarnings("ignore:made the site key")
def test_no_name_leaves_and_what_was_refused_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / "key"))
    with pytest.warns(UserWarning, match="packed as they are") as warned:
        packing = runs.pack(write_records(tmp_path), tmp_path / "packed", PackConfig(32, deidentified=True), workers=1)
    reasons = [reason for _, reason in packing.failures]
    assert any(
        "marked.png: may name a person: what looks like text in the corner at the top left" in r for r in reasons
    )
    assert any("named.dcm: may name a person: PatientName looks like a name" in r for r in reasons)
    assert any(
        "packed as they are; look through them before you share: report_content" in str(w.message) for w in warned
    )
    packed = Records.load(tmp_path / "packed", ["Effusion"])
    assert [row.labels for row in packed] == [(0.0,), (1.0,)]
    assert len({row.patient for row in packed}) == 1
    for row in packed:
        assert "smith" not in row.name
        assert row.patient not in ("", "4711")
        assert row.extra.get("date", "") == ""
    content = b"".join(f.read_bytes() for f in (tmp_path / "packed").glob("*.arrow"))
    assert b"4711" not in content
    assert b"smith" not in content


@pytest.mark.filterwarnings("ignore")
def test_the_pseudonym_of_an_id_is_the_same_with_one_key_and_another_with_another(tmp_path, monkeypatch):
    records, patients = write_records(tmp_path), []
    for number, key in enumerate(("one", "one", "two")):
        monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / key))
        packing = runs.pack(records, tmp_path / f"packed{number}", PackConfig(32, deidentified=True), workers=1)
        patients.append(Records.load(packing.folder)[0].patient)
    assert patients[0] == patients[1] != patients[2]


# Hashes ----------------------------------------------------------------------------------------------


def hashed_anew(records) -> tuple[list, list]:
    """The hashes of images as an audit computes them from their bytes."""
    prints = fingerprint(replace(records, rows=[replace(r, image=bytes(r.image.read_bytes())) for r in records]))
    return prints.exact.tolist(), prints.perceptual.tolist()


@pytest.mark.parametrize(("kind", "size"), [("jpeg", 64), ("png", 64), ("pgm", 64), ("jpeg", 512)])
def test_an_audit_of_packed_images_decodes_none_and_has_the_hashes_that_decoding_gives(
    phantoms, tmp_path, monkeypatch, kind, size
):
    runs.pack(phantoms / "records.csv", tmp_path / "packed", PackConfig(size, kind, rows=20), workers=1)
    packed = Records.load(tmp_path / "packed")
    exact, perceptual = hashed_anew(packed)
    monkeypatch.setattr(fingerprints.images, "read", lambda _: pytest.fail("an image was read"))
    shutil.move(tmp_path / "packed", tmp_path / "moved")
    for place in (tmp_path / "moved", tmp_path / "moved" / "shards.json"):
        prints = fingerprint(Records.load(place))
        assert (prints.exact.tolist(), prints.perceptual.tolist()) == (exact, perceptual)
    assert runs.audit([tmp_path / "moved"], within=True).compared


def test_shares_keep_the_hashes_of_their_files_and_the_last_puts_them_together(phantoms, tmp_path):
    for number in (2, 1):
        runs.pack(phantoms / "records.csv", tmp_path, PackConfig(64, rows=10), workers=1, share=Share(number, 2))
        assert (tmp_path / f"{FILE}.{number}-of-2").exists() == (number == 2)
    assert [file.name for file in tmp_path.glob(f"{FILE}*")] == [FILE]
    kept = KeptHashes(tmp_path)
    assert len(kept) == 48
    packed = Records.load(tmp_path)
    assert kept.hashes(kept.keys([r.image for r in packed]))[:, 0].tolist() == hashed_anew(packed)[0]


def test_a_packing_that_resumes_has_all_hashes_and_without_hashes_it_has_none(phantoms, tmp_path, monkeypatch):
    config, read = PackConfig(64, rows=20), images.read
    count = iter(range(1000))

    def read_some(*arguments, **named):
        if next(count) == 60:
            raise KeyboardInterrupt
        return read(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read", read_some)
        with pytest.raises(KeyboardInterrupt):
            runs.pack(phantoms / "records.csv", tmp_path / "a", config, workers=1)
    assert len(KeptHashes(tmp_path / "a")) == 20  # of the one file that is whole
    runs.pack(phantoms / "records.csv", tmp_path / "a", config, workers=1)
    assert len(KeptHashes(tmp_path / "a")) == 48
    runs.pack(phantoms / "records.csv", tmp_path / "b", config, workers=1, hashes=False)
    assert not (tmp_path / "b" / FILE).exists()
    assert all((tmp_path / "a" / f.name).read_bytes() == f.read_bytes() for f in (tmp_path / "b").iterdir())


def test_images_with_masks_are_hashed_too_and_damaged_ones_leave_no_gap(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part in ("images", "annotations"):
        (tmp_path / f"source/{part}/training").mkdir(parents=True)
    for i in range(5):
        noise = rng.integers(0, 255, (96, 80), np.uint8)
        cv2.imwrite(str(tmp_path / f"source/images/training/{i}.png"), noise)
        cv2.imwrite(str(tmp_path / f"source/annotations/training/{i}.png"), (noise > 200).astype(np.uint8))
    (tmp_path / "source/images/training/2.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 images could not be read"):
        runs.pack(tmp_path / "source", tmp_path / "packed", PackConfig(32), workers=1)
    records = masks.load(tmp_path / "packed", "training").records()
    exact, perceptual = hashed_anew(records)
    monkeypatch.setattr(fingerprints.images, "read", lambda _: pytest.fail("an image was read"))
    prints = fingerprint(records)
    assert (len(prints), prints.exact.tolist(), prints.perceptual.tolist()) == (4, exact, perceptual)
