"""What takes seconds to make is made by the first of several test processes that asks for it, and by no other."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mrm.system.lock import in_turn


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of this name that `make` fills, the same for all processes of a run of the tests; none may change it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # where each worker has a folder of its own
    folder, whole = shared / name, shared / f"{name}-is-whole"
    with in_turn(shared / f".{name}.lock"):
        if not whole.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
