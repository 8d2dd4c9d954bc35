"""`mrm label`, `label sample` and `label check`: from reports to labels, to a sample, to agreement."""

import csv
import math

import pytest

from mrm import runs
from mrm.data.records import Records
from mrm.system.errors import ConfigError, RecordError, ReportError, RunError
from tests.support import run_files
from tests.support.commands import run_cli

REPORTS = {
    "a1.png": ("p1", "s1", "FINDINGS: Small left pleural effusion. No pneumothorax."),
    "a2.png": ("p1", "s1", "FINDINGS: Small left pleural effusion. No pneumothorax."),  # the lateral image of the study
    "b.png": ("p2", "s2", "INDICATION: pneumonia. \nFINDINGS: Possible pneumonia. The heart is normal in size."),
    "c.png": ("p3", "s3", "The lungs are clear. The heart is normal in size and there is no effusion."),
    "d.png": ("p4", "s4", ""),
    "e.png": ("p5", "s5", "Das Herz ist nicht vergrößert. Kein Nachweis eines Pleuraergusses."),
}


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "records.csv"
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["image_path", "report_content", "patient_id", "study_id", "sex"])
        writer.writerows([name, report, patient, study, "F"] for name, (patient, study, report) in REPORTS.items())
    return file


@pytest.mark.filterwarnings("ignore:1 of 6 records have no labels")
def test_labels_and_the_sentences_that_decided_them(records, tmp_path):
    out = tmp_path / "labelled.csv"
    runs.label(records, "english", out)
    rows = {row["image_path"]: row for row in run_files.table(out)}
    assert rows["a1.png"]["Pleural Effusion"] == rows["a2.png"]["Pleural Effusion"] == "1"
    assert (rows["a1.png"]["Pneumothorax"], rows["a1.png"]["Pneumonia"], rows["a1.png"]["No Finding"]) == ("0", "", "0")
    assert (rows["b.png"]["Pneumonia"], rows["b.png"]["No Finding"]) == ("-1", "")
    assert rows["c.png"]["No Finding"] == "1"
    assert rows["c.png"]["sex"] == "F"
    loaded = Records.load(out, ["Pleural Effusion"])
    assert [loaded[0].labels, loaded[0].patient] == [(1.0,), "p1"]
    for name in ("d.png", "e.png"):
        assert all(math.isnan(value) for value in Records.load(out, list(rows["a1.png"])[5:-1]).where(
            lambda row, name=name: row.name == name)[0].labels)  # fmt: skip
    sentences = run_files.table(tmp_path / "labelled.sentences.csv")
    (effusion,) = [row for row in sentences if row["study_id"] == "s1" and row["finding"] == "Pleural Effusion"]
    assert (effusion["label"], effusion["sentence"], effusion["words"]) == (
        "1", "Small left pleural effusion.", "pleural effusion",
    )  # fmt: skip
    assert {row["image_path"]: row["note"] for row in sentences if not row["finding"]} == {
        "d.png": "empty report",
        "e.png": "another language: 0% of 9 words are known",
    }


def test_what_has_no_labels_is_counted_with_its_reason(records, tmp_path):
    with pytest.warns(UserWarning, match="have no labels") as warned:
        runs.label(records, "english", tmp_path / "labelled.csv")
    said = [str(warning.message) for warning in warned]
    assert "1 of 6 records have no labels, because of their report: empty report; first: d.png" in said
    assert "1 of 6 records have no labels, because of their report: another language; first: e.png" in said


@pytest.mark.filterwarnings("ignore:1 of 6 records have no labels")
def test_what_is_not_mentioned_can_be_absent_but_not_what_is_unread(records, tmp_path):
    out = tmp_path / "labelled.parquet"
    runs.label(records, "english", out, not_mentioned="absent")
    labelled = Records.load(out, ["Pneumonia", "No Finding"])
    assert [row.labels[0] for row in labelled][:4] == [0, 0, -1, 0]
    assert math.isnan(labelled[2].labels[1])  # uncertain, not unmentioned
    assert all(math.isnan(value) for row in labelled[4:] for value in row.labels)


def test_reports_in_another_language_are_refused_and_the_right_file_is_named(records, tmp_path):
    with pytest.raises(ReportError, match=r"3 of 4 reports cannot be labelled with german; first: a1.png: another language: "
                       r"\d+% of \d+ words are known.*: give --findings english"):  # fmt: skip
        runs.label(records, "german", tmp_path / "labelled.csv")
    assert not (tmp_path / "labelled.csv").exists()


@pytest.mark.parametrize(
    ("table", "findings", "error", "message"),
    [
        ("image_path,report_content,Edema\na.png,Clear.,1\n", "english", RecordError, "has a column Edema already"),
        ("image_path\na.png\n", "english", RecordError, "has no reports; a column report_content is expected"),
        (
            "image_path,report_content\na.png,Clear.\n",
            "klingon",
            ConfigError,
            "unknown finding file 'klingon'; choose from",
        ),
    ],
)
def test_what_cannot_be_labelled_is_refused(tmp_path, table, findings, error, message):
    (tmp_path / "records.csv").write_text(table)
    with pytest.raises(error, match=message):
        runs.label(tmp_path / "records.csv", findings, tmp_path / "labelled.csv")


def test_the_input_is_never_overwritten(records):
    before = records.read_bytes()
    with pytest.raises(RunError, match="is an input, and would be overwritten"):
        runs.label(records, "english", records)
    assert records.read_bytes() == before


@pytest.fixture
def labelled(records, tmp_path):
    out = tmp_path / "labelled.csv"
    with pytest.warns(UserWarning, match="have no labels"):
        runs.label(records, "english", out)
    return out


def test_a_sample_has_one_row_a_report_empty_labels_and_its_weights(labelled, tmp_path):
    sample = runs.sample_labels(labelled, tmp_path / "a.csv", count=3)
    assert len({row.study for row in sample}) == 3
    rows = run_files.table(tmp_path / "a.csv")
    assert all(row["Pneumonia"] == row["Pleural Effusion"] == "" for row in rows)
    assert all(row["report_content"] and float(row["sampling_weight"]) >= 1 for row in rows)
    runs.sample_labels(labelled, tmp_path / "b.csv", count=3)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with pytest.raises(RunError, match="has 4 reports; --n must be from 1 to 4, not 5"):
        runs.sample_labels(labelled, tmp_path / "c.csv", count=5)


def fill_in(file, values):
    """Write labels into a sample as a person would, by study and finding."""
    rows = run_files.table(file)
    for row in rows:
        row.update(values.get(row["study_id"], {}))
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.filterwarnings("ignore:.*records have no label yet")
def test_agreement_with_labels_given_by_hand(labelled, tmp_path, capsys):
    truth = tmp_path / "truth.csv"
    runs.sample_labels(labelled, truth, count=4)
    fill_in(truth, {
        "s1": {"Pleural Effusion": "1", "Pneumothorax": "0"},
        "s2": {"Pneumonia": "-1", "Cardiomegaly": "1"},
        "s3": {"Pleural Effusion": "1"},
    })  # fmt: skip
    report = runs.check_labels(labelled, truth, tmp_path / "agreement", draws=100)
    weight = {row["study_id"]: float(row["sampling_weight"]) for row in run_files.table(truth)}
    expected = weight["s1"] / (weight["s1"] + weight["s3"])
    assert report["Pleural Effusion"]["sensitivity"].value == pytest.approx(expected, rel=1e-4)
    assert report["Pleural Effusion"]["precision"].value == 1
    assert not report["Pneumonia"]["f1"].defined  # the uncertain one is left out, and there is no other
    rows = run_files.table(tmp_path / "agreement" / "disagreements.csv")
    assert {(row["study_id"], row["finding"], row["truth"], row["label"]) for row in rows} >= {
        ("s2", "Cardiomegaly", "1", "0"),
        ("s3", "Pleural Effusion", "1", "0"),
    }
    assert {row["sentence"] for row in rows if row["finding"] == "Cardiomegaly"} == {"The heart is normal in size."}
    assert "Pleural Effusion" in capsys.readouterr().out


def test_truth_that_cannot_be_used_is_refused(labelled, tmp_path):
    truth = tmp_path / "truth.csv"
    runs.sample_labels(labelled, truth, count=3)
    with pytest.raises(RecordError, match="none of its 3 records has a label yet; fill in 1, 0 or -1"):
        runs.check_labels(labelled, truth)
    truth.write_text("image_path,Edema\nz.png,1\n")
    with pytest.raises(
        RecordError, match=r"none of its records is in .*labelled.csv, by image_path or study_id; first: z.png"
    ):
        runs.check_labels(labelled, truth)
    truth.write_text("image_path,Kidney\na1.png,1\n")
    with pytest.raises(RecordError, match=r"has no column of labels that .*labelled.csv has too; there: Enlarged"):
        runs.check_labels(labelled, truth)
    truth.write_text("image_path,Edema,sampling_weight\na1.png,1,0\n")
    with pytest.raises(RecordError, match=r"a1.png: '0' in column sampling_weight is no number above 0"):
        runs.check_labels(labelled, truth)


@pytest.mark.filterwarnings("ignore:.*records have no label")
def test_the_three_commands_in_a_row(capsys, records, tmp_path):
    out, drawn = tmp_path / "labelled.csv", tmp_path / "to-label.csv"
    code, said, _ = run_cli(capsys, "label", str(records), "--findings", "english", "--out", str(out))
    assert (code, "next: mrm label sample" in said) == (0, True)
    code, said, _ = run_cli(capsys, "label", "sample", str(out), "--n", "4", "--out", str(drawn))
    assert (code, "4 reports of 4" in said) == (0, True)
    fill_in(drawn, {"s1": {"Pleural Effusion": "1"}, "s2": {"Pneumonia": "-1"}, "s3": {"No Finding": "1"}})
    code, said, _ = run_cli(capsys, "label", "check", str(out), "--truth", str(drawn), "--draws", "100")
    assert (code, "kappa (95 %)" in said) == (0, True)
