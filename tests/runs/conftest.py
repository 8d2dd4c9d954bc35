"""Model folders and files for the commands that use a model; nothing may change them."""

from pathlib import Path

import pytest

from mrm.models import model_folder
from tests.support.models import classifier_of, mrm_model
from tests.support.predictions import write_awkward_files


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The folder of a classifier."""
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The folder of a pre-trained MRM."""
    return model_folder.save(tmp_path_factory.mktemp("model") / "mrm", mrm_model())


@pytest.fixture(scope="module")
def awkward(phantoms, tmp_path_factory) -> Path:
    """A folder of files that are unusual, and of some that are damaged."""
    return write_awkward_files(tmp_path_factory.mktemp("awkward"), phantoms)
