"""The command that runs the service: serve."""

from __future__ import annotations

import os
from pathlib import Path

from mrm.cli.command import commands
from mrm.serve.dicom_options import DicomOptions
from mrm.serve.limits import Limits
from mrm.serve.view_options import ViewOptions


def serve(
    model: Path,
    /,
    mrm: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    without_token: bool = False,
    watch: str | None = None,
    watch_seconds: float = 30.0,
    views: ViewOptions,
    dicom: DicomOptions,
    limits: Limits,
) -> None:
    """Serve a model on this machine: a page for people and an API for programs.

    Research software, not for clinical use. Open the address it prints; /openapi.json describes the API. Nothing is
    stored but the reports that options ask for, and nothing of an image or a report is logged.

    Example:
        mrm serve runs/nih-1 --mrm runs/mimic

    Models:
        model: a classifier, a segmenter or a pre-trained MRM: a model folder or a run.
        mrm: the pre-trained model that fills in reports and restores images.

    Archive:
        watch: the address of an archive (dicomweb://HOST/PATH?FILTERS); a report of each new study of today and yesterday,
            or of StudyDate=..., is stored in it. Needs the extras `archive` and `seg`.
        watch_seconds: between two searches; a study is complete when it has not grown from one to the next.

    Access:
        host: the address to listen on. By default only this machine can connect; any other address needs a token.
        port: of the address; 0 takes a free one and prints it.
        token: the bearer token that requests need (Authorization: Bearer TOKEN); by default that of the environment
            variable MRM_TOKEN.
        without_token: listen without a token on an address that others can reach, because something else protects it.
    """
    from mrm.serve import server

    server.serve(
        *(model, mrm, host, port, token or os.environ.get("MRM_TOKEN"), without_token, limits, watch, watch_seconds),
        dicom=dicom,
        views=views,
    )


COMMANDS = commands(serve)
