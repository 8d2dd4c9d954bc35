"""What every test leaves: the common part of `results.json`, and a note in the model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm.models import model_folder
from mrm.models.card import Card, PastTest
from mrm.statistics.intervals import Estimate

Report = dict[str, dict[str, Estimate]]  # class: measure: estimate


def summary(
    model: Path, card: Card, source: Path | str, fingerprint: str, n: int, report: Report, overlap: list[str]
) -> dict[str, Any]:
    """What was tested, on which records, and how it went, as plain values."""
    return {
        "model": str(model),
        "records": str(source),
        "fingerprint": fingerprint,
        "n": n,
        "overlap": overlap,
        "classes": {name: {m: e.to_dict() for m, e in measures.items()} for name, measures in report.items()},
        "origin": card.origin,
    }


def note_test(path: Path, results: dict[str, Any], records: str, classes: dict[str, dict[str, Any]]) -> None:
    """Write into the model folder which records it was tested on, and how it did; replaces a test on the same records."""
    folder = model_folder.find_model(Path(path))
    test = PastTest(records, results["fingerprint"], results["n"], results["overlap"], classes)

    def noted(card: Card) -> Card:
        others = [t for t in card.tested if t.fingerprint != test.fingerprint]
        return replace(card, tested=[*others, test])

    model_folder.change_card(folder, noted)
