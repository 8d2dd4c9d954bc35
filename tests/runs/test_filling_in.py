"""The commands `fill-in` and `reconstruct`: what they print and write, and bad input in one line."""

import json

import pytest

from mrm.data import images
from mrm.data.reports import Tokenizer
from mrm.inference import reconstruction
from mrm.models import model_folder
from tests.support.bright_and_dark import BLANKED, bright_or_dark, other_images
from tests.support.commands import run_cli


@pytest.fixture(scope="module")
def folder(bright_and_dark_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    model_folder.save(out / "model", bright_and_dark_model)
    (out / "others").mkdir()
    for i, other in enumerate(other_images()):
        (out / "others" / f"{i}.png").write_bytes(images.encode_png(other))
    (out / "radiograph.png").write_bytes(images.encode_png(bright_or_dark(True, 50)))
    (out / "report.txt").write_text(BLANKED)
    return out


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


def test_reconstruct_writes_a_sheet_an_image_and_their_errors(capsys, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    paths = [str(folder / "radiograph.png"), str(folder / "others" / "1.png"), str(folder / "broken.png")]
    with pytest.warns(UserWarning, match=r"left out .*broken"):
        code, _, err = run_cli(
            capsys, "reconstruct", str(folder / "model"), *paths, "--out", str(tmp_path), "--keep", "5"
        )
    assert code == 0, err
    assert err.splitlines()[-1].rstrip() == "restoring: 3 of 3"  # ends, though the last image cannot be read
    lines = (tmp_path / "errors.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[1].split(",")[3:6] == ["5", "0", "radiograph.png"]
    sheet = images.read(tmp_path / "radiograph.png")
    assert sheet.shape[1] > 3 * sheet.shape[0]
    error = reconstruction.reconstruct(model_folder.load(folder / "model"), bright_or_dark(True, 50), 0, 5).error
    assert float(lines[1].split(",")[1]) == pytest.approx(error, abs=1e-5)
    code, _, err = run_cli(
        capsys, "reconstruct", str(folder / "model"), *paths[:1], "--out", str(tmp_path), "--keep", "99"
    )
    assert code == 2
    assert "--keep must be from 1 to 15" in err
    code, _, err = run_cli(capsys, "reconstruct", str(folder / "model"), *paths[:1], "--out", str(folder))
    assert code == 2
    assert "radiograph.png: is an input, and would be overwritten" in err


def test_reconstruct_takes_the_published_file_and_refuses_what_it_cannot_use(capsys, folder, tmp_path):
    model_folder.export_published(model_folder.load(folder / "model"), tmp_path / "MRM.pth")
    common = [str(tmp_path / "MRM.pth"), str(folder / "radiograph.png")]
    code, _, err = run_cli(capsys, "reconstruct", *common, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert (tmp_path / "out" / "radiograph.png").is_file()
    code, _, err = run_cli(capsys, "fill-in", *common, BLANKED)
    assert code == 2
    assert "--tokenizer" in err
    (tmp_path / "t.json").write_text((folder / "model" / "tokenizer.json").read_text())
    code, out, err = run_cli(capsys, "fill-in", *common, BLANKED, "--tokenizer", str(tmp_path / "t.json"))
    assert code == 0, err
    assert "bright" in out
