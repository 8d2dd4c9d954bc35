"""One model on several ranks: a whole copy on each (DDP), or a part of every weight on each (FSDP2).

A part is a `DTensor`; what is saved, validated and averaged is made of whole tensors, so nothing on disk depends on
the world size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


def copies(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The model with gradients averaged over ranks, in buckets while the backward pass still runs.

    Gradients live in the buckets, which saves a copy of them. No buffer is trained, so none is broadcast.
    """
    ids = None if device.type == "cpu" else [device.index]
    held = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    held.broadcast_buffers = False  # the argument's name differs between versions of PyTorch
    return held


def shard(model: nn.Module, device: torch.device, world_size: int) -> None:
    """Leave each rank its part of every weight; the weights of a block are gathered for it and freed after it.

    Weights and gradients travel in fp32, and autocast decides as usual what is computed in bf16: the same mathematics
    as with whole copies, at twice the traffic that weights in bf16 would need.
    """
    mesh = init_device_mesh(device.type, (world_size,))
    for name, module in model.named_modules():
        if name.split(".")[-2:-1] == ["blocks"]:  # the layers of encoder and decoders
            fully_shard(module, mesh=mesh)
            if hasattr(module, "project"):  # which the image decoder calls before its first block's own forward
                register_fsdp_forward_method(module, "project")
    if hasattr(
        model, "encode"
    ):  # of an average, which tasks call; no backward pass follows that would free its weights
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(model, "encode")
    else:
        fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def gradients_stay(model: nn.Module) -> Iterator[None]:
    """For a micro-batch that is not the last of its step: gradients add up on this rank and are not yet exchanged."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    else:
        with model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
            yield


def gradient_norm(model: nn.Module, clip: float | None) -> Tensor:
    """Norm of the whole gradient, a scalar on the device; above `clip`, the gradient is scaled down to it."""
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    if clip:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
    return norm


def whole(tensor: Any) -> Any:
    """The full value of a tensor of which this rank holds a part (all ranks must call it); else the value itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(value: Any, like: Any) -> Any:
    """This rank's part of a full value, cut as `like` is; the value itself where `like` is not cut."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value  # an optimiser's count of steps is one number for all
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state dict in whole tensors, on the CPU."""
    return {name: whole(value.detach()).cpu() for name, value in model.state_dict().items()}


def weights_beside(saved: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Those weights of `model`, whole and on the CPU, that the plain model `saved` does not hold as they are."""
    if saved is model:
        return {}
    held = saved.state_dict()
    weights = whole_weights(model)
    return {n: w for n, w in weights.items() if n not in held or not torch.equal(w, held[n].cpu())}


def own_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Whole weights, each cut as `model` holds it."""
    held = model.state_dict()
    return {name: part(value, held.get(name)) for name, value in weights.items()}


def whole_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """The optimiser's state dict in whole tensors, on the CPU: any world size can resume from it.

    All ranks must call it; one that does not `keep` the tensors holds at most one at a time.
    """
    content = optimizer.state_dict()
    content["state"] = {i: {k: _on_cpu(whole(v), keep) for k, v in s.items()} for i, s in content["state"].items()}
    return content


def load_state(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
    """Load what `whole_state` returned, each tensor cut as its parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {i: {k: part(v, parameters[i]) for k, v in s.items()} for i, s in content["state"].items()}
    optimizer.load_state_dict({**content, "state": state})


def _on_cpu(value: Any, keep: bool) -> Any:
    return (value.cpu() if isinstance(value, Tensor) else value) if keep else None
