"""The examples of a training loop of one's own run as they are, and what they learn can be loaded."""

import re
import runpy

import pytest
import torch

import mrm
from mrm.data.records import Records
from tests.support.paths import EXAMPLES


@pytest.fixture
def prepared(phantoms, pretrained_run, tmp_path, monkeypatch):
    """The working folder that the examples expect: `prepared/` and `runs/pretrained`."""
    records = Records.load(phantoms / "records.csv", None)
    for name, part in records.split({"train": 0.7, "val": 0.3}).items():
        part.to_csv(tmp_path / "prepared" / f"{name}.csv")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pretrained").symlink_to(pretrained_run)
    monkeypatch.chdir(tmp_path)
    return records


def test_ten_lines_of_plain_pytorch(prepared, pretrained_run, capsys):
    runpy.run_path(str(EXAMPLES / "own_training_loop.py"), run_name="__main__")
    printed = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"epoch \d: loss ([\d.]+)", printed)]
    assert len(losses) == 3
    assert losses[-1] < 0.69  # of a coin
    assert [line.split(":")[0] for line in printed.splitlines()[3:]] == ["mean", *prepared.classes]
    check_weights(pretrained_run, len(prepared.classes))


def test_the_trainer_of_transformers(prepared, pretrained_run, capsys):
    pytest.importorskip("transformers")
    runpy.run_path(str(EXAMPLES / "transformers_trainer.py"), run_name="__main__")
    (loss,) = re.findall(r"^validation loss ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    assert float(loss) < 0.69
    check_weights(pretrained_run, len(prepared.classes))


def check_weights(start, classes: int) -> None:
    """The file holds a whole timm model of this shape, and other weights than it started from."""
    model = mrm.load_encoder(start, num_classes=classes)
    before = model.blocks[0].attn.qkv.weight.clone()
    model.load_state_dict(torch.load("own.pth", weights_only=True))
    assert not torch.equal(model.blocks[0].attn.qkv.weight, before)
