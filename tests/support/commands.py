"""The command, in this process or in one of its own."""

import os
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
