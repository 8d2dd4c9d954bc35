"""Names that are imported when they are used."""

import subprocess
import sys

import pytest

import mrm
from mrm.models.model_folder import load

HEAVY = {"torch", "timm", "numpy", "cv2", "pydicom", "pyarrow", "sklearn", "scipy", "matplotlib", "tyro"}


def test_importing_mrm_imports_nothing_heavy():
    code = "import sys, mrm; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


def test_public_names_are_found_where_they_are_defined():
    assert mrm.load is load
    assert mrm.runs.__name__ == "mrm.runs"
    assert set(mrm.__all__) <= set(dir(mrm))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mrm' has no attribute 'nothing'"):
        mrm.nothing  # noqa: B018
