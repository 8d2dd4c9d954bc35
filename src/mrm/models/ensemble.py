"""Several classifiers as one: the mean of their logits.

Each member's logits are divided by its own temperature first, so that none counts more because it is overconfident; the mean
of logits is a geometric mean of odds. The numbers of a regression are averaged in the unit of its labels. The ensemble is
calibrated as a whole afterwards, like any other classifier.
"""

# Shapes: B samples, C classes, H W pixels
from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from mrm.models.card import Card
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.system.errors import ConfigError, RunError

LARGEST = 100  # members


@dataclass(frozen=True)
class EnsembleConfig(ClassifierConfig):
    """What all members are, and how many there are."""

    members: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.members <= LARGEST:
            raise ConfigError(f"members: an ensemble has 2 to {LARGEST} members, not {self.members}")

    @property
    def member(self) -> ClassifierConfig:
        """The configuration of each member."""
        return ClassifierConfig(**{f.name: getattr(self, f.name) for f in fields(ClassifierConfig)})


class Ensemble(Classifier):
    """Classifiers of one architecture, whose logits are averaged. Their temperatures are part of their heads."""

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig) -> None:
        nn.Module.__init__(self)
        self.config, self.card = config, Card("ensemble", asdict(config))
        self.members = nn.ModuleList(Classifier(config.member) for _ in range(config.members))

    @property
    def encoder(self) -> Any:
        """Raises RunError: features, heat maps and exports are of one network."""
        raise RunError("an ensemble has no encoder of its own; give one of its members instead")

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Mean logits (B, C) of normalised images."""
        return torch.stack([member(image_BCHW) for member in self.members]).mean(dim=0)


def ensemble_of(members: Mapping[str, Classifier]) -> Ensemble:
    """An ensemble of classifiers, by the names that errors call them. Raises RunError where they do not belong together."""
    if len(members) < 2:
        raise RunError(f"an ensemble needs two or more different models, not {len(members)}")
    (first_name, first), *others = members.items()
    for name, other in members.items():
        if isinstance(other, Ensemble):
            raise RunError(f"{name}: is itself an ensemble; give its members instead")
    for name, other in others:
        for field in fields(ClassifierConfig):
            one, two = getattr(first.config, field.name), getattr(other.config, field.name)
            if field.name not in ("drop_path", "centre", "spread") and one != two:
                raise RunError(
                    f"{name} and {first_name} cannot be averaged: {field.name} is {_text(two)} in the first and {_text(one)} "
                    "in the second; an ensemble has models of the same classes, size and preprocessing"
                )
    shape = replace(  # each head gives numbers in the unit of the labels
        first.config, centre=(0.0,) * len(first.config.centre), spread=(1.0,) * len(first.config.spread)
    )
    ensemble = Ensemble(EnsembleConfig(**asdict(shape), members=len(members)))
    for member, model in zip(ensemble.members, members.values(), strict=True):
        member.load_state_dict(copy.deepcopy(model.state_dict()))
        assert isinstance(member, Classifier)
        _scale_head(member.encoder.get_classifier(), model)
    return ensemble.eval().requires_grad_(False)


def _scale_head(head: nn.Linear, model: Classifier) -> None:
    """Make temperatures, and the scale of a regression, part of the head, whose outputs can then be averaged."""
    config = model.config
    temperature_C = torch.tensor([model.card.temperatures.get(name, 1.0) for name in config.classes])
    spread_C, centre_C = torch.tensor(config.spread or 1.0), torch.tensor(config.centre or 0.0)
    scale_C = spread_C / temperature_C
    with torch.no_grad():
        head.weight.mul_(scale_C[:, None])
        head.bias.mul_(scale_C).add_(centre_C)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
