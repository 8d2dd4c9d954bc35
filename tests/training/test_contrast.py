"""Contrast of images and reports: the loss by hand, a queue that no division of a step changes, and runs with it."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mrm import runs
from mrm.data.reports import CLS, MASK, NO_WORD, PAD
from mrm.system.errors import ConfigError
from mrm.training.contrast import TEMPERATURE, ContrastQueue, has_words, text_hashes, whole_reports
from tests.support.configs import MICRO, pretrain_config
from tests.support.run_files import sigterm_after, trace

ALONE = SimpleNamespace(num_processes=1)
X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def pair(image, report, text, key=0, told=True):
    return image[None], report[None], torch.tensor([text]), torch.tensor([key]), torch.tensor([told])


def test_the_loss_is_the_cross_entropy_of_the_true_pair_among_the_queue():
    """Queue: (image X, report Y). New: image X, report X. To the report: 1 against 0; to the image: 1 against 1."""
    queue = ContrastQueue(2, size=3)
    assert queue.term(*pair(X, Y, text=1)).sum.item() == 0  # nothing to be told apart from
    queue.end_step(ALONE)
    term = queue.term(*pair(X, X, text=2))
    to_report = math.log(1 + math.exp((0 - 1) / TEMPERATURE))
    to_image = math.log(2)
    assert term.sum.item() == pytest.approx((to_report + to_image) / 2, rel=1e-5)
    assert term.count.item() == 1


def test_pairs_of_the_same_report_are_not_told_apart_and_image_only_records_do_not_count():
    queue = ContrastQueue(2, size=3)
    queue.term(*pair(X, Y, text=1))
    queue.term(*pair(Y, Y, text=5, told=False))
    queue.end_step(ALONE)
    assert queue.filled.item() == 1
    assert queue.term(*pair(X, X, text=1)).sum.item() == 0
    term = queue.term(*pair(X, X, text=7, told=False))
    assert (term.sum.item(), term.count.item()) == (0, 0)


def test_the_queue_is_the_same_however_a_step_is_divided_and_keeps_the_newest():
    generator = torch.Generator().manual_seed(0)
    images, reports = torch.randn(2, 6, 2, generator=generator)
    texts, told = torch.arange(6), torch.ones(6, dtype=torch.bool)
    keys = torch.tensor([4, 2, 9, 1, 7, 3])
    states = []
    for parts in ([range(6)], [range(3), range(3, 6)], [[5], [3], [1], [0], [2], [4]]):
        queue = ContrastQueue(2, size=4)
        for part in map(list, parts):
            queue.term(images[part], reports[part], texts[part], keys[part], told[part])
        queue.end_step(ALONE)
        states.append((queue.image_QE, queue.report_QE, queue.text_Q, queue.filled))
    assert states[0][2].tolist() == [3, 1, 5, 0]  # in the order of their keys 1, 2, 3, 4
    for state in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(state, states[0], strict=True))


def test_a_step_that_is_not_finite_leaves_the_queue_as_it_is():
    queue = ContrastQueue(2, size=2)
    queue.term(*pair(X * math.nan, Y, text=1))
    queue.end_step(ALONE)
    assert queue.filled.item() == 0
    assert queue.image_QE.isfinite().all()


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


def contrast_config(phantoms, out, **changes):
    model = replace(MICRO, contrast_width=16, image_decoder="cross-blocks")  # two variants at once
    return pretrain_config(phantoms, out, contrast_weight=0.5, model=model, **changes)


def test_a_run_with_contrast_and_mixed_blocks_resumes_to_the_same_bits_and_no_division_changes_it(phantoms, tmp_path):
    whole = runs.pretrain(contrast_config(phantoms, tmp_path / "whole"))
    config = contrast_config(phantoms, tmp_path / "stopped")
    with sigterm_after(7), pytest.raises(SystemExit):
        runs.pretrain(config)
    runs.pretrain(config)
    assert trace(config.out) == trace(whole)
    rows = trace(whole)
    assert float(rows[0]["contrast"]) == 0  # the queue is empty
    assert all(float(row["contrast"]) > 0 for row in rows[1:])
    halves = runs.pretrain(contrast_config(phantoms, tmp_path / "halves", micro_batch=2))
    for a, b in zip(trace(halves), rows, strict=True):
        assert float(a["contrast"]) == pytest.approx(float(b["contrast"]), rel=1e-4)


@pytest.mark.parametrize("changes", [{"contrast_weight": 0.5}, {"model": replace(MICRO, contrast_width=16)}])
def test_contrast_needs_a_weight_and_a_width(changes, phantoms, tmp_path):
    with pytest.raises(ConfigError, match="contrast needs both, such as --contrast-weight"):
        replace(pretrain_config(phantoms, tmp_path / "run"), **changes)
