"""Images with a bright or a dark middle and reports that say so, and a tiny MRM that has learnt which is which."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mrm.data import images
from mrm.data.config import CropConfig
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.data.samples import PretrainData
from mrm.data.sampling import in_order
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM, normalise
from mrm.training.tasks import PretrainTask
from tests.support.configs import MICRO

TEXTS = ("Findings: the chest is bright. There is cardiomegaly.", "Findings: the chest is dark. There is nothing.")
BLANKED = "Findings: the chest is ____. There is [MASK]."


def bright_or_dark(bright: bool, number: int) -> np.ndarray:
    """Noise with a bright or a dark middle: two kinds of image that one can tell apart."""
    image = np.random.default_rng(number).integers(90, 160, (64, 64)).astype(np.uint8)
    image[16:48, 16:48] = 230 if bright else 20
    return image


def trained_on_bright_and_dark() -> MRM:
    """A micro MRM after some seconds on pairs of image and report."""
    network = fresh_model()
    train(PretrainTask(network, image_weight=0.1), epochs=40)
    return network.eval().requires_grad_(False)


def fresh_model(**changes: Any) -> MRM:
    """A micro MRM with the words of TEXTS, which nothing has trained yet."""
    tokenizer = Tokenizer.train(["Findings: the chest is bright. dark. There is nothing."] * 5 + ["cardiomegaly"], 73)
    config = replace(MICRO, vocabulary=tokenizer.size, target_scale=1, keep=12, report_dropout=0.0)
    with noise.seeded(0):  # learns in some seconds; Xavier takes longer
        network = MRM(replace(config, start="normal", tied_words=True, **changes))
    network.tokenizer = tokenizer
    return network


def train(task: PretrainTask, epochs: int, after_step: Callable[[], None] = lambda: None) -> list[dict[str, float]]:
    """Train on 32 pairs, two steps an epoch. Returns the mean losses of each step."""
    rows = [
        Record(images.encode_png(bright_or_dark(i % 2 == 0, i)), TEXTS[i % 2], patient=str(i), name=str(i))
        for i in range(32)
    ]
    network, config, crop = task.model, task.model.config, CropConfig(area=(0.8, 1.0), flip=0.5)
    data = PretrainData(
        Records(rows), network.tokenizer, config.target_size, network.patches, config.keep, config.report_length, crop
    )
    optimizer, losses = torch.optim.AdamW(task.parameters(), lr=3e-3), []
    for epoch in range(epochs):
        for wanted in in_order(len(data), 16):
            batch = data.collate([data.sample(epoch, s.index) for s in wanted], [])
            terms = task(batch)
            loss = sum(task.weights[k] * t.sum / max(1, t.count) for k, t in terms.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step()
            losses.append({name: term.mean().item() for name, term in terms.items()})
    return losses


def other_images() -> list[np.ndarray]:
    """Eight more images, half of them bright, that stand in for an image that is not shown."""
    return [bright_or_dark(i % 2 == 0, 100 + i) for i in range(8)]


def write_model_and_images(folder: Path, model: MRM) -> Path:
    """`model`, a bright `radiograph.png`, `report.txt` with blanks, and `others` to stand in."""
    model_folder.save(folder / "model", model)
    (folder / "others").mkdir()
    for i, other in enumerate(other_images()):
        (folder / "others" / f"{i}.png").write_bytes(images.encode_png(other))
    (folder / "radiograph.png").write_bytes(images.encode_png(bright_or_dark(True, 50)))
    (folder / "report.txt").write_text(BLANKED)
    return folder


def with_contrast(model: MRM) -> MRM:
    """A copy of `model` with heads that have learnt which of TEXTS goes with an image: the rest is left as it is."""
    with noise.seeded(0):
        network = MRM(replace(model.config, contrast_width=16)).eval()
    network.load_state_dict(model.state_dict(), strict=False)
    network.tokenizer = tokenizer = model.tokenizer
    config, bright_B = network.config, torch.arange(16) % 2
    image_BHW = torch.from_numpy(np.stack([bright_or_dark(i % 2 == 0, 300 + i) for i in range(16)]))
    tokens = [torch.from_numpy(ids.astype(np.int64))[None] for ids in tokenizer.encode(TEXTS, config.report_length)]
    with torch.no_grad():
        pooled_BD = network.encode(normalise(image_BHW, config.mean, config.std))[:, network.prefix :].mean(1)
        text_2R = torch.cat([network.report_decoder.summary(t, torch.ones_like(t), network._run) for t in tokens])
    optimizer = torch.optim.AdamW(network.contrast.parameters(), lr=1e-2)
    for _ in range(60):
        image_BE, report_2E = (
            F.normalize(network.contrast.image(pooled_BD)),
            F.normalize(network.contrast.report(text_2R)),
        )
        optimizer.zero_grad()
        F.cross_entropy(image_BE @ report_2E.T / 0.1, bright_B).backward()
        optimizer.step()
    return network.requires_grad_(False)
