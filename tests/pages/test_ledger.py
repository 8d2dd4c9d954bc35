"""The reproduction ledger as a page."""

from mrm.pages.ledger import write_ledger_page
from tests.support.html_pages import check_whole


def test_ledger_warns_before_its_numbers(tmp_path):
    facts = {"suite": "nih", "about": "Fourteen findings", "rehearsal": "every run squeezed into 5 steps"}
    run = {"seed": 0, "status": "done", "command": "mrm finetune"}
    ours = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90, "positives": 20, "seeds": 1}
    row = {
        "entry": "nih-1",
        "model": "runs/<a>",
        "label": "<a>",
        "trained_on": "MIMIC-CXR",
        "overlap": ["3 records shared"],
        "cells": [run],
        "metric": "mean AUROC",
        "split": "nih-mrm",
        "source": "a paper, table 1",
        **{"ours": ours, "gap": None, "first_less_this": None, "fingerprints": ["abc123"]},
    }
    facts["rows"] = [
        row | {"published": 0.794, "published_for": "MRM", "numbers": {"MRM": 79.4, "MAE": 70.0}, "no_gap": ""},
        row | {"published": None, "published_for": None, "numbers": {}, "no_gap": "tested were 90 other images"},
        row | {"published": None, "numbers": {}, "source": "", "no_gap": "no number"},
    ]
    cited = {"entry": "reports", "numbers": {"MRM": 16.5}, "source": "a paper, table 4", "reason": "no decoder"}
    facts["not_run"] = [cited]
    text = write_ledger_page(tmp_path / "ledger.html", facts).read_text()
    check_whole(text)
    for warning in ("A rehearsal: every run squeezed into 5 steps", "3 records shared"):
        assert text.index(warning) < text.index("<table")
    assert "0.700 (0.600 to 0.800), 1 seed<" in text
    assert "seed 0: mrm finetune" in text
    for once in (
        "<td>0.794 of MRM on nih-mrm (no interval published)</td>",
        "<td>not comparable</td>",
        "<td>not stated here</td>",
        "published, in percent: MRM 79.4, MAE 70 (a paper, table 1)",
        "no gap: tested were 90 other images",
        "reports, not run",
        "it cannot be run: no decoder",
        "published, in percent: MRM 16.5 (a paper, table 4)",
    ):
        assert text.count(once) == 1, once
    assert "viewport" in text
