"""The ledger of a benchmark, from the notes of its cells: means over seeds, gaps to published numbers, paired differences.

A published number stands beside ours only if ours was measured on its split (`mrm.recipes.splits`), with as many findings.
Otherwise the row has neither number nor gap, and says why.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.evaluation.drawn import drawn
from mrm.pages.ledger import markdown, write_ledger_page
from mrm.recipes import splits
from mrm.recipes.suites import Entry, Suite
from mrm.runs.benchmark_plan import SCRATCH, BenchmarkConfig, Cell, folder_of, note_of
from mrm.runs.encoder_facts import NOT_PRE_TRAINED, trained_on
from mrm.statistics import seeds
from mrm.statistics.comparison import bootstrap_p, holm
from mrm.system.files import write_json, write_whole
from mrm.system.text_table import estimate_cells, text_table, wrapped

NO_NUMBER = "no published number is stated here"


def not_comparable(entry: Entry, names: Sequence[str], findings: int | None = None) -> str:
    """Why the published number of an entry cannot stand beside a test of these images and so many classes; "" if it can."""
    if not entry.of:
        return NO_NUMBER
    if reason := splits.why_not(entry.split, names):
        return reason
    if findings is not None and entry.findings not in (None, findings):
        return f"the published number is the mean of {entry.findings} findings, tested were {findings}"
    return ""


def write(
    config: BenchmarkConfig, suite: Suite, cells: Sequence[Cell], listed: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Write `ledger.json`, `ledger.md` and `ledger.html` from the cells so far. Returns the ledger.

    `listed` has for each entry the names of the images that it tests.
    """
    parts: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        parts.setdefault((cell.entry.name, cell.model), []).append(cell)
    rows = [_row(config, suite, part, listed[part[0].entry.name]) for part in parts.values()]
    compare_models(config, rows, list(parts.values()))
    ledger = {
        "suite": suite.name,
        "about": suite.about,
        "rehearsal": f"every run squeezed into {config.max_steps} steps" if config.max_steps else None,
        "rows": rows,
        "not_run": [_cited(entry, suite) for entry in suite.entries if entry.kind == "cited" and not config.only],
    }
    write_json(config.out / "ledger.json", ledger)
    write_whole(config.out / "ledger.md", markdown(ledger).encode())
    write_ledger_page(config.out / "ledger.html", ledger)
    return ledger


def _row(config: BenchmarkConfig, suite: Suite, cells: Sequence[Cell], listed: Sequence[str]) -> dict[str, Any]:
    """One model by one recipe: the mean over seeds, its interval, and the gap to the published number."""
    entry, model = cells[0].entry, cells[0].model
    notes = [note_of(config, cell) for cell in cells]
    done = [note for note in notes if note["status"] == "done"]
    ours = _over_seeds(config, cells, notes)
    reason = next((note["no_gap"] for note in done if note["no_gap"]), "" if done else not_comparable(entry, listed))
    published = None if reason else entry.published
    gap = None
    if ours and published is not None and not config.max_steps:
        gap = {k: None if ours[k] is None else ours[k] - published for k in ("value", "low", "high")}
    return {
        "entry": entry.name,
        "recipe": entry.recipe,
        "model": model,
        "label": cells[0].label,
        "trained_on": NOT_PRE_TRAINED if model == SCRATCH else trained_on(Path(model)),
        "metric": entry.metric,
        "published": published,
        "published_for": entry.of if published is not None else None,
        "numbers": {} if reason else dict(entry.numbers),
        "split": entry.split,
        "source": _source(entry, suite),
        "no_gap": reason,
        "ours": ours,
        "gap": gap,
        "fingerprints": sorted({json.dumps(note["fingerprints"]) for note in done}),
        "overlap": sorted({line for note in done for line in note["overlap"]}),
        "cells": notes,
    }


def _source(entry: Entry, suite: Suite) -> str:
    """Where the published numbers of an entry stand, '' if it has none."""
    return f"{suite.source}, {entry.where}" if entry.numbers else ""


def _cited(entry: Entry, suite: Suite) -> dict[str, Any]:
    """What is published for an entry that cannot be run, and why it cannot."""
    return {
        "entry": entry.name,
        "numbers": dict(entry.numbers),
        "source": _source(entry, suite),
        "reason": entry.reason,
    }


def _over_seeds(
    config: BenchmarkConfig, cells: Sequence[Cell], notes: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The mean over the seeds that are done, with an interval over test patients and seeds; None without any."""
    done = [(c, note) for c, note in zip(cells, notes, strict=True) if note["status"] == "done"]
    defined = [(cell, note) for cell, note in done if note["estimate"]["value"] is not None]
    if not defined:
        return None
    estimates = [note["estimate"] for _, note in defined]
    value_S = np.array([e["value"] for e in estimates])
    summary = {
        "value": float(value_S.mean()),
        **{k: estimates[0][k] for k in ("n", "positives")},
        "seeds": len(defined),
    }
    reasons = [e["note"] for e in estimates if e["low"] is None]  # why there is no interval
    if len({(note["fingerprints"]["test"], note["estimate"]["n"]) for _, note in defined}) > 1:
        reasons.append("interval undefined: the seeds were not tested on the same records")
    if reasons:
        return {**summary, "low": None, "high": None, "note": reasons[0]}
    values_SD, tails = zip(*(_resamples(config, cell) for cell, _ in defined), strict=True)
    drawn_SD, tail = np.stack(values_SD), tails[0]  # the seeds have the same test records
    spread_D = seeds.with_seed_variance(value_S, drawn_SD, np.random.default_rng(0))
    low, high = np.nanquantile(spread_D, [tail, 1 - tail]).tolist()
    return {**summary, "low": low, "high": high, "note": seeds.seed_note(len(defined))}


def compare_models(config: BenchmarkConfig, rows: Sequence[dict[str, Any]], parts: Sequence[Sequence[Cell]]) -> None:
    """Give each row but the first of its entry the paired difference of the first model and this one.

    Of the seeds that both have done on the same test records; p values are corrected by Holm for all of the ledger.
    """
    firsts: dict[str, Sequence[Cell]] = {}
    for row, cells in zip(rows, parts, strict=True):
        first = firsts.setdefault(row["entry"], cells)
        row["first_less_this"] = None if first is cells else _difference(config, first, cells)
    compared = [row["first_less_this"] for row in rows if row["first_less_this"]]
    for difference, p in zip(compared, holm([difference["p"] for difference in compared]), strict=True):
        difference["p_holm"] = float(p)


def _difference(config: BenchmarkConfig, first: Sequence[Cell], second: Sequence[Cell]) -> dict[str, Any] | None:
    """First less second over the seeds that both have done: value, interval, p; None where they cannot be paired."""
    pairs = [(cells, [note_of(config, cell) for cell in cells]) for cells in zip(first, second, strict=True)]
    done = [(cells, notes) for cells, notes in pairs if all(note["status"] == "done" for note in notes)]
    tested = {(note["fingerprints"]["test"], note["estimate"]["n"]) for _, notes in done for note in notes}
    if len(tested) != 1 or any(note["estimate"]["low"] is None for _, notes in done for note in notes):
        return None
    value_S = np.array([one["estimate"]["value"] - other["estimate"]["value"] for _, (one, other) in done])
    resamples = [[_resamples(config, cell) for cell in cells] for cells, _ in done]
    gaps_SD = np.stack([one - other for (one, _), (other, _) in resamples])
    gaps_D = seeds.with_seed_variance(value_S, gaps_SD, np.random.default_rng(0), (-1.0, 1.0))
    low, high = np.nanquantile(gaps_D, [resamples[0][0][1], 1 - resamples[0][0][1]]).tolist()
    return {"value": float(value_S.mean()), "low": low, "high": high, "p": bootstrap_p(gaps_D)[0], "seeds": len(done)}


def _resamples(config: BenchmarkConfig, cell: Cell) -> tuple[np.ndarray, float]:
    """The cell's metric in each resample of the test patients, the same patients for all seeds; kept in a file.

    Returns the values (D,), and the share of them that lies below the interval of one seed, and above it.
    """
    file = folder_of(config, cell) / "resamples.npz"
    if not file.is_file():
        content = io.BytesIO()
        resamples = drawn(file.with_name("test"), str(cell.entry.metric), config.draws)
        np.savez(content, values=resamples.values_D, tail=resamples.tail)
        write_whole(file, content.getvalue())
    with np.load(file) as kept:
        return kept["values"], float(kept["tail"])


def table(ledger: dict[str, Any]) -> str:
    """Published numbers, ours and the gaps, as text to print."""
    rows = []
    for row in ledger["rows"]:
        ours, gap = row["ours"], row["gap"]
        published = "" if row["published"] is None else f"{row['published']:.3f}"
        numbers = ["", "", "", ""] if ours is None else estimate_cells(ours)
        difference = "" if gap is None else f"{gap['value']:+.3f}"
        done = sum(cell["status"] == "done" for cell in row["cells"])
        state = f"{done} of {len(row['cells'])} done"
        rows.append([row["entry"], row["label"], published, *numbers[:2], difference, *numbers[2:], state])
    head = ("entry", "model", "published", "ours", "95 % interval", "gap", "n", "positives", "runs")
    reasons = {row["entry"]: row["no_gap"] for row in ledger["rows"] if row["no_gap"] not in ("", NO_NUMBER)}
    lines = [f"{entry}: no gap, because {reason}" for entry, reason in reasons.items()]
    return "\n".join([text_table(head, rows, text_columns=2), *([wrapped(lines)] if lines else [])])
