"""The page of two compared models."""

import numpy as np

from mrm.pages.comparison import write_comparison_page
from mrm.statistics import comparison
from tests.support.html_pages import check_whole
from tests.support.pages import scored


def test_comparison_says_first_what_was_found_and_what_a_model_had_seen(tmp_path):
    labels_NC, probabilities_NC = scored(2)
    worse_NC = np.random.default_rng(3).random(labels_NC.shape)
    facts = {"kind": "predictions", "first": "runs/a/predictions.csv", "second": "runs/b/predictions.csv", "draws": 50}
    facts |= {"n": 120, "patients": None, "left_out": [], "overlap": {"first": ["3 records shared"], "second": []}}
    for second_NC, verdict in (
        (worse_NC, "The first is better"),
        (probabilities_NC, "does not show which model is better"),
    ):
        comparisons = comparison.compare(labels_NC, probabilities_NC, second_NC, ["effusion", "nodule"], draws=200)
        compared = {name: {"auroc": one} for name, one in comparisons.items()}
        text = write_comparison_page(tmp_path, facts, compared).read_text()
        check_whole(text)
        assert verdict in text
        assert "The first model: 3 records shared" in text
        assert "<h1>runs/a against runs/b</h1>" in text
