"""The machine that a run uses: its cores, memory and GPU, what its processor can compute, and its name."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Literal

import torch

from mrm.system.errors import ConfigError, first_line
from mrm.system.int8_products import Int8Products

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}  # dense bf16, 1/s
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_named(name: str | torch.device) -> torch.device:
    """The device of that name, "auto" being the best one. Raises ConfigError for one that this machine does not have."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name} is not available ({first_line(error)}); cpu always is") from error
    return device


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory(device: torch.device) -> int:
    """Bytes of the GPU's memory; of the CPU's, those that the machine has, or that this process's group may use."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(physical, int(text)) if text.isdigit() else physical


def default_workers(device: str) -> int:
    """Worker processes that read images: all cores but one, at most 16, for a GPU; one core in eight, at least one, on a CPU."""
    return min(16, cores() - 1) if device == "cuda" else min(cores() - 1, max(1, cores() // 8))


def share_cores(device: torch.device, threads: int | None = None) -> None:
    """On a CPU, leave cores for the worker processes: compute threads that compete with them stall the training step.

    Without `threads` their number depends on the machine alone and not on `--workers`, so that the number of workers does
    not change the results of a run. `OMP_NUM_THREADS` takes precedence.
    """
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or max(1, cores() - default_workers("cpu")))


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let this process keep the memory it frees, since the next step needs blocks of the same sizes.

    By default glibc returns large blocks to the system at once. The system then hands them out again page by page,
    each filled with zeros, which takes a sixth of a training step. This does nothing with other C libraries, or where
    the environment variables of glibc for the same purpose (mallopt(3)) are set.
    """
    user_settings = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"} & set(
        os.environ
    )
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc" and not user_settings:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(TRIM_THRESHOLD, -1)


def autocast(device: torch.device, precision: Precision) -> torch.autocast | Int8Products:
    """A context that computes networks in mixed precision, or with fp32 in full precision. Raises as `settled` does.

    With int8, which is for prediction alone, linear layers of tokens are computed in 8 bits (see `int8_products`).
    """
    settled(precision, device)
    if precision == "int8":
        return Int8Products()
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision != "fp32")


def settled(precision: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The precision that is meant: for "auto" the best one of the device.

    Raises ConfigError for bf16 on a GPU or a processor that does not have it, where PyTorch would imitate it slowly, and for
    int8 elsewhere than on a processor that has the instructions.
    """
    if precision == "auto":
        return best_precision(device)
    if precision == "bf16" and not computes_bf16(device):
        advice = "choose fp16 for the precision, or fp32" if device.type == "cuda" else "choose fp32 for the precision"
        raise ConfigError(
            f"{_short_name(device)} has no bf16 and would imitate it many times slower than fp32; {advice}"
        )
    if precision == "int8" and device.type != "cpu":
        raise ConfigError(f"int8 is for prediction on a processor; choose bf16, fp16 or fp32 on {device.type}")
    if precision == "int8" and not computes_int8():
        raise ConfigError(
            "this processor has no instructions for products of 8 bits (AVX-512 VNNI or AVX-VNNI of x86), so int8 would not be "
            "faster; choose fp32 for the precision"
        )
    return precision


def best_precision(device: torch.device) -> Precision:
    """The precision that trains fastest: bf16, but fp16 on a GPU without it (V100, T4), and fp32 on a processor without it."""
    if computes_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def without_bf16(device: torch.device, precision: Precision) -> str:
    """Why "auto" has become another precision than bf16, as a line to print; empty if it has not."""
    return "" if precision == "bf16" else f"precision {precision}: {_short_name(device)} has no bf16 instructions"


def _short_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions. An x86 processor without them is many times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def computes_int8() -> bool:
    """Whether the processor has instructions that sum products of 8 bits without overflow, and PyTorch an operator for them."""
    return bool({"avx512_vnni", "avx_vnni"} & set(_of_processor("flags").split())) and hasattr(
        torch.ops.onednn, "qlinear_pointwise"
    )


def _of_processor(key: str) -> str:
    """What Linux says of the first processor, such as its "model name"; empty where it says nothing."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def device_name(device: torch.device) -> str:
    """The name of the GPU or processor, as the machine reports it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU {_of_processor('model name') or 'unnamed'}, {torch.get_num_threads()} threads"


def share_of_peak(flops: float, device: str) -> float | None:
    """Floating-point operations per second as a share of the GPU's dense bf16 peak; None where that is unknown."""
    return next((flops / peak for name, peak in PEAKS.items() if name in device), None)
