"""Open-i on a made-up tree as its two archives unpack: `ecgen-radiology/*.xml` and PNG images."""

import pytest

from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.corpora.openi import read_report
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.openi import write_image, write_report, write_tree


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "openi")


def test_the_whole_way(source, tmp_path, capsys):
    corpus = prepare("openi", source, tmp_path / "out", Options(val=0, test=0))
    assert corpus.facts["expected"] == {"images": 7_470, "reports": 3_955}
    assert corpus.facts["found"]["images"] == 6
    assert corpus.facts["found"]["reports"] == 3
    assert corpus.facts["found"]["reports without findings"] == 1
    assert "partial download" in capsys.readouterr().out
    training = Records.load(tmp_path / "out" / "training.csv")
    assert len(training) == 6
    first = training[0]
    assert first.image.name == "CXR1_1_IM-0001-3001.png"
    assert first.report.splitlines() == [
        "COMPARISON: None.",
        "INDICATION: XXXX-year-old with a cough & fever",
        "FINDINGS: The lungs are XXXX clear.",
        "IMPRESSION: Normal chest x-XXXX.",
    ]
    assert (first.patient, first.study) == ("CXR1", "CXR1")
    assert first.extra["mesh"] == "Cardiomegaly/borderline; Pulmonary Artery/enlarged"
    assert [r.patient for r in training] == ["CXR1", "CXR1", "CXR2", "CXR2", "CXR10", "CXR10"]


def test_chosen_sections_and_splits_by_report(source, tmp_path):
    for uid in range(20, 40):
        write_report(source, uid, [f"CXR{uid}_a", f"CXR{uid}_b"])
        write_image(source, f"CXR{uid}_a")
        write_image(source, f"CXR{uid}_b")
    corpus = prepare("openi", source, tmp_path / "out", Options(sections=("findings", "impression")))
    texts = {r.patient: r.report for r in corpus.records}
    assert texts["CXR1"] == "The lungs are XXXX clear. Normal chest x-XXXX."
    assert texts["CXR2"] == "Normal chest x-XXXX."
    patients = [set(part.patients) for part in corpus.splits.values()]
    assert len(patients) == 3
    assert sum(map(len, patients)) == len(set.union(*patients)) == 23


def test_what_does_not_fit_is_counted_by_reason(source, tmp_path):
    cut = write_report(source, 4, ["CXR4_a"])
    cut.write_text(cut.read_text()[:700])
    write_image(source, "CXR4_a")
    write_report(source, 5, [])
    write_report(source, 6, ["CXR6_a", "CXR1_1_IM-0001-3001"])
    copy = source / "NLMCXR_reports" / "ecgen-radiology" / "1 (1).xml"
    copy.write_bytes((copy.parent / "1.xml").read_bytes())
    (source / "NLMCXR_png" / "CXR10_1_IM-0001-4001.png").write_bytes(b"\x89PNG cut")
    corpus = prepare("openi", source, tmp_path / "out", Options(val=0, test=0))
    assert corpus.facts["excluded"] == {
        **{"report cut off or not XML": 1, "report without image": 1, "image absent": 1},
        **{"duplicate row": 2, "image of no report": 1, "unreadable image": 1},
    }
    assert len(corpus.records) == 5
    detail = (tmp_path / "out" / "excluded.csv").read_text()
    assert "4.xml" in detail
    assert "CXR6_a.png" in detail


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b"",
        lambda b: b[: len(b) // 2],
        lambda b: b"\0\x7f" * 99,
        lambda b: b.replace(b"cough", b"c\xf6ugh"),  # not in the encoding that it names
        lambda b: b.replace(b"utf-8", b"klingon"),
        lambda b: b"<a>" * 100_000,
    ],
)
def test_a_damaged_report_is_counted_and_the_others_kept(source, tmp_path, damage):
    file = source / "NLMCXR_reports/ecgen-radiology/1.xml"
    file.write_bytes(damage(file.read_bytes()))
    corpus = prepare("openi", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {"report cut off or not XML": 1, "image of no report": 2}
    assert len(corpus.records) == 4


def test_a_folder_without_reports_or_without_images_is_named(source, tmp_path):
    with pytest.raises(RecordError, match=r"unpack NLMCXR_reports\.tgz"):
        prepare("openi", source / "NLMCXR_png", tmp_path / "out")
    with pytest.raises(RecordError, match=r"The largest reason, for 6 of 6: image absent.*Unpack the images"):
        prepare("openi", source / "NLMCXR_reports", tmp_path / "out")


def test_an_id_that_leads_out_is_refused(source, tmp_path):
    write_report(source, 7, ["../../secret"])
    with pytest.raises(RecordError, match=r"7\.xml: the path '\.\./\.\./secret' leads out"):
        prepare("openi", source, tmp_path / "out")


def test_entities_that_explode_do_not():
    bomb = '<!DOCTYPE b [<!ENTITY a "xxxxxxxxxx">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    )
    with pytest.raises(Exception, match=r"amplification|limit"):
        read_report(f"{bomb}]><eCitation>&j;</eCitation>".encode(), "bomb.xml")


def test_a_section_in_two_nodes_is_joined_and_one_without_label_is_findings():
    text = b"""<eCitation><AbstractText Label="FINDINGS">a</AbstractText><AbstractText Label="FINDINGS">b <b>c</b>
    </AbstractText><AbstractText Label="IMPRESSION"/><AbstractText>d</AbstractText></eCitation>"""
    report = read_report(text, "ecgen-radiology/3.xml")
    assert report.text == "FINDINGS: a b c d"
    assert report.uid == "CXR3"
