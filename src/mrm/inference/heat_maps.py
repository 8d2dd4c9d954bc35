"""Where a classifier looks: a heat map for each finding, at the image's own size.

Three methods. "gradcam" asks which patches raise the logit of one finding: the output of the last block times the gradient
there, summed over channels, negative contributions dropped (Grad-CAM, arXiv:1610.02391, for tokens; through captum).
Other places and integrated gradients were tried and found worse: docs/explain.md. "rollout" follows attention from the
pooled patches down to the image (Abnar and Zuidema 2020, arXiv:2005.00928): it does not depend on the finding and is
there for comparison. "attention" is that of the head, for classifiers whose head has one: with a query for each class
(`--pooling class`) it is how much of each patch a finding takes, with one query the same for all.

A map shows what changed the number, not where disease is.
"""

# Shapes: H W pixels, G patches a side, S tokens (the encoder's prefix, then patches), N heads, D width
from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mrm.data import images
from mrm.data.borders import Box
from mrm.data.eval_view import EvalView
from mrm.models.classifier import Classifier, ClassQueries
from mrm.models.encoder import WITH_PATCHES, family_of
from mrm.models.mrm import normalise
from mrm.system.errors import ExplainError

Method = Literal["gradcam", "rollout", "attention"]
METHODS = get_args(Method)


def methods_of(model: Classifier) -> list[str]:
    """The methods that a classifier has: a head that takes the mean has no attention."""
    return [method for method in METHODS if method != "attention" or model.config.pooling != "mean"]


def heat_map(model: Classifier, image_HW: np.ndarray, class_index: int, method: str = "gradcam") -> np.ndarray:
    """The heat map (H, W) float32 in [0, 1] of a class, at the size of the image (H, W) uint8.

    The greatest value is 1, whatever the probability of the finding: a map of an improbable finding shows the little
    evidence for it. All 0 where there is none. What the test view leaves out ("centre" cuts the sides of
    radiographs) is 0. The model's hooks are in use meanwhile: one call at a time for each model.
    Raises ExplainError for another method, a class or patches that the model does not have, or where captum is not
    installed.
    """
    check_method(model, method)
    require_library(method)
    classes = model.config.classes
    if not 0 <= class_index < len(classes):
        raise ExplainError(f"unknown class {class_index}; the model has {len(classes)}, from 0: {', '.join(classes)}")
    if (family := family_of(model.config.encoder)) not in WITH_PATCHES:
        raise ExplainError(
            f"{model.config.encoder} ({family}) has no patches of one size, so there is no heat map of it"
        )
    image_1CHW, box = evaluation_view(model, image_HW)
    if method == "rollout":
        grid_GG = rollout(model, image_1CHW)
    else:
        grid_GG = (contributions if method == "gradcam" else head_attention)(model, image_1CHW, class_index)
    return spread(grid_GG, image_HW.shape, box)


def check_method(model: Classifier, method: str) -> None:
    """Raises ExplainError for a method that there is not, or that this classifier does not have."""
    if method not in METHODS:
        raise ExplainError(f"unknown method {method!r}; choose from {', '.join(methods_of(model))}")
    if method not in methods_of(model):
        raise ExplainError(
            "the head of this classifier takes the mean of the patches and has no attention; choose from "
            f"{', '.join(methods_of(model))}, or fine-tune with --pooling class"
        )


def require_library(method: str) -> None:
    """Raises ExplainError where a method needs captum and it is missing, with how to install it and what to do instead."""
    if method == "gradcam" and importlib.util.find_spec("captum") is None:
        raise ExplainError(
            "heat maps by gradient need captum, which is not installed: pip install 'mrm-radiograph[explain]', or choose the "
            "method rollout"
        )


def evaluation_view(model: Classifier, image_HW: np.ndarray) -> tuple[Tensor, Box]:
    """The image as the classifier is tested on it, (1, 3, size, size) normalised; and which part of it that is."""
    config, view = model.config, EvalView.of(model.config)
    view_HW = torch.from_numpy(view.image(image_HW))
    device = next(model.parameters()).device
    return normalise(view_HW[None].to(device), config.mean, config.std), view.part(image_HW)


def spread(grid_GG: np.ndarray, shape: tuple[int, ...], box: Box) -> np.ndarray:
    """A grid of patches over the part of an image that was seen: (H, W) float32 from 0 to 1, 0 elsewhere."""
    heat_HW = np.zeros(shape, np.float32)
    if grid_GG.max() > 0:
        smooth = cv2.resize(grid_GG.astype(np.float32), (box.width, box.height), interpolation=cv2.INTER_CUBIC)
        smooth = np.clip(smooth, 0, None)
        images.crop(heat_HW, box)[:] = smooth / smooth.max()
    return heat_HW


# Methods ------------------------------------------------------------------------------------------------


def contributions(model: Classifier, image_1CHW: Tensor, class_index: int) -> np.ndarray:
    """What each patch adds to the logit of a class, (G, G); 0 for those that lower it."""
    from captum.attr import LayerGradientXActivation

    layer = model.encoder.norm  # the output of the last block; the identity where the mean is normalised after pooling
    with torch.enable_grad():
        each_1SD = LayerGradientXActivation(model, layer).attribute(image_1CHW.clone(), target=class_index)
    return _grid(model, each_1SD.detach().sum(-1)[0]).clip(0)


@torch.inference_mode()
def head_attention(model: Classifier, image_1CHW: Tensor, class_index: int) -> np.ndarray:
    """How much of each patch the head takes for a class, (G, G), less the least of all; of one query, for every class."""
    encoder, pool = model.encoder, model.encoder.attn_pool
    tokens_1SD = encoder.forward_features(image_1CHW)
    patches_1LD = tokens_1SD[:, encoder.num_prefix_tokens :]
    if isinstance(pool, ClassQueries):
        shares_L = pool.attention(patches_1LD)[0, class_index]
    else:
        shares_L = _attention_of_query(pool, patches_1LD)
    grid_GG = _grid(model, torch.cat([tokens_1SD.new_zeros(encoder.num_prefix_tokens), shares_L]))
    return grid_GG - grid_GG.min()


def _attention_of_query(pool: Any, patches_1LD: Tensor) -> Tensor:
    """The attention (L,) of timm's pooling by one query, the mean of its heads, worked out as the fused kernel keeps none."""
    key_1NLd = pool.kv(patches_1LD).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)[0]
    query_1N1d = pool.q(pool.latent).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
    scores_1N1L = pool.q_norm(query_1N1d) * pool.scale @ pool.k_norm(key_1NLd).transpose(-2, -1)
    return scores_1N1L.float().softmax(-1).mean(1)[0, 0]


@torch.inference_mode()
def rollout(model: Classifier, image_1CHW: Tensor) -> np.ndarray:
    """How much of each patch reaches the pooled patches through attention, (G, G), less the least of all.

    Heads are averaged; half of each layer is the residual path, as in the paper. Every patch reaches every other a
    little, so the least share is subtracted: it carries no information about the place.
    """
    prefix = model.encoder.num_prefix_tokens
    flow_SS: Tensor | None = None
    for attention_NSS in _attentions(model, image_1CHW):
        step_SS = (attention_NSS.mean(0) + torch.eye(attention_NSS.shape[-1], device=attention_NSS.device)) / 2
        flow_SS = step_SS if flow_SS is None else step_SS @ flow_SS
    assert flow_SS is not None
    grid_GG = _grid(model, flow_SS[prefix:].mean(0))
    return grid_GG - grid_GG.min()


def _attentions(model: Classifier, image_1CHW: Tensor) -> list[Tensor]:
    """The attention (N, S, S) of each block, computed once more from what goes into it: the fused kernel keeps none."""
    inputs: list[tuple[Any, Tensor]] = []
    modules = [block.attn for block in model.encoder.blocks]
    if any(not isinstance(getattr(module, "qkv", None), nn.Linear) for module in modules):
        raise ExplainError(
            f"{model.config.encoder}: its attention has no qkv layer, so rollout cannot be computed; use gradcam"
        )
    hooks = [
        m.register_forward_pre_hook(lambda module, arguments: inputs.append((module, arguments[0]))) for m in modules
    ]
    try:
        model(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    return [_attention(module, x_1SD) for module, x_1SD in inputs]


def _attention(module: Any, x_1SD: Tensor) -> Tensor:
    q_1NSd, k_1NSd, _ = module.qkv(x_1SD).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = module.q_norm(q_1NSd) * module.scale @ module.k_norm(k_1NSd).transpose(-2, -1)
    return scores.float().softmax(-1)[0]


def _grid(model: Classifier, tokens_S: Tensor) -> np.ndarray:
    """Values of the tokens as the square of patches that they are."""
    patches = tokens_S[model.encoder.num_prefix_tokens :].float().cpu().numpy()
    height, width = model.encoder.patch_embed.grid_size
    return patches.reshape(height, width)


# Images -----------------------------------------------------------------------------------------------


def overlay(image_HW: np.ndarray, heat_HW: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """The heat map over the image, (H, W, 3) uint8, red green blue.

    The colour map is inferno: its lightness rises evenly, so it also reads in grey and to the colour-blind. It covers
    the image in proportion to the heat, at most by `opacity`: where there is no heat the image stays as it is.
    Raises ExplainError for an opacity outside 0 to 1 or a map of another size.
    """
    if not 0 <= opacity <= 1:
        raise ExplainError(f"opacity must be from 0 to 1, not {opacity:g}")
    if heat_HW.shape != image_HW.shape:
        raise ExplainError(f"a heat map of {heat_HW.shape} does not fit an image of {image_HW.shape}")
    grey_HW3 = np.repeat(image_HW[..., None], 3, axis=2).astype(np.float32)
    cover_HW1 = opacity * np.clip(heat_HW, 0, 1)[..., None]
    return np.rint(grey_HW3 * (1 - cover_HW1) + colours(heat_HW) * cover_HW1).astype(np.uint8)


def colours(heat_HW: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as colours (H, W, 3) uint8, red green blue."""
    values = np.rint(np.clip(heat_HW, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def palette() -> np.ndarray:
    """The 256 colours of heat maps (256, 3) uint8, red green blue, from no heat to the greatest."""
    return colours(np.linspace(0, 1, 256, dtype=np.float32)[None])[0]
