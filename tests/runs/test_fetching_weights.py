"""`mrm weights`: what is listed is complete, and what is fetched from a hub (a server of this test) is checked."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mrm import runs
from mrm.models import known_weights
from mrm.models.known_weights import KNOWN, TRANSFORMERS, KnownWeights, identify
from mrm.system.errors import ConfigError, RunError
from tests.support.commands import run_cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A hub that has some files: the content sent, and the hash that it states for it, by name."""

    files: dict[str, tuple[bytes, str]]
    asked: list[str]


class Answer(BaseHTTPRequestHandler):
    """What the hub says of a file, and the file."""

    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        name = self.path.rpartition("/")[2]
        self.server.asked.append(f"{self.command} {self.path}")
        content, etag = self.server.files.get(name, (b"", ""))
        self.send_response(200 if etag else 404)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))} if etag else {}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        return content

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(monkeypatch):
    server = Hub(("127.0.0.1", 0), Answer)
    server.files, server.asked = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(monkeypatch):
    """A model of two small files, one of them with a hash that is known."""
    weights = b"weights" * 100
    known = KnownWeights(
        "small", "a small model", ("a set",), "MIT", repository="someone/small", files=("config.json", "model.safetensors"),
        sha256={"model.safetensors": sha256(weights)},
    )  # fmt: skip
    monkeypatch.setitem(KNOWN, "small", known)
    return {"config.json": (b"{}", "a" * 40), "model.safetensors": (weights, sha256(weights))}


def test_weights_are_fetched_into_a_folder_once_and_said_to_be_ready(hub, published, tmp_path, capsys):
    hub.files = published
    code, out, error = run_cli(capsys, "weights", "get", "small", "--out", str(tmp_path))
    assert code == 0, error
    folder = Path(out.splitlines()[0].removeprefix("small: "))
    assert tmp_path in folder.parents
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {k: v for k, (v, _) in published.items()}
    assert f"next: --init {folder}" in out
    assert "licence: MIT" in out
    hub.asked.clear()
    assert runs.fetch_weights("small", tmp_path) == folder
    assert not [asked for asked in hub.asked if asked.startswith("GET")]


@pytest.mark.parametrize("source", ["known", "stated"])
def test_a_file_with_another_hash_is_removed_and_named(source, hub, published, monkeypatch, tmp_path):
    damaged = published["model.safetensors"][0].replace(b"w", b"x")
    if source == "known":  # the hub has another file than the one that is known, and says so
        hub.files = {**published, "model.safetensors": (damaged, sha256(damaged))}
    else:  # the hub sends something else than it states, and nothing is known
        hub.files = {**published, "model.safetensors": (damaged, published["model.safetensors"][1])}
        monkeypatch.setitem(KNOWN["small"].sha256, "model.safetensors", "")
    with pytest.raises(
        RunError, match=r"model\.safetensors: removed, since its SHA-256 is \w{64}, and \w{64} was"
    ) as error:
        runs.fetch_weights("small", tmp_path)
    assert sha256(damaged) in str(error.value)
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.read_bytes() == damaged]
    hub.files = published
    assert (runs.fetch_weights("small", tmp_path) / "model.safetensors").read_bytes() == published["model.safetensors"][
        0
    ]


def test_what_the_hub_does_not_have_is_named(hub, published, tmp_path):
    hub.files = {"config.json": published["config.json"]}
    with pytest.raises(RunError, match=r"small: model\.safetensors cannot be fetched from someone/small \("):
        runs.fetch_weights("small", tmp_path)


def test_what_is_not_on_the_hub_says_where_it_is(capsys):
    code, _, error = run_cli(capsys, "weights", "get", "mgca-vit-base")
    assert (code, error.count("\n")) == (2, 1)
    assert "https://github.com/HKU-MedAI/MGCA, which `mrm weights get` cannot fetch" in error


def test_listing_fetches_nothing_and_says_what_is_unknown(hub, capsys):
    code, out, _ = run_cli(capsys, "weights")
    assert (code, hub.asked) == (0, [])
    assert all(f"{name}: " in out for name in KNOWN)
    code, out, _ = run_cli(capsys, "weights", "list", "medical-mae-base")
    assert "licence: unknown" in out
    assert "SHA-256: unknown" in out
    assert "rad-dino" not in out
    code, _, error = run_cli(capsys, "weights", "get", "rad")
    assert (code, error.count("\n")) == (2, 1)
    assert "unknown weights 'rad'; choose from rad-dino" in error


def test_published_weights_are_known_by_the_names_of_their_files_and_folders(tmp_path):
    cached = tmp_path / "models--microsoft--rad-dino" / "snapshots" / COMMIT
    cases = {
        cached: "rad-dino",
        tmp_path / "rad-dino": "rad-dino",
        tmp_path / "eva_x_base_patch16_merged520k_mim.pt": "eva-x-base",
        tmp_path
        / "models--MapleF--eva_x"
        / "snapshots"
        / COMMIT
        / "eva_x_tiny_patch16_merged520k_mim.pt": "eva-x-tiny",
        Path(f"timm:vit_base_patch16_224={tmp_path / 'vit-b_CXR_0.5M_mae.pth'}"): "medical-mae-base",
        tmp_path / "runs" / "mimic": None,
        tmp_path / "models--MapleF--eva_x" / "snapshots" / COMMIT / "other.pt": None,
    }
    named = {path: identify(path) for path in cases}
    assert {path: known and known.name for path, known in named.items()} == cases


def test_every_entry_says_what_a_user_needs():
    for known in KNOWN.values():
        assert known.trained_on, known.name
        assert known.files, known.name
        assert bool(known.repository) != bool(known.page), known.name
        assert known.is_folder == (known.files == TRANSFORMERS), known.name
    with pytest.raises(ConfigError, match="unknown weights 'x'; choose from rad-dino"):
        known_weights.find("x")
