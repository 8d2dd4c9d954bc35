"""The command, in this process or in one of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from mrm import cli, recipes


def run_cli(capsys, *arguments: str) -> tuple[int, str, str]:
    """`mrm` with these arguments: its exit status, standard output and standard error."""
    try:
        cli.main(list(arguments))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    return code, *capsys.readouterr()


def start_pretraining(tmp_path: Path, cfg: recipes.PretrainConfig, *launcher: str, env=None) -> subprocess.Popen:
    """The run as a user starts it, from its YAML file."""
    file = tmp_path / f"{cfg.out.name}.yaml"
    file.write_text(recipes.to_yaml(cfg))
    arguments = [sys.executable, *launcher, "-m", "mrm", "pretrain", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def run_ranks(command: list[str], processes: int, statuses: tuple[int, ...] = ()) -> list[str]:
    """What the ranks print of a command that is started as torchrun starts it, without torchrun's own seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }
    each = [{**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=e) for e in each
    ]
    ended = [process.communicate(timeout=600) for process in started]
    assert [p.returncode for p in started] == list(statuses or [0] * processes), ended
    return [out for out, _ in ended]
