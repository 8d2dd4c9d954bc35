"""The command `reconstruct`: sheets, images and their errors."""

import pytest

from mrm.data import images
from mrm.inference import reconstruction
from mrm.models import model_folder
from tests.support.bright_and_dark import BLANKED, bright_or_dark, write_model_and_images
from tests.support.commands import run_cli


@pytest.fixture(scope="module")
def folder(bright_and_dark_model, tmp_path_factory):
    return write_model_and_images(tmp_path_factory.mktemp("model"), bright_and_dark_model)


def test_reconstruct_writes_a_sheet_an_image_and_their_errors(capsys, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    paths = [str(folder / "radiograph.png"), str(folder / "others" / "1.png"), str(folder / "broken.png")]
    with pytest.warns(UserWarning, match=r"left out .*broken"):
        code, _, err = run_cli(
            capsys, "reconstruct", str(folder / "model"), *paths, "--out", str(tmp_path), "--keep", "5"
        )
    assert code == 3, err
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
