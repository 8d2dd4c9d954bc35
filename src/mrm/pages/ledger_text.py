"""The reproduction ledger in words: its cells, what lies under them, and all of it as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NOTE = "95 % intervals. A gap is ours less the published number, whose own uncertainty is not known."
HEAD = ("entry", "model", "metric", "published", "ours", "gap", "tested on", "state")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row in words."""
    ours, gap = row["ours"], row["gap"]
    states = [note["status"] for note in row["cells"]]
    state = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    published = "none" if row["published"] is None else f"{row['published']:.3f} (no interval published)"
    positive = f", {ours['positives']:,} positive" if ours and ours["positives"] is not None else ""
    size = f"n={ours['n']:,}{positive}" if ours else ""
    model = Path(row["model"]).name
    return (row["entry"], model, row["metric"], published, _span(ours), _span(gap, "+"), size, state)


def _span(e: dict[str, Any] | None, sign: str = "") -> str:
    """'0.794 (0.781 to 0.806), 3 seeds'"""
    if e is None:
        return ""
    span = f" ({e['low']:{sign}.3f} to {e['high']:{sign}.3f})" if e["low"] is not None else " (no interval)"
    seeds = f", {e['seeds']} seed{'s' if e['seeds'] > 1 else ''}" if "seeds" in e else ""
    return f"{e['value']:{sign}.3f}{span}{seeds}"


def details(ledger: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What lies under each row: commands, fingerprints, overlaps, failures."""
    found = []
    for row in ledger["rows"]:
        lines: list[str] = []
        for note in row["cells"]:
            lines += [f"seed {note['seed']}: {note['command']}"] if "command" in note else []
            lines += [f"seed {note['seed']} failed: {note['reason']}"] if "reason" in note else []
        lines += [f"data: {prints}" for prints in row["fingerprints"]]
        lines += [f"OVERLAP: {line}" for line in row["overlap"]]
        found.append((f"{row['entry']}, {row['model']}", lines))
    return found


def _warning(ledger: dict[str, Any]) -> str:
    """What a rehearsal must say of itself; '' for the real thing."""
    told = f"A rehearsal: {ledger['rehearsal']}. Nothing here can be compared with a published number."
    return told if ledger["rehearsal"] else ""


def markdown(ledger: dict[str, Any]) -> str:
    """The ledger as Markdown."""
    lines = [f"# Reproduction ledger: {ledger['suite']}", "", ledger["about"] + ".", ""]
    lines += [f"**{warned}**", ""] if (warned := _warning(ledger)) else []
    lines += ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in ledger["rows"]]
    lines += ["", NOTE, ""]
    for title, known in details(ledger):
        lines += [f"## {title}", "", *(f"- `{line}`" for line in known), ""]
    return "\n".join(lines)
