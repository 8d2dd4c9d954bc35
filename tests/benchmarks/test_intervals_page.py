"""docs/intervals.md states coverages as the benchmarks measured them, and names functions and files that exist."""

import importlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "intervals.md").read_text()


def measured(file: str, key: str) -> set[str]:
    """The rows of a benchmark's results as the page writes them: 0.952 (0.937 to 0.964)."""
    rows = json.loads((ROOT / "benchmarks" / file).read_text())["rows"]
    return {f"{row[key]:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})" for row in rows if row["interval"]}


def test_each_coverage_is_one_that_was_measured():
    stated = set(re.findall(r"0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", PAGE))
    assert len(stated) >= 8
    assert stated <= measured("coverage.json", "value")
    false_alarms = {"4.8 % (3.6 to 6.3 %)", "5.3 % (4.1 to 6.9 %)", "5.1 % (3.9 to 6.6 %)"}
    assert false_alarms == set(re.findall(r"\d\.\d % \(\d\.\d to \d\.\d %\)", PAGE))
    shares = {f"{float(n) / 100:.3f}" for text in false_alarms for n in re.findall(r"\d\.\d", text)}
    assert shares <= {n for text in measured("coverage.json", "value") for n in re.findall(r"0\.\d+", text)}


def test_the_span_of_cross_validation_is_that_of_its_results():
    rows = json.loads((ROOT / "benchmarks" / "crossval_coverage.json").read_text())["rows"]
    repeated = [row for row in rows if row["kind"]["repeats"] > 1]
    for word, span in (("AUROC", "0.942 to 0.974"), ("paired", "0.943 to 0.988")):
        values = [row["coverage"] for row in repeated if row["check"].startswith(word)]
        assert len(values) == 9
        assert f"{min(values):.3f} to {max(values):.3f}" == span
        assert span in PAGE


def test_what_it_names_is_there():
    for module, name in re.findall(r"`mrm\.statistics\.(\w+)\.(\w+)`", PAGE):
        assert hasattr(importlib.import_module(f"mrm.statistics.{module}"), name)
    for file in re.findall(r"`(?:python )?((?:benchmarks|tests|src)/[\w/]+(?:\.py)?)`?", PAGE):
        assert (ROOT / file).exists(), file
