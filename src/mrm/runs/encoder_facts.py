"""What a table of encoders says of each: its architecture, how it sees images, and what it is known to have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrm.audit.fingerprints import Fingerprints
from mrm.data.records import Records
from mrm.models import known_weights, model_folder
from mrm.models.card import Card
from mrm.models.init_paths import init_path
from mrm.models.limits import per_channel
from mrm.system.errors import RunError

NOT_PRE_TRAINED = "nothing: its weights are random"


def short_names(given: Sequence[str]) -> dict[str, str]:
    """A short name for each encoder: that of published weights, of the timm model, or the last part of its path.

    Where two are alike, the part before stands there too. Raises RunError where they are still alike.
    """
    last = {text: _last_name(text) for text in given}
    names = {
        text: name if list(last.values()).count(name) == 1 else "/".join(init_path(text).path.resolve().parts[-2:])
        for text, name in last.items()
    }
    if len(set(names.values())) < len(names):
        raise RunError(f"two encoders have the same name: {', '.join(last.values())}; rename a folder")
    return names


def _last_name(text: str) -> str:
    known, place = known_weights.identify(text), init_path(text)
    return known.name if known else place.timm_name or place.path.resolve().name


def encoder_facts(models: Mapping[str, Path | None]) -> dict[str, dict[str, Any]]:
    """Of each encoder by name: architecture, side of its images, mean and deviation, and what it was trained on.

    None is the architecture of the first encoder with random weights.
    """
    first = next(path for path in models.values() if path is not None)
    facts = {}
    for name, path in models.items():
        config = model_folder.architecture(path or first)
        facts[name] = {
            "path": str(path) if path else None,
            "encoder": config.encoder,
            "encoder_options": dict(config.encoder_options),
            "image_size": config.image_size,
            "mean": per_channel(config.mean),
            "std": per_channel(config.std),
            "trained_on": trained_on(path) if path else NOT_PRE_TRAINED,
        }
    return facts


def trained_on(path: Path) -> str:
    """What an encoder was trained on, in words: from its card, or from the list of published weights."""
    if model_folder.seen_at(path) is not None:
        origin = model_folder.read_card(model_folder.find_model(path)).origin
        if "n" in origin:
            start = f", from {origin['init']}" if origin.get("init") else ""
            return f"{origin['n']:,} records of {origin.get('records')}{start}"
        return "unknown: its card does not say"
    if known := known_weights.identify(path):
        note = f" ({known.note})" if known.note else ""
        return f"{', '.join(known.trained_on)}{note}; taken for {known.name} by its name"
    return "unknown"


def seen_of_test(models: Mapping[str, Path | None], test: Records, prints: Fingerprints) -> Sequence[str]:
    """Lines on what each encoder has seen of the test records: by fingerprints where it has some, else what is known."""
    from mrm.evaluation.classifier_test import overlaps  # imports scipy.stats, which other commands need not

    lines = []
    for name, path in models.items():
        if path is None:
            continue
        if (seen := model_folder.seen_at(path)) is not None:
            lines += [f"{name}: {overlap}" for overlap in overlaps(seen, test, "test", prints=prints)]
        else:
            lines.append(
                f"{name}: its training records cannot be compared with the test records, so overlap cannot be ruled out; "
                f"trained on: {trained_on(path)}"
            )
    return lines


def init_trained_on(init: Path) -> str | None:
    """What the first encoder of a model was trained on, if no fingerprints of its records come along with it; else None."""
    if model_folder.seen_at(init) is None:
        return trained_on(init)
    return model_folder.read_card(model_folder.find_model(init)).origin.get("init_trained_on")


def seen_by_first_encoder(card: Card) -> list[str]:
    """A line where the encoder that a model started from has no fingerprints to compare test records with."""
    known = card.origin.get("init_trained_on")
    if not known:
        return []
    return [
        f"the encoder that it started from ({card.origin.get('init')}) cannot be compared with the test records, so overlap "
        f"cannot be ruled out; it was trained on: {known}"
    ]
