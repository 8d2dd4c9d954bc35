"""Pages: the numbers are in them, nothing untrusted or from elsewhere is, and they fit a phone."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from mrm.evaluation.classifier_test import Evidence
from mrm.inference.reconstruction import Reconstruction
from mrm.pages import figures, layout
from mrm.pages.comparison import write_comparison_page
from mrm.pages.demo import Contender, FilledReport, Story, Word, spaced, write_demo_page
from mrm.pages.evaluation import write_evaluation_page
from mrm.pages.ledger import write_ledger_page
from mrm.statistics import calibration, comparison, ranking
from mrm.statistics.intervals import Estimate
from tests.support.html_pages import PHONE, check_whole, widths


def scored(classes: int, n: int = 120, seed: int = 0):
    """Labels (N, C), about a third positive, and probabilities that follow them."""
    rng = np.random.default_rng(seed)
    labels_NC = (rng.random((n, classes)) < 0.35).astype(float)
    return labels_NC, 1 / (1 + np.exp(-(labels_NC * 1.5 + rng.normal(size=labels_NC.shape) - 1)))


def evaluated(out: Path, classes, labels_NC, probabilities_NC, patients: int | None = 60, **facts):
    """The text of an evaluation page, and the report in it."""
    groups = [i % patients for i in range(len(labels_NC))] if patients else None
    report = ranking.classification_report(labels_NC, probabilities_NC, classes, groups=groups, draws=100)
    results = {"model": "a/runs/x", "records": "b/test.csv", "n": len(labels_NC), "patients": patients, **facts}
    page = write_evaluation_page(out, results, report, labels_NC, probabilities_NC, classes)
    return page.read_text(), report


def story(classes: tuple[str, ...] = ("effusion", "nodule")) -> Story:
    """A demo as a whole, small."""
    labels_NC, probabilities_NC = scored(len(classes))
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (48, 48), dtype=np.uint8)
    contenders = [
        Contender(name, labels_NC, p, ranking.classification_report(labels_NC, p, classes, draws=100))
        for name, p in (("Pre-trained", probabilities_NC), ("Random start", rng.random(labels_NC.shape)))
    ]
    words = [
        Word("small"),
        Word("Effusion", True, ("effusion", 0.83), ("nodule", 0.31)),
        Word("."),
    ]
    return Story(
        losses={"image": [(1, 1.0), (2, 0.5)], "report": [(1, 6.0), (2, 2.0)]},
        reconstructions=[Reconstruction(image, image, image, 0.71)],
        reports=[FilledReport(image, words)],
        contenders=contenders,
        classes=classes,
        facts={"Phantoms": "2,000", "A<b": "1 & 2"},
        samples=[(image, "No effusion.")],
        difference=Estimate(0.1, 0.02, 0.18, 120, 60),
    )


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


def test_ledger_warns_before_its_numbers(tmp_path):
    facts = {"suite": "nih", "about": "Fourteen findings", "rehearsal": "every run squeezed into 5 steps"}
    run = {"seed": 0, "status": "done", "command": "mrm finetune"}
    ours = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90, "positives": 20, "seeds": 1}
    row = {
        "entry": "nih-1",
        "model": "runs/<a>",
        "overlap": ["3 records shared"],
        "cells": [run],
        "metric": "mean AUROC",
    }
    facts["rows"] = [row | {"published": 0.794, "ours": ours, "gap": None, "fingerprints": ["abc123"]}]
    text = write_ledger_page(tmp_path / "ledger.html", facts).read_text()
    check_whole(text)
    for warning in ("A rehearsal: every run squeezed into 5 steps", "3 records shared"):
        assert text.index(warning) < text.index("<table")
    assert "0.700 (0.600 to 0.800), 1 seed<" in text
    assert "seed 0: mrm finetune" in text
    assert "viewport" in text


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


def test_demo_page_has_all_sections(tmp_path):
    text = write_demo_page(tmp_path, story()).read_text()
    check_whole(text)
    for section in ("phantoms", "losses", "images", "reports", "labels", "run", "limits"):
        assert f'<h2 id="{section}">' in text
    for shown in ("masked", "restored, error 0.71", "original", "No effusion.", "No patient is on this page"):
        assert shown in text
    assert "mean squared error per masked patch" in text
    assert "cross-entropy per masked word, nats" in text
    assert "A&lt;b" in text
    assert "1 &amp; 2" in text


def test_demo_shows_both_contenders_with_intervals(tmp_path):
    demo = story()
    text = write_demo_page(tmp_path, demo).read_text()
    for contender in demo.contenders:
        for name in ("mean", *demo.classes):
            estimate = contender.report[name]["auroc"]
            assert f"{estimate.value:.3f}" in text
            assert f"{estimate.low:.3f}–{estimate.high:.3f}" in text
    assert "+0.100" in text
    assert "excludes 0" in text


def test_demo_marks_guesses_and_counts_them(tmp_path):
    text = write_demo_page(tmp_path, story()).read_text()
    guesses = re.findall(r'<span class="guess( right)?">.*?class="said">(\w+)<.*?(\d+)&nbsp;%', text, re.DOTALL)
    assert guesses == [(" right", "effusion", "83"), ("", "nodule", "31")]
    assert text.count("✓</span> <span") == 1  # not by colour alone
    assert text.count("✗</span> <span") == 1
    assert "with the image <strong>1 of 1 (100 %" in text
    assert "without the image <strong>0 of 1 (0 %" in text
    assert "did not help" not in text


def test_demo_does_not_count_full_stops_and_says_when_the_image_did_not_help(tmp_path):
    words = [Word(".", True, (".", 0.9), ("x", 0.1)), Word("nodule", True, ("the", 0.2), ("the", 0.2))]
    demo = Story(reports=[FilledReport(np.zeros((8, 8), np.uint8), words)])
    text = write_demo_page(tmp_path, demo).read_text()
    assert "with the image <strong>0 of 1" in text
    assert "did not help" in text


@pytest.mark.parametrize(("least", "start"), [(0.51, 0.5), (0.46, 0.4), (0.25, 0.2), (0.1, 0.0), (float("nan"), 0.5)])
def test_axis_begins_below_the_least_value(least, start):
    assert layout.axis_start([Estimate(0.8, 0.7, 0.9, 9, 3), Estimate(least, least, least, 9, 3)]) == start


@pytest.mark.parametrize("demo", [Story(), Story(losses={"image": [], "other": [(0, 1.0)]}, classes=("x",))])
def test_empty_demo_says_so(tmp_path, demo):
    text = write_demo_page(tmp_path, demo).read_text()
    check_whole(text)
    assert "No classifiers were compared." in text
    assert "No restored reports are shown." in text


def test_demo_with_an_undefined_class_and_no_masked_word(tmp_path):
    labels_NC, probabilities_NC = scored(2)
    labels_NC[:, 0] = 0
    report = ranking.classification_report(labels_NC, probabilities_NC, ["a", "b"], draws=50)
    image = np.zeros((16, 16), np.uint8)
    demo = Story(
        reports=[FilledReport(image, [Word("clear"), Word("lungs", True)])],
        contenders=[Contender("only", labels_NC, probabilities_NC, report)],
        classes=("a", "b"),
    )
    text = write_demo_page(tmp_path, demo).read_text()
    check_whole(text)
    assert "undefined (only negatives, n=120)" in text
    assert "undefined (no record, n=0)" in text


def test_words_are_spaced_as_in_print():
    words = [Word(w) for w in ("no", "left", "-", "sided", "effusion", "(", "small", ")", ",", "none", ".")]
    assert "".join(space + w.text for space, w in spaced(words)).strip() == ("no left-sided effusion (small), none.")


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


def test_pages_fit_a_phone(tmp_path, chromium):
    long = "averyveryverylongnamewithoutanyplacetobreakthatgoesonandonandon"
    classes = (long, "nodule", *(f"finding {i}" for i in range(8)))
    evaluated(tmp_path / "a", classes, *scored(10), model=f"runs/{long}", unreadable={long * 3: long})
    write_demo_page(tmp_path / "b", story(classes))
    for folder in (tmp_path / "a", tmp_path / "b"):
        scroll, client = widths(chromium, folder / "index.html", tmp_path)
        assert client > PHONE - 20
        assert scroll <= client
