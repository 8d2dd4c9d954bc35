"""The page of a tested classifier: its numbers are in it, and nothing untrusted or from elsewhere is."""

import re

import numpy as np
import pytest

from mrm.evaluation.classifier_test import Evidence
from mrm.pages import layout
from mrm.pages.evaluation import write_evaluation_page
from mrm.statistics import calibration, ranking
from tests.support.drawn_once import drawn_once
from tests.support.html_pages import check_whole
from tests.support.pages import evaluated, scored


def test_evaluation_shows_every_number(tmp_path):
    text, report = evaluated(tmp_path, ["effusion", "nodule"], *scored(2))
    check_whole(text)
    for per_metric in report.values():
        for estimate in per_metric.values():
            assert f"{estimate.value:.3f}" in text
            assert f"{estimate.low:.3f}–{estimate.high:.3f}" in text
    for shown in ("runs/x", "b/test.csv", "Mean AUROC", "effusion", "nodule"):
        assert shown in text
    assert "<dt>Patients</dt><dd>60</dd>" in text
    assert (tmp_path / "roc.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "pr.png").read_bytes()[1:4] == b"PNG"


def test_no_warning_where_there_is_no_reason(tmp_path):
    assert "Before you read" not in evaluated(tmp_path, ["effusion", "nodule"], *scored(2))[0]


def test_it_says_when_and_that_it_is_not_for_care_before_any_number(tmp_path):
    text, _ = evaluated(tmp_path, ["effusion", "nodule"], *scored(2))
    before = text[: text.index("<h1")]
    assert "not for clinical use" in before
    assert layout.today() in before


def axis_labels(text: str) -> list[str]:
    """The numbers below the axis of the intervals."""
    return re.findall(r'text-anchor="middle">([\d.]+)<', text)


def test_a_value_below_chance_is_drawn_where_it_lies(tmp_path):
    labels_NC, probabilities_NC = scored(2)
    text, _ = evaluated(tmp_path, ["effusion", "nodule"], labels_NC, probabilities_NC)
    assert axis_labels(text) == ["0.5", "0.75", "1"]
    text, _ = evaluated(tmp_path, ["effusion", "nodule"], labels_NC, 1 - probabilities_NC)
    assert axis_labels(text) == ["0", "0.5", "1"]
    assert text.count("<circle") == 3


def test_it_says_where_the_thresholds_were_chosen(tmp_path):
    labels_NC, probabilities_NC = scored(1)
    point = calibration.operating_point(labels_NC[:, 0], probabilities_NC[:, 0], 0.4)
    report = ranking.classification_report(labels_NC, probabilities_NC, ["x"], draws=50)
    chosen = {"records": "val.csv", "fingerprint": "abc123", "n": 104, "goal": "sensitivity 0.9"}
    origin = {"n": 172, "patients": 96, "records": "train.csv"}
    results = {"patients": None, "calibrated_on": chosen, "origin": origin}
    arguments = report, labels_NC, probabilities_NC, ["x"], Evidence(points={"x": point})
    text = " ".join(write_evaluation_page(tmp_path, results, *arguments).read_text().split())
    assert "104 records of val.csv (fingerprint <code>abc123</code>), to reach a sensitivity of 0.9 there" in text
    assert "172 records of 96 patients (train.csv)" in text
    assert "<td>0.4</td>" in text
    results["calibrated_on"] = chosen | {"goal": "Youden"}
    assert "is largest (Youden)" in write_evaluation_page(tmp_path, results, *arguments).read_text()


def test_undefined_class_is_words_not_a_number(tmp_path):
    labels_NC, probabilities_NC = scored(2)
    labels_NC[:, 1] = 0
    text, _ = evaluated(tmp_path, ["effusion", "nodule"], labels_NC, probabilities_NC)
    row = next(r for r in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if ">nodule<" in r)
    assert "undefined (only negatives, n=120)" in row
    assert not re.search(r"\d\.\d{3}", row)
    assert "mean of 1 of 2 classes, without nodule" in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).lower()


def test_nothing_defined_is_said(tmp_path):
    labels_NC, probabilities_NC = scored(1)
    text, _ = evaluated(tmp_path, ["effusion"], np.zeros_like(labels_NC), probabilities_NC)
    check_whole(text)
    assert "nothing could be measured" in text
    assert "undefined (only negatives, n=120)" in text


def test_label_that_is_nowhere_stated(tmp_path):
    labels_NC, probabilities_NC = scored(2)
    labels_NC[:, 0] = np.nan
    text, _ = evaluated(tmp_path, ["effusion", "nodule"], labels_NC, probabilities_NC)
    assert "undefined (no stated label, n=0)" in text


def test_one_class_has_no_mean(tmp_path):
    text, _ = evaluated(tmp_path, ["iscovid"], *scored(1))
    check_whole(text)
    assert "Mean" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert "Positive for iscovid" in text


def test_fourteen_classes(tmp_path):
    names = [f"finding {i}" for i in range(14)]
    text, _ = evaluated(tmp_path, names, *scored(14))
    check_whole(text)
    assert text.count('role="img"') == 28
    assert all(text.count(f">{name}<") == 3 for name in names)


def test_warns_of_overlap_and_small_numbers(tmp_path):
    labels_NC, probabilities_NC = scored(1, n=40)
    labels_NC[:, 0] = np.arange(40) < 4
    text, _ = evaluated(tmp_path, ["x"], labels_NC, probabilities_NC, patients=None, overlap="3 patients in both")
    assert "3 patients in both" in text
    assert "Only 40 records" in text
    assert "positive records of x (4)" in text
    assert "patients are unknown" in text
    text, _ = evaluated(tmp_path, ["x"], labels_NC, probabilities_NC, overlap=["first kind", "second kind"])
    assert "training: first kind</p>\n<p>Overlap with training: second kind</p>" in text


def test_perfect_ranking_has_no_interval(tmp_path):
    labels_NC, _ = scored(1)
    text, _ = evaluated(tmp_path, ["x"], labels_NC, labels_NC * 0.8 + 0.1)
    assert "1.000" in text
    assert "no interval" in text
    assert "every resample gave the same value" in text


def test_unreadable_images_are_listed(tmp_path):
    unreadable = {f"p{i:02}.png": "truncated" for i in range(60)}
    text, _ = evaluated(tmp_path, ["x"], *scored(1), unreadable=unreadable)
    assert "<dt>Unreadable images</dt><dd>60</dd>" in text
    assert "p49.png" in text
    assert "p50.png" not in text
    assert "the first 50 are shown" in text


def test_origin_is_in_the_footer(tmp_path):
    origin = {"command": "mrm evaluate run --records 'a b.csv'", "versions": {"mrm": "0.1.0", "torch": "2.11"}}
    text, _ = evaluated(tmp_path, ["x"], *scored(1), origin=origin)
    assert "mrm evaluate run --records &#39;a b.csv&#39;" in text
    assert "mrm 0.1.0, torch 2.11" in text


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # of the PNG; the page has the reader's fonts
@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "$x_{$", "a&b", "日本"])
def test_names_are_not_trusted(tmp_path, name):
    text, _ = evaluated(
        tmp_path,
        [name, "y"],
        *scored(2),
        model=f"runs/{name}",
        records=name,
        unreadable={name: name},
        overlap=name,
        origin={"command": name, "versions": {name: name}},
    )
    check_whole(text)


def test_with_curves_that_were_drawn_before_a_page_is_whole_and_names_its_own_classes(tmp_path, monkeypatch):
    """As in all tests outside this folder."""
    drawn_once(monkeypatch)
    labels_NC, probabilities_NC = scored(3)
    labels_NC[:, 1] = 0
    for names in (["a", "b", "c"], ["x & y", "y", "z"]):
        text, _ = evaluated(tmp_path, names, labels_NC, probabilities_NC)
        check_whole(text)
        assert text.count('aria-label="ROC curve: ') == 2
        assert f'aria-label="ROC curve: {names[0].replace("&", "&amp;")}"' in text
        assert f'aria-label="Precision-recall curve: {names[2]}"' in text
