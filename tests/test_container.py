"""Containerfile and compose.yaml agree with the package: extras, entry point, port, health, user, options, and the page about them."""

import ast
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from mrm.cli import service as service_command
from mrm.serve.page_files import PATHS
from mrm.serve.server import is_loopback, serve

ROOT = Path(__file__).parents[1]
CONTAINERFILE = (ROOT / "Containerfile").read_text()
PAGE = (ROOT / "docs" / "container.md").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
ORTHANC = json.loads((ROOT / "deploy" / "orthanc.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICES = COMPOSE["services"]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", CONTAINERFILE, flags=re.MULTILINE))
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[list(found)[-1]].append((word, rest.strip()))
    return found


def only(stage: str, word: str) -> str:
    (rest,) = [rest for name, rest in stages()[stage] if name == word]
    return rest


def test_it_installs_extras_of_the_package_in_pinned_versions():
    (install,) = [rest for word, rest in stages()["build"] if word == "RUN" and '".[' in rest]
    assert "-c constraints.txt" in install
    extras = re.search(r"\.\[([a-z,]+)\]", install)[1].split(",")
    assert {"archive", "dicom", "explain", "seg", "serve"} <= set(extras) <= set(PROJECT["optional-dependencies"])


def test_what_it_copies_is_there_and_let_through():
    through = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for stage, lines in stages().items():
        for _, rest in [line for line in lines if line[0] == "COPY" and "--from" not in line[1]]:
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), (stage, name)
                assert name.split("/")[0] in through, (stage, name)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()  # everything else stays out


def test_the_last_stage_is_the_service_as_a_user_without_rights():
    assert list(stages())[-1] == "mrm"
    assert json.loads(only("mrm", "ENTRYPOINT")) == ["tini", "--", next(iter(PROJECT["scripts"]))]
    assert any(word == "RUN" and " tini " in rest for word, rest in stages()["mrm"])
    for stage in ("mrm", "orthanc"):
        user, group = only(stage, "USER").split(":")
        assert int(user) == int(group) >= 10_000
    command = json.loads(only("mrm", "CMD"))
    assert command[0] == "serve"
    options = {word.removeprefix("--").replace("-", "_") for word in command if word.startswith("--")}
    assert options <= set(inspect.signature(service_command.serve).parameters)
    assert not is_loopback(command[command.index("--host") + 1])  # so that it demands a token


def test_port_and_health_check_are_those_of_the_service():
    port = str(inspect.signature(serve).parameters["port"].default)
    assert only("mrm", "EXPOSE") == port
    check = only("mrm", "HEALTHCHECK")
    script = json.loads(check[check.index("CMD") + 4 :])[2]
    ast.parse(script)
    assert f"http://127.0.0.1:{port}/health" in script
    assert SERVICES["mrm"]["healthcheck"]["test"] == ["CMD", *json.loads(check[check.index("CMD") + 4 :])]
    assert "/health" not in PATHS  # it is a route of its own, which needs no token
    assert {port, *map(str, (ORTHANC["HttpPort"], ORTHANC["DicomPort"]))} == {
        mapping.rsplit(":", 1)[1] for service in SERVICES.values() for mapping in service["ports"]
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_of_compose_has_no_more_rights_than_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == only(service["build"]["target"], "USER")
    assert all(is_loopback(mapping.split(":")[0]) for mapping in service["ports"])
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_nothing_starts_without_its_secrets_and_the_model_is_read_only():
    text = (ROOT / "compose.yaml").read_text()
    named = set(re.findall(r"\$\{(\w+):\?", text))
    assert named == {"MRM_TOKEN", "MRM_MODEL", "ORTHANC_PASSWORD"}
    stated = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "compose.env.example").read_text(), re.MULTILINE))
    assert named <= stated.keys()
    assert [stated[name] for name in named] == [""] * 3  # no secret that somebody could keep
    (model,) = SERVICES["mrm"]["volumes"]
    assert model.endswith(":/model:ro")
    command = SERVICES["mrm"]["command"]
    assert command[:2] == ["serve", "/model"]
    options = {word.removeprefix("--") for word in command if word.startswith("--")}
    assert options <= set(inspect.signature(service_command.serve).parameters)
    address = urlsplit(command[command.index("--watch") + 1].removeprefix("dicomweb+"))
    assert address.hostname in SERVICES
    assert (address.port, f"{address.path}/") == (ORTHANC["HttpPort"], ORTHANC["DicomWeb"]["Root"])
    assert SERVICES["mrm"]["environment"]["MRM_DICOMWEB_USER"] in ORTHANC["RegisteredUsers"]
    assert ORTHANC["RegisteredUsers"] == {"mrm": "${ORTHANC_PASSWORD}"}
    assert ORTHANC["AuthenticationEnabled"] is True
    assert ORTHANC["StorageDirectory"] == SERVICES["orthanc"]["volumes"][0].split(":")[1] == "/archive"


def test_the_page_says_what_the_files_do():
    for word in ("8000", "8042", "4242", "10001", "/model", "/archive", "MRM_TOKEN", "ORTHANC_PASSWORD", "/health"):
        assert word in PAGE
    for service in SERVICES.values():
        assert service["mem_limit"].removesuffix("g") + " GB" in PAGE
    (run,) = [
        block for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) if block.startswith("podman run --read-only")
    ]
    words = shlex.split(run.replace("\\\n", " "))
    assert {"--read-only", "--cap-drop", "--user", "--tmpfs"} <= set(words)
    variants = re.findall(r"^\s*(\w+)\) ", CONTAINERFILE, re.MULTILINE)
    assert set(variants) == {"cpu", "cuda"}
