"""Linear layers in 8 bits on a processor: a context, as autocast is one, in which products over tokens are of integers.

A row of weights is w = s q with q from -127 to 127 and s = max|w| / 127. A token is x = l + t p with p from 0 to 255, l the least of
its values and 0, and t the 255th part of the way from l to the greatest of its values and 0. Then

    w . x  =  s t sum(q p) + l s sum(q)  to within half a step of each value,

and the sums are of integers, so exact. Weights are rounded once, tokens as they come. Each token has scales of its own: what is
computed of an image does not depend on the other images of its batch, as it would with one scale for all tokens of a batch.

The product itself is oneDNN's, by the operator that PyTorch's compiler calls for 8-bit models. It takes plain integers;
`torch.ao.quantization` and quantised tensors are deprecated in PyTorch, and one more library for one operator is not needed.
"""

# Shapes: N tokens, K values of a token, M rows of weights
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

WEIGHT_STEPS, TOKEN_STEPS = 127, 255
LEAST_WEIGHTS = 1 << 18  # of a layer that gains: rounding the tokens of a smaller one takes as long as 8 bits save
SMALLEST = 1e-30  # the step of a row or a token that is zero: anything but zero


class Int8Weights(NamedTuple):
    """Weights (M, K) in 8 bits: packed for the product, and the step and the sum of each row as it is dequantised, (M,)."""

    packed_MK: Tensor
    step_M: Tensor
    sum_M: Tensor
    zero_M: Tensor


class Int8Products(TorchFunctionMode):
    """In this context `linear` of parameters and tokens (..., tokens, K) is computed in 8 bits, and everything else as before.

    What has no axis of tokens, such as the features (B, K) that a head takes, stays as it is: it is one row an image, and
    decides everything. So do layers that would not gain, and weights that are computed anew each time, which cannot be packed
    once. It is for prediction: there are no gradients.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Compute `function`, in 8 bits where it is such a product."""
        if function is functional.linear and not options and args[0].dim() > 2 and gains(args[1]):
            return linear(*args)
        return function(*args, **(options or {}))


def gains(weight_MK: Tensor) -> bool:
    """Whether products with these weights are faster in 8 bits."""
    return isinstance(weight_MK, nn.Parameter) and weight_MK.numel() >= LEAST_WEIGHTS


def linear(values: Tensor, weight_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """`values` (..., K) times the transposed weights, plus the bias: (..., M) float32, in 8 bits. On the CPU alone."""
    weights = int8_weights(weight_MK)
    value_NK = values.reshape(-1, values.shape[-1])
    least_N1, greatest_N1 = value_NK.amin(1, keepdim=True).clamp_(max=0), value_NK.amax(1, keepdim=True).clamp_(min=0)
    step_N1 = ((greatest_N1 - least_N1) / TOKEN_STEPS).clamp_(min=SMALLEST)
    inverse_N1 = 1 / step_N1
    token_NK = torch.addcmul(0.5 - least_N1 * inverse_N1, value_NK, inverse_N1).to(
        torch.uint8
    )  # +0.5 and cut off: rounded
    product_NM = _product(token_NK.contiguous(), weights)
    least_N = least_N1[:, 0]
    shift_NM = torch.outer(least_N, weights.sum_M) if bias_M is None else torch.addr(bias_M, least_N, weights.sum_M)
    return torch.addcmul(shift_NM, product_NM, step_N1, out=shift_NM).view(*values.shape[:-1], len(weight_MK))


def int8_weights(weight_MK: Tensor) -> Int8Weights:
    """Weights in 8 bits, rounded anew only where they have changed. They live as long as the weights do."""
    version = -1 if weight_MK.is_inference() else weight_MK._version  # the former cannot change in place
    known = _PACKED.get(weight_MK)
    if known is None or known[0] != version:
        _PACKED[weight_MK] = known = version, _rounded(weight_MK.detach())
    return known[1]


_PACKED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # (version, Int8Weights) by the weights


def quantised(weight_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as integers (M, K) int8 and the step of each row (M,)."""
    step_M = (weight_MK.abs().amax(1) / WEIGHT_STEPS).clamp_(min=SMALLEST)
    return (weight_MK / step_M[:, None]).round_().to(torch.int8), step_M


def _rounded(weight_MK: Tensor) -> Int8Weights:
    integer_MK, step_M = quantised(weight_MK.float())
    sum_M = integer_MK.sum(1).float() * step_M
    packed_MK = torch.ops.onednn.qlinear_prepack(integer_MK, None)
    return Int8Weights(packed_MK, step_M, sum_M, torch.zeros(len(step_M), dtype=torch.int32))


def _product(token_NK: Tensor, weights: Int8Weights) -> Tensor:
    """Sums of products of integers, times the step of the row of weights: (N, M) float32."""
    tokens, rows, result = (1.0, 0), (weights.packed_MK, weights.step_M, weights.zero_M), (1.0, 0, torch.float32)
    return torch.ops.onednn.qlinear_pointwise(token_NK, *tokens, *rows, None, *result, "none", [], "")
