"""Time and memory of a training step of the full segmentation recipe: ViT-B/16, UPerNet 768, 512 pixels.

    python benchmarks/segment_step.py --batch 2 --steps 3

Random images and masks, so that only the step is timed: forward, losses, backward, AdamW with layer decay.
The first step is a warm-up. Memory is the peak of the process (CPU) or of what was allocated (GPU).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch

from mrm import recipes
from mrm.data.samples import MaskBatch
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.system import hardware
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import SegmentTask


def main() -> None:
    """Time the steps and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--head", default="upernet", choices=("upernet", "dpt", "linear"))
    parser.add_argument("--channels", type=int, default=768)
    parser.add_argument("--bf16", action="store_true", help="mixed precision, as the recipe has it")
    parser.add_argument("--checkpointing", action="store_true", help="recompute the encoder's activations")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipes.SEGMENT["siim-100"].make(*[Path()] * 4)
    shape = SegmenterConfig(
        recipe.classes, image_size=(options.size, options.size), head=options.head, channels=options.channels
    )
    model = Segmenter(shape).to(device).train()
    model.encoder.set_grad_checkpointing(options.checkpointing)
    task, optimizer = SegmentTask(model), build_optimizer(model, recipe.training)
    batch = random_batch(options.batch, options.size).to(device)
    times = [step(task, optimizer, batch, options.bf16) for _ in range(options.steps + 1)][1:]
    report = {
        **{k: v for k, v in vars(options).items() if k != "steps"},
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds a step": round(float(np.median(times)), 4),
        "images a second": round(options.batch / float(np.median(times)), 3),
        "memory, GiB": round(peak_memory(device), 2),
        "device": hardware.device_name(device),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(report))


def random_batch(count: int, size: int) -> MaskBatch:
    """Noise, with a lesion in a corner."""
    mask = torch.zeros(count, size, size, dtype=torch.uint8)
    mask[:, : size // 4, : size // 4] = 1
    image = torch.randint(0, 256, (count, size, size), generator=torch.Generator().manual_seed(0)).byte()
    return MaskBatch([], image, mask, torch.arange(count), torch.arange(count))


def step(task: SegmentTask, optimizer: torch.optim.Optimizer, batch: MaskBatch, bf16: bool) -> float:
    """Seconds of one step, until the device has finished."""
    device = batch.image_BHW.device
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        terms = task(batch)
    counts = task.counts(batch)
    sum(task.weights[k] * t.sum / counts[k] for k, t in terms.items()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> float:
    """Peak memory, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
