"""`mrm pack --deidentified`: images that may name a person are left out by name, and no id or file name is packed."""

import cv2
import numpy as np
import pytest

from mrm import runs
from mrm.data.config import PackConfig
from mrm.data.records import Records
from mrm.system.files import write_csv
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
