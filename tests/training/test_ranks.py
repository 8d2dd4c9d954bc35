"""What the loop decides, asked of one rank alone: what the others and earlier steps would bring is put in by hand."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mrm.system.errors import TrainingError
from mrm.training import parallel
from mrm.training.config import TrainConfig
from mrm.training.losses import Term
from mrm.training.patience import Patience
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


# After a step -----------------------------------------------------------------------------------------


def test_when_a_run_logs_validates_and_saves(monkeypatch):
    """Of seven steps: logs every four and at the end, validations every two and at the end, a save every three and of the best."""
    done = []
    config = TrainConfig(log_every=4, save_every=3)
    trainer = rank(1, config=config, step=0, total=7, log=None, validate=lambda *_: {}, validate_every=2)
    trainer._write_log = lambda: done.append((trainer.step, "log"))
    trainer._run_validation = lambda: done.append((trainer.step, "validation")) or trainer.step == 4
    trainer._save = lambda best: done.append((trainer.step, "best" if best else "save"))
    for _ in range(7):
        trainer._after_step()
    assert done == [
        (2, "validation"), (3, "save"), (4, "log"), (4, "validation"), (4, "best"), (6, "validation"), (6, "save"),
        (7, "log"), (7, "validation"),
    ]  # fmt: skip
    trainer.validate, trainer.step, done[:] = None, 0, []
    for _ in range(7):
        trainer._after_step()
    assert done == [(3, "save"), (4, "log"), (6, "save"), (7, "log")]


@pytest.mark.parametrize("metrics", [{}, {"score": 0.5, "val_auroc": 0.5}, {"score": math.nan}])
def test_a_validation_is_logged_where_it_measured_something_and_by_one_rank(metrics, tmp_path):
    rows = []
    trainer = rank(1, run=tmp_path, step=6, best=-math.inf, best_step=0, total=9, patience=Patience())
    trainer.validate, trainer._whole_model = lambda model, step, state: metrics, lambda: nn.Linear(1, 1)
    trainer.clock = SimpleNamespace(paused=contextlib.nullcontext)
    trainer.accelerator.log = lambda values, step: rows.append((values, step))
    for log in (SimpleNamespace(write=lambda row, file: rows.append((row, file))), None):
        rows.clear()
        trainer.log, trainer.best, trainer.best_step = log, -math.inf, 0
        better = trainer._run_validation()
        assert better is (metrics.get("score") == 0.5)
        assert (trainer.best, trainer.best_step) == ((0.5, 6) if better else (-math.inf, 0))
        written = [({"step": 6, **metrics}, tmp_path / "validation.csv"), (metrics, 6)]
        assert rows == (written if log and metrics else [])
    if better:
        trainer.step = 8
        assert trainer._run_validation() is False  # no better than the best so far
        assert (trainer.best, trainer.best_step) == (0.5, 6)


def test_a_step_is_skipped_by_its_own_gradient_and_not_by_one_before_it():
    trainer = rank(1, step=1, total=4, warmup=0, ema=None, norms=[torch.tensor(math.nan)])
    trainer.optimizer = torch.optim.SGD(trainer.task.model.parameters(), lr=0.0, fused=True)
    trainer.task.model.weight.grad = torch.full((1, 1), 3.0)
    trainer.totals.add("image.sum", torch.tensor(7.0))
    trainer._update()
    assert [norm.item() for norm in trainer.norms[1:]] == [3.0]
    assert {name: value.item() for name, value in trainer.totals.sums.items()} == {"image.sum": 7, Totals.SKIPPED: 0}


@pytest.mark.parametrize(("step", "validated", "ends"), [(9, 8, False), (8, 2, True), (10, 2, True), (10, 10, True)])
def test_a_run_ends_with_its_last_step_or_with_its_patience(step, validated, ends, capsys):
    """Of ten steps and a validation every two: three of the second half without a gain, or all steps."""
    patience = Patience(validations=1)
    patience.note(validated, 0.5)
    trainer = rank(1, step=step, total=10, validate_every=2, patience=patience, run="run")
    trainer.accelerator.print = print
    assert trainer._has_ended() is ends
    early = "ended at step 8/10, since the last 1 validations brought no gain over that at step 2"
    assert (early in capsys.readouterr().out) == (step == 8)


def test_the_time_left_is_that_of_the_steps_that_are_left(capsys):
    """Three steps of a minute, each of 6 images."""
    clock = SimpleNamespace(rate=lambda step: 1 / 60)
    trainer = rank(1, config=TrainConfig(global_batch=6), step=2, total=5, clock=clock, silent=True, lr=1e-3)
    trainer._estimate_early()
    assert capsys.readouterr().out == "step 2/5  about 0:03:00 left, a first estimate\n"
    tracked = []
    trainer.accelerator.log = lambda values, step: tracked.append((values, step))
    trainer._report(1.25, {"image": 0.5})
    line = "step 2/5  epoch 1.25  image 0.5000  lr 1.00e-03  0.1 images/s  0:03:00 left\n"
    assert (capsys.readouterr().out, trainer.silent) == (line, False)
    assert tracked == [({"image": 0.5, "lr": 1e-3, "images_per_second": pytest.approx(0.1)}, 2)]
