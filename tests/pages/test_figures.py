"""Figures: what is drawn is what was measured, in the colours of the page."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from mrm.pages import figures
from mrm.statistics import ranking
from tests.support.pages import scored


def test_axes_of_a_reliability_diagram_end_where_its_points_do():
    rng = np.random.default_rng(0)
    scores_N = rng.random(4000) * 0.05
    rare = figures.Panel("rare", (rng.random(4000) < scores_N).astype(float), {"m": scores_N})
    labels_NC, probabilities_NC = scored(1)
    common = figures.Panel("common", labels_NC[:, 0], {"m": probabilities_NC[:, 0]})
    for panel, end in ((rare, 0.1), (common, 1.0)):
        axes = Figure().add_subplot()
        figures.reliability(axes, panel)
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-0.02 * end, 1.02 * end))


def test_area_below_the_drawn_recall_steps_is_average_precision():
    labels_NC, probabilities_NC = scored(1)
    recall_K, precision_K = figures.recall_steps(labels_NC[:, 0], probabilities_NC[:, 0])
    area = (np.diff(recall_K) * precision_K[1:]).sum()
    assert area == pytest.approx(ranking.average_precision(labels_NC[:, 0], probabilities_NC[:, 0]), abs=1e-12)


def test_figures_take_their_colours_from_the_page_and_leave_no_trace():
    import matplotlib

    before = dict(matplotlib.rcParams)
    labels_NC, probabilities_NC = scored(1)
    panel = figures.Panel("x", labels_NC[:, 0], {"m": probabilities_NC[:, 0]})
    drawn = figures.panel_svg(panel, figures.roc, "ROC curve")
    assert set(re.findall(r"#[0-9a-f]{6}", drawn)) == set()
    assert "var(--first)" in drawn
    assert drawn == figures.panel_svg(panel, figures.roc, "ROC curve")
    assert dict(matplotlib.rcParams) == before
