"""The page of the demo: it has every section, and says so where one is empty."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mrm.pages.demo import Contender, FilledReport, Story, Word, WordCounts, headlines, spaced, write_demo_page
from mrm.statistics import ranking
from mrm.statistics.intervals import Estimate
from tests.support.html_pages import check_whole
from tests.support.pages import few, scored, story


def test_demo_page_has_all_sections(tmp_path):
    text = write_demo_page(tmp_path, story()).read_text()
    check_whole(text)
    for section in ("phantoms", "losses", "images", "reports", "search", "labels", "run", "limits"):
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
    assert "300 of 500 (60 %, 95 % interval 55–65 %)</strong> are right with the" in text
    assert "+20.0 percentage points (95&nbsp;% interval +15.0 to +25.0)" in text
    assert "The interval excludes 0: the model reads the image." in text


def test_demo_says_when_the_image_did_not_help(tmp_path):
    same = Estimate(0.4, 0.35, 0.45, 500, 200)
    words = WordCounts(same, same, Estimate(0.0, -0.02, 0.02, 500, None), 90)
    text = write_demo_page(tmp_path, replace(story(), words=words)).read_text()
    assert "does not show that the image helped" in text


def test_demo_shows_what_a_search_found_beside_chance(tmp_path):
    text = write_demo_page(tmp_path, story()).read_text()
    assert "4 of the first 10 are right; by chance 1.2." in text
    assert "4 of 10 (40 %, 95 % interval 20–70 %)</strong> of the first 10 are right;" in text
    assert "would be right in 12&nbsp;%" in text
    assert text.count("✓ right") == 2  # one found image, and the key of words
    assert text.count("<figcaption>✗ wrong") == 1


def test_demo_says_how_many_labels_are_saved_and_what_is_not_beaten(tmp_path):
    """By hand: 0.71 with 25 labels is above 0.70, the random encoder's with 100, and above HOG's 0.65 with 25; 0.80 is below HOG's 0.85."""
    text = write_demo_page(tmp_path, story()).read_text()
    assert "With 25 labels the pre-trained encoder is level with the random encoder with 100." in text
    assert "is at least as good as the HOG features; with 100 labels it stays below." in text
    assert "<strong>+0.100</strong> (95&nbsp;% interval +0.060 to +0.140)" in text


@pytest.mark.parametrize(
    ("own", "rival", "sentence"),
    [
        ((0.5, 0.6, 0.7), (0.55, 0.65, 0.75), "The pre-trained encoder is not level with the rival with 10 labels; with 10, 20 and 40 labels it stays below."),
        ((0.6, 0.6, 0.7), (0.55, 0.65, 0.75), "With 10 labels the pre-trained encoder is at least as good as the rival; with 20 and 40 labels it stays below."),
        ((0.6, 0.7, 0.8), (0.55, 0.6, 0.75), "With 10 labels the pre-trained encoder is level with the rival with 20."),
    ],
)  # fmt: skip
def test_the_labels_saved_are_read_off_both_curves(own, rival, sentence):
    curves = {
        name: {n: Estimate(v, v - 0.01, v + 0.01, 100, 50) for n, v in zip((10, 20, 40), values, strict=True)}
        for name, values in (("pre-trained encoder", own), ("rival", rival))
    }
    assert replace(few(), curves=curves).savings == [sentence]


def test_the_terminal_says_the_same_as_the_page():
    lines = headlines(story())
    assert lines[0].startswith("masked words right: 0.600 (0.550 to 0.650); with another patient's image 0.400")
    assert "search with texts, first images right: 0.400 (0.200 to 0.700); by chance 0.125" in lines
    assert "gain of pre-training by probe: 0.100 (0.060 to 0.140)" in lines
    assert lines[-1].startswith("fine-tuned: Pre-trained ")
    assert lines[-1].endswith("gain 0.100 (0.020 to 0.180)")
    assert headlines(Story()) == []


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


def test_words_are_spaced_as_in_print():
    words = [Word(w) for w in ("no", "left", "-", "sided", "effusion", "(", "small", ")", ",", "none", ".")]
    assert "".join(space + w.text for space, w in spaced(words)).strip() == ("no left-sided effusion (small), none.")
