"""Figures: what is drawn is what was measured, in the colours of the page."""

import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

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
    (drawn,) = figures.panels_svg([panel], figures.roc, "ROC curve")
    assert set(re.findall(r"#[0-9a-f]{6}", drawn)) == set()
    assert "var(--first)" in drawn
    assert [drawn] == figures.panels_svg([panel], figures.roc, "ROC curve")
    assert dict(matplotlib.rcParams) == before


def test_a_panel_shows_its_own_class_alone():
    """The frame of one panel serves the next; its curves, its end of the axes and its words do not."""
    labels_NC, probabilities_NC = scored(3)
    labels_NC[:, 1] = 0
    panels = [
        figures.Panel(f"c{i}", labels_NC[:, i], {"m": probabilities_NC[:, i] * s}) for i, s in enumerate((0.05, 1, 1))
    ]
    for draw in (figures.roc, figures.precision_recall, figures.reliability):
        together = figures.panels_svg(panels, draw, "Curve")
        assert together == [figures.panels_svg([panel], draw, "Curve")[0] for panel in panels]
        assert [bool(one) for one in together] == [True, False, True]
        sheet, alone = (pixels_of(figures.panels_png(some, draw)) for some in (panels, panels[2:]))
        up, across, _ = alone.shape
        assert sheet.shape == (2 * up, 2 * across, 3)
        np.testing.assert_array_equal(sheet[up:, :across], alone)
        assert (sheet[up:, across:] == 255).all()
        assert (sheet[:up, across:] < 255).any()  # its name, and why there is no curve


def test_the_names_of_a_sheet_may_take_several_lines():
    labels_NC, probabilities_NC = scored(2)
    short, long = (
        figures.Panel(name, labels_NC[:, i], {"m": probabilities_NC[:, i]})
        for i, name in enumerate(("a", "word " * 25))
    )
    one, both = (pixels_of(figures.panels_png(some, figures.roc)) for some in ([short], [short, long]))
    assert both.shape[0] > one.shape[0]
    written = (both[:, one.shape[1] :] < 128).any(axis=(1, 2))
    assert not written[:4].any()  # the first line is not cut
    assert written[: both.shape[0] - one.shape[0]].any()


def pixels_of(file: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(file)))
