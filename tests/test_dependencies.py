"""What is installed has no known fault: the ranges that the package states, and the versions that its tests run with."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]

# The first version without the faults that were known when this table was last looked through, and the last of them.
# Direct dependencies must state it; those of others are held to it by constraints.txt.
SAFE = {
    "fastapi": ("0.133", "the first to accept starlette 1"),
    "h11": ("0.16", "CVE-2025-43859: request smuggling by chunks that end wrongly"),
    "jinja2": ("3.1.6", "CVE-2025-27516: sandbox breakout"),
    "onnx": ("1.21", "CVE-2026-27489, CVE-2026-34445: files outside the model's folder, attributes from a model"),
    "opencv-python-headless": ("5.0.0.93", "CVE-2025-53644 of JPEG 2000; CVE-2026-40962 of the FFmpeg inside"),
    "pillow": ("12.3", "PYSEC-2026-2253 to 2257 and 3451 to 3453, after CVE-2026-40192 and CVE-2026-25990"),
    "protobuf": ("6.33.5", "CVE-2026-0994: endless recursion"),
    "pyarrow": ("23.0.1", "CVE-2026-25087: use after free in the IPC reader"),
    "pydicom": ("3.0.2", "CVE-2026-32711: paths outside a file set"),
    "python-multipart": ("0.0.31", "GHSA-5rvq-cxj2-64vf and earlier: quadratic parsing, unbounded headers"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials of another host"),
    "scikit-learn": ("1.5", "CVE-2024-5206: words of the training data kept"),
    "setuptools": ("78.1.1", "CVE-2025-47273: path traversal"),
    "starlette": ("1.3.1", "GHSA-82w8-qh3p-5jfq, GHSA-86qp-5c8j-p5mr: limits of forms ignored, hosts not checked"),
    "torch": ("2.12.1", "CVE-2025-3000, after CVE-2025-32434: memory corruption, code in weights"),
    "urllib3": ("2.6.3", "CVE-2026-21441, after CVE-2025-66471: decompression bombs"),
    "werkzeug": ("3.1.6", "CVE-2026-27199: device names of Windows"),
}


def stated() -> dict[str, list[Requirement]]:
    """Every requirement of pyproject.toml by package: of the build, of the package and of its extras."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = content["project"]["optional-dependencies"].values()
    lines = [*content["build-system"]["requires"], *content["project"]["dependencies"], *(r for e in extras for r in e)]
    by_name: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        if requirement.name != "mrm-radiograph":  # the extra `test` names the other extras
            by_name.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return by_name


def pinned() -> dict[str, Version]:
    """The versions of constraints.txt by package."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.+!]+)", line) for line in lines if line]
    assert all(pins), "every line of constraints.txt names one version"
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins}


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = (Version(s.version) for s in requirement.specifier if s.operator == ">=")
    return bound


@pytest.mark.parametrize("name", sorted(stated()))
def test_a_dependency_states_a_lower_bound_and_the_pinned_version_is_within_its_range(name):
    for requirement in stated()[name]:
        assert lower_bound(requirement) is not None
        if name != "setuptools":  # which pip fetches to build, apart from what is installed
            assert requirement.specifier.contains(pinned()[name], prereleases=True), f"{requirement}: {pinned()[name]}"


@pytest.mark.parametrize("name", sorted(SAFE))
def test_no_version_with_a_known_fault_is_allowed_or_pinned(name):
    safe, fault = SAFE[name]
    for requirement in stated().get(name, []):
        assert lower_bound(requirement) >= Version(safe), f"{requirement} allows {fault}"
    assert name == "setuptools" or pinned()[name] >= Version(safe), fault


def test_what_reads_requests_from_the_network_is_named_although_others_bring_it():
    assert {"starlette", "h11", "python-multipart"} <= set(stated())


def test_every_dependency_is_pinned():
    assert set(stated()) - {"setuptools"} - set(pinned()) == set()
