"""What all pages share: numbers in words, the axis of intervals, and a layout that fits a phone."""

import pytest

from mrm.pages import layout
from mrm.pages.demo import write_demo_page
from mrm.statistics.intervals import Estimate
from tests.support.html_pages import PHONE, widths
from tests.support.pages import evaluated, scored, story


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.6, 0.8, "better than chance"),
        (0.2, 0.4, "worse than chance"),
        (0.4, 0.7, "does not show"),
        (0.5, 0.7, "does not"),
    ],
)
def test_whether_it_is_more_than_chance_stands_beside_the_number(low, high, verdict):
    assert verdict in layout.verdict(Estimate((low + high) / 2, low, high, 100, 50))
    assert "cannot say" in layout.verdict(Estimate(0.7, float("nan"), float("nan"), 3, 1))


@pytest.mark.parametrize(("least", "start"), [(0.51, 0.5), (0.46, 0.4), (0.25, 0.2), (0.1, 0.0), (float("nan"), 0.5)])
def test_axis_begins_below_the_least_value(least, start):
    assert layout.axis_start([Estimate(0.8, 0.7, 0.9, 9, 3), Estimate(least, least, least, 9, 3)]) == start


def test_pages_fit_a_phone(tmp_path, chromium):
    long = "averyveryverylongnamewithoutanyplacetobreakthatgoesonandonandon"
    classes = (long, "nodule", *(f"finding {i}" for i in range(8)))
    evaluated(tmp_path / "a", classes, *scored(10), model=f"runs/{long}", unreadable={long * 3: long})
    write_demo_page(tmp_path / "b", story(classes))
    for folder in (tmp_path / "a", tmp_path / "b"):
        scroll, client = widths(chromium, folder / "index.html", tmp_path)
        assert client > PHONE - 20
        assert scroll <= client
