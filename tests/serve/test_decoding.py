"""The processes that decode: one that takes too long or ends is replaced, and others go on."""

import asyncio
import ctypes
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mrm.serve import uploads
from mrm.serve.admission import Refused
from mrm.serve.decoding import DecodeProcesses
from mrm.serve.limits import Limits
from mrm.serve.log import Log
from tests.support.dicom_files import dicom_bytes

MB = 1_000_000


def run(test, count=1, seconds=20.0, memory_bytes=300 * MB):
    """What the coroutine function `test` returns, given the processes."""

    async def go():
        processes = DecodeProcesses(count, seconds, memory_bytes, Log())
        await processes.start()
        try:
            return await test(processes)
        finally:
            await processes.close()

    return asyncio.run(go())


async def refusal(work) -> Refused:
    with pytest.raises(Refused) as refused:
        await work
    return refused.value


# What the processes are asked to do: it must be importable there ---------------------------------------------


def say(word):
    return word, os.getpid()


def refuse():
    raise Refused(422, "too small", {"Retry-After": "1"})


def panic():
    raise BaseException("Secret^Name")  # as the exceptions of Rust do, derives from no Exception


def sleep_in_c(seconds):
    ctypes.CDLL(None).usleep(int(seconds * 1e6))  # without Python noticing, like a decoder


def end_by_signal():
    os.abort()


def take(megabytes):
    return np.ones(megabytes * MB, np.uint8).nbytes


def print_name():
    print("Secret^Name", flush=True)
    os.write(2, b"Secret^Name")
    return "TORCH" if "torch" in sys.modules else "no torch"


def test_it_returns_what_the_work_returns_and_passes_on_refusals():
    async def go(processes):
        assert (await processes.run(say, "hello"))[0] == "hello"
        refused = await refusal(processes.run(refuse))
        assert (refused.status, refused.reason, refused.headers) == (422, "too small", {"Retry-After": "1"})
        assert processes.replaced == 0

    run(go)


def test_work_that_takes_too_long_is_ended_and_the_next_is_done_by_a_new_process(capsys):
    async def go(processes):
        _, first = await processes.run(say, "a")
        began = time.monotonic()
        refused = await refusal(processes.run(sleep_in_c, 60))
        assert time.monotonic() - began < 10
        _, second = await processes.run(say, "b")
        return refused, first, second, processes.replaced

    refused, first, second, replaced = run(go, seconds=1.0)
    assert refused.status == 422
    assert "took more than 1 s to decode" in refused.reason
    assert first != second
    assert replaced == 1
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert "replaced after 1 s" in capsys.readouterr().err


def test_a_request_that_is_given_up_ends_its_process():
    async def go(processes):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await processes.run(sleep_in_c, 60)
        return (await processes.run(say, "b"))[0], processes.replaced

    assert run(go) == ("b", 1)


@pytest.mark.parametrize(
    ("work", "reason"), [(end_by_signal, "ended the process"), (panic, "damaged and cannot be decoded")]
)
def test_a_decoder_that_crashes_or_panics_is_a_refusal(work, reason):
    async def go(processes):
        return await refusal(processes.run(work)), await processes.run(say, "b")

    refused, (word, _) = run(go)
    assert refused.status == 422
    assert reason in refused.reason
    assert "Secret" not in refused.reason
    assert word == "b"


def test_other_processes_go_on_meanwhile():
    async def go(processes):
        slow = asyncio.create_task(processes.run(sleep_in_c, 60))
        words = [(await processes.run(say, i))[0] for i in range(20)]
        slow.cancel()
        return words

    assert run(go, count=2) == list(range(20))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts this memory")
def test_one_that_wants_more_memory_than_it_may_have_is_refused():
    async def go(processes):
        assert await processes.run(take, 100) == 100 * MB
        refused = await refusal(processes.run(take, 2000))
        assert await processes.run(take, 100) == 100 * MB
        return refused

    assert run(go).status == 422


def test_deep_images_are_decoded_in_20_bytes_a_pixel():
    pixels = np.random.default_rng(0).integers(0, 4096, (2000, 2000)).astype(np.uint16)
    data = dicom_bytes(pixels, BitsStored=12, HighBit=11, WindowCenter="2048", WindowWidth="4096")
    upload = run(lambda processes: processes.run(uploads.decode, data, Limits()), memory_bytes=20 * pixels.size)
    expected = np.clip((pixels - 2047.5) / 4095 + 0.5, 0, 1) * 255  # PS3.3, C.11.2.1.2.1
    np.testing.assert_array_equal(upload.image_HW, np.rint(expected))


def test_nothing_it_prints_reaches_the_log_and_it_needs_no_pytorch(capfd):
    assert run(lambda processes: processes.run(print_name)) == "no torch"
    assert "Secret" not in "".join(capfd.readouterr())


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(text)
    began = time.monotonic()
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    return ended, time.monotonic() - began


STARTS = """
import asyncio
from mrm.serve.decoding import DecodeProcesses
from mrm.serve.log import Log

async def go():
    processes = DecodeProcesses(2, 10, 300_000_000, Log())
    await processes.start()
    print(*(d._process.pid for d in processes._decoders))
    raise SystemExit(7)  # without closing them
"""


def test_a_script_that_starts_it_without_a_guard_says_what_to_do(tmp_path):
    ended, _ = script(tmp_path, STARTS + "asyncio.run(go())")
    assert "do not start; a script that starts the service must do so under" in ended.stderr


def test_no_process_outlives_a_service_that_fails(tmp_path):
    ended, seconds = script(tmp_path, STARTS + "if __name__ == '__main__':\n    asyncio.run(go())")
    assert ended.returncode == 7
    assert seconds < 60
    numbers = [int(word) for word in ended.stdout.split()]
    assert len(numbers) == 2
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_when_the_service_ends_no_process_is_left():
    async def go(processes):
        return [(await processes.run(say, i))[1] for i in range(2)]

    for number in run(go, count=2):
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
