"""Linear layers in 8 bits, against integers rounded by hand, and against the bound that half a step of each value gives."""

import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mrm.system import hardware, int8_products
from mrm.system.int8_products import Int8Products

pytestmark = pytest.mark.skipif(not hardware.computes_int8(), reason="this processor has no products of 8 bits")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(int8_products, "LEAST_WEIGHTS", 1)


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


def steps_of(values_NK: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The offset and the step (N, 1) of rows: weights are signed and have no offset."""
    if signed:
        return np.zeros((len(values_NK), 1)), np.abs(values_NK).max(1, keepdims=True) / 127
    least, greatest = np.minimum(values_NK.min(1, keepdims=True), 0), np.maximum(values_NK.max(1, keepdims=True), 0)
    return least, (greatest - least) / 255


def test_each_row_of_weights_has_a_step_of_its_own():
    integers, steps = int8_products.quantised(torch.tensor([[1.0, -2.54, 0.6], [0.0, 0.0, 0.0], [127e3, 1e3, -64e3]]))
    assert integers.tolist() == [[50, -127, 30], [0, 0, 0], [127, 1, -64]]
    np.testing.assert_allclose(steps, [0.02, 0, 1000], rtol=1e-6, atol=1e-20)


def test_values_that_are_whole_steps_give_the_product_itself():
    """Steps of 0.02 and 1 of the weights, 0.01 and 0.1 of the tokens; the second token has an offset of -10."""
    weight = torch.tensor([[1.0, -2.54, 0.6], [3.0, 127.0, -5.0]])
    tokens = torch.tensor([[[0.0, 1.0, 2.55], [-10.0, 0.0, 15.5]]])
    expected = [[[-1.01, 114.25], [-0.7, -107.5]]]  # such as 1 * -2.54 + 2.55 * 0.6
    np.testing.assert_allclose(int8_products.linear(tokens, weight), expected, rtol=2e-6, atol=2e-6)
    with_bias = int8_products.linear(tokens, weight, torch.tensor([0.5, -1.0]))
    np.testing.assert_allclose(with_bias, np.add(expected, [0.5, -1.0]), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("inputs", "rows"), [(768, 128), (100, 37), (48, 1)])
def test_products_differ_by_no_more_than_half_a_step_of_each_value(inputs, rows, draw):
    weight = torch.randn(rows, inputs, generator=draw)
    tokens = functional.gelu(torch.randn(2, 19, inputs, generator=draw)) * torch.logspace(-3, 3, 19)[None, :, None]
    bias = torch.randn(rows, generator=draw)
    result = int8_products.linear(tokens, weight, bias).double().numpy()
    value_NK, weight_MK = tokens.reshape(-1, inputs).double().numpy(), weight.double().numpy()
    least_N1, step_N1 = steps_of(value_NK, signed=False)
    step_M1 = steps_of(weight_MK, signed=True)[1]
    bound_NM = (
        np.abs(value_NK).sum(1, keepdims=True) * step_M1.T / 2
        + step_N1 / 2 * np.abs(weight_MK).sum(1)
        + inputs * step_N1 * step_M1.T / 4
    )
    exact_NM = value_NK @ weight_MK.T + bias.double().numpy()
    off_NM = np.abs(result.reshape(-1, rows) - exact_NM)
    assert (off_NM <= 1.001 * bound_NM).all()
    assert off_NM.max() > 1e-6  # it is rounded, after all
    rounded_NK = least_N1 + step_N1 * np.rint((value_NK - least_N1) / step_N1)
    by_hand_NM = rounded_NK @ (step_M1 * np.rint(weight_MK / step_M1)).T + bias.double().numpy()
    same = np.abs(result.reshape(-1, rows) - by_hand_NM) <= 1e-4 * bound_NM
    assert same.mean() > 0.9  # all but tokens with a value that lies between two steps to the last bit


def test_a_token_is_computed_the_same_whatever_is_beside_it(draw):
    """With one scale for all tokens, the token of a thousandth of the size would be zero."""
    weight, tokens = torch.randn(64, 96, generator=draw), torch.randn(4, 9, 96, generator=draw)
    alone = int8_products.linear(tokens[1:2] / 1000, weight)
    beside = torch.cat([tokens[:1] * 1000, tokens[1:2] / 1000, tokens[2:]])
    assert torch.equal(int8_products.linear(beside, weight)[1:2], alone)
    assert torch.equal(int8_products.linear(beside, weight), int8_products.linear(beside, weight))


def test_tokens_in_another_order_of_memory_are_the_same_tokens(draw):
    weight, tokens = torch.randn(64, 96, generator=draw), torch.randn(4, 96, 9, generator=draw).transpose(1, 2)
    assert torch.equal(int8_products.linear(tokens, weight), int8_products.linear(tokens.contiguous(), weight))
    assert int8_products.linear(tokens, weight).shape == (4, 9, 64)


def test_zeros_give_the_bias_and_what_is_not_finite_is_not_hidden(draw):
    weight, bias = torch.randn(8, 16, generator=draw), torch.randn(8, generator=draw)
    tokens = torch.zeros(1, 3, 16)
    tokens[0, 1, 5], tokens[0, 2, 5] = torch.nan, torch.inf
    result = int8_products.linear(tokens, weight, bias)
    assert torch.equal(result[0, 0], bias)
    assert not result[0, 1:].isfinite().any()
    weight[2, 3] = torch.nan
    assert int8_products.linear(tokens[:, :1], weight, bias)[0, 0].isnan().tolist() == [row == 2 for row in range(8)]


def test_weights_are_rounded_once_anew_where_they_changed_and_live_as_long(draw, monkeypatch):
    rounded, real = [], int8_products._rounded
    monkeypatch.setattr(int8_products, "_rounded", lambda weight: rounded.append(1) or real(weight))
    gc.collect()  # weights of other tests
    before = len(int8_products._PACKED)
    layer, tokens = nn.Linear(32, 16).requires_grad_(False), torch.randn(1, 5, 32, generator=draw)
    with Int8Products():
        first = layer(tokens)
        assert torch.equal(layer(tokens), first)
        assert len(rounded) == 1
        layer.weight.mul_(2)
        np.testing.assert_allclose(layer(tokens) - layer.bias, 2 * (first - layer.bias), rtol=1e-5, atol=1e-5)
    assert len(rounded) == 2
    del layer
    gc.collect()
    assert len(int8_products._PACKED) == before


def test_heads_computed_weights_small_layers_and_everything_else_stay_in_fp32(draw, monkeypatch):
    layer, tokens = nn.Linear(32, 16).requires_grad_(False), torch.randn(2, 5, 32, generator=draw)
    plain = layer(tokens), layer(tokens[:, 0]), tokens @ layer.weight.T, functional.linear(tokens, layer.weight * 1)
    with Int8Products(), torch.inference_mode():
        assert not torch.equal(layer(tokens), plain[0])
        assert torch.equal(layer(tokens[:, 0]), plain[1])
        assert torch.equal(tokens @ layer.weight.T, plain[2])
        assert torch.equal(functional.linear(tokens, layer.weight * 1), plain[3])
        monkeypatch.setattr(int8_products, "LEAST_WEIGHTS", 32 * 16 + 1)
        assert torch.equal(layer(tokens), plain[0])
    monkeypatch.setattr(int8_products, "LEAST_WEIGHTS", 32 * 16)
    assert torch.equal(layer(tokens), plain[0])
    with Int8Products():
        assert not torch.equal(layer(tokens), plain[0])
