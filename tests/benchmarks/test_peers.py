"""The comparison with other libraries: turns, ratios and checks by hand, and every way at small work, where it is installed."""

import importlib.util
import json
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.peers import __main__ as command
from benchmarks.peers import loading, pretraining, table, turns
from benchmarks.peers.turns import OURS, Line, Setting
from mrm.data import images
from tests.support.paths import ROOT

LIBRARIES = {  # a way whose name starts so needs these
    "transformers": ["transformers"],
    "lightly": ["lightly"],
    "monai": ["monai", "ignite"],
    "MONAI": ["monai"],
    "WebDataset": ["webdataset"],
    "torchxrayvision": ["torchxrayvision"],
    "confidenceinterval": ["confidenceinterval"],
    "MLstatkit": ["MLstatkit"],
    "ONNX": ["onnxruntime", "onnxscript"],
}


class Ended(BaseException):
    """No more turns."""


class InProcess:
    """A gate that lets through so many turns at once and keeps what was computed."""

    def __init__(self, turns: int) -> None:
        self.turns, self.values = turns, []

    def open(self) -> None:
        if len(self.values) == self.turns:
            raise Ended

    def done(self, value=None) -> None:
        self.values.append(np.asarray(value, dtype=float))
        self.open()

    def repeat(self, work) -> None:
        self.open()
        while True:
            self.done(work())


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Small work, with eight smooth radiographs."""
    folder = tmp_path_factory.mktemp("peers")
    source = folder / "source"
    source.mkdir()
    for number in range(loading.COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (12, 10), dtype=np.uint8)
        (source / f"{number}.jpg").write_bytes(images.encode_jpeg(images.resize(noise, 360, 300)))
    loading.write_images(Setting(True, folder), source)
    return Setting(True, folder)


def computed(line: str, way: str, setting: Setting) -> np.ndarray:
    """What a way computes at its first turn; skips where its library is not installed."""
    needed = next((names for start, names in LIBRARIES.items() if way.startswith(start)), [])
    for name in needed:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    gate = InProcess(2)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(Ended):
            command.LINES[line].ways[way](gate, setting)
    finally:
        torch.set_num_threads(threads)
    return gate.values[0]


class Scripted:
    """In place of a process: answers from a list, and notes whose turn it was."""

    order: ClassVar[list[str]] = []
    answers: ClassVar[dict[str, list[dict]]] = {}

    def __init__(self, line: str, way: str, setting: Setting, threads: int) -> None:
        self.way, self.left = way, iter(self.answers[way])

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def turn(self) -> dict:
        self.order.append(self.way)
        return next(self.left)


def answers(seconds: list[float], value: float) -> list[dict]:
    """A first turn, one to warm up, and the measured ones."""
    return [{"seconds": s, "processor": 2 * s, "memory": s, "value": value} for s in (99.0, 99.0, *seconds)]


def scripted(monkeypatch, **ways: list[dict]) -> dict:
    """What is measured of these ways."""
    monkeypatch.setattr(turns, "Process", Scripted)
    monkeypatch.setattr(Scripted, "answers", ways)
    monkeypatch.setattr(Scripted, "order", [])
    line = Line("work", "seconds", dict.fromkeys(ways), turns.relative, 0.01, repeats=3, shares=("floor",))
    return turns.measure("line", line, Setting(False, ROOT))


def test_ways_take_turns_in_changing_order_and_ratios_are_of_one_turn(monkeypatch):
    result = scripted(
        monkeypatch,
        mrm=answers([1.0, 2.0, 4.0], 3.0),
        other=answers([3.0, 2.0, 6.0], 3.003),
        floor=answers([0.5, 1.5, 2.0], float("nan")),
        absent=[{"missing": "absent"}],
    )
    names = ["mrm", "other", "floor"]
    assert Scripted.order == [*names, "absent", *names, *names, *reversed(names), *names]
    assert result["ratios"]["other"]["each"] == [3.0, 1.0, 1.5]
    assert (result["ratios"]["other"]["median"], result["seconds"]["mrm"]["median"]) == (1.5, 2.0)
    assert result["shares"]["floor"]["each"] == [0.5, 0.75, 0.5]
    assert "floor" not in result["ratios"]
    assert result["differences"] == {"other": pytest.approx(0.001)}
    assert (result["missing"], result["memory"]["mrm"]) == ({"absent": "absent"}, 4.0)


def test_ways_that_compute_different_things_are_not_compared(monkeypatch):
    with pytest.raises(SystemExit, match=r"other: computes something else than mrm, by 0\.02; 0\.01 is allowed"):
        scripted(monkeypatch, mrm=answers([1.0] * 3, 1.0), other=answers([1.0] * 3, 1.02))


def test_vit_mae_keeps_the_patches_that_it_is_told_in_their_order():
    kept = torch.tensor([[0, 3, 5], [1, 2, 7]])
    assert pretraining.noise_that_keeps(kept, 8).argsort(dim=1)[:, :3].tolist() == kept.tolist()


def test_queries_keys_and_values_have_three_names_in_transformers():
    parts = pretraining.vit_mae_names("image_decoder.blocks.2.attn.qkv.bias", torch.arange(6))
    names = [f"decoder.decoder_layers.2.attention.{name}_proj.bias" for name in ("q", "k", "v")]
    assert {name: part.tolist() for name, part in parts.items()} == dict(
        zip(names, ([0, 1], [2, 3], [4, 5]), strict=True)
    )
    assert pretraining.vit_mae_names("report_decoder.norm.weight", torch.ones(2)) == {}


def test_images_are_needed_where_they_are_read(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["peers", "--line", "predict"])
    with pytest.raises(SystemExit):
        command.main()
    assert "need --images DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("pretraining", "floor"),
        ("loading-originals", "torchvision, PIL"),
        ("loading-prepared", "mrm, files"),
    ],
)
def test_what_needs_no_other_library_computes_the_same(line, way, setting):
    assert_same(line, way, setting)


OTHERS = [
    (line, way)
    for line in (
        "pretraining",
        "fine-tuning-tiny",
        "loading-prepared",
        "loading-decoded",
        "predict",
        "bootstrap",
        "delong",
    )
    for way in command.LINES[line].ways
    if way != OURS
]


def test_the_manual_shows_what_was_measured_and_all_computed_the_same():
    measured = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    assert measured["quick"] is False
    assert set(measured) == {"quick", *command.LINES}
    for name, line in command.LINES.items():
        assert measured[name]["missing"] == {}
        assert set(measured[name]["seconds"]) == set(line.ways)
        assert all(difference <= line.tolerance for difference in measured[name]["differences"].values())
    assert table.rows(measured) in (ROOT / "docs" / "peers.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("line", "way"), OTHERS)
def test_another_library_computes_the_same(line, way, setting):
    assert_same(line, way, setting)


def assert_same(line: str, way: str, setting: Setting) -> None:
    """Both ways compute the same, but for what computes nothing to compare."""
    here = command.LINES[line]
    values = {name: computed(line, name, setting) for name in (OURS, way)}
    assert np.isfinite(values[OURS]).all()
    differences = turns.compared(here, values, here.quick_tolerance or here.tolerance)
    assert set(differences) == (set() if way in here.shares else {way})


@pytest.mark.slow
def test_the_command_measures_a_line_in_processes_of_their_own(tmp_path, monkeypatch):
    out = tmp_path / "peers.json"
    monkeypatch.setattr("sys.argv", ["peers", "--quick", "--line", "mrm-step", "--out", str(out)])
    command.main()
    line = json.loads(out.read_text())["mrm-step"]
    assert line["ratios"]["published"]["n"] == 2
    assert line["machine"]["processor"]
    assert 0.1 < line["memory"]["mrm"] < 10  # GiB
