"""The card of a model: what its folder knows of it besides the weights, as `config.json` holds it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from mrm.models.limits import check_fields, check_value
from mrm.system.errors import ConfigError

ORIGIN: dict[str, Any] = {  # types of what a card says about where a model comes from; other entries may be anything
    "records": str,
    "n": int,
    "with_report": int,
    "patients": int | None,
    "fingerprint": str,
    "init": str | None,
    "init_trained_on": str | None,
    "seed": int,
    "step": int,
    "file": str,
    "command": str,
    "versions": dict[str, str],
    "audit": dict[str, bool | list[str]] | None,
}
MEASURES = dict[str, dict[str, dict[str, float | str | None]]]  # class: measure: estimate
# Fields that results depend on
DECIDING = ("thresholds", "temperatures", "outline_thresholds", "outliers", "sets")
ESTIMATE = ("value", "low", "high", "n", "positives")  # of an estimate, those that are numbers


@dataclass(frozen=True)
class OutlineThreshold:
    """Where probabilities become an outline: at `probability`, and not if it covers less than `area` of the image."""

    probability: float = 0.5
    area: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Gaussian:
    """A distribution of features: along some directions a variance each, along all others `rest`.

    `mean` (D,) and `directions` (R, D) are float32, little-endian, in base64.
    """

    mean: str
    directions: str
    variances: tuple[float, ...]
    rest: float

    def __post_init__(self) -> None:
        check_fields(self)
        mean_D, directions_RD = self.arrays()
        if not len(mean_D) or len(directions_RD) != len(self.variances) * len(mean_D):
            raise ConfigError(
                f"outliers: {len(self.variances)} directions of {len(mean_D)} values are expected, and "
                f"{len(directions_RD)} values are there; calibrate the model again"
            )

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean (D,) and the directions (R * D,) as numbers. Raises ConfigError for text that does not hold any."""
        return _unpacked("mean", self.mean), _unpacked("directions", self.directions)


@dataclass(frozen=True)
class OutlierReference:
    """Where the features of known images lie, and the score above which an image is an outlier."""

    gaussian: Gaussian
    threshold: float
    share: float  # of known images that stay below the threshold
    n: int  # images that the Gaussian was fitted to
    chosen_on: str  # the images that the threshold was chosen on, in words

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> OutlierReference:
        """From the plain values of JSON. Raises TypeError for missing and unknown values."""
        gaussian = dict(content["gaussian"])
        gaussian["variances"] = tuple(gaussian["variances"])
        return cls(**{**content, "gaussian": Gaussian(**gaussian)})


@dataclass(frozen=True)
class SetCuts:
    """A finding is in the set of an image as present from one probability on, as absent up to another.

    So often, `coverage`, is the truth in the set, among patients with the finding and among those without it.
    """

    present_from: float
    absent_to: float
    coverage: float

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"sets: {name} must be from 0 to 1, not {value:g}; calibrate the model again")


@dataclass(frozen=True)
class PastTest:
    """A test of a model: on which records, and its measures (value, low, high, n, positives) of each class."""

    records: str
    fingerprint: str
    n: int
    overlap: list[str]
    classes: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        check_fields(self)
        check_value("tested", self.classes, MEASURES)
        for estimate in (e for measures in self.classes.values() for e in measures.values()):
            for key in ESTIMATE:
                check_value(f"tested: {key}", estimate.get(key), float | None)


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
    sets: dict[str, SetCuts] = field(default_factory=dict)  # of a classifier: see mrm.statistics.conformal
    calibration: dict[str, Any] = field(default_factory=dict)  # on which records, for which goal, and how sure

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Card:
        """From the content of a `config.json`; keys that a card does not have are ignored.

        Raises AttributeError, KeyError or TypeError for values of the wrong shape, and ConfigError for values of the
        wrong type, not finite or out of range, and for classes that the model does not have.
        """
        known = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        if not (isinstance(known["kind"], str) and isinstance(known["architecture"], dict)):
            raise TypeError("kind must be a name, and architecture a mapping")
        known["tested"] = [PastTest(**test) for test in known.get("tested", [])]
        outlines = known.get("outline_thresholds", {})
        known["outline_thresholds"] = {name: OutlineThreshold(**threshold) for name, threshold in outlines.items()}
        known["sets"] = {name: SetCuts(**cuts) for name, cuts in known.get("sets", {}).items()}
        if known.get("outliers") is not None:
            known["outliers"] = OutlierReference.of(known["outliers"])
        card = cls(**known)
        card.check()
        return card

    def check(self) -> None:
        """Raises ConfigError for a value that cannot be right."""
        check_fields(self)
        for key, hint in ORIGIN.items():
            if key in self.origin:
                check_value(f"origin: {key}", self.origin[key], hint)
        _check_calibration(self.calibration)
        classes = self.architecture.get("classes", ())
        for name in ("thresholds", "temperatures", "outline_thresholds", "sets"):
            if unknown := [key for key in getattr(self, name) if key not in classes]:
                raise ConfigError(f"{name}: {unknown[0][:60]!r} is not a class of this model; calibrate it again")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """Sixteen hex digits that change with every field that results depend on."""
        content = self.to_dict()
        text = json.dumps([content[name] for name in DECIDING])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _check_calibration(calibration: Mapping[str, Any]) -> None:
    """Raises ConfigError for parts of what a calibration left that are read again, and have the wrong type."""
    check_value("calibration: n", calibration.get("n"), int | None)
    check_value("calibration: records", calibration.get("records", ""), str)
    classes = calibration.get("classes", {})
    check_value("calibration: classes", classes, dict[str, dict[str, Any]])
    for fitted in classes.values():
        check_value("calibration: threshold_interval", fitted.get("threshold_interval"), list[float] | None)
        point = fitted.get("operating_point") or {"threshold": 0.0, "sensitivity": {"n": 0}, "specificity": {"n": 0}}
        check_value("calibration: operating_point", point, dict[str, Any])
        check_value("calibration: threshold", point.get("threshold"), float)
        for share in ("sensitivity", "specificity"):
            check_value(f"calibration: {share}", point.get(share), dict[str, float | str | None])
            check_value(f"calibration: {share} n", point[share].get("n"), int)
            for key in ("value", "low", "high"):
                check_value(f"calibration: {share} {key}", point[share].get(key), float | None)


def _unpacked(name: str, text: str) -> np.ndarray:
    """Numbers from base64 of float32, little-endian."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
    except ValueError as error:  # binascii.Error too
        raise ConfigError(f"outliers: {name} is not a list of numbers ({error}); calibrate the model again") from None
    if not np.isfinite(values).all():
        raise ConfigError(f"outliers: {name} has values that are not finite; calibrate the model again")
    return values
