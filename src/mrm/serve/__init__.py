"""A model as a service on this machine, with a page for people: `mrm serve`.

`limits` is what it takes on, `answers` what it says, `queue` the threads that work, `gate` what every request
passes, `app` the routes; page.html, page.css and page.js are the page. Nothing is stored, and nothing of an image
or a report is logged. The package needs the extra `serve` only once it starts.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mrm.serve.limits import Limits
from mrm.system.errors import ConfigError, RunError

if TYPE_CHECKING:
    from fastapi import FastAPI

LEAST_TOKEN = 12  # characters; a shorter one can be guessed


def application(
    model: Path,
    mrm: Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: frozenset[str] = frozenset(),
) -> FastAPI:
    """The service as an ASGI application. Raises CheckpointError, RunError, ConfigError."""
    require_extra()
    check_token(token)
    from mrm.serve import answers
    from mrm.serve.app import create
    from mrm.serve.gate import Policy
    from mrm.system.hardware import best_device

    return create(answers.load(model, mrm, best_device()), limits or Limits(), Policy(token, hosts))


def serve(
    model: Path,
    mrm: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    without_token: bool = False,
    limits: Limits | None = None,
) -> None:
    """Serve until stopped (Ctrl-C, SIGTERM), then finish what has been taken in. Raises as `application`."""
    require_extra()
    import uvicorn

    limits, local = limits or Limits(), is_loopback(host)
    if not local and token is None and not without_token:
        raise ConfigError(
            f"--host {host} can be reached from other machines: give a --token, or say --without-token if "
            "something before this service keeps strangers out"
        )
    names = frozenset({"127.0.0.1", "localhost", "[::1]", host}) if local else frozenset()
    app = application(model, mrm, token, limits, names)
    listening = listen(host, port)
    keep_quiet()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(limits.seconds) + 5,
        limit_concurrency=16 * limits.queue,  # connections; requests beyond the queue get their own 503 before
    )
    shown = f"[{host}]" if ":" in host else host
    print(
        f"http://{shown}:{listening.getsockname()[1]} serves {model}; not for clinical use; Ctrl-C stops it", flush=True
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print("stopped")
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host} port {port} ({error}); choose another --port or --host") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str | None) -> None:
    """Raises ConfigError for a token that is no protection, or that no header can carry."""
    if token is None:
        return
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"a token needs at least {LEAST_TOKEN} plain characters without spaces, for example from "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )


def keep_quiet() -> None:
    """Silence libraries that quote what they read: a warning of pydicom's may hold a patient's name.

    For the process of the service only. What a user must know of an image is in the answer.
    """
    import cv2

    warnings.simplefilter("ignore")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def require_extra() -> None:
    """Raises RunError where the libraries of the extra `serve` are missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RunError(f"a service needs {error.name}: pip install 'mrm-radiograph[serve]'") from error
