"""The page of a tested segmenter: its cases show the true outline and the prediction, its warnings come first."""

import base64

import cv2
import numpy as np

from mrm.pages.segmentation import PREDICTED, TRUE, Case, draw_case, write_segmentation_page
from mrm.statistics.dice import MEASURES
from mrm.statistics.intervals import Estimate
from tests.support.html_pages import Wellformed


def case(kind: str = "best", side: int = 256) -> Case:
    """A grey image with a true square at the upper left and a predicted one at the lower right."""
    true_HW, predicted_HW = np.zeros((2, side, side), bool)
    true_HW[32:96, 32:96], predicted_HW[160:224, 160:224] = True, True
    return Case("lesion", kind, f"{kind}<b>.png", 0.25, np.full((side, side), 100, np.uint8), true_HW, predicted_HW)


def test_a_case_shows_the_true_outline_and_the_predicted_region():
    encoded = base64.b64decode(draw_case(case()).split(",")[1])
    drawn_HW3 = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    assert np.abs(drawn_HW3[32, 64] - TRUE).max() < 60  # the line
    assert np.abs(drawn_HW3[64, 64] - 100).max() < 20  # inside it the image stays as it is
    assert np.abs(drawn_HW3[192, 192] - (60 + 0.4 * np.array(PREDICTED))).max() < 20  # the tint
    assert np.abs(drawn_HW3[240, 32] - 100).max() < 20


def test_large_cases_are_shrunk_and_small_ones_are_not_enlarged():
    for side, shown in ((256, 256), (700, 512)):
        encoded = base64.b64decode(draw_case(case(side=side)).split(",")[1])
        assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (shown, shown)


def test_the_page_names_measures_and_cases_and_warns_of_few_lesions(tmp_path):
    report = {"lesion": {name: Estimate(0.7, 0.6, 0.8, 40, 8) for name in MEASURES}}
    results = {"n": 40, "positives": 8, "measures": {}, "overlap": ["2 images shared"], "model": "runs/<i>"}
    text = write_segmentation_page(tmp_path, results, report, [case("best"), case("worst")]).read_text()
    assert not Wellformed(text).open
    assert "<i>" not in text
    assert "best<b>" not in text
    for sentence in ("2 images shared", "Only 8 images contain a lesion"):
        assert text.index(sentence) < text.index("<table")
    for heading in ("lesion: best", "lesion: worst"):
        assert heading in text
    assert text.count("Dice 0.250") == 2
