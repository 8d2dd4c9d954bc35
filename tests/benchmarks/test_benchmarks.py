"""The benchmark compares like with like: the plain baseline and our network have the same losses and gradients."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mrm.data import images
from mrm.models import noise
from mrm.models.flops import flops_of_step
from mrm.models.mrm import MRM
from mrm.training.tasks import PretrainTask
from tests.support.configs import MICRO

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def speed():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("speed", FOLDER / "speed.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))


def micro(**changes):
    with noise.seeded(0):
        return MRM(replace(MICRO, **changes))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_baseline_and_ours_have_the_same_losses_and_gradients(speed, norm_pix):
    model = micro(norm_pix=norm_pix, report_dropout=0.0)
    plain = speed.baseline.like(model)
    batch = speed.batch_for(model, 3)
    terms = PretrainTask(model).train()(batch)
    crop = speed.normalise(batch.image_BHW, model.config.mean, model.config.std)
    image, report = plain.train()(crop, batch.kept_BK, *speed.whole_reports(batch, model.config.report_length))
    assert image.item() == pytest.approx(terms["image"].mean().item(), rel=1e-5)
    assert report.item() == pytest.approx(terms["report"].mean().item(), rel=1e-5)
    (image + report).backward()
    (terms["image"].mean() + terms["report"].mean()).backward()
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    ours = {speed.baseline._name(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert theirs.keys() == ours.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(theirs[name], grad, rtol=1e-3, atol=1e-5, msg=name)


def test_reports_have_70_tokens_on_average_and_the_baseline_pads_them_all(speed):
    model = micro()
    batch = speed.batch_for(model, 8)
    assert batch.attention_BT.sum() / 8 == pytest.approx(70, abs=0.5)
    assert len(batch.rows_N) < 8 * 80  # ours computes few more positions than there are tokens
    assert speed.whole_reports(batch, 100)[0].shape == (8, 100)


def test_the_baseline_reads_what_we_read(speed, tmp_path):
    """The same file with no crop and no flip: the same image but for the resizing's rounding."""
    smooth = images.resize(np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8), 64, 64)
    file = speed.write(tmp_path / "a.jpg", smooth)
    transform = speed.baseline.image_transform(64)
    whole = speed.baseline.transforms.Compose(transform.transforms[2:])  # no random crop, no flip
    theirs = whole(Image.open(file).convert("RGB"))
    ours = speed.normalise(torch.from_numpy(images.read(file))[None], 0.4978, 0.2449)[0]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.02)
    assert speed.baseline.load(file, transform).shape == (3, 64, 64)


@pytest.mark.parametrize(
    "changes", [{}, {"image_decoder": "cross"}, {"image_decoder": "cross-blocks"}, {"decoder_depth": 3, "predicted": 5}]
)
def test_flops_are_those_that_pytorch_counts(speed, changes):
    model = micro(**changes)
    batch = speed.batch_for(model, 4)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        PretrainTask(model).eval()(batch)
    forward = flops_of_step(model, batch) / 3 * 4
    assert forward == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_times_are_taken_in_turns_and_ratios_within_a_turn(speed):
    order = []
    clock = {"slow": iter([2.0, 4.0, 9.0]), "fast": iter([1.0, 2.0, 3.0])}
    seconds = speed.in_turns({k: lambda k=k: order.append(k) or next(clock[k]) for k in clock}, 3)
    assert order == ["slow", "fast"] * 3
    found = speed.ratio(seconds, "slow", "fast")
    assert (found["each"], found["median"], found["min"], found["max"]) == ([2.0, 2.0, 3.0], 2.0, 2.0, 3.0)


@pytest.mark.slow
def test_a_variant_steps_in_a_process_of_its_own(speed):
    with speed.Stepper("fp32 cross", quick=True, size=2) as ours:
        assert 0 < ours.step() < 60
    assert 0.1 < ours.memory < 10  # GiB
    assert ours.process.returncode == 0
    with pytest.raises(SystemExit, match="--step-of fp8"):
        speed.Stepper("fp8", quick=True, size=2).__enter__()


def test_the_loop_is_timed_in_parts_that_make_the_whole(speed, tmp_path):
    trainer = speed.trainer_for(tmp_path / "run", micro(), 3, 4, "fp32")
    trainer.watch()
    with speed.quiet():
        trainer.fit()
    first, last = trainer.history[0], trainer.history[-1]
    parts = [last[k] - first[k] for k in ("loader", "step", "gradient norm")]
    assert all(p > 0 for p in parts)
    assert sum(parts) < last["time"] - first["time"]
    assert len(trainer.history) == 3


def test_the_command_writes_what_it_measured_and_on_which_machine(speed, tmp_path, monkeypatch, capsys):
    out, folder = tmp_path / "speed.json", tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        noisy = np.random.default_rng(i).integers(0, 256, (40, 30), dtype=np.uint8)
        speed.write(folder / f"{i}.jpg", images.resize(noisy, 400, 300))
    monkeypatch.setattr(
        sys, "argv", ["speed.py", "--quick", "--part", "loader", "--out", str(out), "--images", str(folder)]
    )
    threads = torch.get_num_threads()
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    assert found["quick"] is True
    assert found["machine"]["processor"]
    assert "torch" in found["machine"]["versions"]
    assert found["loader"]["ratios"]["512-pixel files against baseline on them"]["min"] > 1
    assert "its numbers mean nothing" in capsys.readouterr().out


def test_the_loader_part_needs_real_images(speed, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--part", "loader"])
    with pytest.raises(SystemExit):
        speed.main()
    with pytest.raises(SystemExit, match="0 images, but 2 are needed"):
        speed.largest_images(tmp_path, 2)
