"""Connections that never say what they want, bodies that drip, answers that nobody takes: none of them locks others out."""

import socket
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from benchmarks.serve_attacks import UnfinishedConnections
from mrm.data import images
from mrm.serve import server
from mrm.serve.limits import Limits
from tests.support.service import SMALL, ask, running, write_models
from tests.support.waiting import until

httpx2 = pytest.importorskip("httpx2")
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@contextmanager
def service(folder, **limits):
    """A service at an address of its own, as `mrm serve` configures it: host and port."""
    limits = Limits(**limits)
    app = server.application(folder / "classifier", folder / "pretrained", limits=limits)
    with running(app, limits) as address:
        host, port = address.removeprefix("http://").split(":")
        yield host, int(port)


def connect(place, sent=b""):
    connection = socket.create_connection(place, timeout=20)
    connection.sendall(sent)
    return connection


def seconds_until_closed(connection, drip=b"", pause=0.1) -> float:
    """How long the server keeps a connection open while `drip` is sent to it again and again."""
    began = time.monotonic()
    connection.settimeout(pause)
    while time.monotonic() - began < 15:
        try:
            connection.sendall(drip)
            if not connection.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def is_well(place) -> bool:
    return httpx2.get(f"http://{place[0]}:{place[1]}/health", timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),  # nothing at all
        (HEAD, b""),  # half of the headers
        (HEAD, b"X-More: 1\r\n"),  # headers without end
        (b"", b"G"),  # a method without end
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /he", b"a"),  # a second request that never ends
        (FORM + b"Content-Length: 100000\r\n\r\n", b"-"),  # a body that drips
        (FORM + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n-\r\n"),
        (HEAD + b"Content-Length: 100000\r\n\r\n", b"-"),  # the body of a request that has been refused already
    ],
)  # fmt: skip
def test_a_request_that_does_not_arrive_is_ended(folder, sent, drip):
    with service(folder, headers_seconds=1.0) as place:
        connection = connect(place, sent)
        assert 0.5 < seconds_until_closed(connection, drip) < 8
        assert is_well(place)


def test_more_connections_than_there_are_places_do_not_lock_out_others(folder):
    """1,030 connections that never end their headers, from the same address as the good client."""
    with service(folder, headers_seconds=60) as place, UnfinishedConnections(*place, 1030) as attack:
        until(lambda: attack.opened >= 1030, 30)
        with httpx2.Client(base_url=f"http://{place[0]}:{place[1]}", timeout=20) as client:
            for _ in range(5):
                assert ask(client, "/predict", images.encode_png(SMALL)).status_code == 200


def test_a_connection_whose_request_is_in_progress_is_not_closed_for_others(folder):
    with (
        service(folder, max_requests=1, headers_seconds=60) as place,
        ExitStack() as stack,
    ):  # 8 connections, 4 an address
        body = images.encode_png(SMALL)
        form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + body + b"\r\n--b--\r\n"
        busy = connect(place, FORM + b"Content-Length: %d\r\n\r\n" % len(form) + form[:50])
        time.sleep(0.3)
        others = [stack.enter_context(connect(place, HEAD)) for _ in range(20)]
        time.sleep(0.3)
        busy.sendall(form[50:])
        assert busy.recv(100).startswith(b"HTTP/1.1 200")
        assert seconds_until_closed(others[0]) < 1  # the oldest gave way
        busy.close()


def test_an_answer_that_nobody_takes_is_ended_and_frees_its_place(folder):
    with service(folder, max_requests=1, timeout_seconds=3, headers_seconds=1) as place:
        body = images.encode_png(np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8))
        head = b'--b\r\nContent-Disposition: form-data; name="side"\r\n\r\n2000\r\n'
        form = (
            head
            + b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            + body
            + b"\r\n--b--\r\n"
        )
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(place)
        connection.sendall(FORM.replace(b"/predict", b"/preview") + b"Content-Length: %d\r\n\r\n" % len(form) + form)
        time.sleep(0.5)
        with httpx2.Client(base_url=f"http://{place[0]}:{place[1]}", timeout=20) as client:
            end = time.monotonic() + 20
            while (status := ask(client, "/predict", images.encode_png(SMALL)).status_code) == 503:
                assert time.monotonic() < end
                time.sleep(0.2)
            assert status == 200
        connection.close()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"400"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"400"),
        (b"Content-Length: 5\r\nContent-Length: 6", b"400"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"400"),
        (b"Transfer-Encoding: identity, chunked", b"400"),
        (b"Transfer-Encoding : chunked", b"400"),
        (b"Content-Length: +5", b"400"),
    ],
)  # fmt: skip
def test_a_request_whose_end_is_doubtful_closes_the_connection(folder, lines, status):
    """What follows may be another client's request that a proxy has put behind it: it must not be answered."""
    with service(folder) as place, connect(place) as connection:
        hidden = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.sendall(HEAD + lines + b"\r\n\r\n0\r\n\r\n" + hidden)
        answer = b""
        while piece := connection.recv(1 << 16):  # ends, since the connection does
            answer += piece
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1 ") == 1


def test_a_flood_of_bad_requests_does_not_fill_the_log(folder, capfd):
    with service(folder) as place:
        for _ in range(300):
            with connect(place, b"NONSENSE\r\n\r\n") as connection:
                while connection.recv(1 << 16):
                    pass
        for _ in range(20):
            httpx2.get(f"http://{place[0]}:{place[1]}/health", headers={"Connection": "upgrade", "Upgrade": "x"})
        assert is_well(place)
    lines = capfd.readouterr().err.splitlines()
    assert sum("Invalid HTTP request" in line for line in lines) >= 1
    assert len(lines) <= 62  # of two minutes, if one ends meanwhile
