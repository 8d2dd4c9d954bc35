"""Small files that cost a careless reader gigabytes or minutes, and connections that never say what they want.

`serve_load.py` sends them among good requests, and the tests read them one by one.
"""

from __future__ import annotations

import socket
import struct
import threading
import zlib

import cv2
import numpy as np

DEFLATED, EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"  # transfer syntaxes (PS3.6, A)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """A data element with explicit VR, little-endian (PS3.5, 7.1.2)."""
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return (
        struct.pack("<HH2s", group, number, vr) + struct.pack("<HL" if long else "<H", *(0,) * long, len(value)) + value
    )


def meta(syntax: bytes, preamble: bool) -> bytes:
    """The start of a DICOM file, with the 128 bytes and DICM or without them."""
    return (bytes(128) + b"DICM") * preamble + element(2, 0x10, b"UI", syntax + b"\0" * (len(syntax) % 2))


def deflated(megabytes: int, preamble: bool = False, content: bytes = b"") -> bytes:
    """A DICOM file that inflates to so many megabytes: of pixel data, or of `content` (1 MB) again and again."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = [meta(DEFLATED, preamble)]
    if not content:
        start = element(0x28, 0x10, b"US", b"\x40\0") + element(0x28, 0x11, b"US", b"\x40\0")
        body.append(pack.compress(start + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, megabytes * 1_000_000)))
    body.extend(pack.compress(content or bytes(1_000_000)) for _ in range(megabytes))
    return b"".join([*body, pack.flush()])


def elements(count: int) -> bytes:
    """A DICOM file of so many empty private elements."""
    return meta(EXPLICIT, True) + private_elements(count)


def private_elements(count: int) -> bytes:
    """So many empty private elements, 8 bytes each."""
    numbers = np.zeros(count, dtype=[("group", "<u2"), ("number", "<u2"), ("vr", "S2"), ("length", "<u2")])
    numbers["group"] = 0x0029 + 2 * (np.arange(count) >> 16)
    numbers["number"] = np.arange(count) & 0xFFFF
    numbers["vr"] = b"UL"
    return numbers.tobytes()


def scans(count: int, side: int = 4096) -> bytes:
    """A progressive JPEG whose last scan is there `count` times: about 100 bytes each, and each a pass over the image."""
    jpeg = cv2.imencode(".jpg", np.full((side, side), 90, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    end = jpeg.rfind(b"\xff\xd9")
    last = jpeg[jpeg.rfind(b"\xff\xda") : end]
    return jpeg[:end] + last * count + jpeg[end:]


def files() -> dict[str, bytes]:
    """The three attacks that are files."""
    return {
        "deflated DICOM without preamble": deflated(2000),
        "JPEG of 2,000 scans": scans(2000),
        "DICOM of 5.9 million elements": elements(5_900_000),
    }


class UnfinishedConnections:
    """Keeps `count` connections open that never end their headers, and opens a new one for each that is closed."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self.address, self.count, self.opened = (host, port), count, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> UnfinishedConnections:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        open_: list[socket.socket] = []
        while not self._stop.is_set():
            open_ = [s for s in open_ if self._goes_on(s)]
            while len(open_) < self.count and not self._stop.is_set():
                try:
                    new = socket.create_connection(self.address, timeout=5)
                    new.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                except OSError:
                    break
                open_.append(new)
                self.opened += 1
            self._stop.wait(5)
        for connection in open_:
            connection.close()

    @staticmethod
    def _goes_on(connection: socket.socket) -> bool:
        """Send one more header line; whether the connection still takes it."""
        try:
            connection.sendall(b"X-More: 1\r\n")
            return True
        except OSError:
            connection.close()
            return False
