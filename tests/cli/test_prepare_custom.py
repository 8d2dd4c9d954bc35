"""`mrm prepare custom` on an export: several tables, a preview without output, and options that need each other."""

import pytest

from mrm.corpora.custom import description
from tests.support import hospital_export
from tests.support.commands import run_cli
from tests.support.workbooks import write_xlsx


@pytest.fixture
def export(tmp_path):
    """An archive, a table of reports and a workbook of labels."""
    images = hospital_export.write_archive(tmp_path / "archive", studies=3)
    keys = list(dict.fromkeys(i.accession for i in images))
    (tmp_path / "reports.csv").write_text("AccessionNumber;Befund\n" + "".join(f"{key};Herz normal.\n" for key in keys))
    write_xlsx(tmp_path / "labels.xlsx", {"TB": [["Acc", "TB"], *[[key, "ja"] for key in keys]]})
    return tmp_path


def test_tables_are_given_together_or_one_by_one(export, capsys):
    words = ["prepare", "custom", "--source", str(export / "archive"), "--classes", "TB", "--preview"]
    tables = [str(export / "reports.csv"), str(export / "labels.xlsx")]
    together = run_cli(capsys, *words, "--table", *tables)
    one_by_one = run_cli(capsys, *words, "--table", tables[0], "--table", tables[1])
    assert (together[0], one_by_one[0]) == (0, 0)
    assert together[1] == one_by_one[1]
    assert "labels.xlsx is joined to reports.csv by accession: 3 rows of labels.xlsx have a partner" in together[1]
    assert together[1].endswith("nothing was written\n")


def test_the_description_of_a_preview_is_the_next_command(export, capsys):
    words = ["prepare", "custom", "--source", str(export / "archive")]
    file = export / "d.yaml"
    tables = ["--table", str(export / "reports.csv"), str(export / "labels.xlsx"), "--classes", "TB"]
    status, shown, _ = run_cli(capsys, *words, *tables, "--preview", "--write-description", str(file))
    assert (status, shown.splitlines()[-1]) == (
        0,
        f"next: mrm prepare custom --source {export / 'archive'} --config {file} --out DIR",
    )
    assert len(description.read(file).tables) == 2
    shares = ["--val", "0", "--test", "0"]
    status, shown, _ = run_cli(capsys, *words, "--config", str(file), "--out", str(export / "out"), *shares)
    assert status == 0
    assert (export / "out" / "description.yaml").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "missing: --out; give the folder to write, or --preview to write nothing"),
        (["--out", "o", "--write-description", "d.yaml"], "--write-description needs --preview"),
        (["--preview", "--join-by", "acession"], "join_by: unknown value 'acession'; choose from image_path, "),
        (["--preview", "--within-days", "-1"], "within_days -1: give 0 or more"),
        (["--preview", "--config", "gone.yaml"], "--config gone.yaml: no such file"),
    ],
)
def test_options_that_do_not_fit_are_one_line(export, capsys, more, message):
    status, _, error = run_cli(capsys, "prepare", "custom", "--source", str(export / "archive"), *more)
    assert status == 2
    assert message in error
    assert error.startswith("mrm: error: ")
    assert len(error.splitlines()) == 1
