"""Findings without labels, end to end: a model that tells bright chests from dark ones."""

import csv
from dataclasses import replace

import pytest

from mrm import runs
from mrm.cli import main
from mrm.data import images
from mrm.models import model_folder
from mrm.runs.reading_options import Reading
from mrm.system.errors import RecordError, RunError
from tests.support.bright_and_dark import bright_or_dark
from tests.support.run_files import table

READING = Reading(batch=8, workers=0)
FINDINGS = """
findings:
  bright:
    present: [the chest is bright., There is cardiomegaly.]
    absent: [the chest is dark., There is nothing.]
  even number:
    present: [There is nothing.]
    absent: [There is cardiomegaly.]
"""


@pytest.fixture(scope="module")
def place(bright_and_dark_model, tmp_path_factory):
    """A model, findings, and forty labelled images: bright or dark, and whether their number divides by four."""
    folder = tmp_path_factory.mktemp("zero-shot")
    model_folder.save(folder / "model", bright_and_dark_model)
    (folder / "findings.yaml").write_text(FINDINGS)
    rows = []
    for i in range(40):
        bright = i % 2 == 0
        (folder / f"{i}.png").write_bytes(images.encode_png(bright_or_dark(bright, 200 + i)))
        rows.append([f"{i}.png", f"p{i}", int(bright), int(i % 4 < 2)])
    with open(folder / "labelled.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image_path", "patient_id", "bright", "even number"], *rows])
    return folder


def test_findings_that_the_model_can_tell_are_scored_and_others_are_not(place, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    images_to_score = [place / f"{i}.png" for i in range(10)]
    runs.zero_shot(
        place / "model", images_to_score, place / "findings.yaml", out, place / "labelled.csv", reading=READING
    )
    printed = capsys.readouterr().out.splitlines()
    bright, even = (next(line for line in printed if line.startswith(name)) for name in ("bright", "even number"))
    assert "scored" in bright
    assert "1.000" in bright
    assert "not scored: 0.5 is in the interval" in even
    rows = table(out)
    assert [float(row["bright"]) > 0 for row in rows] == [i % 2 == 0 for i in range(10)]
    assert {row["even number"] for row in rows} == {""}


def test_a_finding_whose_scores_are_the_wrong_way_round_is_called_worse_than_chance(place, tmp_path, capsys):
    (tmp_path / "reversed.yaml").write_text(
        FINDINGS.replace("present", "was").replace("absent", "present").replace("was", "absent")
    )
    with pytest.raises(RunError, match="none of the findings can be told"):
        runs.zero_shot(
            place / "model", [place / "0.png"], tmp_path / "reversed.yaml", tmp_path / "scores.csv", place / "labelled.csv",
            reading=READING,
        )  # fmt: skip
    bright = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bright"))
    assert "not scored: worse than chance" in bright
    assert "0.000" in bright


def test_without_a_test_the_scores_are_said_to_be_untested_and_their_mean_is_zero(place, tmp_path, recwarn):
    out = tmp_path / "scores.csv"
    images_to_score = [place / f"{i}.png" for i in range(10)]
    runs.zero_shot(place / "model", images_to_score, place / "findings.yaml", out, reading=READING)
    assert "these scores are not tested" in str(recwarn.pop(UserWarning).message)
    for name in ("bright", "even number"):
        values = [float(row[name]) for row in table(out)]
        assert sum(values) == pytest.approx(0, abs=1e-4)
        assert max(values) > 0.1
    others = tmp_path / "others.csv"
    runs.zero_shot(
        place / "model", images_to_score, place / "findings.yaml", others, others=[place / "1.png"], reading=READING
    )
    dark = [float(row["bright"]) for row in table(others)]
    assert dark[1] == pytest.approx(0, abs=1e-4)  # it is the reference itself
    assert dark[0] > 0.1


def test_a_test_that_no_finding_passes_ends_the_command_and_writes_nothing(place, tmp_path):
    findings = tmp_path / "findings.yaml"
    findings.write_text(
        "findings:\n  even number:\n    present: [There is nothing.]\n    absent: [There is cardiomegaly.]"
    )
    out = tmp_path / "scores.csv"
    with pytest.raises(RunError, match="none of the findings can be told"):
        runs.zero_shot(place / "model", [place / "0.png"], findings, out, place / "labelled.csv", reading=READING)
    assert not out.exists()


def test_a_test_without_these_labels_and_a_test_with_others_are_refused(place, tmp_path):
    findings = tmp_path / "findings.yaml"
    findings.write_text("findings:\n  mass:\n    present: [There is cardiomegaly.]\n    absent: [There is nothing.]")
    given = place / "model", [place / "0.png"], findings, tmp_path / "scores.csv", place / "labelled.csv"
    with pytest.raises(RecordError, match="has labels of bright, even number, and of none of the findings mass"):
        runs.zero_shot(*given, reading=READING)
    with pytest.raises(RunError, match="--test and --others both say what scores are relative to"):
        runs.zero_shot(*given, others=[place / "1.png"], reading=READING)
    with pytest.raises(RunError, match="--precision int8 is for images; the words of reports are computed in fp32"):
        runs.zero_shot(*given, reading=replace(READING, precision="int8"))


def test_the_command(place, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    arguments = ["zero-shot", place / "model", place / "0.png", "--findings", place / "findings.yaml", "--out", out]
    main([str(a) for a in [*arguments, "--test", place / "labelled.csv", "--workers", 0]])
    assert f"wrote {out}" in capsys.readouterr().out
    assert float(table(out)[0]["bright"]) > 0
