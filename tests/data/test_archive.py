"""An archive that misbehaves: each failure is named, tried again where that may help, and costs nothing but itself."""

import io
import json
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mrm.data import archive, images
from mrm.data.archive import Archive, ArchivedImage, connected, only_part
from mrm.data.archive_address import parse
from mrm.data.archived_images import records_of
from mrm.data.dicom import header
from mrm.system.errors import ArchiveError, ImageError, LostArchiveError, UnreachableError
from tests.support import archives
from tests.support.archives import Served, free_port, multipart, send, serving
from tests.support.image_files import random_image

pytest.importorskip("dicomweb_client")

radiograph = partial(archives.radiograph, ViewPosition="PA")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses between attempts, a short patience, and no credentials of whoever runs the tests."""
    monkeypatch.setattr(archive, "BACKOFF", 0.0)
    monkeypatch.setenv("MRM_DICOMWEB_TIMEOUT", "0.4")
    for name in ("MRM_DICOMWEB_TOKEN", "MRM_DICOMWEB_USER", "MRM_DICOMWEB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served():
    """Three radiographs of two studies, and an object of another kind."""
    content = Served()
    for number, study in ((1, 1), (2, 1), (3, 2)):
        content.add(radiograph(number, study))
    content.add(radiograph(4, 2, Modality="SR"))
    with serving(content):
        yield content


def read_first(served) -> bytes:
    return ArchivedImage(parse(f"{served.address}/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1.1")).read_bytes()


def instead_of_the_image(served, reply) -> None:
    """Answer requests of the first image by `reply`."""

    def instead(handler, path):
        if path.endswith("/1.2.1.1.1"):
            reply(handler)
            return True
        return False

    served.instead = instead


def asked(served) -> int:
    return sum(path.endswith("/1.2.1.1.1") for path in served.asked)


def test_radiographs_are_found_with_what_is_known_of_them_and_read_as_they_were_stored(served):
    records = records_of(served.address)
    assert [r.name for r in records] == [
        f"{served.address}/studies/1.2.{s}/series/1.2.{s}.1/instances/1.2.{s}.1.{n}"
        for n, s in ((1, 1), (2, 1), (3, 2))
    ]
    assert [(r.patient, r.study, r.view) for r in records] == [("p1", "1.2.1", "PA")] * 2 + [("p2", "1.2.2", "PA")]
    np.testing.assert_array_equal(images.read(records[2].image), random_image(3, 40, 32))
    known = header(records[2].image, records[2].name)
    assert (known.SOPInstanceUID, known.PatientID, "PixelData" in known) == ("1.2.2.1.3", "p2", False)


def test_filters_by_modality_body_part_and_view_hold_whatever_the_archive_searches_by(served):
    served.add(radiograph(5, 3, ViewPosition="LL", BodyPartExamined="HAND"))
    found = lambda query: [r.name[-1] for r in records_of(f"{served.address}?{query}")]  # noqa: E731
    assert found("ViewPosition=LL") == ["5"]
    assert found("ViewPosition=PA,AP&BodyPartExamined=chest") == ["1", "2", "3"]
    assert found("BodyPartExamined=*AND") == ["5"]
    assert found("Modality=SR") == ["4"]
    served.untold = ("00180015",)  # an archive that does not tell the body part: the header of each image does
    assert found("BodyPartExamined=HAND") == ["5"]
    assert sum("/metadata" in path for path in served.asked) == 4, "not of an object of another modality"
    with pytest.raises(ArchiveError, match=r"none of 5 instances of 3 studies .*1 by Modality"):
        records_of(f"{served.address}?BodyPartExamined=KNEE")


def test_a_search_ends_and_lists_each_instance_once_however_the_archive_pages(served):
    served.page = 1
    assert len(records_of(served.address)) == 3
    served.page = 1000

    def same_again(handler, path):  # an archive that knows neither limit nor offset
        if "/instances?" in path and "/studies/1.2.1/" in path:
            tags = [served.instances[uid][0] for uid in ("1.2.1.1.1", "1.2.1.1.2")]
            send(handler, 200, json.dumps(tags).encode(), "application/dicom+json")
            return True
        return False

    served.instead = same_again
    assert len(records_of(served.address)) == 3


def test_duplicates_of_an_instance_are_taken_once_and_counted(served):
    def twice(handler, path):
        if "/studies/1.2.1/instances?" in path:
            first = served.instances["1.2.1.1.1"][0]
            tags = [] if "offset=2" in path or "offset=3" in path else [first, first]
            send(handler, 200, json.dumps(tags).encode(), "application/dicom+json")
            return True
        return False

    served.instead = twice
    with pytest.warns(UserWarning, match="1 instances are listed more than once, and are taken once"):
        assert len(records_of(served.address)) == 2


def test_a_slow_archive_is_waited_for_no_longer_than_asked(served):
    instead_of_the_image(served, lambda handler: time.sleep(1.0))
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"1\.2\.1\.1\.1: did not answer within 0\.4 s"):
        read_first(served)
    assert time.monotonic() - started < 3


def test_an_image_that_trickles_is_given_up(served, monkeypatch):
    monkeypatch.setattr(archive, "BODY_TIMES", 1)

    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", multipart()[1])
        handler.end_headers()
        for _ in range(12):
            handler.wfile.write(b"x" * 10)
            time.sleep(0.1)

    monkeypatch.setattr(archive, "CHUNK", 10)
    instead_of_the_image(served, trickle)
    with pytest.raises(UnreachableError, match=r"did not arrive within 0\.4 s"):
        read_first(served)


def test_an_archive_that_stays_silent_is_lost_after_some_requests_and_not_after_hours(served):
    served.instead = lambda handler, path: time.sleep(0.6) or True
    place = parse(f"{served.address}/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1.1")
    connection = Archive(place)
    with pytest.raises(UnreachableError):
        connection.read(place)
    with pytest.raises(LostArchiveError, match="5 times in a row; what is done is kept"):
        connection.read(place)
    assert len(served.asked) == archive.FAILURES


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_named_with_where_to_set_them_and_never_printed(served, monkeypatch, status):
    monkeypatch.setenv("MRM_DICOMWEB_USER", "someone")
    monkeypatch.setenv("MRM_DICOMWEB_PASSWORD", "very-secret")
    served.instead = lambda handler, path: send(handler, status, b"no") or True
    with pytest.raises(ArchiveError, match=rf"refuses the credentials \({status}\); set MRM_DICOMWEB_TOKEN") as error:
        records_of(served.address)
    assert error.value.status == 2
    assert "very-secret" not in str(error.value)
    with pytest.raises(ArchiveError, match="refuses the credentials"):
        read_first(served)


def test_a_token_or_a_password_is_sent(served, monkeypatch):
    seen = []
    served.instead = lambda handler, path: seen.append(handler.headers["Authorization"]) or False
    monkeypatch.setenv("MRM_DICOMWEB_USER", "mrm")
    monkeypatch.setenv("MRM_DICOMWEB_PASSWORD", "pw")
    Archive(parse(served.address)).holds("1.2.1", "1")
    monkeypatch.setenv("MRM_DICOMWEB_TOKEN", "a-token")
    Archive(parse(served.address)).holds("1.2.1", "1")
    assert seen == ["Basic bXJtOnB3", "Bearer a-token"]


def test_a_server_error_is_tried_again_and_then_left_to_the_next_run(served):
    instead_of_the_image(served, lambda handler: send(handler, 500, b"oops"))
    with pytest.raises(UnreachableError, match="the archive answered 500"):
        read_first(served)
    failing = iter(range(2))

    def twice(handler, path):
        if path.endswith("/1.2.1.1.1") and next(failing, None) is not None:
            send(handler, 503, b"busy")
            return True
        return False

    served.instead = twice
    assert read_first(served) == served.instances["1.2.1.1.1"][1]


def test_a_connection_that_breaks_in_the_middle_of_an_image_is_tried_again(served):
    content, kind = multipart(served.instances["1.2.1.1.1"][1])

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True

    instead_of_the_image(served, half)
    with pytest.raises(UnreachableError, match="the connection broke off"):
        read_first(served)
    assert asked(served) == archive.ATTEMPTS
    served.instead = None
    assert read_first(served) == served.instances["1.2.1.1.1"][1]


WHOLE, KIND = multipart(b"DICM 1.2.3")
WRONG = {
    "a page": (b"<html>", "text/html", "sent text/html instead of DICOM"),
    "no type": (b"x", "", "instead of DICOM"),
    "no boundary": (WHOLE, "multipart/related", "instead of DICOM"),
    "another boundary": (WHOLE, "multipart/related; boundary=other", "cut off, or no multipart message"),
    "no end": (WHOLE[:-12], KIND, "cut off, or no multipart message"),
    "no head": (b"--mark", KIND, "cut off, or no multipart message"),
    "empty": (b"", KIND, "cut off, or no multipart message"),
    "two": (multipart(b"DICM 1.2.3", b"DICM 1.2.4")[0], KIND, "more than one instance"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_multipart_message_is_named(case):
    body, kind, said = WRONG[case]
    with pytest.raises(UnreachableError, match=f"here: the archive.*{said}"):
        only_part(body, kind, "here")


def test_multipart_messages_as_archives_write_them_are_read():
    assert only_part(WHOLE, KIND, "here") == b"DICM 1.2.3"
    assert (
        only_part(b"preamble" + WHOLE, 'Multipart/Related; boundary="mark"; type="application/dicom"', "")
        == b"DICM 1.2.3"
    )
    assert only_part(b"DICM", "application/dicom", "here") == b"DICM"


def test_another_instance_than_the_one_asked_for_is_refused(served):
    instead_of_the_image(served, lambda handler: send(handler, 200, *multipart(served.instances["1.2.2.1.3"][1])))
    with pytest.raises(UnreachableError, match="the archive sent another instance"):
        read_first(served)


def test_a_study_that_was_deleted_after_the_search_is_named(served):
    instead_of_the_image(served, lambda handler: send(handler, 404, b"gone"))
    with pytest.raises(ImageError, match=r"1\.2\.1\.1\.1: is not in the archive \(404\); it was deleted") as error:
        read_first(served)
    assert not isinstance(error.value, UnreachableError), "it is done with"
    served.instead = lambda handler, path: "/studies/1.2.1/" in path and (send(handler, 404, b"gone") or True)
    assert [r.study for r in records_of(served.address)] == ["1.2.2"]


def test_an_answer_that_is_no_dicom_json_asks_for_the_right_path(served):
    served.instead = lambda handler, path: send(handler, 200, b"<html>", "text/html") or True
    with pytest.raises(ArchiveError, match=r"the answer is not DICOM JSON .*is the path that of the DICOMweb service"):
        records_of(served.address)
    served.instead = lambda handler, path: send(handler, 200, b"[1, 2]", "application/json") or True
    with pytest.raises(ArchiveError, match="the answer is not DICOM JSON"):
        records_of(served.address)


def test_no_archive_at_an_address_is_said():
    with pytest.raises(LostArchiveError, match="cannot be reached; what is done is kept") as error:
        records_of(f"dicomweb://127.0.0.1:{free_port()}/dicom-web")
    assert error.value.status == 3


def test_a_certificate_of_an_unknown_authority_is_named_with_where_to_state_that_authority(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_DICOMWEB_TIMEOUT", "30")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate(tmp_path / "own.pem"))
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        try:
            with pytest.raises(
                ArchiveError, match="certificate cannot be verified; name that of its authority in REQUESTS_CA_BUNDLE"
            ):
                records_of(f"dicomweb+https://127.0.0.1:{server.server_port}/dicom-web")
        finally:
            server.shutdown()
            answering.join()


def own_certificate(file: Path) -> Path:
    """A key and a certificate of this machine, which no authority has signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(*text) + certificate.public_bytes(text[0]))
    return file


def test_a_timeout_that_is_none_is_refused(served, monkeypatch):
    monkeypatch.setenv("MRM_DICOMWEB_TIMEOUT", "soon")
    with pytest.raises(ArchiveError, match="MRM_DICOMWEB_TIMEOUT is 'soon', but must be a number of seconds above 0"):
        Archive(parse(served.address))


# Storing ------------------------------------------------------------------------------------------------------


def test_what_the_archive_has_is_not_stored_again(served):
    there, new = (pydicom.dcmread(io.BytesIO(radiograph(number))) for number in (1, 9))
    connection = connected(parse(served.address))
    assert not connection.store(there)
    assert served.stored == []
    assert connection.store(new)
    assert len(served.stored) == 1


def test_an_answer_that_is_lost_does_not_store_twice(served):
    new = pydicom.dcmread(io.BytesIO(radiograph(9)))

    def store_and_fail(handler, path):
        if handler.command == "POST":
            served.stored.append(b"")
            served.add(radiograph(9))
            send(handler, 500, b"oops")
            return True
        return False

    served.instead = store_and_fail
    assert connected(parse(served.address)).store(new)
    assert len(served.stored) == 1


def test_an_object_that_is_refused_and_an_archive_that_fails_are_told_apart(served):
    new = pydicom.dcmread(io.BytesIO(radiograph(9)))
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}
    replies = {
        "reason 42752": (200, json.dumps(failed).encode()),
        r"refuses the request \(400\)": (400, b"no"),
        "the archive answered 500; what is done is kept": (500, b"oops"),
    }
    for said, (status, body) in replies.items():
        served.instead = lambda handler, path, status=status, body=body: (
            handler.command == "POST" and (send(handler, status, body, "application/dicom+json") or True)
        )
        with pytest.raises(ArchiveError, match=said) as error:
            Archive(parse(served.address)).store(new)
        assert isinstance(error.value, LostArchiveError) == (status == 500)
