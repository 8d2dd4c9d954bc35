"""Prefixes that other programs put before the names of weights: without them the names are those of a ViT."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from mrm.system.errors import CheckpointError

Value = TypeVar("Value")
COMPILED = re.compile(r"(^|\.)_orig_mod\.")  # torch.compile, of a model or of a part of it
PARALLEL = "module."  # DataParallel and DistributedDataParallel
FIRST_BLOCK = re.compile(r"^((?:[\w-]+\.)*?)blocks\.0\.")
WRAPPERS = frozenset(  # names under which training programs keep their encoder
    ("backbone", "base_encoder", "momentum_encoder", "encoder", "encoder_q", "encoder_k", "image_encoder", "model")
) | {"net", "network", "student", "teacher", "trunk", "visual", "vit", "img_encoder_q"}
AVERAGES = {"momentum_encoder": "base_encoder", "encoder_k": "encoder_q"}  # MoCo's moving average: of this encoder


def without_prefixes(weights: Mapping[str, Value], path: Path) -> dict[str, Value]:
    """The weights by the names that they have without known prefixes; a warning names each prefix that is left out.

    Raises CheckpointError for a file that holds several encoders, as student and teacher.
    """
    removed: list[str] = []
    if any(COMPILED.search(name) for name in weights):
        removed.append("_orig_mod.")
        weights = {COMPILED.sub(r"\1", name): value for name, value in weights.items()}
    while any(name.startswith(PARALLEL) for name in weights):
        removed.append(PARALLEL)
        weights = {name.removeprefix(PARALLEL): value for name, value in weights.items()}
    if prefix := _wrapper(weights, path):
        removed.append(prefix)
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    if removed:
        warnings.warn(f"{path}: names of weights are read without {', '.join(dict.fromkeys(removed))}", stacklevel=4)
    return dict(weights)


def _wrapper(weights: Mapping[str, Value], path: Path) -> str:
    """What stands before the names of the one encoder in the file, if it is known; else nothing."""
    before = {match[1] for name in weights if (match := FIRST_BLOCK.match(name))}
    if before & {"", "encoder."}:
        return ""  # a plain ViT or MRM's own names
    known = sorted(prefix for prefix in before if WRAPPERS.issuperset(prefix.removesuffix(".").split(".")))
    averages = [one for one in known if _averaged(one) in known]
    known = [one for one in known if one not in averages]
    if len(known) == 1 and averages:
        warnings.warn(
            f"{path}: {', '.join(averages)} is the moving average of {known[0]} and is not read", stacklevel=5
        )
    if len(known) > 1:
        raise CheckpointError(
            f"{path}: holds several encoders ({', '.join(known)}); save the weights of one of them in a file of its own"
        )
    return known[0].removesuffix("encoder.") if known and known[0].endswith(".encoder.") else "".join(known)


def _averaged(prefix: str) -> str:
    """The prefix of the encoder of which this one would be the moving average; nothing if it is none."""
    parts = prefix.split(".")
    return ".".join(AVERAGES.get(part, part) for part in parts) if AVERAGES.keys() & set(parts) else ""


def example_name(weights: Mapping[str, Value]) -> str:
    """A name in the file, if possible of a block, for messages."""
    return next((name for name in weights if "blocks.0." in name), next(iter(weights), "none"))
