"""The tests of pages draw every figure."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def figures_drawn_once() -> None:
    """In place of the fixture of the whole suite: nothing is drawn in advance."""
