"""Words that count more: values by hand, and what a model that knows which image it sees gains on which word."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mrm import runs
from mrm.data.reports import MASK, NO_WORD
from mrm.data.samples import PretrainBatch
from mrm.system.errors import ConfigError
from mrm.training import word_weights
from mrm.training.losses import masked_token_loss
from tests.support.configs import pretrain_config
from tests.support.run_files import sigterm_after, table, trace


def test_rare_words_count_by_the_logarithm_of_their_share():
    """Pieces that are 1, 3 and 4 of 8: ln 8, ln 8/3 and ln 2, over their mean over the eight words."""
    raw = [math.log(8), math.log(8 / 3), math.log(2)]
    mean = (raw[0] + 3 * raw[1] + 4 * raw[2]) / 8
    weights = word_weights.by_rarity(torch.tensor([1.0, 3.0, 4.0]))
    assert weights.tolist() == pytest.approx([r / mean for r in raw], rel=1e-6)


def test_words_that_the_image_tells_count_more_and_no_word_less_than_half():
    """80 words gained 50 nats, 20 lost some, 100 gained nothing: gains 0.5, 0, 0 over words and 20 words of no gain."""
    counts = torch.tensor([80.0, 20.0, 100.0])
    weights = word_weights.by_gain(torch.tensor([50.0, -5.0, 0.0]).double(), counts.double(), counts)
    assert weights.tolist() == pytest.approx([0.5 + 0.5 * 200 / 80, 0.5, 0.5], rel=1e-6)
    assert (weights * counts).sum().item() == pytest.approx(200)
    nothing = word_weights.by_gain(torch.tensor([-1.0, 0.0, 0.0]), counts, counts)
    assert nothing.tolist() == [1.0, 1.0, 1.0]


def test_the_loss_counts_words_by_their_weights():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    targets = torch.tensor([0, 2, NO_WORD])
    nats = [math.log(math.exp(2) + 2) - 2, math.log(math.e + 2)]
    term = masked_token_loss(logits, targets, torch.tensor([0.5, 9.0, 2.0]))
    assert term.sum.item() == pytest.approx(0.5 * nats[0] + 2.0 * nats[1], rel=1e-6)
    assert term.count.item() == 2


class Knower:
    """Names word 5 where the image is bright and word 6 where it is dark, and word 7 at the second place always."""

    config = SimpleNamespace(mean=0.0, std=1.0, vocabulary=10)

    def shrink(self, image):
        return image

    def encode(self, image, kept):
        return image.mean((1, 2, 3))

    def context(self, light):
        return light

    def name_words(self, light, tokens, attention, words, keys, rows):
        logits = torch.zeros(len(words), 10)
        for row, at in enumerate(words.tolist()):
            study, place = divmod(at, tokens.shape[1])
            logits[row, 7 if place == 2 else (5 if light[study] > 0.5 else 6)] = 3.0
        return logits


def test_the_gain_is_what_the_own_image_saves_against_the_next_one():
    """Two images, bright and dark: word 5 and word 6 are 3 nats likelier with their own image, word 7 is not."""
    image = torch.stack([torch.full((4, 4), 255), torch.zeros(4, 4)]).to(torch.uint8)
    nothing = torch.zeros(2, 1, dtype=torch.int64)
    batch = PretrainBatch(
        [], image, nothing, nothing, torch.tensor([[2, MASK, MASK]] * 2), torch.ones(2, 3, dtype=torch.bool),
        torch.arange(6), torch.tensor([1, 2, 4, 5, 0]), torch.tensor([5, 7, 6, 7, NO_WORD]), torch.zeros(2),
    )  # fmt: skip
    nats, words = word_weights.image_gain(Knower(), batch)
    assert nats.tolist() == pytest.approx([0, 0, 0, 0, 0, 3, 3, 0, 0, 0])
    assert words.tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 0, 0]


@pytest.mark.parametrize("kind", ["rarity", "image"])
def test_a_run_with_word_weights_stops_and_resumes_to_the_same_bits(kind, phantoms, tmp_path):
    """Stopped at step 7: the weights of step 5 come from the checkpoint, as the next are measured at step 10."""
    config = pretrain_config(phantoms, tmp_path / "whole", word_weights=kind)
    whole = runs.pretrain(config)
    config = replace(config, out=tmp_path / "stopped")
    with sigterm_after(7), pytest.raises(SystemExit):
        runs.pretrain(config)
    runs.pretrain(config)
    assert trace(config.out) == trace(whole)
    equal = runs.pretrain(pretrain_config(phantoms, tmp_path / "equal"))
    reports = [[float(row["report"]) for row in trace(run)] for run in (whole, equal)]
    same = [a == b for a, b in zip(*reports, strict=True)]
    assert same == ([False] * 10 if kind == "rarity" else [True] * 5 + [False] * 5)
    if kind == "image":
        rows = table(whole / "word_weights.csv")
        weights = [float(row["weight"]) for row in rows]
        assert weights == sorted(weights, reverse=True)
        assert weights[-1] == pytest.approx(0.5)
        assert {row["piece"] for row in rows} >= {"effusion", "no"}


def test_weights_of_words_and_a_loss_of_padding_exclude_each_other(phantoms, tmp_path):
    config = pretrain_config(phantoms, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"report\.loss all counts padding too; take --report\.loss masked"):
        replace(config, word_weights="image", report=replace(config.report, loss="all"))
