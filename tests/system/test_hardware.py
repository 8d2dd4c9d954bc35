"""What a run asks of the machine, and tells it."""

import os
import subprocess
import sys
from functools import cache

import pytest
import torch

from mrm.system import hardware
from mrm.system.errors import ConfigError

FAULTS = """
import resource, torch
from mrm.system import hardware
def again():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 << 20).add_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
again()
print(again())
hardware.keep_freed_memory(torch.device("cpu"))
again()
print(again())
"""


@cache
def page_faults(**environment) -> tuple[int, int]:
    """Of 20 blocks of 64 MiB, each freed before the next is allocated: as they are returned, and as they are kept."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean | environment
    )
    returned, kept = map(int, done.stdout.split())
    return returned, kept


@pytest.mark.skipif(hardware.platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_kept_is_not_handed_out_anew():
    """A small object that comes to lie in the freed block costs one new block, so a few of the 20 may be new."""
    returned, kept = page_faults()
    assert returned > 20 * 32  # with huge pages of 2 MiB; 20 * 16,384 with those of 4 KiB
    assert kept < returned / 4


@pytest.mark.skipif(hardware.platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.slow
def test_what_the_user_has_chosen_for_the_allocator_stands():
    assert page_faults(MALLOC_MMAP_THRESHOLD_="65536")[1] > page_faults()[0] / 2


def test_workers_leave_a_core_and_do_not_grow_without_bound(monkeypatch):
    for cores, cpu, cuda in ((1, 0, 0), (2, 1, 1), (16, 2, 15), (64, 8, 16)):
        monkeypatch.setattr(hardware, "cores", lambda cores=cores: cores)
        assert (hardware.default_workers("cpu"), hardware.default_workers("cuda")) == (cpu, cuda)


def test_threads_are_what_readers_leave_unless_the_user_said(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    hardware.share_cores(torch.device("cpu"))
    hardware.share_cores(torch.device("cuda"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    hardware.share_cores(torch.device("cpu"))
    assert chosen == [14]


def test_a_share_of_the_peak_is_given_only_where_the_peak_is_known():
    assert hardware.share_of_peak(494.5e12, "NVIDIA H100 80GB HBM3") == pytest.approx(0.5)
    assert hardware.share_of_peak(1e12, "some other GPU") is None
    assert hardware.device_name(torch.device("cpu")).startswith("CPU ")


@pytest.mark.parametrize(
    ("flags", "able"),
    [
        ("fpu avx512f avx512_vnni", True),
        ("avx2 avx_vnni", True),
        ("avx2 avx512f avx512_bf16 avx512_vnni2", False),
        ("", False),
    ],
)
def test_int8_is_for_processors_that_have_the_instructions(flags, able, monkeypatch):
    monkeypatch.setattr(hardware, "_of_processor", {"flags": flags}.get)
    assert hardware.computes_int8() == able
    if able:
        assert hardware.settled("int8", torch.device("cpu")) == "int8"
        return
    with pytest.raises(
        ConfigError, match=r"no instructions for products of 8 bits \(AVX-512 VNNI .*; choose fp32 for the"
    ):
        hardware.autocast(torch.device("cpu"), "int8")


def test_int8_is_not_for_gpus():
    with pytest.raises(ConfigError, match="int8 is for prediction on a processor; choose bf16, fp16 or fp32 on cuda"):
        hardware.settled("int8", torch.device("cuda"))
