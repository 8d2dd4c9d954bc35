"""Reports of an export, in every form: in cells, beside the images, and by accession."""

from pathlib import Path

import pytest

from mrm.corpora import prepare
from mrm.corpora.options import Options
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.image_files import write_image
from tests.support.report_documents import oru, write_docx

NONE = Options(val=0, test=0)
RTF = r"{\rtf1\ansi\ansicpg1252 Gr\'f6\'dfe normal.\par Kein Erguss.\par}"
TEXT = "Größe normal.\nKein Erguss."


@pytest.fixture
def scans(tmp_path) -> Path:
    for n in range(12):
        write_image(tmp_path / "scans" / f"A{n}.png", n)
    return tmp_path / "scans"


def reports(out: Path) -> dict[str, str]:
    return {Path(r.name).stem: r.report for r in Records.load(out / "training.csv")}


def test_reports_in_cells_lose_their_markup_and_keep_their_lines(scans, tmp_path):
    cells = ["<p>Größe normal.</p><p>Kein Erguss.</p>", RTF, TEXT.replace("\n", "\r\n")]
    lines = [f'A{n}.png;"{cells[n % 3]}"' for n in range(12)]
    (scans / "t.csv").write_bytes("\n".join(["image_path;Befund", *lines]).encode("cp1252"))
    prepare("custom", scans, tmp_path / "out", NONE)
    assert set(reports(tmp_path / "out").values()) == {TEXT}


def test_reports_beside_the_images_may_be_of_any_kind(scans, tmp_path):
    (scans / "A0.txt").write_bytes(TEXT.encode("cp1252"))
    write_docx(scans / "A1.docx", TEXT.split("\n"))
    (scans / "A2.rtf").write_text(RTF)
    (scans / "A3.html").write_text(f"<html><body>{TEXT.replace(chr(10), '<br>')}</body></html>", encoding="utf-8")
    (scans / "A4.hl7").write_text(oru("x", *TEXT.split("\n")), encoding="utf-8")
    with pytest.warns(UserWarning, match="1 report files are read as Windows-1252"):
        prepare("custom", scans, tmp_path / "out", NONE)
    assert [reports(tmp_path / "out")[f"A{n}"] for n in range(6)] == [*[TEXT] * 5, ""]


def test_reports_are_found_by_accession_in_a_folder_of_files_and_messages(scans, tmp_path):
    lines = [f"A{n}.png,00{n}" for n in range(12)]
    (scans / "t.csv").write_text("\n".join(["image_path,accession", *lines]))
    folder = tmp_path / "reports"
    write_docx(folder / "000.docx", ["Report 0."])
    (folder / "001.txt").write_text("Report 1.")
    (folder / "all.hl7").write_text("".join(oru(f"00{n}", f"Report {n}.") for n in range(2, 9)))
    (folder / "late.hl7").write_text(oru("003", "Report 3, corrected.", time="20240201120000"))
    (folder / "early.hl7").write_text(oru("004", "Report 4, preliminary.", time="20230101120000"))
    (folder / "lost.hl7").write_text(oru("77", "No image has this."))
    (folder / "9.txt").write_text("The zeros of this accession were lost.")
    (folder / "broken.docx").write_bytes(b"PK\x03\x04")
    corpus = prepare("custom", scans, tmp_path / "out", Options(val=0, test=0, reports=folder))
    texts = reports(tmp_path / "out")
    assert texts == {
        **{f"A{n}": f"Report {n}." for n in range(9)},
        "A3": "Report 3, corrected.",
        **{f"A{n}": "" for n in (9, 10, 11)},
    }
    excluded = (tmp_path / "out" / "excluded.csv").read_text()
    assert corpus.facts["excluded"] == {"report not readable": 1, "report without image": 2}
    assert "9,report without image,nearest is '009' (differs in leading zeros)" in excluded
    assert "broken.docx,report not readable," in excluded
    assert any("2 reports were replaced by a later message" in note for note in corpus.facts["notes"])


def test_a_report_of_another_patient_is_counted(scans, tmp_path):
    lines = [f"A{n}.png,00{n},p{n}" for n in range(12)]
    (scans / "t.csv").write_text("\n".join(["image_path,accession,patient_id", *lines]))
    (tmp_path / "all.hl7").write_text("".join(oru(f"00{n}", "Clear.", patient="p1") for n in range(3)))
    corpus = prepare("custom", scans, tmp_path / "out", Options(val=0, test=0, reports=tmp_path / "all.hl7"))
    assert any("2 reports state another patient than their image" in note for note in corpus.facts["notes"])


def test_two_texts_for_one_accession_are_both_left_out_and_named(scans, tmp_path):
    for folder, text in (("2023", "Clear."), ("2024", "Effusion."), ("2025", "Clear.")):
        (tmp_path / "reports" / folder).mkdir(parents=True)
        (tmp_path / "reports" / folder / "A1.txt").write_text(text)
        (tmp_path / "reports" / folder / "A2.txt").write_text("The same.")
    corpus = prepare("custom", scans, tmp_path / "out", Options(val=0, test=0, reports=tmp_path / "reports"))
    assert {name: text for name, text in reports(tmp_path / "out").items() if text} == {"A2": "The same."}
    assert corpus.facts["excluded"] == {"two reports for one key": 1}


def test_a_letterhead_is_offered_for_removal_and_removed_when_asked_for(scans, tmp_path):
    for n in range(12):
        text = f"Example Hospital\nReport of {n + 10}.03.2024\nFindings:\nSize {n}, segment {chr(97 + n)}.\nClear {chr(97 + n)}.\nDr. Example"
        (scans / f"A{n}.txt").write_text(text)
    corpus = prepare("custom", scans, tmp_path / "out", NONE)
    note = next(note for note in corpus.facts["notes"] if "share lines" in note)
    assert "'Example Hospital' (100%)" in note
    assert "--remove-shared-lines removes them" in note
    assert "Example Hospital" in next(iter(reports(tmp_path / "out").values()))
    prepare("custom", scans, tmp_path / "clean", Options(val=0, test=0, remove_shared_lines=True))
    assert reports(tmp_path / "clean")["A2"] == "Findings:\nSize 2, segment c.\nClear c."


def test_a_folder_without_reports_is_refused(scans, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"--reports .*: no such folder or file"):
        prepare("custom", scans, tmp_path / "out", Options(reports=tmp_path / "none"))
    with pytest.raises(RecordError, match=r"--reports .*empty: none of its 0 files holds a report"):
        prepare("custom", scans, tmp_path / "out", Options(reports=tmp_path / "empty"))
    (tmp_path / "empty" / "cut.hl7").write_text("PID|1")
    with pytest.raises(
        RecordError, match=r"none of its 1 files holds a report; the first reason: .*not an HL7 message"
    ):
        prepare("custom", scans, tmp_path / "out", Options(reports=tmp_path / "empty"))
