"""Untrained micro models and the phantoms with their labels; nothing may change them."""

import pytest

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.records import Records
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from tests.support.models import classifier_of, mrm_model


@pytest.fixture(scope="module")
def model() -> MRM:
    """A pre-trained model, as far as its architecture goes."""
    return mrm_model()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """A classifier of the phantoms' findings."""
    return classifier_of()


@pytest.fixture(scope="module")
def records(phantoms) -> Records:
    """The phantoms with their labels."""
    return Records.load(phantoms / "records.csv", FINDINGS)
