"""The command `explain`: overlays, arrays, sheets, and a list of them."""

import numpy as np
import pytest

from mrm.data import images
from mrm.models import model_folder
from tests.support.commands import run_cli
from tests.support.squares import square_and_ring


@pytest.fixture(scope="module")
def folder(squares_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    model_folder.save(out / "model", squares_model)
    rng = np.random.default_rng(0)
    for name in ("a/radiograph.png", "b/radiograph.png"):
        (out / name).parent.mkdir()
        (out / name).write_bytes(images.encode_png(images.resize(square_and_ring(rng, (1, 1))[0], 120, 90)))
    (out / "broken.png").write_bytes(b"no image")
    return out


def test_the_command_writes_overlays_arrays_sheets_and_a_list_of_them(capsys, folder, tmp_path):
    paths = [str(folder / name) for name in ("a", "b", "broken.png")]
    with pytest.warns(UserWarning, match=r"left out .*broken"):
        code, _, err = run_cli(capsys, "explain", str(folder / "model"), *paths, "--out", str(tmp_path))
    assert code == 3, err
    assert err.splitlines()[-1].rstrip() == "explaining: 3 of 3"  # ends, though the last image cannot be read
    rows = [line.split(",") for line in (tmp_path / "maps.csv").read_text().splitlines()]
    assert rows[0] == ["image", "finding", "probability", "method", "overlay", "array", "sheet", "error"]
    assert [r[4] for r in rows[1:5]] == [
        "radiograph.square.png",
        "radiograph.ring.png",
        "radiograph-2.square.png",
        "radiograph-2.ring.png",
    ]
    assert rows[5][1] == ""
    assert rows[5][-1]
    heat = np.load(tmp_path / "radiograph.square.npy")
    assert (heat.shape, float(heat.max())) == ((120, 90), 1.0)
    assert images.read(tmp_path / "radiograph.square.png").shape == (120, 90)
    assert images.read(tmp_path / "radiograph.sheet.png").shape[1] > 400
    assert 0 < float(rows[1][2]) < 1


def test_the_command_shows_only_the_findings_asked_for(capsys, folder, tmp_path):
    code, _, err = run_cli(
        capsys, "explain", str(folder / "model"), str(folder / "a"), "--out", str(tmp_path), "--finding", "ring", "--method", "rollout"
    )  # fmt: skip
    assert code == 0, err
    assert {p.name for p in tmp_path.iterdir()} == {
        "radiograph.ring.png",
        "radiograph.ring.npy",
        "radiograph.sheet.png",
        "maps.csv",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{f}/model", "{f}/a", "--finding", "cyst"], "unknown finding 'cyst'; choose from square, ring"),
        (["{f}/model", "{f}/nowhere"], "nowhere"),
        (["{f}/model", "{f}/broken.png"], "none of the 1 images could be read"),
        (["{f}/nowhere", "{f}/a"], "no such file or folder"),
        (["{f}/model", "{f}/a", "--opacity", "2"], "opacity"),
    ],
)
@pytest.mark.filterwarnings("ignore:left out")
def test_the_command_names_bad_input_in_one_line(capsys, folder, tmp_path, arguments, message):
    code, _, err = run_cli(
        capsys, "explain", *(a.replace("{f}", str(folder)) for a in arguments), "--out", str(tmp_path)
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_results_want_a_folder(capsys, folder):
    file = str(folder / "broken.png")
    code, _, err = run_cli(capsys, "explain", str(folder / "model"), str(folder / "a"), "--out", file)
    assert code == 2
    assert f"{file}: is a file, but a folder is needed" in err
