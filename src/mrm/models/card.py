"""The card of a model: what its folder knows of it besides the weights, as `config.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class OutlineThreshold:
    """Where probabilities become an outline: at `probability`, and not if it covers less than `area` of the image."""

    probability: float = 0.5
    area: float = 0.0


@dataclass(frozen=True)
class Gaussian:
    """A distribution of features: along some directions a variance each, along all others `rest`.

    `mean` (D,) and `directions` (R, D) are float32, little-endian, in base64.
    """

    mean: str
    directions: str
    variances: tuple[float, ...]
    rest: float


@dataclass(frozen=True)
class OutlierReference:
    """Where the features of known images lie, and the score above which an image is an outlier."""

    gaussian: Gaussian
    threshold: float
    share: float  # of known images that stay below the threshold
    n: int  # images that the Gaussian was fitted to
    chosen_on: str  # the images that the threshold was chosen on, in words

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> OutlierReference:
        """From the plain values of JSON. Raises TypeError for missing and unknown values."""
        gaussian = dict(content["gaussian"])
        gaussian["variances"] = tuple(gaussian["variances"])
        return cls(**{**content, "gaussian": Gaussian(**gaussian)})


@dataclass(frozen=True)
class PastTest:
    """A test of a model: on which records, and its measures (value, low, high, n, positives) of each class."""

    records: str
    fingerprint: str
    n: int
    overlap: list[str]
    classes: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Card:
    """What a model folder knows besides its weights."""

    kind: str
    architecture: dict[str, Any]
    origin: dict[str, Any] = field(default_factory=dict)  # data, initial weights, steps, versions
    tested: list[PastTest] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)  # of a classifier: probabilities that count as positive
    temperatures: dict[str, float] = field(default_factory=dict)  # the logits of a class are divided by its temperature
    outline_thresholds: dict[str, OutlineThreshold] = field(default_factory=dict)  # of a segmenter
    outliers: OutlierReference | None = None
    calibration: dict[str, Any] = field(default_factory=dict)  # on which records, for which goal, and how sure

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Card:
        """From the content of a `config.json`; keys that a card does not have are ignored.

        Raises AttributeError, KeyError or TypeError for values of the wrong shape.
        """
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        if not (isinstance(known["kind"], str) and isinstance(known["architecture"], dict)):
            raise TypeError("kind must be a name, and architecture a mapping")
        known["tested"] = [PastTest(**test) for test in known.get("tested", [])]
        outlines = known.get("outline_thresholds", {})
        known["outline_thresholds"] = {name: OutlineThreshold(**threshold) for name, threshold in outlines.items()}
        if known.get("outliers") is not None:
            known["outliers"] = OutlierReference.of(known["outliers"])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
