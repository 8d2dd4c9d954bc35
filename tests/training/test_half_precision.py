"""fp16 with a loss scaler, for GPUs without bf16, in the same loop: it learns, skips what overflows, and resumes to the bit."""

import numpy as np
import pytest
import torch

from mrm import runs
from mrm.models import model_folder
from mrm.system import hardware
from mrm.system.errors import ConfigError, TrainingError
from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer, update
from mrm.training.trainer import Stopped
from tests.support.configs import pretrain_config
from tests.support.run_files import sigterm_after, trace, weights


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory):
    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("fp16") / "run", precision="fp16"))


def test_a_run_in_fp16_is_close_to_that_in_fp32(whole, phantoms, tmp_path):
    """fp16 has eleven significant bits: after ten small steps the losses agree to a per cent."""
    exact = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "fp32")))
    for half, full in zip(trace(whole), exact, strict=True):
        assert float(half["image"]) == pytest.approx(float(full["image"]), rel=0.01)
        assert float(half["report"]) == pytest.approx(float(full["report"]), rel=0.01)
    assert all(np.isfinite(float(row["gradient"])) for row in trace(whole))
    assert trace(whole) != exact


def test_a_stopped_run_resumes_to_the_bit_with_the_scale_it_had(whole, phantoms, tmp_path):
    run = tmp_path / "run"
    with sigterm_after(5), pytest.raises(Stopped):
        runs.pretrain(pretrain_config(phantoms, run, precision="fp16"))
    state = model_folder.read_pickle(run / "last" / "training.pt")["scaler"]
    assert (state["scale"], state["_growth_tracker"]) == (2.0**16, 5)  # PyTorch's start; five finite steps
    runs.pretrain(pretrain_config(phantoms, run, precision="fp16"))
    assert model_folder.read_pickle(run / "last" / "training.pt")["scaler"]["_growth_tracker"] == 10  # not begun anew
    assert trace(run) == trace(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_gradient_that_overflows_changes_no_weight_and_halves_the_scale(optimizer):
    model = torch.nn.Linear(2, 1)
    config = TrainConfig(epochs=None, steps=1, optimizer=optimizer, precision="fp16")
    stepper, scaler = build_optimizer(model, config), torch.amp.GradScaler("cpu")
    before = [p.detach().clone() for p in model.parameters()]
    for bad, expected in ((True, 2.0**15), (False, 2.0**15)):
        scaler.scale(model(torch.ones(3, 2)).sum()).backward()
        if bad:
            model.weight.grad[0, 0] = torch.inf
        scaler.unscale_(stepper)
        update(stepper, 0.1, torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]), scaler)
        same = [torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)]
        assert same == [bad, bad]
        assert scaler.get_scale() == expected


def test_plain_sgd_steps_by_the_unscaled_gradient():
    """The weight moves by lr times the sum of the inputs, whatever the scale of the loss."""
    model = torch.nn.Linear(2, 1, bias=False)
    config = TrainConfig(epochs=None, steps=1, optimizer="sgd", momentum=0.0, weight_decay=0.0)
    stepper, scaler = build_optimizer(model, config), torch.amp.GradScaler("cpu")
    before = model.weight.detach().clone()
    scaler.scale(model(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).sum()).backward()
    scaler.unscale_(stepper)
    update(stepper, 0.5, torch.tensor(1.0), scaler)
    torch.testing.assert_close(model.weight, before - 0.5 * torch.tensor([[4.0, 7.0]]))


def test_a_gpu_without_bf16_is_told_to_take_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    device = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"Tesla V100 has no bf16 .*; choose fp16 for the precision, or fp32"):
        hardware.autocast(device, "bf16")
    assert hardware.settled("auto", device) == "fp16"
    assert hardware.without_bf16(device, "fp16") == "precision fp16: Tesla V100 has no bf16 instructions"


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_networks_compute_in_the_precision_that_is_asked_for(precision, kind, monkeypatch):
    monkeypatch.setattr(hardware, "computes_bf16", lambda _: True)
    with hardware.autocast(torch.device("cpu"), precision):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind


def test_fp16_with_sharded_weights_is_refused():
    with pytest.raises(TrainingError, match=r"choose either --training\.precision fp16 or --training\.sharding full"):
        TrainConfig(precision="fp16", sharding="full")
