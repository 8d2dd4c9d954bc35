"""The page of the demo: it has every section, and says so where one is empty."""

import re

import numpy as np
import pytest

from mrm.pages.demo import Contender, FilledReport, Story, Word, spaced, write_demo_page
from mrm.statistics import ranking
from tests.support.html_pages import check_whole
from tests.support.pages import scored, story


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
    assert "undefined (no records, n=0)" in text


def test_words_are_spaced_as_in_print():
    words = [Word(w) for w in ("no", "left", "-", "sided", "effusion", "(", "small", ")", ",", "none", ".")]
    assert "".join(space + w.text for space, w in spaced(words)).strip() == ("no left-sided effusion (small), none.")
