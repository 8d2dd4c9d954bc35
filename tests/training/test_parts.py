"""Weights in parts and in copies, on one rank of a real process group: what is whole is what it was."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from mrm.training import parallel

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    """A process group of this process alone, which meets nobody."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Net(nn.Module):
    """Two blocks and a head, as models have them; `encode` makes it an average that tasks call."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)


class Average(Net):
    def encode(self, x):
        return self.forward(x)


def made(kind: type[Net] = Net) -> Net:
    torch.manual_seed(0)
    return kind()


def batch(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


def in_parts(kind: type[Net] = Net) -> Net:
    model = made(kind)
    parallel.shard(model, CPU, 1)
    return model


def held(kind: str) -> nn.Module:
    return {"plain": made, "parts": in_parts, "copies": lambda: parallel.copies(made(), CPU)}[kind]()


def test_every_weight_becomes_a_part_and_is_whole_again_as_it_was():
    model, plain = in_parts(), made()
    assert all(isinstance(weight, DTensor) for weight in model.state_dict().values())
    assert [name for name, module in model.named_modules() if isinstance(module, FSDPModule)] == [
        "",
        "blocks.0",
        "blocks.1",
    ]
    whole = parallel.whole_weights(model)
    assert whole.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert not isinstance(whole[name], DTensor)
        assert torch.equal(whole[name], value)
    assert torch.equal(parallel.whole(model(batch(0))), plain(batch(0)))


def test_an_average_in_parts_can_be_asked_by_another_name():
    model = in_parts(Average)
    with torch.no_grad():
        assert torch.equal(model.encode(batch(0)), made(Average).encode(batch(0)))


def test_whole_weights_are_loaded_as_parts():
    model, other = in_parts(), made()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(2)
    own = parallel.own_weights({**other.state_dict(), "unknown": torch.ones(3)}, model)
    assert not isinstance(own.pop("unknown"), DTensor)
    model.load_state_dict(own)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in parallel.whole_weights(model).items())
    count = torch.tensor(3.0)
    assert parallel.part(count, model.head.weight) is count  # a count of steps is one number for all ranks
    assert parallel.part("adam", model.head.weight) == "adam"
    assert parallel.part(count, count) is count


@pytest.mark.parametrize("kind", ["plain", "parts", "copies"])
def test_micro_batches_add_up_to_the_gradient_of_a_step(kind):
    """The mean square of six outputs in two micro-batches; the norm of all weights together, and a tenth of it at most."""
    plain = made()
    torch.cat([plain(batch(0)), plain(batch(1))]).square().mean().backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    model = held(kind)
    with parallel.gradients_stay(model):
        (model(batch(0)).square().mean() / 2).backward()
    (model(batch(1)).square().mean() / 2).backward()
    norm = parallel.gradient_norm(model, None)
    assert norm.item() == pytest.approx(expected.norm().item(), rel=1e-6)
    clip = norm.item() / 10
    assert parallel.gradient_norm(model, clip).item() == pytest.approx(norm.item(), rel=1e-6)
    gradient = torch.cat([parallel.whole(p.grad).flatten() for p in model.parameters()])
    torch.testing.assert_close(gradient, expected / 10, rtol=1e-4, atol=1e-8)
    parallel.gradient_norm(model, 10 * clip)  # nothing is scaled up
    assert torch.equal(gradient, torch.cat([parallel.whole(p.grad).flatten() for p in model.parameters()]))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> nn.Module:
    for step in steps:
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("kinds", [("plain", "parts"), ("parts", "plain"), ("parts", "parts")])
def test_the_state_of_an_optimiser_is_whole_and_any_way_of_holding_weights_resumes_from_it(kinds):
    straight = made()
    trained(straight, torch.optim.AdamW(straight.parameters(), lr=0.1), range(5))
    first, second = (held(kind) for kind in kinds)
    optimizer = torch.optim.AdamW(first.parameters(), lr=0.1)
    trained(first, optimizer, range(3))
    state, weights = copy.deepcopy(parallel.whole_state(optimizer, keep=True)), parallel.whole_weights(first)
    assert not any(isinstance(value, DTensor) for values in state["state"].values() for value in values.values())
    assert parallel.whole_state(optimizer, keep=False)["state"][0] == {
        "step": None,
        "exp_avg": None,
        "exp_avg_sq": None,
    }
    second.load_state_dict(parallel.own_weights(weights, second))
    again = torch.optim.AdamW(second.parameters(), lr=0.1)
    trained(second, again, range(1))  # moments, to be replaced
    second.load_state_dict(parallel.own_weights(weights, second))
    parallel.load_state(again, state)
    trained(second, again, range(3, 5))
    for name, value in parallel.whole_weights(second).items():
        torch.testing.assert_close(value, straight.state_dict()[name])


def test_only_weights_that_the_saved_model_has_not_are_kept_beside_it():
    saved, model = made(), in_parts()
    assert parallel.weights_beside(saved, saved) == {}
    assert parallel.weights_beside(saved, model) == {}
    with torch.no_grad():
        saved.head.bias.add_(1)
    saved.blocks = saved.blocks[:1]
    beside = parallel.weights_beside(saved, model)
    assert set(beside) == {"head.bias", "blocks.1.weight", "blocks.1.bias"}
    assert torch.equal(beside["head.bias"], made().head.bias)
