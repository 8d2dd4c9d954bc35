"""Encoders of other programs: small, with random weights, written by their own library in their own layout.

Each `write_*` returns what `--init` takes, the side of its images, and what its own program computes of a batch of them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

TRANSFORMER = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
STAGES = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2), "window_size": 4}


class Foreign(NamedTuple):
    """An encoder as its program wrote it, and its own pooled features: the mean of its patches, or what timm pools."""

    init: Path
    size: int
    features: Callable[[Tensor], Tensor]


def randomised(model: Any) -> Any:
    """The model with weights so large that every part of it counts."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def patch_mean(model: Any, prefix: int, **options: Any) -> Callable[[Tensor], Tensor]:
    """The mean of the last states behind the class token and registers, of a model of transformers."""
    return lambda image: model(image, **options).last_hidden_state[:, prefix:].mean(1)


def write_transformers(kind: str, folder: Path, preparation: dict[str, Any] | None = None, **changes: Any) -> Foreign:
    """A ViT, ViTMAE or DINOv2 of transformers, saved by it."""
    import transformers as library

    if kind == "vit":
        config = library.ViTConfig(**TRANSFORMER, image_size=32, patch_size=8, intermediate_size=80, **changes)
        model = randomised(library.ViTModel(config))
        foreign = Foreign(folder, 32, patch_mean(model, 1))
    elif kind == "vit_mae":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
        config = library.ViTMAEConfig(
            **TRANSFORMER, image_size=32, patch_size=8, intermediate_size=96, mask_ratio=0.0, **decoder
        )
        model = randomised(library.ViTMAEForPreTraining(config))
        in_order = torch.arange(16.0)[None].expand(2, -1)
        foreign = Foreign(folder, 32, patch_mean(model.vit, 1, noise=in_order))
    elif kind == "dinov2":
        config = library.Dinov2Config(**TRANSFORMER, **{"image_size": 56, "patch_size": 14, **changes})
        model = randomised(library.Dinov2Model(config))
        foreign = Foreign(folder, 56, patch_mean(model, 1))
    else:
        config = library.Dinov2WithRegistersConfig(**TRANSFORMER, **{"image_size": 56, "patch_size": 14, **changes})
        model = randomised(library.Dinov2WithRegistersModel(config))
        foreign = Foreign(folder, 56, patch_mean(model, 1 + config.num_register_tokens))
    model.save_pretrained(folder)
    if preparation:
        (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return foreign


def timm_model(name: str, **changes: Any) -> tuple[Any, dict[str, Any], int]:
    """A small timm encoder with a head of five classes, its arguments, and the side of its images."""
    size = 56 if "patch14" in name else 64
    if "convnext" in name:
        arguments: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)}
    else:
        arguments = {"img_size": size, **(STAGES if "swin" in name else VIT), **changes}
    return randomised(timm.create_model(name, num_classes=5, **arguments)), arguments, size


def timm_features(model: Any) -> Callable[[Tensor], Tensor]:
    """What a timm model gives to its head."""
    return lambda image: model.forward_head(model.forward_features(image), pre_logits=True)


def write_timm(name: str, folder: Path, **changes: Any) -> Foreign:
    """A timm model, saved by timm as for the hub."""
    model, arguments, size = timm_model(name, **changes)
    prepared = {"input_size": (3, size, size), "mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
    timm.models.save_for_hf(model, folder, data_config=prepared, model_args=arguments, safe_serialization=True)
    return Foreign(folder, size, timm_features(model))


def tiny_vit(**changes: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """A ViT of width 192, two blocks deep, and the mean of its patches after its last norm."""
    options = {"img_size": 64, "depth": 2, "num_classes": 0, "global_pool": "avg", "fc_norm": False, **changes}
    model = randomised(timm.create_model("vit_tiny_patch16_224", **options))
    return model, timm_features(model)


def write_checkpoint(kind: str, folder: Path) -> Foreign:
    """A checkpoint with the names that the publishers of MAE, Medical MAE, MGCA, MoCo v3, DINOv2 and EVA-X gave it."""
    path, size = folder / f"{kind}.pth", 64
    if kind == "eva_x":
        model = timm.create_model(
            "eva02_tiny_patch14_224", img_size=64, patch_size=16, ref_feat_shape=14, depth=2, num_classes=0
        )
        features = timm_features(randomised(model))
        torch.save({"module": eva_names(model.state_dict())}, path)
        return Foreign(path, size, features)
    if kind == "dinov2":
        model = timm.create_model(
            "vit_base_patch14_reg4_dinov2", img_size=56, embed_dim=192, depth=2, num_heads=3, num_classes=0,
            global_pool="avg", fc_norm=False,
        )  # fmt: skip
        features = timm_features(randomised(model))
        torch.save(dinov2_names(model.state_dict()), path)
        return Foreign(path, 56, features)
    model, features = tiny_vit()
    weights = dict(model.state_dict())
    other = {name: value + 1 for name, value in weights.items()}
    if kind == "mae":
        content: Any = {
            "model": {**weights, "mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.bias": torch.zeros(8)}
        }
    elif kind == "mgca":
        text = {"text_encoder_q.model.encoder.layer.0.output.dense.bias": torch.zeros(4)}
        images = {f"img_encoder_q.model.{name}": value for name, value in weights.items()}
        content = {"epoch": 3, "state_dict": {**images, **text}, "hyper_parameters": {"emb_dim": 128}}
    else:
        both = (("module.base_encoder.", weights), ("module.momentum_encoder.", other))
        content = {"state_dict": {f"{p}{name}": value for p, w in both for name, value in w.items()}}
    torch.save(content, path)
    return Foreign(path, size, features)


def eva_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of an EVA-02 as EVA-X publishes them, with what masked image modelling adds."""
    table = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3", "fc_norm": "norm"}
    renamed = {}
    for name, value in weights.items():
        for ours, theirs in table.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    head = {"mask_token": torch.zeros(1, 1, 192), "lm_head.weight": torch.zeros(4, 192), "lm_head.bias": torch.zeros(4)}
    return renamed | head | {"rope.freqs_cos": torch.zeros(16, 64)}


def dinov2_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of a DINOv2 with registers as its own repository has them: the class token has a position too."""
    weights = dict(weights)
    positions = weights.pop("pos_embed")
    own = torch.full((1, 1, 192), 0.25)
    return weights | {
        "register_tokens": weights.pop("reg_token"),
        "cls_token": weights.pop("cls_token") - own,
        "pos_embed": torch.cat([own, positions], dim=1),
        "mask_token": torch.zeros(1, 192),
    }
