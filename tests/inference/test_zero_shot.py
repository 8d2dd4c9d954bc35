"""Findings by their sentences: the scores by hand, and files that state none."""

import numpy as np
import pytest
import torch

from mrm.data import images
from mrm.inference import report_filling
from mrm.inference.masked_words import context_of
from mrm.inference.zero_shot import can_be_told, read_findings, sentence_function
from mrm.models.mrm import normalise
from mrm.statistics.intervals import Estimate
from mrm.system.errors import ConfigError, ReportError
from tests.support.bright_and_dark import bright_or_dark

FINDINGS = """
findings:
  large heart:
    present: [the heart is large, cardiomegaly]
    absent: [the heart is small]
  effusion:
    present: [effusion]
    absent: [the heart is small, no effusion]
"""


def written(tmp_path, text):
    path = tmp_path / "findings.yaml"
    path.write_text(text)
    return path


def test_a_score_is_the_gain_of_the_sentences_that_state_less_that_of_those_that_deny(tmp_path):
    """By hand: gains over the reference are 1, 3, -2, 0 and 4 nats for the five sentences."""
    findings = read_findings(written(tmp_path, FINDINGS))
    assert findings.sentences == ["the heart is large", "cardiomegaly", "the heart is small", "effusion", "no effusion"]
    reference = np.array([-2.0, -4.0, -1.0, -3.0, -5.0])
    with_image = reference + np.array([1.0, 3.0, -2.0, 0.0, 4.0])
    scores = findings.scores(np.stack([with_image, reference]), reference)
    assert scores.tolist() == [[(1 + 3) / 2 - -2, 0 - (-2 + 4) / 2], [0, 0]]


def test_sentences_are_as_likely_as_in_the_scores_of_reports(bright_and_dark_model):
    """Through the images of a batch, and one image at a time through `report_filling`."""
    model = bright_and_dark_model
    shown = [bright_or_dark(bright, number) for number, bright in enumerate((True, False, True))]
    crops = torch.from_numpy(np.stack([images.resize(image, 64, 64) for image in shown]))
    sentences = ["the chest is bright.", "the chest is dark."]
    compute = sentence_function(model, sentences)
    likelihoods = compute(normalise(crops, model.config.mean, model.config.std))
    for row, image in zip(likelihoods, shown, strict=True):
        for value, sentence in zip(row, sentences, strict=True):
            reading = report_filling.read_words(model, context_of(model, [image]), sentence)
            assert value.item() == pytest.approx(reading.scores_CW.mean(), abs=1e-4)
    first, dark, third = (likelihoods[:, 0] - likelihoods[:, 1]).tolist()
    assert min(first, third) > dark + 0.1


@pytest.mark.parametrize(
    ("value", "low", "high", "n", "positives", "expected"),
    [
        (0.6, 0.51, 0.7, 40, 20, True),
        (0.6, 0.5, 0.7, 40, 20, False),
        (0.2, 0.1, 0.4, 40, 20, False),
        (1.0, np.nan, np.nan, 8, 3, True),  # one of 56 orders
        (1.0, np.nan, np.nan, 40, 1, False),  # one of 40
        (np.nan, np.nan, np.nan, 40, 0, False),
    ],
)
def test_a_finding_can_be_told_where_its_auroc_is_above_chance(value, low, high, n, positives, expected):
    assert can_be_told(Estimate(value, low, high, n, positives)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("findings: {}", "no finding is stated"),
        ("findings:\n  effusion:\n    present: [effusion]\n    absent: []", "at least one sentence each under present"),
        ("findings:\n  effusion:\n    present: [effusion]", "absent"),
        ("findings:\n  effusion:\n    present: [a]\n    absent: [b]\n    never: [c]", "unknown setting 'never'"),
        ("effusion: [a]", "unknown setting 'effusion'"),
        ("- effusion", "contains no settings"),
        (
            "findings:\n  effusion:\n    present: [a]\n    absent: [" + ", ".join(f"b{i}" for i in range(1000)) + "]",
            "1,001 sentences, but at most 1,000 are read",
        ),
    ],
)
def test_a_file_without_findings_is_refused_with_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_findings(written(tmp_path, text))


def test_a_sentence_without_a_known_word_is_named(bright_and_dark_model):
    model = bright_and_dark_model
    compute = sentence_function(model, ["βρογχίτιδα"])
    with pytest.raises(ReportError, match=r"'βρογχίτιδα': the text has no word that the model knows.*; reword it"):
        compute(torch.zeros(1, 3, model.config.image_size, model.config.image_size))
