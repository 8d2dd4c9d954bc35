"""Word documents: their paragraphs are read; bombs, locks and damage are refused in words."""

import zipfile

import pytest

from mrm.data import word_files
from mrm.data.word_files import read_docx
from mrm.system.errors import ReportError
from tests.support.report_documents import write_docx


def test_paragraphs_are_lines_and_headers_of_pages_are_left_out(tmp_path):
    path = write_docx(tmp_path / "r.docx", ["Größe normal.", "", "Kein Erguss < 5 mm."], header="Example Hospital")
    assert read_docx(path) == "Größe normal.\n\nKein Erguss < 5 mm."


def test_tabs_breaks_tables_and_text_boxes_are_read_once_and_deleted_text_is_not(tmp_path):
    body = (
        "<w:p><w:r><w:t>one</w:t><w:tab/><w:t>two</w:t><w:br/><w:t>three</w:t></w:r></w:p>"
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
        "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>four</w:t></w:r></w:p>"
        "<mc:AlternateContent><mc:Choice><w:p><w:r><w:t>box</w:t></w:r></w:p></mc:Choice>"
        "<mc:Fallback><w:p><w:r><w:t>box</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>"
    )
    assert read_docx(write_docx(tmp_path / "r.docx", [], body=body)) == "one\ttwo\nthree\ncell\nfour\nbox"


def test_a_document_that_unpacks_to_far_more_than_any_report_is_refused(tmp_path):
    path = write_docx(tmp_path / "bomb.docx", ["x" * 30_000_000])
    assert path.stat().st_size < 100_000
    with pytest.raises(ReportError, match=r"bomb\.docx: its text unpacks to 30,\d+,\d+ bytes; a report has at most"):
        read_docx(path)


def test_a_size_that_the_archive_understates_does_not_help_a_bomb(tmp_path, monkeypatch):
    path = write_docx(tmp_path / "bomb.docx", ["x" * 30_000_000])
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(word_files.PART).file_size
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(ReportError, match=r"bomb\.docx: not a Word document, or a damaged one"):
        read_docx(path)


def test_entities_that_grow_are_refused(tmp_path):
    path = tmp_path / "entities.docx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(word_files.PART, '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>')
    with pytest.raises(ReportError, match=r"entities\.docx: declares entities"):
        read_docx(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04 cut off", "not a Word document, or a damaged one"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "protected by a password, or a document of Word 2003"),
        (b"", "not a Word document, or a damaged one"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, content, reason):
    (tmp_path / "r.docx").write_bytes(content)
    with pytest.raises(ReportError, match=rf"r\.docx: {reason}"):
        read_docx(tmp_path / "r.docx")
