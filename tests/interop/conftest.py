"""A classifier of which the card knows something, and its folder; nothing may change them."""

from pathlib import Path

import pytest

from mrm.interop import onnx_export
from mrm.models import model_folder
from mrm.models.card import Card, PastTest
from mrm.models.classifier import Classifier
from tests.support.models import classifier_of

CLASSES = ("nodule", "effusion")
ORIGIN = {
    "records": "training.csv",
    "n": 1234,
    "with_report": 1200,
    "patients": 987,
    "init": "MRM.pth",
    "audit": {"clean": False, "overlaps": ["12 records of val share a patient with train"]},
    "command": "mrm finetune tiny --train /home/someone/secret/training.csv",
}
AUROC = {"value": 0.8123, "low": 0.7512, "high": 0.8719, "n": 345, "positives": 44}
TESTED = [
    PastTest(
        "/home/someone/test.csv",
        "abc",
        345,
        overlap=["7 records of test share an image with fine-tuning"],
        classes={"mean of classes": {"auroc": AUROC}},
    )
]


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """Findings with a threshold, a temperature and a test."""
    model = classifier_of(CLASSES)
    model.card = Card("classifier", vars(model.config), ORIGIN, TESTED, {"nodule": 0.3}, {"nodule": 2.5})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def folder(classifier, tmp_path_factory) -> Path:
    """Its model folder."""
    return model_folder.save(tmp_path_factory.mktemp("models") / "classifier", classifier)


@pytest.fixture(scope="session")
def exported(classifier, tmp_path_factory) -> Path:
    """The classifier as an ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    assert onnx_export.export_onnx(classifier, path) <= onnx_export.TOLERANCE
    return path
