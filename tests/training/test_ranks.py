"""What the loop does for several ranks, asked of one rank alone: what the others would bring is put in by hand."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mrm.system.errors import TrainingError
from mrm.training import parallel
from mrm.training.config import TrainConfig
from mrm.training.losses import Term
from mrm.training.tasks import Task
from mrm.training.totals import Totals
from mrm.training.trainer import Trainer


class Lines(Task):
    """Two losses of one weight, in proportion to what a batch says of each."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.weights = nn.Linear(1, 1, bias=False), {"image": 2.0, "report": 1.0}

    def counts(self, batch):
        return {"image": batch["image"], "report": batch["report"]}

    def forward(self, batch):
        weight = self.model.weight.sum()
        return {name: Term(weight * batch[name], torch.tensor(float(batch[name]))) for name in self.weights}


def rank(world_size: int, device: str = "cpu", **attributes) -> Trainer:
    """A trainer on one of so many ranks, before it has placed or begun anything."""
    trainer = Trainer.__new__(Trainer)
    trainer.accelerator = SimpleNamespace(num_processes=world_size, device=torch.device(device))
    trainer.config, trainer.task, trainer.totals = TrainConfig(), Lines(), Totals()
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    vars(trainer).update(attributes)
    return trainer


@pytest.mark.parametrize(
    ("sharding", "world_size", "way"),
    [("none", 1, "whole"), ("full", 1, "whole"), ("none", 2, "copies"), ("full", 2, "parts")],
)
def test_weights_are_held_whole_in_copies_or_in_parts(sharding, world_size, way, monkeypatch):
    """In parts both the model and its average are, and a plain copy is kept to save from."""
    copied, cut = [], []
    monkeypatch.setattr(parallel, "copies", lambda task, device: copied.append(task) or task)
    monkeypatch.setattr(parallel, "shard", lambda module, device, world_size: cut.append((module, world_size)))
    trainer = rank(world_size, config=TrainConfig(sharding=sharding, ema=0.9, precision="fp32"))
    trainer._place()
    assert copied == ([trainer.task] if way == "copies" else [])
    assert cut == ([(trainer.task, 2), (trainer.ema.module, 2)] if way == "parts" else [])
    assert (trainer.plain is not None) == (way == "parts")


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "world_size", "expected"),
    [
        (8, None, 1, (8, 1)), (8, 2, 1, (2, 4)), (8, 16, 1, (8, 1)), (8, None, 2, (4, 1)), (8, 1, 2, (1, 4)),
        (12, 3, 2, (3, 2)), (8, 3, 1, None), (9, None, 2, None), (12, 4, 2, None),
    ],
)  # fmt: skip
def test_a_step_is_divided_evenly_among_ranks_and_micro_batches_or_refused(
    global_batch, micro_batch, world_size, expected
):
    trainer = rank(world_size, config=TrainConfig(global_batch=global_batch, micro_batch=micro_batch), epoch=12)
    if expected:
        assert trainer._micro_batches() == expected
    else:
        with pytest.raises(TrainingError, match=f"a global batch of {global_batch} does not divide into micro-batches"):
            trainer._micro_batches()


def test_a_batch_may_be_all_records_and_no_more():
    assert rank(1, config=TrainConfig(global_batch=12), epoch=12)._micro_batches() == (12, 1)
    with pytest.raises(TrainingError, match="11 records are fewer than the global batch of 12"):
        rank(1, config=TrainConfig(global_batch=12), epoch=11)._micro_batches()


def test_what_a_step_divides_by_is_counted_over_all_ranks_and_is_one_at_least():
    trainer = rank(
        2, stop=True, _summed=lambda values: 2 * values
    )  # the other rank has as much, and is asked to stop too
    counts = trainer._global_counts([{"image": 3, "report": 0}, {"image": 4, "report": 0}])
    assert {name: count.item() for name, count in counts.items()} == {"image": 14, "report": 1}
    assert trainer.stopping.item() == 2


def test_gradients_are_those_of_the_mean_over_all_ranks_which_exchange_them_once_a_step(monkeypatch):
    """DDP averages over 4 ranks, so each brings 4 times its part: of 2 x (3 + 5) of 40 images and 4 of 8 words."""
    stayed = []
    monkeypatch.setattr(parallel, "gradients_stay", lambda model: stayed.append(model) or contextlib.nullcontext())
    counts = {"image": torch.tensor(40.0), "report": torch.tensor(8.0)}
    trainer = rank(4, _global_counts=lambda batches: counts, _terms=lambda batch: trainer.task(batch))
    trainer.parallel, trainer._update, trainer._note_skipped = trainer.task, lambda: None, lambda skipped: None

    class Batch(dict):
        skipped = ()

    trainer._step([Batch(image=3, report=4), Batch(image=5, report=0)])
    assert trainer.task.model.weight.grad.item() == pytest.approx(4 * (2 * 8 / 40 + 4 / 8))
    assert len(stayed) == 1
    weight = trainer.task.model.weight.item()
    sums = {name: value.item() for name, value in trainer.totals.step.items()}
    assert sums == pytest.approx(
        {"image.sum": 8 * weight, "report.sum": 4 * weight, "image.count": 10, "report.count": 2}
    )


def test_the_share_of_a_rank_in_an_odd_count_is_a_fraction():
    trainer = rank(2, _global_counts=lambda batches: {"image": torch.tensor(5.0)}, _update=lambda: None)
    trainer._step([])
    assert trainer.totals.step["image.count"].item() == 2.5


@pytest.mark.parametrize(
    ("device", "step", "asked", "stops"),
    [("cpu", 3, 1.0, True), ("cpu", 3, 0.0, False), ("cuda", 3, 1.0, False), ("cuda", 4, 1.0, True), ("cuda", 4, 0.0, False)],
)  # fmt: skip
def test_ranks_stop_together_on_a_gpu_where_they_log(device, step, asked, stops):
    trainer = rank(2, device, step=step, stopping=torch.tensor(asked), stop=False, config=TrainConfig(log_every=2))
    assert trainer._agreed_to_stop() is stops


def test_a_rank_alone_stops_at_once():
    assert rank(1, "cuda", step=3, stop=True)._agreed_to_stop() is True
    assert rank(1, "cuda", step=4, stop=False)._agreed_to_stop() is False


def test_a_graph_is_compiled_for_each_length_and_a_machine_without_a_compiler_is_named(monkeypatch):
    marked = []
    monkeypatch.setattr(torch._dynamo, "maybe_mark_dynamic", lambda tensor, axis: marked.append((tensor, axis)))
    batch = SimpleNamespace(varying=("words_W", "rows_N"), words_W="words", rows_N="rows")
    assert rank(1, parallel=lambda batch: {"image": batch.words_W})._compiled(batch) == {"image": "words"}
    assert marked == [("words", 0), ("rows", 0)]

    def fails(batch):
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand much more")

    with pytest.raises(TrainingError, match=r"cannot be compiled on this machine \(no C\+\+ compiler\); .* Leave out"):
        rank(1, parallel=fails)._compiled(batch)


def test_a_run_that_resumes_with_less_patience_for_bad_steps_stops_at_the_next(tmp_path):
    trainer = rank(1, config=TrainConfig(bad_steps=3), run=tmp_path, step=7, norm=None, bad=5)
    trainer.accelerator.print = lambda text: None
    trainer.norms = [torch.tensor(float("nan"))]
    with pytest.raises(TrainingError, match="6 steps in a row without a finite gradient, up to step 7"):
        trainer._read_norms()
