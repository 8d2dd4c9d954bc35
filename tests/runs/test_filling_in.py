"""The command `fill-in`: what it prints and writes, and bad input in one line."""

import json

import pytest

from mrm.data.reports import Tokenizer
from tests.support.bright_and_dark import BLANKED, write_model_and_images
from tests.support.commands import run_cli


@pytest.fixture(scope="module")
def folder(bright_and_dark_model, tmp_path_factory):
    return write_model_and_images(tmp_path_factory.mktemp("model"), bright_and_dark_model)


def test_the_command_fills_in_a_text_or_a_file(capsys, folder, tmp_path):
    common = ["fill-in", str(folder / "model"), str(folder / "radiograph.png")]
    code, out, err = run_cli(capsys, *common, str(folder / "report.txt"), "--others", str(folder / "others"))
    assert code == 0, err
    assert "bright" in out
    code, again, err = run_cli(
        capsys, *common, BLANKED, "--others", str(folder / "others"), "--json", str(tmp_path / "a.json")
    )
    assert (code, again) == (0, out), err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["blanks"][0]["with_image"][0][0] == "bright"


def test_the_command_orders_sentences_by_surprise(capsys, folder, tmp_path):
    text = "Findings: the chest is dark. There is cardiomegaly."
    code, out, err = run_cli(
        capsys, "fill-in", str(folder / "model"), str(folder / "radiograph.png"), text, "--surprise",
        "--others", str(folder / "others"), "--json", str(tmp_path / "a.json"),
    )  # fmt: skip
    assert code == 0, err
    assert "the chest is dark" in out.splitlines()[1]
    found = json.loads((tmp_path / "a.json").read_text())
    assert [s["sentence"] for s in found["sentences"]] == ["Findings: the chest is dark.", "There is cardiomegaly."]
    assert found["report"]["words"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report": "nothing blank"}, "0 blanks"),
        ({"report": "____ " * 10_000}, "10,000 blanks"),
        ({"report": "reprot.txt"}, "reprot.txt: no such file"),
        ({"report": "{f}/empty.txt"}, "0 blanks"),
        ({"report": "{f}/huge.txt"}, "too large for a report"),
        ({"report": "{f}/radiograph.png"}, "not a text file"),
        ({"radiograph": "gone.png"}, "gone.png"),
        ({"radiograph": "empty.png"}, "empty.png"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_the_command_names_bad_input_in_one_line(capsys, folder, changes, message):
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "huge.txt").write_bytes(b"____ " * 300_000)
    asked = {"model": "model", "radiograph": "radiograph.png", "report": BLANKED, **changes}
    report = asked["report"].replace("{f}", str(folder))
    code, _, err = run_cli(capsys, "fill-in", str(folder / asked["model"]), str(folder / asked["radiograph"]), report)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_tokenizer_of_another_size_is_refused(capsys, folder, tmp_path):
    (tmp_path / "t.json").write_text(Tokenizer.train(["one two three"], 40).to_json())
    code, _, err = run_cli(
        capsys,
        "fill-in",
        str(folder / "model"),
        str(folder / "radiograph.png"),
        BLANKED,
        "--tokenizer",
        str(tmp_path / "t.json"),
    )
    assert code == 2
    assert "the tokenizer has" in err
    assert "trained with" in err
