"""Headers of DICOM files: what is read of them, how little of the file that takes, and what is kept."""

import os
import time

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from mrm.data import header_index
from mrm.data.header_index import FILE, TAGS, HeaderIndex, facts_of, read_header
from mrm.system.errors import ImageError, UnreachableError
from tests.support.dicom_files import dataset, dicom_bytes, saved, write_dicom
from tests.support.image_files import random_image, write_image

STATED = {
    "AccessionNumber": "007",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "SOPInstanceUID": "1.2.3.4.5",
    "PatientID": "P 1",
    "StudyDate": "20240131",
    "ContentDate": "20240201",
    "ViewPosition": "PA",
    "PatientSex": "F",
    "PatientAge": "045Y",
}


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        write_dicom(tmp_path / "scans" / f"{number}", number, PatientID=f"P{number}", AccessionNumber=f"A{number}")
    return tmp_path / "scans"


def files_of(folder):
    return sorted(folder.iterdir())


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, "bare"])
def test_every_element_is_read_as_pydicom_reads_it(tmp_path, syntax):
    content = dataset(random_image(1, 24, 20), **STATED)
    if syntax not in (None, "bare"):
        content.file_meta.TransferSyntaxUID = syntax
    raw = saved(content)
    (tmp_path / "a").write_bytes(raw[132:] if syntax == "bare" else raw)
    header = read_header(tmp_path / "a")
    assert header == {
        **{name: STATED[keyword] for name, keyword in TAGS.items() if keyword in STATED},
        **{"modality": "CR", "body_part": "CHEST", "height": "24", "width": "20"},
    }
    whole = pydicom.dcmread(tmp_path / "a", force=True)
    assert header == {name: str(whole.get(keyword)) for name, keyword in TAGS.items()}


def test_big_endian_and_elements_before_those_that_count(tmp_path):
    item = Dataset()
    item.CodeValue = "x" * 60
    content = dataset(
        random_image(1, 24, 20), **STATED, ProcedureCodeSequence=[item] * 900
    )  # 70 kB, no header is short
    content.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    (tmp_path / "a").write_bytes(saved(content, implicit_vr=False, little_endian=False))
    assert read_header(tmp_path / "a")["height"] == "24"


def test_words_for_unknown_are_not_stated_and_other_formats_have_no_header(tmp_path):
    write_dicom(tmp_path / "a", 1, PatientID="unknown", AccessionNumber="", ViewPosition="n/a")
    assert not {"patient_id", "accession", "view"} & read_header(tmp_path / "a").keys()
    write_image(tmp_path / "b.png", 1)
    assert read_header(tmp_path / "b.png") == {}


def test_pixels_are_not_read(tmp_path):
    """A file whose pixels were cut off, and one in which they are far away, say the same."""
    raw = dicom_bytes(random_image(1, 400, 400), **STATED)
    (tmp_path / "whole").write_bytes(raw)
    (tmp_path / "cut").write_bytes(raw[:-159_000])
    assert read_header(tmp_path / "whole") == read_header(tmp_path / "cut")


def test_a_damaged_header_is_an_error_and_a_missing_file_is_tried_again(tmp_path):
    (tmp_path / "bad").write_bytes(b"\0" * 128 + b"DICM" + b"\x08\0\x05\0UN\0\0\xff\xff\xff\x7f")
    with pytest.raises(ImageError, match="damaged DICOM"):
        read_header(tmp_path / "bad")
    assert "error" in facts_of(tmp_path / "bad")
    assert "again" in facts_of(tmp_path / "gone")
    index = HeaderIndex()
    index.read([tmp_path / "bad"])
    assert (index.get(tmp_path / "bad"), list(index.errors)) == ({}, [tmp_path / "bad"])
    with pytest.raises(UnreachableError, match="1 files could not be reached"):
        index.read([tmp_path / "gone"])


def test_a_file_of_endless_elements_is_refused_at_once(tmp_path):
    element = b"\x08\0\x01\0UN\0\0\0\0\0\0"
    (tmp_path / "many").write_bytes(b"\0" * 128 + b"DICM" + element * 2_000_000)
    start = time.process_time()
    with pytest.raises(ImageError, match="far more data elements than a radiograph"):
        read_header(tmp_path / "many")
    assert time.process_time() - start < 2


def test_a_second_start_reads_nothing_and_a_changed_file_is_read_again(folder, tmp_path, monkeypatch):
    first = HeaderIndex(tmp_path / "kept")
    first.read(files_of(folder))
    assert first.read_now == 5
    monkeypatch.setattr(header_index, "read_header", lambda file: pytest.fail(f"{file} is read again"))
    second = HeaderIndex(tmp_path / "kept")
    second.read(files_of(folder))
    assert (second.read_now, second.headers) == (0, first.headers)
    monkeypatch.undo()
    write_dicom(folder / "3", 3, PatientID="other")
    third = HeaderIndex(tmp_path / "kept")
    third.read(files_of(folder))
    assert (third.read_now, third.get(folder / "3")["patient_id"]) == (1, "other")


def test_an_index_that_keeps_nothing_writes_nothing_but_knows_what_was_kept(folder, tmp_path):
    HeaderIndex(tmp_path / "kept", keeps=False).read(files_of(folder))
    assert not (tmp_path / "kept").exists()
    HeaderIndex(tmp_path / "kept").read(files_of(folder)[:3])
    before = (tmp_path / "kept" / FILE).read_bytes()
    index = HeaderIndex(tmp_path / "kept", keeps=False)
    index.read(files_of(folder))
    assert (index.read_now, len(index.headers)) == (2, 5)
    assert (tmp_path / "kept" / FILE).read_bytes() == before


def test_an_index_that_was_cut_off_is_completed_and_that_is_said_once(folder, tmp_path):
    HeaderIndex(tmp_path / "kept").read(files_of(folder))
    file = tmp_path / "kept" / FILE
    file.write_bytes(file.read_bytes()[:-20])
    index = HeaderIndex(tmp_path / "kept")
    with pytest.warns(UserWarning, match="1 lines are damaged; these headers are read again") as warned:
        index.read(files_of(folder))
    assert (len(warned), index.read_now, len(index.headers)) == (1, 1, 5)


@pytest.mark.parametrize(
    "content", ['["mrm headers 0", {}]\n["x|1|2", {"patient_id": "a"}]\n', "no index\n", '["a", 1]\n']
)
def test_a_foreign_index_is_begun_anew_and_that_is_said_once(folder, tmp_path, content):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / FILE).write_text(content)
    with pytest.warns(UserWarning, match="no index of headers of this version; the headers are read again") as warned:
        HeaderIndex(tmp_path / "kept").read(files_of(folder))
    assert len(warned) == 1
    again = HeaderIndex(tmp_path / "kept")
    again.read(files_of(folder))
    assert again.read_now == 0


def test_only_the_owner_reads_what_is_kept(folder, tmp_path):
    HeaderIndex(tmp_path / "kept").read(files_of(folder))
    assert os.stat(tmp_path / "kept" / FILE).st_mode & 0o077 == 0
