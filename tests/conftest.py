"""Fixtures of the whole suite: the real data beside the checkout, phantoms, a browser; and the marker for slow tests."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads: two test processes share two cores

import pytest
from hypothesis import settings

from tests.support.made_once import made_once
from tests.support.paths import SHARED

settings.register_profile("slow", deadline=None)  # a machine that others use too may be slow for a moment
settings.register_profile("quick", deadline=None, max_examples=50)  # where a test asks for no number
settings.load_profile("quick")

LONGEST = (  # files of ten seconds and more, with few tests some of them: started first, so that all processes end together
    *("training/test_trainer.py", "serve/test_page.py", "models/test_mrm.py", "corpora/test_nih.py"),
    *(
        "corpora/test_chexpert.py",
        "data/test_dicom_limits.py",
        "runs/test_demonstrating.py",
        "corpora/test_learning.py",
    ),
    *("interop/test_monai_bundle.py", "models/test_model_folder.py", "system/test_object_store.py"),
)


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests that are marked slow")


def pytest_configure(config):
    if config.getoption("--runslow"):
        settings.load_profile("slow")


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # one of several processes, which take files in this order
        first = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: first.get(item.path, len(first)))
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --runslow"))


def pytest_collection_finish(session):
    """Libraries and tests stay to the end: full collections of garbage need not look through them, 5% of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    gc.unfreeze()  # at the end Python takes them down, which compiled libraries expect


@pytest.fixture(scope="session", autouse=True)
def site_key(tmp_path_factory) -> Iterator[Path]:
    """A site key of the tests, in place of that of whoever runs them."""
    file = tmp_path_factory.mktemp("site") / "site-key"
    file.write_text("0123456789abcdef" * 4 + "\n")
    file.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRM_SITE_KEY", str(file))
        patch.delenv("MRM_ACCESS", raising=False)
        yield file


@pytest.fixture(scope="module", autouse=True)
def figures_drawn_once() -> Iterator[None]:
    """The curves of a tested classifier are drawn once for all tests; tests/pages draws each."""
    from tests.support.drawn_once import drawn_once

    with pytest.MonkeyPatch.context() as patch:
        drawn_once(patch)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data described in the design; the test is skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A folder of 48 small phantoms with reports and labels: `records.csv`, `images/`."""
    from mrm.corpora.phantoms import phantom_files

    out = tmp_path_factory.mktemp("phantoms")
    phantom_files.write(out, 48, seed=0, size=128, workers=1)
    return out


@pytest.fixture(scope="module")
def bucket(phantoms):
    """An object store on this machine that holds the images of the phantoms, in `corpus/images`."""
    from tests.support.buckets import running

    with running() as bucket:
        bucket.put(phantoms / "images", "corpus/images")
        yield bucket


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; the test is skipped where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine")
    return browser


@pytest.fixture(scope="session")
def squares_model(tmp_path_factory):
    """A classifier that has learnt squares and rings; nothing may change it."""
    from mrm.models import model_folder
    from tests.support.squares import trained_on_squares

    made = made_once(
        tmp_path_factory, "squares", lambda folder: model_folder.save(folder / "model", trained_on_squares())
    )
    return model_folder.load(made / "model")


@pytest.fixture(scope="session")
def bright_and_dark_model(tmp_path_factory):
    """An MRM that fills in what an image shows; nothing may change it."""
    from mrm.models import model_folder
    from tests.support.bright_and_dark import trained_on_bright_and_dark

    made = made_once(
        tmp_path_factory,
        "bright-and-dark",
        lambda folder: model_folder.save(folder / "model", trained_on_bright_and_dark()),
    )
    return model_folder.load(made / "model")


@pytest.fixture(scope="session")
def discs(tmp_path_factory) -> Path:
    """A segmentation folder of discs in noise."""
    from tests.support.discs import write_discs

    return write_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture(scope="session")
def disc_encoder(tmp_path_factory) -> Path:
    """A tiny encoder to start a segmenter from."""
    from tests.support.models import save_encoder

    return save_encoder(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="session")
def disc_segmenter(discs, disc_encoder, tmp_path_factory) -> Path:
    """The run of a segmenter that finds discs: a copy of its own for each test process, since its card grows with tests."""
    from tests.support.discs import trained_on_discs

    made = made_once(
        tmp_path_factory, "disc-segmenter", lambda folder: trained_on_discs(discs, disc_encoder, folder / "run")
    )
    return shutil.copytree(made / "run", tmp_path_factory.mktemp("trained") / "run", symlinks=True)


@pytest.fixture(scope="session")
def pretrained_run(phantoms, tmp_path_factory) -> Path:
    """A short pre-training on the phantoms; nothing may change it."""
    from mrm import runs
    from tests.support.configs import pretrain_config

    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("pretrained") / "run"))
