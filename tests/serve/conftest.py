"""The page of a service with a classifier and a pre-trained model, in a browser; each costs a moment to start."""

import pytest

from mrm.data import images
from mrm.serve.server import application
from tests.support.service import running, write_models
from tests.support.service_page import opened


@pytest.fixture(scope="session")
def page_models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def page_app(page_models):
    return application(page_models / "classifier", page_models / "pretrained")


@pytest.fixture(scope="session")
def address(page_app):
    with running(page_app) as address:
        yield address


@pytest.fixture(scope="module")  # it runs an event loop, beside which other modules cannot run theirs
def browser(chromium):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


@pytest.fixture(scope="session")
def radiographs(phantoms):
    """Three phantoms as they are read."""
    return [images.read(path) for path in sorted((phantoms / "images").iterdir())[:3]]
