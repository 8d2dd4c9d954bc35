"""Losses by hand, and as sums and counts that add up whatever the batch is cut into."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mrm.models.mrm import normalise_patches
from mrm.training.losses import (
    LabelLoss,
    Term,
    balanced_weights,
    label_loss,
    masked_patch_loss,
    masked_token_loss,
)

NAN = float("nan")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_patch_less_its_mean_over_its_unbiased_deviation():
    """Variance of 1, 2, 3, 6 with n - 1: (4 + 1 + 0 + 9) / 3."""
    patch = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / math.sqrt(14 / 3 + 1e-6)
    torch.testing.assert_close(normalise_patches(patch)[0, 0], expected)


def test_a_patch_of_one_value_becomes_zero_not_nan():
    assert normalise_patches(torch.full((1, 2, 4), 7.0)).abs().max() == 0


def test_the_patch_loss_is_the_mean_square_of_each_patch_summed_over_patches():
    target = torch.tensor([[[0.0, 0.0], [1.0, 3.0]]])
    predicted = torch.tensor([[[1.0, 2.0], [1.0, 1.0]]])
    term = masked_patch_loss(predicted, target, normalise=False)  # (1 + 4) / 2, then (0 + 4) / 2
    assert (term.sum.item(), term.count.item(), term.mean().item()) == (4.5, 2.0, 2.25)


def test_the_patch_loss_normalises_the_target_not_the_prediction():
    target = numbers(2, 3, 8) * 50 + 400
    assert masked_patch_loss(normalise_patches(target), target).sum.item() == pytest.approx(0.0, abs=1e-9)
    assert masked_patch_loss(target, target).mean().item() > 1000


@pytest.mark.parametrize("normalise", [True, False])
def test_a_grey_target_is_one_of_three_equal_channels(normalise):
    predicted, grey = numbers(2, 3, 8 * 3), numbers(2, 3, 8, seed=1) * 50 + 400
    colour = grey.repeat_interleave(3, dim=-1)  # the channel varies fastest, as `patchify` has it
    torch.testing.assert_close(normalise_patches(grey, 3).repeat_interleave(3, dim=-1), normalise_patches(colour))
    torch.testing.assert_close(
        masked_patch_loss(predicted, grey, normalise), masked_patch_loss(predicted, colour, normalise)
    )


def test_the_word_loss_is_the_negative_natural_logarithm_of_the_right_word():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    term = masked_token_loss(logits, torch.tensor([1, 2]))
    assert term.sum.item() == pytest.approx(-math.log(0.25) - math.log(0.8))
    assert term.count.item() == 2


def test_the_label_loss_is_binary_cross_entropy_summed_over_stated_labels():
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])  # odds 1, 3, 4, 1
    labels = torch.tensor([[1.0, 0.0], [1.0, NAN]])
    term = label_loss(logits, labels)
    assert term.sum.item() == pytest.approx(-math.log(0.5) - math.log(0.25) - math.log(0.8))
    assert term.count.item() == 3


def test_a_label_not_stated_gives_no_gradient_whatever_the_logit():
    logits = torch.tensor([[2.0, -70.0]], requires_grad=True)
    label_loss(logits, torch.tensor([[0.0, NAN]])).sum.backward()
    assert logits.grad[0, 0].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert logits.grad[0, 1].item() == 0.0


# Probabilities 0.8, 0.8, 0.2, 0.03 and one that is not stated; labels 1, 0, 0, 0
ODDS = torch.log(torch.tensor([[4.0, 4.0], [0.25, 0.03 / 0.97], [1.0, 1.0]]))
LABELS = torch.tensor([[1.0, 0.0], [0.0, 0.0], [NAN, NAN]])
TRAINING = np.array([[1, 0], [0, 0], [0, 1], [0, NAN], [NAN, 1]])  # 1 of 4 and 2 of 4 stated labels are positive
BY_HAND = {
    "bce": -math.log(0.8) - math.log(0.2) - math.log(0.8) - math.log(0.97),
    # of the first class, a positive 4 / (2 x 1) and a negative 4 / (2 x 3); of the second, both 4 / (2 x 2)
    "weighted": -2 * math.log(0.8) - math.log(0.2) - 2 / 3 * math.log(0.8) - math.log(0.97),
    "focal": -0.25 * 0.2**2 * math.log(0.8)
    - 0.75 * (0.8**2 * math.log(0.2) + 0.2**2 * math.log(0.8) + 0.03**2 * math.log(0.97)),
    "asymmetric": -math.log(0.8) - 0.75**4 * math.log(0.25) - 0.15**4 * math.log(0.85),  # 0.03 is below the margin
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_loss_of_labels_by_hand(name):
    term = LabelLoss("".join(name), TRAINING)(ODDS, LABELS)  # a word of its own, as one that is read from a file
    assert term.sum.item() == pytest.approx(BY_HAND[name], rel=1e-5)
    assert term.count.item() == 4


def test_bce_is_the_label_loss():
    assert LabelLoss("bce", TRAINING)(ODDS, LABELS) == label_loss(ODDS, LABELS)


def test_balanced_weights_are_those_of_scikit_learn_and_1_for_a_class_of_one_value():
    from sklearn.utils.class_weight import compute_class_weight

    rare = np.array([0] * 17 + [1] * 3)
    both = np.stack([rare, np.ones(20)], axis=1)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=rare)
    torch.testing.assert_close(balanced_weights(both), torch.tensor([[expected[0], 1], [expected[1], 1]]).float())
    soft = np.array([[0.5], [0.0]])  # one and a half negatives, half a positive
    torch.testing.assert_close(balanced_weights(soft), torch.tensor([[2 / 3], [2.0]]))


@pytest.mark.parametrize("name", BY_HAND)
def test_no_loss_of_labels_overflows_or_loses_its_gradient(name):
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], requires_grad=True)
    LabelLoss(name, TRAINING)(logits, torch.tensor([[0.0, 0.0], [1.0, 1.0]])).sum.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[1, 0] < 0  # a positive that is missed pulls its logit up
    assert logits.grad[0, 0] >= 0


def terms(which: str, part: slice) -> Term:
    """A loss of a part of one batch of ten; what is counted is spread unevenly over the samples."""
    if which == "patches":
        return masked_patch_loss(numbers(10, 3, 8)[part], numbers(10, 3, 8, seed=1)[part])
    if which == "words":
        words = torch.arange(10).repeat_interleave(torch.arange(10))  # sample i asks for i words
        mine = torch.isin(words, torch.arange(10)[part])
        return masked_token_loss(numbers(45, 7)[mine], torch.arange(45)[mine] % 7)
    labels = (numbers(10, 5, seed=1) > 0).float()
    labels[2:6, 1:] = NAN
    return label_loss(numbers(10, 5)[part], labels[part])


@pytest.mark.parametrize("which", ["patches", "words", "labels"])
@pytest.mark.parametrize("cut", [1, 4, 9])
def test_sums_and_counts_of_parts_add_up_to_those_of_the_batch(which, cut):
    whole = terms(which, slice(None))
    parts = terms(which, slice(cut)), terms(which, slice(cut, None))
    assert sum(p.count.item() for p in parts) == whole.count.item()
    assert sum(p.sum.item() for p in parts) == pytest.approx(whole.sum.item(), rel=1e-6)


@pytest.mark.parametrize("which", ["words", "labels"])
def test_a_mean_of_means_would_not_do(which):
    """What the (sum, count) pair is for: parts of uneven count have other means."""
    whole, parts = terms(which, slice(None)), (terms(which, slice(4)), terms(which, slice(4, None)))
    assert sum(p.mean().item() for p in parts) / 2 != pytest.approx(whole.mean().item(), rel=1e-3)


def test_means_equal_those_of_pytorch():
    logits, targets = numbers(6, 9), torch.arange(6)
    assert masked_token_loss(logits, targets).mean().item() == pytest.approx(F.cross_entropy(logits, targets).item())
    labels = (numbers(4, 3, seed=2) > 0).float()
    expected = F.binary_cross_entropy_with_logits(numbers(4, 3), labels)
    assert label_loss(numbers(4, 3), labels).mean().item() == pytest.approx(expected.item())


NOTHING = {
    "no words": lambda x: masked_token_loss(x.view(0, 50), torch.zeros(0, dtype=torch.long)),
    "no patches": lambda x: masked_patch_loss(x.view(0, 5, 10), torch.zeros(0, 5, 10), normalise=False),
    "no samples": lambda x: label_loss(x.view(0, 3), torch.zeros(0, 3)),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_sum_is_zero_not_nan(case):
    logits = torch.zeros(0, requires_grad=True)
    term = NOTHING[case](logits)
    assert (term.sum.item(), term.count.item(), term.mean().item()) == (0.0, 0.0, 0.0)
    term.mean().backward()  # a step of image-only records goes through the report loss too


def test_labels_none_of_which_are_stated_are_zero_not_nan():
    logits = numbers(2, 3).requires_grad_()
    term = label_loss(logits, torch.full((2, 3), NAN))
    term.mean().backward()
    assert (term.mean().item(), term.count.item()) == (0.0, 0.0)
    assert logits.grad.abs().max() == 0


def test_half_precision_predictions_are_compared_in_single():
    """bf16 holds 8 bits: a squared error or a logarithm taken in it would be wrong in the third digit."""
    target, predicted = numbers(1, 4, 64), numbers(1, 4, 64, seed=1).bfloat16()
    assert masked_patch_loss(predicted, target).sum.item() == masked_patch_loss(predicted.float(), target).sum.item()
    logits, words = numbers(5, 30).bfloat16(), torch.arange(5)
    assert masked_token_loss(logits, words).sum.dtype == torch.float32
    assert label_loss(logits, (numbers(5, 30) > 0).float()).sum.dtype == torch.float32
