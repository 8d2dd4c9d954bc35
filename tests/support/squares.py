"""Bright squares and dark rings in noise: findings whose place is known, and a tiny classifier that has learnt them."""

import numpy as np
import torch

from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.config import Pooling
from mrm.models.mrm import normalise
from tests.support.configs import MICRO

SHAPES = ("square", "ring")


def square_and_ring(rng: np.random.Generator, shown: tuple[int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise with a bright square, a dark ring, both or neither, each in a place of its own; and where they are."""
    image = rng.integers(100, 156, (64, 64)).astype(np.uint8)
    places = {name: np.zeros((64, 64), bool) for name in SHAPES}
    corners = rng.permutation(16)[:2]
    for name, is_shown, corner in zip(SHAPES, shown, corners, strict=True):
        if not is_shown:
            continue
        top, left = 16 * (corner // 4), 16 * (corner % 4)
        places[name][top : top + 16, left : left + 16] = True
        if name == "square":
            image[top + 1 : top + 15, left + 1 : left + 15] = 250
        else:
            image[top + 1 : top + 15, left + 1 : left + 15] = 10
            image[top + 5 : top + 11, left + 5 : left + 11] = 130
    return image, places


def untrained_on_squares(pooling: Pooling = "mean") -> Classifier:
    shape = ClassifierConfig(SHAPES, MICRO.encoder, MICRO.encoder_options, MICRO.image_size, pooling=pooling)
    with noise.seeded(0):
        model = Classifier(shape)
        torch.nn.init.normal_(model.encoder.head.weight, std=0.2)
    return model.eval()


def trained_on_squares(pooling: Pooling = "mean") -> Classifier:
    """A micro classifier after some seconds of squares and rings."""
    network = untrained_on_squares(pooling).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    with noise.seeded(0):
        for _ in range(150):
            labels = rng.integers(0, 2, (32, 2))
            images = torch.from_numpy(np.stack([square_and_ring(rng, tuple(row))[0] for row in labels]))
            logits = network(normalise(images, network.config.mean, network.config.std))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.zero_grad()
    return network.eval().requires_grad_(False)
