"""Contrast of images and reports: the loss by hand, the same for every division of a step, and runs with it."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mrm import runs
from mrm.data.reports import CLS, MASK, NO_WORD, PAD
from mrm.inference.text_search import text_vectors
from mrm.models.mrm import normalise
from mrm.system.errors import ConfigError
from mrm.training.contrast import (
    TEMPERATURE,
    Pairs,
    Step,
    contrast_loss,
    has_words,
    text_hashes,
    whole_reports,
    whole_step,
)
from mrm.training.tasks import PretrainTask
from tests.support.bright_and_dark import TEXTS, bright_or_dark, fresh_model, train
from tests.support.configs import MICRO, pretrain_config
from tests.support.run_files import sigterm_after, trace

ALONE = SimpleNamespace(num_processes=1, process_index=0)


def pairs(images, reports, texts, has_report=None):
    images, reports, texts = torch.tensor(images), torch.tensor(reports), torch.tensor(texts)
    return Pairs(images, reports, texts, torch.tensor(has_report or [True] * len(texts)))


def test_the_loss_is_the_cross_entropy_of_the_true_pair_in_both_directions():
    """Cosines [[1, 0.6], [0, 0.8]]: a softmax of each row, and of each column."""
    term = contrast_loss(pairs([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]], [1, 2]))
    rows = [math.log(1 + math.exp((0.6 - 1) / TEMPERATURE)), math.log(1 + math.exp((0 - 0.8) / TEMPERATURE))]
    columns = [math.log(1 + math.exp((0 - 1) / TEMPERATURE)), math.log(1 + math.exp((0.6 - 0.8) / TEMPERATURE))]
    assert term.sum.item() == pytest.approx((sum(rows) + sum(columns)) / 2, rel=1e-5)
    assert term.count.item() == 2


def test_pairs_of_the_same_report_are_not_told_apart_and_image_only_records_do_not_count():
    one = [1.0, 0.0]
    assert contrast_loss(pairs([one], [one], [1])).sum.item() == 0  # nothing to be told apart from
    assert contrast_loss(pairs([one, one], [one, one], [5, 5])).sum.item() == 0
    term = contrast_loss(pairs([one, one, one], [one, one, one], [1, 2, 3], [True, False, False]))
    assert (term.sum.item(), term.count.item()) == (0, 1)
    term = contrast_loss(pairs([one, one, one], [one, one, one], [1, 2, 3], [True, False, True]))
    assert (term.sum.item(), term.count.item()) == (pytest.approx(2 * math.log(2)), 2)
    assert contrast_loss(pairs([one], [one], [1], [False])).count.item() == 0


def divided(whole: Pairs, ranks: int, micro: int) -> list[Pairs]:
    """The pairs as the micro-batches of each rank have them, in the order in which ranks are gathered."""
    size = len(whole.text_N) // (ranks * micro)
    return [Pairs(*(v[i * size : (i + 1) * size] for v in whole)) for i in range(ranks * micro)]


@pytest.mark.parametrize(("ranks", "micro"), [(1, 2), (1, 8), (2, 1), (2, 2), (4, 2)])
def test_no_division_of_a_step_changes_the_loss_or_its_gradient(ranks, micro):
    generator = torch.Generator().manual_seed(0)
    vectors = [F.normalize(torch.randn(8, 3, generator=generator), dim=-1).requires_grad_() for _ in range(2)]
    texts, told = (
        torch.tensor([0, 1, 2, 3, 4, 2, 6, 0]),
        torch.tensor([True, True, True, False, True, True, False, True]),
    )
    whole = contrast_loss(Pairs(*vectors, texts, told))
    expected = torch.autograd.grad(whole.sum, vectors)
    parts = divided(Pairs(*vectors, texts, told), ranks, micro)
    known = [Pairs(*(v.detach() for v in part)) for part in parts]
    gathered = Pairs(*(torch.cat(v) for v in zip(*known, strict=True)))
    terms = []
    for rank in range(ranks):
        fields = iter(gathered)  # what `gather` is asked for, in this order
        state = SimpleNamespace(num_processes=ranks, process_index=rank, gather=lambda _, it=fields: next(it))
        steps = whole_step(known[rank * micro : (rank + 1) * micro], state)
        terms += [contrast_loss(p, s) for p, s in zip(parts[rank * micro : (rank + 1) * micro], steps, strict=True)]
    assert sum(t.sum.item() for t in terms) == pytest.approx(whole.sum.item(), rel=1e-6)
    assert sum(t.count.item() for t in terms) == whole.count.item() == 6
    gradients = torch.autograd.grad(sum(t.sum for t in terms), vectors)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@dataclass
class Batch:
    """One pair of a micro-batch, and what it is given of the step."""

    number: int
    step_pairs: Step | None = None


@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_micro_batches_of_a_divided_step_get_the_pairs_of_all_of_it(micro, ranks):
    task = PretrainTask(fresh_model(contrast_width=16), contrast_weight=1.0)
    state = SimpleNamespace(num_processes=ranks, process_index=ranks - 1, gather=lambda own: torch.cat([own + 9, own]))
    batches = [Batch(number) for number in range(micro)]
    given = task.begin_step(batches, lambda b, pairs_alone: pairs([[1.0]], [[1.0]], [b.number]), state)
    assert [batch.number for batch in given] == list(range(micro))
    if micro * ranks == 1:
        assert given[0].step_pairs is None
        return
    texts = [*range(9, 9 + micro), *range(micro)] if ranks == 2 else list(range(micro))
    for batch in given:
        assert batch.step_pairs.pairs.text_N.tolist() == texts
        assert batch.step_pairs.rows_B.tolist() == [(ranks - 1) * micro + batch.number]


def test_contrast_alone_learns_which_text_an_image_goes_with():
    network = fresh_model(contrast_width=16)
    losses = train(PretrainTask(network, image_weight=0.0, report_weight=0.0, contrast_weight=1.0), epochs=10)
    assert losses[0]["contrast"] > 1  # by chance ln 9: a true pair among eight of the other text
    assert losses[-1]["contrast"] < 0.1
    config, bright = network.config, np.arange(16) % 2 == 0
    image_BHW = torch.from_numpy(np.stack([bright_or_dark(is_bright, 300 + i) for i, is_bright in enumerate(bright)]))
    with torch.no_grad():
        features = network.encode(normalise(image_BHW, config.mean, config.std))
        image = network.image_vector(features).numpy()
    report = text_vectors(network, TEXTS)
    assert ((image @ (report[0] - report[1]) > 0) == bright).all()  # of images that it has never seen


def test_reports_are_whole_again_and_known_by_their_words_alone():
    batch = SimpleNamespace(
        tokens_BT=torch.tensor([[CLS, MASK, 5, PAD], [CLS, 9, MASK, PAD], [CLS, PAD, PAD, PAD]]),
        words_W=torch.tensor([1, 6, 0]), targets_W=torch.tensor([9, 5, NO_WORD]),
    )  # fmt: skip
    whole = whole_reports(batch)
    assert whole.tolist() == [[CLS, 9, 5, PAD], [CLS, 9, 5, PAD], [CLS, PAD, PAD, PAD]]
    assert has_words(whole).tolist() == [True, True, False]
    hashes = text_hashes(whole)
    assert hashes[0] == hashes[1] != hashes[2]
    assert text_hashes(whole[:1, :3]) == hashes[0]  # padding says nothing
    assert text_hashes(torch.tensor([[CLS, 5, 9]])) != hashes[0]  # the order does


def every_variant(phantoms, out, **changes):
    """Contrast, the averaged encoder's features, and mixed blocks in the image decoder, all at once."""
    model = replace(MICRO, contrast_width=16, feature_blocks=2, image_decoder="cross-blocks")
    weights = {"contrast_weight": 0.5, "feature_weight": 1.0}
    return pretrain_config(phantoms, out, model=model, ema=0.9, **weights, **changes)


def test_a_run_with_every_variant_resumes_to_the_same_bits_and_no_division_changes_it(phantoms, tmp_path):
    whole = runs.pretrain(every_variant(phantoms, tmp_path / "whole"))
    config = every_variant(phantoms, tmp_path / "stopped")
    with sigterm_after(7), pytest.raises(SystemExit):
        runs.pretrain(config)
    runs.pretrain(config)
    rows = trace(whole)
    assert trace(config.out) == rows
    for name in ("contrast", "features"):
        assert all(float(row[name]) > 0 for row in rows)
    parts = every_variant(phantoms, tmp_path / "parts", micro_batch=2)
    with sigterm_after(7), pytest.raises(SystemExit):
        runs.pretrain(parts)
    runs.pretrain(parts)
    for a, b in zip(trace(parts.out), rows, strict=True):
        for name in ("image", "report", "contrast", "features", "gradient"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4), name


@pytest.mark.parametrize("changes", [{"contrast_weight": 0.5}, {"model": replace(MICRO, contrast_width=16)}])
def test_contrast_needs_a_weight_and_a_width(changes, phantoms, tmp_path):
    with pytest.raises(ConfigError, match="contrast needs both, such as --contrast-weight"):
        replace(pretrain_config(phantoms, tmp_path / "run"), **changes)
