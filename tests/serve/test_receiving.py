"""Images that are sent to the service by C-STORE: one report of each study; who may send what; what a sender may cost."""

import errno
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pydicom
import pytest
from pydicom.uid import MPEG4HP41, ExplicitVRLittleEndian, RLELossless

from mrm import runs
from mrm.models import model_folder
from mrm.serve import dicom_connections, receiving, server, unattended
from mrm.serve.dicom_options import DicomOptions
from mrm.serve.limits import Limits
from mrm.system.errors import ConfigError, LostArchiveError, OutputError
from tests.support.archives import Served, free_port, radiograph, running_orthanc, serving, use_account
from tests.support.dicom_files import dicom_bytes
from tests.support.image_files import random_image
from tests.support.models import classifier_of, mrm_model
from tests.support.service import running
from tests.support.waiting import until

pynetdicom = pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")
hd = pytest.importorskip("highdicom")

CLASSES = ("effusion", "nodule")
CR, CT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
LIMITS = Limits(body_mb=0.5, timeout_seconds=1.0, max_requests=1, decode_processes=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of(CLASSES))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    use_account(monkeypatch)
    monkeypatch.setattr(unattended, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(receiving, "RETRY_SECONDS", 0.2)


@pytest.fixture(scope="module")
def shared(model, tmp_path_factory):
    """A service that writes into a folder, for tests that send studies of their own; gives its reception and state."""
    with service(
        model,
        LIMITS,
        dicom_out=tmp_path_factory.mktemp("reports"),
        dicom_title="READER",
        dicom_from=("XRAY 1", "XRAY2"),
    ) as running_service:
        yield running_service


@pytest.fixture
def reception(shared):
    return shared[0]


@contextmanager
def service(model, limits=None, watch=None, quiet=0.1, dicom_title="READER", **options):
    """The service while it receives; gives its reception and its state."""
    dicom = DicomOptions(0, dicom_quiet_seconds=quiet, dicom_title=dicom_title, **options)
    app = server.application(model, limits=limits, watch=watch, dicom=dicom)
    with running(app, limits):
        state = app.state.service
        yield state.reception, state


def reports_of(reception, study: int) -> list[pydicom.Dataset]:
    """The reports in the folder that are of a study."""
    made = [pydicom.dcmread(file) for file in reception.options.dicom_out.glob("*.sr.dcm")]
    return [report for report in made if report.StudyInstanceUID == f"1.2.{study}"]


@contextmanager
def association(reception, calling="XRAY2", called="READER", kinds=(CR,), syntax=ExplicitVRLittleEndian):
    entity = pynetdicom.AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(dicom_connections.VERIFICATION)
    for kind in kinds:
        entity.add_requested_context(kind, [syntax])
    made = entity.associate("127.0.0.1", reception.port, ae_title=called)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def send(reception, *files, **options):
    """The statuses that the files are answered with over one association; None where it broke."""
    with association(reception, **options) as made:
        assert made.is_established
        answers = [made.send_c_store(pydicom.dcmread(io.BytesIO(content))) for content in files]
        return [answer.get("Status") for answer in answers]


def refusal(reception, content, **options):
    with association(reception, **options) as made:
        answer = made.send_c_store(pydicom.dcmread(io.BytesIO(content)))
        return answer.Status, answer.get("ErrorComment", "")


def probabilities(model, files, folder) -> list[float]:
    """What `mrm predict` says of a study, in percent."""
    paths = [folder / f"{number}.dcm" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    runs.predict(model, paths, folder / "p.json", runs.Reading(workers=0, by_study="mean"))
    (row,) = json.loads((folder / "p.json").read_text())
    return [100 * row[name] for name in CLASSES]


def test_a_study_gets_one_report_of_its_frontal_images_however_often_they_are_sent(model, reception, tmp_path):
    files = [radiograph(1, ViewPosition="PA"), radiograph(2, ViewPosition="AP"), radiograph(3, ViewPosition="LL")]
    before = reception.reports
    assert send(reception, *files, files[0]) == [0, 0, 0, 0]
    until(lambda: reception.reports == before + 1)
    assert send(reception, files[1]) == [0]
    time.sleep(0.4)
    assert (reception.reports, reception.failures) == (before + 1, 0)
    (report,) = reports_of(reception, 1)
    file = reception.options.dicom_out / f"{report.SOPInstanceUID}.sr.dcm"
    assert file.stat().st_mode & 0o077 == 0
    groups = hd.sr.srread(file).content.get_image_measurement_groups()
    percent = [group.get_measurements()[0].value for group in groups]
    assert percent == pytest.approx(probabilities(model, files[:2], tmp_path), abs=1e-3)
    assert sorted(group.referenced_sop_instance_uid for group in groups[0].source_images) == ["1.2.1.1.1", "1.2.1.1.2"]


def test_a_study_that_grows_after_its_report_gets_another_of_all_images_and_other_studies_their_own(reception):
    before = reception.reports
    send(reception, radiograph(1, study=2), radiograph(1, study=3))
    until(lambda: reception.reports == before + 2)
    send(reception, radiograph(2, study=2))
    until(lambda: reception.reports == before + 3)
    images = lambda study: sorted(  # noqa: E731
        len(report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence)
        for report in reports_of(reception, study)
    )
    assert (images(2), images(3)) == ([1, 2], [1])
    assert {report.PatientID for report in reports_of(reception, 2)} == {"p2"}


def test_reports_go_into_the_archive_of_the_watch_each_once_also_after_a_restart(model):
    with serving(Served(keeps=True)) as archive:
        for _ in range(2):
            with service(model, LIMITS, watch=f"{archive.address}?StudyDate=20240101-") as (reception, _):
                assert send(reception, radiograph(1)) == [0]
                until(lambda reception=reception: reception.reports == 1)
        assert len(archive.stored) == 1


def test_the_connection_is_verified_and_titles_are_checked(reception):
    with association(reception, "XRAY 1") as made:
        assert made.send_c_echo().Status == 0
    for calling, called in (("XRAY3", "READER"), ("XRAY2", "MRM")):
        with association(reception, calling, called) as made:
            assert made.is_rejected


def test_what_is_no_readable_radiograph_is_refused_with_the_reason(reception):
    before = reception.received, reception.refused
    status, reason = refusal(reception, radiograph(1, study=4, NumberOfFrames=3))
    assert (status, "3 frames" in reason) == (0xC000, True)
    assert refusal(reception, radiograph(1, study=4, StudyInstanceUID=""))[0] == 0xC000
    assert refusal(reception, radiograph(1, study=4, Modality="MG"))[0] == 0xA900
    with association(reception, kinds=(CT,)) as made:
        assert [context.abstract_syntax for context in made.rejected_contexts] == [CT]
    assert (reception.received, reception.refused) == (before[0], before[1] + 3)


def test_a_compressed_image_is_taken_as_it_was_sent_and_an_encoding_without_a_decoder_is_not_accepted(reception):
    image = pydicom.dcmread(io.BytesIO(radiograph(1, study=13)))
    image.compress(RLELossless, generate_instance_uid=False)
    with association(reception, syntax=RLELossless) as made:
        assert made.send_c_store(image).Status == 0
    with association(reception, syntax=MPEG4HP41) as made:
        assert [context.abstract_syntax for context in made.rejected_contexts] == [CR]


def test_a_full_disk_keeps_the_study_and_refuses_images_until_reports_can_be_written(shared, monkeypatch, capfd):
    reception, state = shared
    full = threading.Event()
    full.set()
    real = receiving.write_by

    def write_by(path, write):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, write)

    monkeypatch.setattr(receiving, "write_by", write_by)
    before = reception.reports
    assert send(reception, radiograph(1, study=5)) == [0]
    until(lambda: reception.undelivered)
    answer = refusal(reception, radiograph(2, study=5))
    assert answer == (0xA700, "reports cannot be delivered at present; send it again later")
    full.clear()
    until(lambda: reception.reports == before + 1)
    assert send(reception, radiograph(2, study=5)) == [0]
    until(lambda: reception.reports == before + 2)
    reception.failures = 0
    state.log.write("end")
    said = capfd.readouterr().err
    assert "warning: dicom: a report waits" in said
    assert "No space left" in said
    assert "1.2.5" not in said


def test_a_busy_service_makes_the_sender_wait_and_refuses_in_the_end(shared):
    reception, state = shared
    with state.admission.admit("a person"):
        assert refusal(reception, radiograph(1, study=6))[0] == 0xA700
    assert send(reception, radiograph(1, study=6)) == [0]
    assert (state.admission.in_progress, state.admission.reserved_bytes) == (0, 0)


def test_a_message_that_is_too_long_or_never_ends_is_cut_off(reception):
    before = reception.received, reception.refused
    large = dicom_bytes(random_image(1, 1300, 1300), StudyInstanceUID="1.2", SeriesInstanceUID="1.3")
    assert send(reception, large) == [None]
    header = b"\1\0\xff\xff\xff\xff"  # of a request for an association of 4 GB
    silent, slow, fast = (socket.create_connection(("127.0.0.1", reception.port)) for _ in range(3))
    slow.sendall(header)
    fast.sendall(header)
    until(lambda: all([is_cut(silent, b""), is_cut(slow, b"x"), is_cut(fast, bytes(1 << 18))]), 10)
    assert (reception.received, reception.refused) == before
    assert send(reception, radiograph(1, study=7)) == [0]


def test_a_message_may_be_as_long_as_an_image_with_its_command_and_an_answer_begins_another(monkeypatch):
    monkeypatch.setattr(dicom_connections, "COMMANDS", 24)
    ours, theirs = socket.socketpair()
    with theirs, dicom_connections.Connection(ours, Limits(body_mb=0.001)) as connection:
        for _ in range(2):
            theirs.sendall(bytes(1024))
            assert len(connection.recv(1000)) + len(connection.recv(1000)) == 1024
            connection.send(b"answer")
        theirs.sendall(bytes(1025))
        assert len(connection.recv(1000)) == 1000
        with pytest.raises(OSError, match="the message is too long"):
            connection.recv(1000)


def is_cut(connection, data) -> bool:
    """Whether the other side has ended a connection that is sent `data` again and again."""
    try:
        connection.settimeout(0.05)
        connection.sendall(data)
        return connection.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_more_connections_than_are_served_are_closed_and_give_way_to_others(reception):
    address = ("127.0.0.1", reception.port)
    open_now = lambda: sum(connection.is_open for connection in list(reception.server.connections))  # noqa: E731
    until(lambda: open_now() == 0)
    held = [socket.create_connection(address) for _ in range(dicom_connections.ASSOCIATIONS)]
    until(lambda: open_now() == len(held))
    with socket.create_connection(address, timeout=10) as another:
        assert another.recv(1) == b""
    for one in held:
        one.close()
    until(lambda: open_now() == 0)
    assert send(reception, radiograph(1, study=8)) == [0]


def test_when_the_service_stops_what_was_taken_is_reported_and_what_was_not_is_not_answered_as_taken(model, tmp_path):
    statuses = []
    limits = replace(LIMITS, timeout_seconds=20.0)
    with service(model, limits, dicom_out=tmp_path, quiet=600) as (reception, state):
        assert send(reception, radiograph(1)) == [0]
        assert list(tmp_path.iterdir()) == []
        with state.admission.admit("a person"):
            sender = threading.Thread(target=lambda: statuses.extend(send(reception, radiograph(1, study=2))))
            sender.start()
            until(lambda: any("AcceptorThread" in thread.name for thread in threading.enumerate()))
            time.sleep(0.3)
            reception.server.shutdown()
            sender.join(20)
    assert statuses == [None]
    assert "1.2.1" in [pydicom.dcmread(file).StudyInstanceUID for file in tmp_path.iterdir()]


def test_a_sender_whose_studies_fill_the_memory_is_refused(reception, monkeypatch):
    monkeypatch.setattr(receiving, "MOST_IMAGES", 1)
    assert send(reception, radiograph(1, study=9), radiograph(2, study=9)) == [0, 0xA700]
    until(lambda: not any(study.waits for study in reception.studies.values()))
    monkeypatch.setattr(receiving, "MOST_STUDIES", len(reception.studies))
    oldest = next(iter(reception.studies))
    assert send(reception, radiograph(1, study=10)) == [0]
    assert oldest not in reception.studies
    monkeypatch.setattr(receiving, "MOST_STUDIES", 0)
    monkeypatch.setattr(reception, "studies", {("p", "1"): receiving.Study({"1": None}, due=float("inf"))})
    assert send(reception, radiograph(1, study=11)) == [0xA700]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dicom_out": "x"}, "--dicom-out is for images that are received; give --dicom-port"),
        ({"dicom_port": 70000}, "--dicom-port must be a port from 0 to 65535"),
        ({"dicom_port": 0, "dicom_quiet_seconds": 0.0}, "--dicom-quiet-seconds must be a number above 0"),
        ({"dicom_port": 0, "dicom_title": "A" * 17}, "--dicom-title .* is no application entity title"),
        ({"dicom_port": 0, "dicom_from": ("A\\B",)}, "--dicom-from .* is no application entity title"),
        ({"dicom_port": 0, "dicom_host": "0.0.0.0"}, "can be reached from other machines.*--dicom-from"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DicomOptions(**options)


def test_what_cannot_be_received_is_known_at_the_start(shared, tmp_path):
    from mrm.serve.models import load

    models = shared[1].models
    start = lambda models=models, **options: receiving.Reception.of(  # noqa: E731
        DicomOptions(**{"dicom_port": 0} | options), models, LIMITS, None
    )
    pretrained = load(model_folder.save(tmp_path / "mrm", mrm_model()), None, "cpu")
    with pytest.raises(ConfigError, match=r"--dicom-port is for classifiers, and .* is a mrm"):
        start(pretrained, dicom_out=tmp_path)
    with pytest.raises(ConfigError, match="--dicom-port needs to know where reports go"):
        start()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"):
        start(dicom_out=tmp_path / "file")
    with pytest.raises(LostArchiveError, match="cannot be reached"):
        start(dicom_store=f"dicomweb://127.0.0.1:{free_port()}/dicom-web")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=r"cannot listen on 127.0.0.1 port \d+ .* choose another --dicom-port"),
    ):
        start(dicom_port=taken.getsockname()[1], dicom_out=tmp_path)


def test_dcmtk_sends_an_image_and_is_told_that_it_was_taken(reception, tmp_path):
    if not shutil.which("storescu"):
        pytest.skip("no storescu of dcmtk on this machine")
    (tmp_path / "image.dcm").write_bytes(radiograph(1, study=12))
    titles = ["-aet", "XRAY2", "-aec", "READER"]
    send_it = ["storescu", *titles, "127.0.0.1", str(reception.port), str(tmp_path / "image.dcm")]
    subprocess.run(send_it, check=True, timeout=30)
    until(lambda: reports_of(reception, 12))


@pytest.mark.slow
def test_orthanc_sends_studies_again_after_a_kill_and_has_each_report_once(model, tmp_path):
    (tmp_path / "orthanc").mkdir()
    command = [sys.executable, "-m", "mrm", "serve", str(model), "--port", "0", "--dicom-port", "0"]
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.add(radiograph(1), radiograph(2), radiograph(1, study=2))
        images = orthanc.ask("GET", "/instances").json()
        for seconds, stop in (("600", "kill"), ("0.2", "terminate")):
            options = ["--dicom-store", orthanc.address, "--dicom-from", "ORTHANC", "--dicom-quiet-seconds", seconds]
            process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
            assert process.stdout.readline().startswith("http://")
            port = int(re.search(r"port (\d+)", process.stdout.readline())[1])
            orthanc.ask("PUT", "/modalities/mrm", json={"AET": "MRM", "Host": "127.0.0.1", "Port": port})
            assert orthanc.ask("POST", "/modalities/mrm/store", json=images).json()["FailedInstancesCount"] == 0
            if stop == "terminate":
                until(lambda: len(orthanc.instances("SR")) == 2)
            getattr(process, stop)()
            process.wait(30)
            process.stdout.close()
            assert len(orthanc.instances("SR")) == (0 if stop == "kill" else 2)
        assert {report["StudyInstanceUID"] for report in orthanc.instances("SR")} == {"1.2.1", "1.2.2"}
