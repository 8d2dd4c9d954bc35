"""The reproduction ledger of `mrm benchmark`, as a page and as Markdown: published results with ours beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrm.pages.layout import p_value, template
from mrm.system.files import write_whole

NOTE = (
    "95 % intervals. A gap is our number minus the published one, whose own uncertainty is unknown; a published number that was "
    "measured on other images than ours is not shown, and its row says why. First minus this: the first "
    "model of the entry and this one on the same test patients and seeds; p values are corrected for all of them (Holm)."
)
HEAD = ("entry", "model", "metric", "published", "ours", "gap", "first minus this", "tested on", "state")


def write_ledger_page(file: Path, ledger: dict[str, Any]) -> Path:
    """Write the ledger as a page. Returns the file."""
    page = template("ledger.html").render(
        facts=ledger,
        note=NOTE,
        head=HEAD,
        rows=[cells(row) for row in ledger["rows"]],
        details=[*details(ledger), *not_run(ledger)],
        warnings=_warnings(ledger),
    )
    return write_whole(file, page.encode())


def markdown(ledger: dict[str, Any]) -> str:
    """The ledger as Markdown."""
    lines = [f"# Reproduction ledger: {ledger['suite']}", "", ledger["about"] + ".", ""]
    if rehearsal := _rehearsal(ledger):
        lines += [f"**{rehearsal}**", ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in ledger["rows"]]
    lines += ["", NOTE, ""]
    for title, detail_lines in [*details(ledger), *not_run(ledger)]:
        lines += [f"## {title}", "", *(f"- `{line}`" for line in detail_lines), ""]
    return "\n".join(lines)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a row as text, one for each of `HEAD`."""
    ours, states = row["ours"], [run["status"] for run in row["cells"]]
    return (
        row["entry"],
        row["label"],
        row["metric"],
        _published(row),
        _estimate(ours, "{:.3f}"),
        _estimate(row["gap"], "{:+.3f}"),
        _compared(row["first_less_this"]),
        _tested_on(ours),
        ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
    )


def _published(row: dict[str, Any]) -> str:
    """'0.794 of MRM on nih-mrm (no interval published)', or that there is none beside which ours may stand."""
    if row["published"] is None:
        return "not comparable" if row["source"] else "not stated here"
    return f"{row['published']:.3f} of {row['published_for']} on {row['split']} (no interval published)"


def _tested_on(ours: dict[str, Any] | None) -> str:
    """'n=2,045, 310 positive', or '' where nothing was tested."""
    if ours is None:
        return ""
    return f"n={ours['n']:,}" + ("" if ours["positives"] is None else f", {ours['positives']:,} positive")


def _estimate(estimate: dict[str, Any] | None, number: str) -> str:
    """'0.794 (0.781 to 0.806), 3 seeds', or '' where there is none. `number` is the format of a number."""
    if estimate is None:
        return ""
    interval = "no interval"
    if estimate["low"] is not None:
        interval = f"{number.format(estimate['low'])} to {number.format(estimate['high'])}"
    text = f"{number.format(estimate['value'])} ({interval})"
    if "seeds" not in estimate:
        return text
    return f"{text}, {estimate['seeds']} seed" + ("s" if estimate["seeds"] > 1 else "")


def _compared(difference: dict[str, Any] | None) -> str:
    """'+0.012 (-0.004 to +0.028), 3 seeds, p=0.130', or '' where there is none."""
    if difference is None:
        return ""
    p = p_value(difference["p_holm"])
    return f"{_estimate(difference, '{:+.3f}')}, p{'' if p.startswith('<') else '='}{p}"


def details(ledger: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What stands under the table for each row, a title and its lines: commands, failures, fingerprints, overlaps."""
    return [(f"{row['entry']}, {row['label']}", _detail_lines(row)) for row in ledger["rows"]]


def _detail_lines(row: dict[str, Any]) -> list[str]:
    lines = [f"model: {row['model']}", f"trained on: {row['trained_on']}"]
    for run in row["cells"]:
        if "command" in run:
            lines.append(f"seed {run['seed']}: {run['command']}")
        if "reason" in run:
            lines.append(f"seed {run['seed']} failed: {run['reason']}")
    if row["source"]:
        lines.append(f"no gap: {row['no_gap']}" if row["no_gap"] else _numbers(row))
    lines += [f"data: {fingerprint}" for fingerprint in row["fingerprints"]]
    return lines + [f"OVERLAP: {line}" for line in row["overlap"]]


def _numbers(entry: dict[str, Any]) -> str:
    """'published, in percent: MRM 80.1, REFERS 76.4 (Zhou et al. 2024, table 1)'."""
    numbers = ", ".join(f"{model} {number:g}" for model, number in entry["numbers"].items())
    return f"published, in percent: {numbers} ({entry['source']})"


def not_run(ledger: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The entries of the suite that cannot be run, a title and lines: why, and what is published."""
    return [
        (f"{entry['entry']}, not run", [f"it cannot be run: {entry['reason']}", _numbers(entry)])
        for entry in ledger["not_run"]
    ]


def _rehearsal(ledger: dict[str, Any]) -> str:
    """What a rehearsal must say of itself, or '' where the runs are real."""
    if not ledger["rehearsal"]:
        return ""
    return f"A rehearsal: {ledger['rehearsal']}. Nothing here can be compared with a published number."


def _warnings(ledger: dict[str, Any]) -> list[str]:
    overlaps = [f"{row['entry']}, {row['label']}: {line}" for row in ledger["rows"] for line in row["overlap"]]
    rehearsal = _rehearsal(ledger)
    return [rehearsal, *overlaps] if rehearsal else overlaps
