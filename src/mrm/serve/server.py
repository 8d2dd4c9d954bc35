"""Start the service and run it until it is stopped. The extra `serve` is needed only from here on."""

from __future__ import annotations

import importlib
import logging
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mrm.serve.dicom_options import DicomOptions
from mrm.serve.limits import Limits
from mrm.serve.view_options import ViewOptions
from mrm.system.errors import ConfigError, RunError
from mrm.system.hosts import is_loopback

if TYPE_CHECKING:
    from fastapi import FastAPI

MIN_TOKEN_LENGTH = 12  # characters; a shorter token can be guessed
OTHER_FILES = 256  # open files that are no connections: libraries, pipes, weights
BACKLOG = 1024  # connections that the system holds until they are accepted
LIBRARIES = ("fastapi", "python_multipart", "uvicorn")  # of the extra `serve`


def serve(
    model: Path,
    mrm: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    without_token: bool = False,
    limits: Limits | None = None,
    watch: str | None = None,
    watch_seconds: float = 30.0,
    dicom: DicomOptions | None = None,
    views: ViewOptions | None = None,
) -> None:
    """Serve until stopped (Ctrl-C or SIGTERM), then finish the requests in progress. Raises as `application` does.

    `watch` is the address of an archive whose new studies get a report (see `mrm.serve.watching`); `dicom` says how images
    are received (see `mrm.serve.receiving`), and `views` which of them are used (see `mrm.serve.view_options`).
    """
    require_extra()
    import uvicorn

    from mrm.serve.connections import allow_open_files

    limits, local = limits or Limits(), is_loopback(host)
    if not local and token is None and not without_token:
        raise ConfigError(
            f"--host {host} can be reached from other machines, so a bearer token is required: give --token TOKEN, or "
            "--without-token if something in front of this service already controls access"
        )
    host_names = frozenset({"127.0.0.1", "localhost", "[::1]", host}) if local else frozenset()
    app = application(model, mrm, token, limits, host_names, watch, watch_seconds, dicom, views)
    listener = listen(host, port)
    silence_libraries()
    app.state.service.log.take_over()
    allow_open_files(limits.connections + BACKLOG + OTHER_FILES)
    print(f"{address_of(host, listener)} serves {model}; not for clinical use; press Ctrl-C to stop", flush=True)
    if reception := app.state.service.reception:
        options = reception.options
        print(
            f"{options.dicom_title} receives images at {options.dicom_host} port {reception.port} (C-STORE)", flush=True
        )
    try:
        uvicorn.Server(server_config(app, limits)).run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped")
    finally:
        listener.close()


def application(
    model: Path,
    mrm: Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: frozenset[str] = frozenset(),
    watch: str | None = None,
    watch_seconds: float = 30.0,
    dicom: DicomOptions | None = None,
    views: ViewOptions | None = None,
) -> FastAPI:
    """The service as an ASGI application. Raises CheckpointError, RunError, ConfigError, ArchiveError, OutputError."""
    require_extra()
    check_token(token)
    from mrm.serve import decoding

    decoding.prepare()  # its imports and those of PyTorch take their time together
    from mrm.serve.app import create
    from mrm.serve.middleware import AccessPolicy
    from mrm.serve.models import load
    from mrm.serve.receiving import Reception
    from mrm.serve.watching import Watch
    from mrm.system.hardware import best_device

    limits, models, dicom = limits or Limits(), load(model, mrm, best_device()), dicom or DicomOptions()
    unattended = watch is not None or dicom.dicom_port is not None
    rule = (views or ViewOptions()).rule(unattended, models.eval_view is not None, models.name)
    watching = Watch.of(watch, watch_seconds, models) if watch else None
    reception = Reception.of(dicom, models, limits, watching.address if watching else None)
    return create(models, limits, AccessPolicy(token, hosts), watching, reception, rule)


def server_config(app: FastAPI, limits: Limits):
    """How uvicorn runs the application: without an access log, and with time to finish requests at the end.

    Requests beyond the limits are refused by the application, with a reason; connections by `mrm.serve.connections`.
    """
    import uvicorn

    from mrm.serve.connections import Connections

    return uvicorn.Config(
        app,
        http=Connections(limits).protocol,  # type: ignore[arg-type]  # it calls this for each connection
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=round(limits.timeout_seconds) + 5,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host} port {port} ({error}); choose another --port or --host") from error


def address_of(host: str, listener: socket.socket) -> str:
    """The address to open in a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def check_token(token: str | None) -> None:
    """Raises ConfigError for a token that can be guessed, or that does not fit into a header."""
    if token is None:
        return
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"a bearer token needs at least {MIN_TOKEN_LENGTH} ASCII characters without spaces; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )


def silence_libraries() -> None:
    """Silence libraries that quote what they read: a warning from pydicom may contain a patient's name.

    This is for the process of the service only. What a user must know of an image is in the answer.
    """
    import cv2

    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def require_extra() -> None:
    """Raises RunError if a library of the extra `serve` is missing."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RunError(
                f"the service needs {name}, which is not installed: pip install 'mrm-radiograph[serve]'"
            ) from error
