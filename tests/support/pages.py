"""What pages are made of in tests: labels with scores, a tested classifier, the story of a demo."""

from pathlib import Path

import numpy as np

from mrm.inference.reconstruction import Reconstruction
from mrm.pages.demo import Contender, Few, FilledReport, Search, Searched, Story, Word, WordCounts
from mrm.pages.evaluation import write_evaluation_page
from mrm.statistics import ranking
from mrm.statistics.intervals import Estimate


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
        words=WordCounts(
            Estimate(0.6, 0.55, 0.65, 500, 300),
            Estimate(0.4, 0.35, 0.45, 500, 200),
            Estimate(0.2, 0.15, 0.25, 500, None),
            90,
        ),
        searched=Searched(
            [Search("left effusion", [(image, True), (image, False)], 4, 10, 0.125)], Estimate(0.4, 0.2, 0.7, 10, 4)
        ),
        few=few(),
    )


def few() -> Few:
    """Curves of four kinds of features: the pre-trained one passes the random one, and stays below HOG."""
    curves = {
        name: {count: Estimate(value, value - 0.02, value + 0.02, 120, 60) for count, value in zip((25, 100), values, strict=True)}
        for name, values in {
            "pre-trained encoder": (0.71, 0.80), "random encoder": (0.55, 0.70), "HOG features": (0.65, 0.85),
        }.items()
    }  # fmt: skip
    return Few(curves, Estimate(0.1, 0.06, 0.14, 120, 60), 100)
