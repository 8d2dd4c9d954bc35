"""An encoder that sees what phantoms show, in minutes on a CPU: trained on where each finding is, patch by patch.

    python benchmarks/phantom_encoder.py --out encoder --steps 2000

In minutes on a CPU a small Vision Transformer learns next to nothing about phantoms from labels or reports alone (AUROC
0.57 after 600 steps of 32 with labels). An outline says 36 times as much as a label. The encoder is written as a model
folder, for `--init` of benchmarks that need an encoder that sees; they must say that they used it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from mrm.corpora.phantoms.phantom import FINDINGS, phantom
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.statistics import ranking

SEEN = 0.15  # the share of a patch that must be covered to count as showing a finding


def main() -> None:
    """Teach, test on other patients, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--count", type=int, default=3000, help="phantoms")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    teach(options.out, options.count, options.steps, options.size, options.batch, options.lr, options.seed)


def teach(out: Path, count: int, steps: int, size: int, batch: int = 32, lr: float = 1e-3, seed: int = 0) -> Path:
    """Teach an encoder `steps` steps on `count` phantoms of `size` pixels; returns the model folder."""
    with noise.seeded(seed):
        model = Classifier(ClassifierConfig(FINDINGS, "vit_tiny_patch16_224", {"depth": 6}, size, drop_path=0.0))
        head = nn.Linear(model.encoder.embed_dim, len(FINDINGS))
    images_NHW, shown_NLC = draw(1_000_000 + seed, count, size)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr, (0.9, 0.99), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    began = time.perf_counter()
    for step, rows in enumerate(batches(count, batch, steps, seed), 1):
        tokens = patches_of(model, images_NHW[rows])
        loss = nn.functional.binary_cross_entropy_with_logits(head(tokens), shown_NLC[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            each = (time.perf_counter() - began) / step
            print(
                f"step {step}/{steps}  loss {loss:.4f}  {batch / each:.0f} images/s  left {each * (steps - step):.0f} s",
                flush=True,
            )
    print(report(model.eval(), head, *draw(2_000_000 + seed, 300, size)))
    return model_folder.save(out, model)


def draw(seed: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Phantoms (N, H, W) uint8, and which patches show which finding (N, L, C) float32."""
    images, covered = [], []
    for i in range(count):
        p = phantom(seed, i, size)
        images.append(p.image)
        shares = [cover(p.regions.get(name), size) for name in FINDINGS]
        covered.append(np.stack(shares, axis=-1) > SEEN)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(covered)).float()


def cover(region_HW: np.ndarray | None, size: int) -> np.ndarray:
    """The share (L,) of each patch that a region covers."""
    grid = size // 16
    if region_HW is None:
        return np.zeros(grid * grid, np.float32)
    return cv2.resize(region_HW.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA).ravel()


def batches(count: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each step, every phantom once an epoch."""
    rng, order = np.random.default_rng(seed), np.empty(0, np.intp)
    for _ in range(steps):
        if len(order) < batch:
            order = rng.permutation(count)
        rows, order = order[:batch], order[batch:]
        yield rows


def patches_of(model: Classifier, image_BHW: torch.Tensor) -> torch.Tensor:
    """Features (B, L, D) of the patches."""
    image = normalise(image_BHW, model.config.mean, model.config.std)
    return model.encoder.forward_features(image)[:, model.encoder.num_prefix_tokens :]


@torch.inference_mode()
def report(model: Classifier, head: nn.Module, images_NHW: torch.Tensor, shown_NLC: torch.Tensor) -> str:
    """AUROC of each finding: over patches, and over images by their best patch."""
    logits_NLC = torch.cat([head(patches_of(model, part)) for part in images_NHW.split(50)]).numpy()
    lines = ["AUROC of other patients    patches  images"]
    for c, name in enumerate(FINDINGS):
        patches = ranking.auroc(shown_NLC[..., c].flatten(), logits_NLC[..., c].ravel())
        images = ranking.auroc(shown_NLC[..., c].amax(1), logits_NLC[..., c].max(axis=1))
        lines.append(f"  {name:24} {patches:.3f}    {images:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
