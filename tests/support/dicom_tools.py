"""Independent readers of DICOM: dcmtk and dicom3tools, where this machine has them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str) -> str:
    """The path of a program; the test is skipped where it is absent."""
    return shutil.which(name) or pytest.skip(f"no {name} on this machine")


def output_of(name: str, *arguments: str | Path) -> str:
    """What a program prints, errors included. It has to succeed."""
    done = subprocess.run([program(name), *map(str, arguments)], capture_output=True, timeout=60)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, text
    return text


def shown(report: Path) -> str:
    """What dcmtk shows of a structured report, without the marks of HTML, in one line."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", output_of("dsr2html", report)))


def faults(file: Path) -> list[str]:
    """What dicom3tools finds that violates the standard; its warnings are left out."""
    done = subprocess.run([program("dciodvfy"), str(file)], capture_output=True, timeout=60)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    assert any(not line.startswith(("Error", "Warning")) for line in lines), "it names the kind of object"
    return [line for line in lines if line.startswith("Error")]
