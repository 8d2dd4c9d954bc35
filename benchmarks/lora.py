"""What LoRA saves in a step of fine-tuning a ViT-B/16 at 224 pixels: time, memory, and weights that are trained.

    python benchmarks/lora.py --out lora.json [--batch 4] [--turns 3]

Full fine-tuning and LoRA of rank 4 and 32 take turns, each turn in a process of its own: SGD in fp32, one step to warm up,
then two that are timed. Memory is the most that a process held, less what it held before the model was made. The logits of
the merged weights are compared with those of the model that was trained.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import mrm
from mrm.models import lora, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.config import LoraConfig
from mrm.training.config import TrainConfig
from mrm.training.losses import label_loss
from mrm.training.optimization import build_optimizer
from mrm.training.tuning import choose_trained

VARIANTS: dict[str, int | None] = {"full": None, "rank 4": 4, "rank 32": 32}
STEPS = 2


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(options.turns):
        for name, rank in VARIANTS.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                turns[name].append(pool.apply(turn, (rank, options.batch)))
    report = {"batch": options.batch, "turns": options.turns, **{name: summary(name, turns) for name in VARIANTS}}
    report |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "mrm": mrm.__version__}
    print(json.dumps(report, indent=1))
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def turn(rank: int | None, batch: int) -> dict[str, Any]:
    """Seconds of a step, bytes, and the shares of weights, in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(tuple(f"class {i}" for i in range(14)))).train()
    encoder = sum(p.numel() for p in model.encoder.blocks.parameters())
    choose_trained(model, "full" if rank is None else "lora", LoraConfig(rank or 8, dropout=0.1), 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    keys = noise.SampleKeys()
    keys.keys_B = torch.arange(batch)
    noise.draw_by_key(model.encoder, keys)
    optimizer = build_optimizer(model, TrainConfig(optimizer="sgd", lr=0.05, lr_batch=None, weight_decay=0.0))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator)
    labels = torch.randint(2, (batch, 14), generator=generator).float()
    seconds = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        label_loss(model(images), labels).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    model.eval()
    with torch.no_grad():
        logits, merged = model(images), lora.merged(model)(images)
    return {
        "seconds": median(seconds[1:]),
        "megabytes": held / 1024,
        "trained": trained,
        "share": trained / encoder,
        "merged": float((merged - logits).abs().max() / logits.abs().max()),
    }


def summary(name: str, turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A variant's numbers, and its ratios to full fine-tuning in the same turn: median, least and most."""
    own, full = turns[name], turns["full"]
    report: dict[str, Any] = {
        "weights trained": own[0]["trained"],
        "share of the encoder's blocks": round(own[0]["share"], 5),
        "largest relative difference of merged logits": max(t["merged"] for t in own),
    }
    for what, key in (("time", "seconds"), ("memory", "megabytes")):
        ratios = sorted(mine[key] / theirs[key] for mine, theirs in zip(own, full, strict=True))
        report[f"{what}, ratio to full"] = [round(r, 3) for r in (median(ratios), ratios[0], ratios[-1])]
    return report


if __name__ == "__main__":
    main()
