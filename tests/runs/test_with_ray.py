"""The shares of a command on a local Ray cluster, of which one worker is killed in the middle."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mrm import runs
from mrm.audit.overlaps import AuditReport
from mrm.corpora.options import Options
from mrm.data.config import PackConfig
from mrm.runs import with_ray
from mrm.system.errors import ConfigError, MRMError, RunError
from mrm.system.lock import holder_of
from mrm.system.shares import WHOLE, Share
from tests.support.image_files import contents
from tests.support.predictions import IN_PROCESS
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
START += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
PORTS = (
    "port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two workers on this machine with a token of its own, in processes that end with `ray start --block`."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))  # ports that are known need not be waited for
    given = [f"--{name}={port}" for name, port in ports.items()]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray = pytest.importorskip("ray")  # which reads them
        head = subprocess.Popen([*START, *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            lines = list(up_to(head.stdout, "Ray runtime started"))
            assert "Ray runtime started" in lines[-1], "".join(lines)
            ray.init(address=f"127.0.0.1:{ports['port']}", log_to_driver=False)
            yield ray
        finally:
            ray.shutdown()
            head.terminate()
            head.wait(60)


def up_to(lines: Iterable[str], text: str) -> Iterator[str]:
    for line in lines:
        yield line
        if text in line:
            return


def kill_once(lock: Path, part: Path, begun: int, killed: list[int]) -> None:
    """Kill the process that holds a lock once the part of its rows has more bytes than it had."""
    until(lambda: part.is_file() and part.stat().st_size > begun and holder_of(lock), 300)
    killed.append(holder_of(lock).pid)
    os.kill(killed[0], signal.SIGKILL)


@contextmanager
def killing(out: Path) -> Iterator[None]:
    """Kill the process of share 2 of 2 once, in the middle of its rows, while the block runs."""
    killed = list[int]()
    lock, part = out.with_name(f".{out.name}.lock.2-of-2"), out.with_name(f"{out.name}.partial") / "part-2-of-2.jsonl"
    begun = part.stat().st_size if part.is_file() else 0
    killer = threading.Thread(target=kill_once, args=(lock, part, begun, killed))
    killer.start()
    yield
    killer.join()
    assert killed


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_changes_no_byte(cluster, model, phantoms, tmp_path):
    given = [phantoms / "images"] * 8  # long enough to be killed in its middle
    reading, out = replace(IN_PROCESS, batch=2), tmp_path / "p.csv"
    with (
        killing(out),
        pytest.raises(RunError, match=r"share 2/2: Ray gave it up after 0 retries .*what is done is kept"),
    ):
        with_ray.run_with_ray(runs.predict, model, given, out, reading, shares=2, retries=0)
    with killing(out):
        written = with_ray.run_with_ray(runs.predict, model, given, out, reading, shares=2)
    assert (written.n, written.unreadable, written.written) == (384, 0, True)
    alone = with_ray.run_with_ray(runs.predict, model, given, tmp_path / "alone.csv", reading, shares=1)
    assert alone.n == 384
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    packing = with_ray.run_with_ray(
        runs.pack, phantoms / "records.csv", tmp_path / "packed", PackConfig(64, rows=10), workers=1, shares=3
    )
    assert (packing.index.rows, len(packing.index.files)) == (48, 5)
    how = Options(table=(phantoms / "records.csv",), classes=("effusion",), workers=1)
    for out, shares in (("prepared", 3), ("alone", 1)):
        report = with_ray.run_with_ray(runs.prepare, "custom", phantoms, tmp_path / out, how, shares=shares)
        assert isinstance(report, AuditReport)
    assert contents(tmp_path / "prepared") == contents(tmp_path / "alone")
    with pytest.raises(MRMError, match="nothing"):  # as the command itself raises it
        with_ray.run_with_ray(runs.predict, tmp_path / "nothing", given, tmp_path / "none.csv", reading, shares=2)


def test_the_share_goes_where_the_command_takes_it():
    positional, named = with_ray._arguments(runs.pack, Share(2, 3), ("a.csv", "out", PackConfig()), {"workers": 1})
    assert {*positional, *named.values()} >= {"a.csv", "out", Share(2, 3), 1}
    positional, named = with_ray._arguments(runs.predict, Share(2, 3), ("model", ["a.png"], "p.csv"), {})
    reading = next(value for value in positional if isinstance(value, runs.Reading))
    assert reading == runs.Reading(share=Share(2, 3))
    assert positional[:3] == ("model", ["a.png"], "p.csv")
    assert runs.Reading().share == WHOLE
    with pytest.raises(ConfigError, match="evaluate is not done in shares; choose from predict, embed, pack, prepare"):
        with_ray._arguments(runs.evaluate, Share(2, 3), ("model", "a.csv", "out"), {})


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray, which is not installed: pip install 'mrm-radiograph\[ray\]'"):
        with_ray.run_with_ray(runs.predict, "model", [], "p.csv", shares=2)
