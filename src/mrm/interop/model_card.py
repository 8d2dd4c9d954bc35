"""The model card of a hub folder: a README.md written from what the model folder knows."""

from __future__ import annotations

from typing import Any

import mrm
from mrm.interop.front_matter import front_matter
from mrm.interop.loading_page import images, snippets
from mrm.interop.publication import Publication
from mrm.models.card import Card, PastTest
from mrm.models.model_folder import Model
from mrm.models.mrm import MRM

ABOUT = {
    "mrm": "An encoder of chest radiographs, pre-trained by masked record modelling: it restored masked patches of "
    "radiographs and masked words of their reports.",
    "classifier": "A classifier of chest radiographs, fine-tuned from an encoder that masked record modelling "
    "pre-trains.",
    "segmenter": "A model that outlines findings on chest radiographs, on an encoder that masked record modelling "
    "pre-trains.",
}
USE = """Research on radiographs like those it was trained on. Not for clinical use: it is not a medical device, and nobody has
shown that a patient is better off with it."""
WRITTEN = f"Written by mrm {mrm.__version__} from the model folder; the folder does not hold what is missing here."


def model_card(model: Model, card: Card, name: str, publication: Publication) -> str:
    """The README.md of a hub folder, with YAML front matter, from what the model, its card and its publisher know."""
    loading = [f"## How to load it\n\n{snippets(model)}", f"## Images\n\n{images(model)}"]
    return "\n\n".join([front_matter(card, name, publication), *sections(model, card, name), *loading, WRITTEN]) + "\n"


def sections(model: Model, card: Card, name: str) -> list[str]:
    """What a model and its card know, from the title to the limits."""
    return [
        f"# {name}\n\n{ABOUT[card.kind]} Method: [arXiv:2301.13155](https://arxiv.org/abs/2301.13155).",
        f"**{_described(model, card)}**",
        f"## Intended use\n\n{USE}",
        f"## Data\n\n{_data(card)}",
        f"## Audit\n\n{_audit(card)}",
        f"## Results\n\n{_results(card)}",
        *_thresholds(card),
        f"## Limits\n\n{_limits(model, card)}",
    ]


def _described(model: Model, card: Card) -> str:
    size = model.config.image_size
    pixels = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    count = sum(p.numel() for p in model.parameters())
    text = f"Encoder {model.config.encoder}, {pixels} pixels, {count:,} parameters in all."
    if isinstance(model, MRM):
        return text
    return f"{text} Classes: {', '.join(model.config.classes)}."


def _data(card: Card) -> str:
    origin = card.origin
    if "n" not in origin:
        return "The model folder does not say what it was trained on."
    patients = f"of {origin['patients']:,} patients" if origin.get("patients") else "of an unknown number of patients"
    reports = f", {origin['with_report']:,} with a report" if card.kind == "mrm" else ""
    start = f"Initial weights: {origin['init']}." if origin.get("init") else "Initial weights: random."
    return f"Trained on {origin['n']:,} records {patients} ({origin.get('records')}){reports}. {start}"


def _audit(card: Card) -> str:
    audit = card.origin.get("audit")
    if not audit:
        lines = ["Nobody has looked for overlap between the training records and other sets (`mrm audit`)."]
    elif audit["clean"]:
        lines = ["The training records overlap with no other set of their corpus."]
    else:
        lines = ["**The training records overlap with other sets of their corpus:**"]
    lines += [f"- {overlap}" for overlap in (audit["overlaps"] if audit else [])]
    for test in card.tested:
        for overlap in test.overlap:
            lines.append(f"- **Test on {test.records}: {overlap}.** Its results may be too good by an unknown amount.")
    return "\n".join(lines)


def _results(card: Card) -> str:
    if not card.tested:
        return "It has not been tested (`mrm evaluate`)."
    lines = [
        "95 % intervals in brackets.",
        "",
        "| test set | of | measure | value | n | positive |",
        "| --- " * 6 + "|",
    ]
    for test in card.tested:
        for name, measures in test.classes.items():
            lines += [_result(test, name, measure, estimate) for measure, estimate in measures.items()]
    return "\n".join(lines)


def _result(test: PastTest, name: str, measure: str, estimate: dict[str, Any]) -> str:
    """A line of the table of results."""
    value = "undefined" if estimate.get("value") is None else f"{estimate['value']:.3f}"
    if estimate.get("low") is not None and estimate.get("high") is not None:
        value += f" ({estimate['low']:.3f} to {estimate['high']:.3f})"
    counts = ["" if estimate.get(k) is None else f"{estimate[k]:,}" for k in ("n", "positives")]
    cells = [test.records, name, measure.replace("_", " "), value, *counts]
    return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def _thresholds(card: Card) -> list[str]:
    """The section on thresholds; none for a model without any."""
    if card.thresholds:
        table = ["| class | threshold | temperature |", "| --- | --- | --- |"]
        for name, threshold in card.thresholds.items():
            temperature = f"{card.temperatures[name]:.4g}" if name in card.temperatures else ""
            table.append(f"| {name} | {threshold:.4g} | {temperature} |")
    elif card.outline_thresholds:
        table = ["| class | threshold | least area, share of the image |", "| --- | --- | --- |"]
        for name, outline in card.outline_thresholds.items():
            table.append(f"| {name} | {outline.probability:.4g} | {outline.area:.4g} |")
    else:
        return []
    about = "Chosen on validation records; on images of another hospital they may be wrong."
    return ["\n".join(["## Thresholds", "", about, "", *table])]


def _limits(model: Model, card: Card) -> str:
    lines = [
        "- It answers for any image, even for one that is not a chest radiograph.",
        "- It may have learned what goes with a finding instead of the finding: tubes, the machine, the hospital.",
        "- Its numbers are those of the test sets above, and say little about other hospitals, machines and patients.",
    ]
    if card.kind != "mrm":
        lines.append("- It knows its classes only; a low probability does not mean that a radiograph is normal.")
    if not card.outliers and card.kind == "classifier":
        lines.append("- It does not notice images unlike those it was trained on.")
    if model.tokenizer is not None:
        lines.append(
            "- `tokenizer.json` holds words of the training reports; check that no names are among them before you publish."
        )
    return "\n".join(lines)
