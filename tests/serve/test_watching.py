"""The watch over an archive: new studies get one report, once they are complete; people come first; failures end nothing."""

import io
import json
import threading
import time
from contextlib import contextmanager

import pydicom
import pytest

from mrm import runs
from mrm.data import archive
from mrm.models import model_folder
from mrm.serve import server, unattended
from mrm.serve.limits import Limits
from mrm.system.errors import ArchiveError, ConfigError, LostArchiveError
from tests.support.archives import Served, free_port, radiograph, running_orthanc, send, serving, use_account
from tests.support.models import classifier_of, mrm_model
from tests.support.service import running
from tests.support.waiting import until

pytest.importorskip("dicomweb_client")
hd = pytest.importorskip("highdicom")

CLASSES = ("effusion", "nodule")
SECONDS = 0.1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of(CLASSES))


@pytest.fixture(autouse=True)
def account(monkeypatch):
    use_account(monkeypatch)
    monkeypatch.setattr(archive, "BACKOFF", 0.0)
    monkeypatch.setattr(unattended, "BUSY_SECONDS", 0.05)


@contextmanager
def watched(model, address, limits=None):
    """The service while it watches; gives its watch and its state."""
    app = server.application(model, limits=limits, watch=f"{address}?StudyDate=20240101-", watch_seconds=SECONDS)
    with running(app, limits):
        yield app.state.service


def rounds(state, count=3):
    """Wait for so many searches."""
    seen = []
    real = state.watch.now
    state.watch.now = lambda: seen.append(1) or real()
    until(lambda: len(seen) > count)


@pytest.fixture
def served():
    """An archive that keeps what is stored, with one study of one image."""
    with serving(Served(keeps=True)) as content:
        content.add(radiograph(1, 1))
        yield content


def test_studies_get_one_report_of_their_frontal_images_also_after_a_restart(model, tmp_path):
    folder = tmp_path / "orthanc"
    folder.mkdir()
    with running_orthanc(folder) as orthanc:
        orthanc.add(
            radiograph(1, 1, ViewPosition="PA"),
            radiograph(2, 1, ViewPosition="AP"),
            radiograph(3, 1, ViewPosition="LL"),
        )
        with watched(model, orthanc.address) as state:
            until(lambda: state.watch.stored == 1)
            orthanc.add(radiograph(4, 2))
            until(lambda: state.watch.stored == 2)
            rounds(state)
        with watched(model, orthanc.address) as state:
            rounds(state)
            assert state.watch.stored == state.watch.failures == 0
        reports = {tags["StudyInstanceUID"]: tags for tags in orthanc.instances("SR")}
        assert sorted(reports) == ["1.2.1", "1.2.2"]
        assert len(orthanc.instances("SR")) == 2
        (tmp_path / "a.dcm").write_bytes(orthanc.file(reports["1.2.1"]["orthanc"]))
    groups = hd.sr.srread(tmp_path / "a.dcm").content.get_image_measurement_groups()
    for number in (1, 2):
        (tmp_path / f"{number}.dcm").write_bytes(radiograph(number, 1))
    files = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    runs.predict(model, files, tmp_path / "p.json", runs.Reading(workers=0, by_study="mean"))
    (row,) = json.loads((tmp_path / "p.json").read_text())
    assert [group.get_measurements()[0].value for group in groups] == pytest.approx(
        [100 * row[n] for n in CLASSES], abs=1e-3
    )
    assert sorted(group.referenced_sop_instance_uid for group in groups[0].source_images) == ["1.2.1.1.1", "1.2.1.1.2"]


def test_a_study_that_still_grows_waits_until_it_is_complete(model, served):
    with watched(model, served.address) as state:
        for number in range(2, 6):
            served.add(radiograph(number, 1))
            searches = len([path for path in served.asked if "/studies?" in path])
            until(lambda searches=searches: len([path for path in served.asked if "/studies?" in path]) > searches)
            assert served.stored == []
        until(lambda: state.watch.stored == 1)
        rounds(state)
    assert len(served.stored) == 1, "its own report does not make a study new"


def test_a_service_that_is_busy_makes_the_watch_wait(model, served):
    limits = Limits(max_requests=2)
    with watched(model, served.address, limits) as state:
        with state.admission.admit("a"), state.admission.admit("b"):
            until(lambda: any(path.endswith("/metadata") for path in served.asked))
            time.sleep(0.3)
            assert not any(path.endswith("/1.2.1.1.1") for path in served.asked)
        until(lambda: state.watch.stored == 1)
        assert (state.admission.in_progress, state.admission.reserved_bytes) == (0, 0)


def test_an_archive_that_fails_costs_time_and_no_report_and_the_log_names_nobody(model, served, capfd):
    fails = threading.Event()
    fails.set()
    served.instead = lambda handler, path: (
        fails.is_set() and path.endswith("/1.2.1.1.1") and (send(handler, 500, b"x") or True)
    )
    with watched(model, served.address) as state:
        until(lambda: state.watch.failures > 0)
        assert served.stored == []
        fails.clear()
        until(lambda: state.watch.stored == 1)
        state.log.write("end")
    said = capfd.readouterr().err
    assert "warning: watch: dicomweb://127.0.0.1" in said
    assert "1.2.1" not in said


def test_a_study_without_a_readable_image_is_left_alone_after_one_attempt(model, served):
    served.instances.clear()
    served.add(radiograph(1, 1, NumberOfFrames=3))
    with watched(model, served.address) as state:
        until(lambda: state.watch.failures == 1)
        rounds(state)
        assert (state.watch.stored, state.watch.failures) == (0, 1)


def test_a_broken_image_does_not_cost_the_report_of_the_others(model, served):
    served.add(radiograph(2, 1, NumberOfFrames=3))
    with watched(model, served.address) as state:
        until(lambda: state.watch.stored == 1)
    (content,) = served.stored
    report = pydicom.dcmread(io.BytesIO(content))
    texts = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert any("an image is left out" in text and "3 frames" in text for text in texts)
    assert any("1 image." in text for text in texts)


def test_what_cannot_be_watched_is_known_at_the_start(model, served, tmp_path):
    start = lambda path, address, seconds=1.0: server.application(path, watch=address, watch_seconds=seconds)  # noqa: E731
    pretrained = model_folder.save(tmp_path / "mrm", mrm_model())
    with pytest.raises(ConfigError, match=r"--watch is for classifiers, and .* is a mrm"):
        start(pretrained, served.address)
    with pytest.raises(ConfigError, match="--watch-seconds must be a number above 0, not 0"):
        start(model, served.address, 0)
    with pytest.raises(LostArchiveError, match="cannot be reached"):
        start(model, f"dicomweb://127.0.0.1:{free_port()}/dicom-web")
    served.instead = lambda handler, path: send(handler, 401, b"no") or True
    with pytest.raises(ArchiveError, match="refuses the credentials"):
        start(model, served.address)


def test_without_a_date_the_studies_of_today_and_yesterday_are_watched(model, served):
    from datetime import date, timedelta

    app = server.application(model, watch=f"{served.address}?Modality=CR", watch_seconds=1.0)
    yesterday = date.today() - timedelta(days=1)
    assert f"StudyDate={yesterday:%Y%m%d}-" in served.asked[-1]
    assert app.state.service.watch.now().filters_of(["Modality"]) == {"Modality": "CR"}
