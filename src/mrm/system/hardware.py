"""The machine a run is on: its cores, its processor's instructions, its memory, and what it calls itself."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}  # dense bf16, 1/s
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def default_workers(device: str) -> int:
    """Processes that read: for a GPU a core each but one, 16 at the most; on a CPU one core in eight, at least one."""
    return min(16, cores() - 1) if device == "cuda" else min(cores() - 1, max(1, cores() // 8))


def share_cores(device: torch.device) -> None:
    """On a CPU, leave the readers' cores to the readers: threads that wait for each other's cores stall the step.

    The number of threads depends on the machine alone, not on the workers asked for, so that these change no
    bit of a run. `OMP_NUM_THREADS` overrides.
    """
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - default_workers("cpu")))


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let this process keep what it frees, for the next step asks for the same sizes again.

    glibc gives large blocks back to the system at once, which hands them out anew page by page, each filled with
    zeros: a sixth of a training step. Nothing happens with other C libraries, or where the variables that glibc reads
    for the same (mallopt(3)) are set.
    """
    chosen = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"} & set(os.environ)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc" and not chosen:
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(TRIM_THRESHOLD, -1)


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16. An x86 processor without them takes many times as long as in fp32."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def device_name(device: torch.device) -> str:
    """What the machine itself calls its GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")  # of Linux
    lines = file.read_text().splitlines() if file.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"CPU {named[0] if named else 'unnamed'}, {torch.get_num_threads()} threads"


def share_of_peak(flops: float, device: str) -> float | None:
    """Floating-point operations a second as a share of a GPU's dense bf16 rate; None where that is not known."""
    return next((flops / peak for name, peak in PEAKS.items() if name in device), None)
