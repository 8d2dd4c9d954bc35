"""Batches as they are loaded: the same from any number of workers, and images that cannot be read."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import reductions

from mrm.data import reach
from mrm.data.eval_view import EvalView
from mrm.data.loader import loader
from mrm.data.records import Record, Records
from mrm.data.samples import ImageData, LabelData
from mrm.data.sampling import Sample, in_order, micro_batches, shuffled
from mrm.system.errors import ImageError, UnexpectedError, UnreachableError
from tests.support.samples import (
    everything,
    png,
    pretrain_data,
    record,
    same,
)


def test_batches_are_the_same_whatever_the_number_of_workers(records):
    data = pretrain_data(records)

    def run(workers):
        return list(loader(data, micro_batches(shuffled(0, 7, 3), 6, 1, 4, 0, 1), workers=workers))

    expected = run(0)
    assert len(expected) == 6
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(run(workers), expected, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generators_alone(records, workers):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    list(loader(pretrain_data(records), in_order(7, 2), workers=workers))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])  # noqa: NPY002


def test_batches_are_not_made_before_they_are_asked_for(records):
    """An order is endless; a loader that read ahead without bound would never begin."""
    stream = loader(pretrain_data(records), ([s] for s in shuffled(0, 7, 0)), workers=1)
    assert next(stream).keys_B.shape == (1,)


def test_nothing_is_kept_of_batches_that_are_gone(records):
    """What is kept lies between the activations in memory, which then grows by megabytes a batch."""
    stream = loader(pretrain_data(records), in_order(7, 1), workers=1)
    tensors, known = 0, []
    for batch in stream:
        tensors = sum(isinstance(value, torch.Tensor) for value in vars(batch).values())
        known.append(len(reductions.shared_cache))
    assert len(known) == 7
    assert tensors <= max(known) <= 2 * tensors  # this batch's and the last one's


PATHS = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
BROKEN = {
    "missing": Path("/no/such/image.jpg"),
    "empty": b"",
    "no image": b"%PDF-1.7",
    "truncated": png(3)[:-40],
}


def with_broken(*at: int, image=b"") -> Records:
    return Records([record(i, **({"image": image} if i in at else {})) for i in range(7)])


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_with_its_record_and_what_to_do(kind, workers):
    data = pretrain_data(with_broken(3, image=BROKEN[kind]))
    with pytest.raises(ImageError, match=r"record study-3: .*--on-error skip"):
        list(loader(data, in_order(7, 7), workers=workers))


@pytest.mark.parametrize("kind", BROKEN)
def test_asked_to_skip_the_next_record_stands_in_and_the_skipped_is_listed(kind):
    data = pretrain_data(with_broken(3, image=BROKEN[kind]), on_error="skip")
    [batch] = everything(data, 7)
    [skipped] = batch.skipped
    assert (skipped.index, skipped.name) == (3, "study-3")
    assert skipped.reason
    assert torch.equal(batch.image_BHW[3], batch.image_BHW[4])
    assert torch.equal(batch.tokens_BT[3], batch.tokens_BT[4])
    assert torch.equal(batch.image_BHW[5], torch.from_numpy(pretrain_data(with_broken()).sample(0, 5)["image"]))


def test_a_row_of_unreadable_images_is_stepped_over_round_the_end():
    data = pretrain_data(with_broken(5, 6, 0), on_error="skip")
    [batch] = list(loader(data, iter([[Sample(2, 5)]]), workers=0))
    assert [s.name for s in batch.skipped] == ["study-5", "study-6", "study-0"]
    np.testing.assert_array_equal(batch.image_BHW[0], data.sample(2, 1)["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_is_gone_is_not_stepped_over(tmp_path, workers):
    """Asked to skip what cannot be read, a run must not go on with ever fewer images while a share is away."""
    data = pretrain_data(Records([record(i, image=tmp_path / "share" / f"{i}.png") for i in range(7)]), on_error="skip")
    with pytest.raises(UnreachableError, match=r"share: the folder of the images is not there"):
        list(loader(data, in_order(7, 7), workers=workers))
    (tmp_path / "share").mkdir()
    for i in range(7):
        (tmp_path / "share" / f"{i}.png").write_bytes(png(i))
    assert len(list(loader(data, in_order(7, 7), workers=workers))) == 1


def test_many_absent_images_in_a_row_are_not_stepped_over(tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "IN_A_ROW", 3)
    (tmp_path / "other").touch()
    rows = [record(i, **({"image": tmp_path / f"{i}.png"} if 2 <= i < 5 else {})) for i in range(7)]
    with pytest.raises(UnreachableError, match=r"3 images in a row could not be reached, the last: .*4\.png"):
        list(loader(pretrain_data(Records(rows), on_error="skip"), in_order(7, 7), workers=0))
    rows[3] = record(3)
    assert len(list(loader(pretrain_data(Records(rows), on_error="skip"), in_order(7, 7), workers=0))) == 1


def test_a_stand_in_brings_its_own_labels(labelled):
    rows = list(labelled)
    rows[1] = Record(b"", labels=rows[1].labels, name="study-1")
    [batch] = everything(LabelData(Records(rows, labelled.classes), EvalView(32), on_error="skip"), 5)
    assert batch.index_B.tolist() == [0, 2, 2, 3, 4]
    np.testing.assert_array_equal(batch.labels_BC[1], labelled.labels_NC[2])


def test_when_no_image_can_be_read_there_is_no_batch():
    data = pretrain_data(with_broken(*range(7)), on_error="skip")
    with pytest.raises(ImageError, match=r"none of the 7 images could be read; first error: study-2: "):
        list(loader(data, iter([[Sample(0, 2)]]), workers=0))


# Faults that nothing foresaw ------------------------------------------------------------------------------


class Panic(BaseException):
    """As a library in Rust raises it: no Exception."""


class Faulty(ImageData):
    """Data whose fourth record raises what nothing foresaw."""

    def __init__(self, records, error) -> None:
        super().__init__(records, EvalView(32))
        self.error = error

    def sample(self, epoch, index):
        if index == 3:
            raise self.error
        return super().sample(epoch, index)


@pytest.mark.parametrize(
    "error", [ValueError("embedded null byte"), KeyError("x"), Panic("slice index"), MemoryError()]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unforeseen_fault_in_a_reader_ends_the_run_with_its_record_and_message(records, workers, error):
    message = f"record study-3: reading failed in a way that was not foreseen .*{type(error).__name__}"
    with pytest.raises(UnexpectedError, match=message) as raised:
        list(loader(Faulty(records, error), in_order(7, 2), workers=workers))
    assert str(error.args[0] if error.args else "") in str(raised.value)


def test_an_error_that_is_kept_keeps_no_process_that_reads(records):
    before = multiprocessing.active_children()
    with pytest.raises(UnexpectedError) as kept:
        list(loader(Faulty(records, KeyError("x")), in_order(7, 2), workers=1))
    assert kept.tb.tb_next  # and with it the frames that it came through
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unforeseen_fault_in_making_a_batch_is_reported_alike(records, workers, monkeypatch):
    data = pretrain_data(records)
    monkeypatch.setattr(type(data), "collate", lambda *_: [][1])
    with pytest.raises(UnexpectedError, match="IndexError: list index out of range"):
        list(loader(data, in_order(7, 2), workers=workers))


def test_a_killed_reader_ends_the_run_with_what_to_do(records):
    class Killed(ImageData):
        def sample(self, epoch, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UnexpectedError, match=r"a process that reads images was killed .*fewer workers"):
        list(loader(Killed(records, EvalView(32)), in_order(7, 2), workers=1))


SCRIPT = """
import sys
from mrm.data.eval_view import EvalView
from mrm.data.loader import loader
from mrm.data.sampling import in_order
from tests.support.samples import pretrain_data, report_records

batches = loader(pretrain_data(report_records()), in_order(7, 1), workers=2)
next(batches)
raise ZeroDivisionError("elsewhere")  # the traceback keeps the batches, and so their processes, to the very end
"""


def test_a_program_that_ends_by_any_exception_does_not_wait_for_its_readers():
    """They ignore SIGTERM, with which Python ends the processes that it then waits for."""
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": PATHS}
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError: elsewhere" in ended.stderr
