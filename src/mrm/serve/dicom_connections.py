"""The port that images are sent to by DICOM's own protocol: who may connect, in which encodings, and what a connection may cost.

`pynetdicom` (extra `archive`) speaks the protocol. It has no limit on the length of a message or the time it takes, so the
connections themselves have them: a peer that exceeds one is cut off, whatever the state of the protocol.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import socketserver
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mrm.serve.dicom_options import DicomOptions
from mrm.serve.limits import Limits
from mrm.system.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pynetdicom.transport import ThreadedAssociationServer

ASSOCIATIONS = 4  # connections at once; a further one is closed
ENDING = 60  # associations whose connection has closed, and which pynetdicom has not ended yet
LONGEST_SECONDS = 3600.0  # of a connection, whatever it brings
COMMANDS = 1_000_000  # bytes beside the image: the association and the command
STORAGE = (  # of radiographs: CR, DX for presentation, DX for processing
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1.1",
)
VERIFICATION = "1.2.840.10008.1.1"


class Connection(socket.socket):
    """A connection that ends with an OSError where a message is too long or takes too long; an answer begins the next one."""

    def __init__(self, accepted: socket.socket, limits: Limits) -> None:
        super().__init__(fileno=accepted.detach())
        self.settimeout(limits.timeout_seconds)
        self._limits, self._opened = limits, time.monotonic()
        self._received, self._began = 0, self._opened

    def recv(self, count: int, flags: int = 0) -> bytes:
        """Receive, and count."""
        data = super().recv(count, flags)
        now = time.monotonic()
        if not self._received:
            self._began = now
        self._received += len(data)
        if self._received > self._limits.body_bytes + COMMANDS:
            raise OSError("the message is too long")
        if now - self._began > self._limits.timeout_seconds or now - self._opened > LONGEST_SECONDS:
            raise TimeoutError("the message takes too long")
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Send an answer; what comes next is another message."""
        self._received = 0
        return super().send(data, flags)

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self.fileno() != -1

    def cut(self) -> None:
        """End it at once."""
        with suppress(OSError):  # where it has ended
            self.shutdown(socket.SHUT_RDWR)


def listen(options: DicomOptions, limits: Limits, store: Callable[[Any], Any]) -> ThreadedAssociationServer:
    """The listening server, whose associations call `store` (an event handler of pynetdicom) with each image.

    Raises RunError where pynetdicom is missing, ConfigError for an address that cannot be used.
    """
    if importlib.util.find_spec("pynetdicom") is None:
        raise RunError("--dicom-port needs pynetdicom, which is not installed: pip install 'mrm-radiograph[archive]'")
    from pynetdicom import AE, _config, evt

    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # its messages quote what is sent
    entity = AE(options.dicom_title)
    entity.maximum_associations = ASSOCIATIONS + ENDING
    entity.require_called_aet = True
    entity.require_calling_aet = list(options.dicom_from)
    entity.acse_timeout = entity.dimse_timeout = limits.timeout_seconds
    entity.network_timeout = 2 * limits.timeout_seconds  # between two messages; reading an image is a part of it
    entity.add_supported_context(VERIFICATION)
    for kind in STORAGE:
        entity.add_supported_context(kind, encodings())
    assert options.dicom_port is not None
    try:
        server: ThreadedAssociationServer = entity.make_server(
            (options.dicom_host, options.dicom_port),
            evt_handlers=[(evt.EVT_C_STORE, store)],
            server_class=_server_class(limits),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot listen on {options.dicom_host} port {options.dicom_port} ({error}); choose another --dicom-port or "
            "--dicom-host"
        ) from error
    return server


def encodings() -> list[str]:
    """The transfer syntaxes that can be decoded here."""
    from pydicom import uid
    from pydicom.pixels import get_decoder

    plain = [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian]
    compressed = [
        uid.JPEGLosslessSV1,
        uid.JPEGLossless,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
    ]
    return [*plain, *(syntax for syntax in compressed if get_decoder(syntax).is_available)]


def _server_class(limits: Limits) -> type[ThreadedAssociationServer]:
    from pynetdicom.transport import ThreadedAssociationServer

    class Server(ThreadedAssociationServer):
        """The server of pynetdicom with limits on its connections."""

        request_queue_size = 16

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.connections: weakref.WeakSet[Connection] = weakref.WeakSet()
            super().__init__(*arguments, **options)

        def get_request(self) -> tuple[Connection, Any]:
            """Accept a connection."""
            accepted, address = super().get_request()
            connection = Connection(accepted, limits)
            self.connections.add(connection)
            return connection, address

        def verify_request(self, request: Any, client_address: Any) -> bool:
            """Whether there is room for it."""
            count = sum(connection.is_open for connection in list(self.connections))
            return count <= ASSOCIATIONS and len(self.active_associations) < ASSOCIATIONS + ENDING

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Print nothing of what was sent."""

        def shutdown(self) -> None:
            """Accept no more, and end what is open."""
            socketserver.BaseServer.shutdown(self)
            self.server_close()
            for connection in list(self.connections):
                connection.cut()

    return Server
