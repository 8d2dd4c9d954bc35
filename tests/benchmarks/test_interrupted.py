"""Commands started twice at once and killed, as `benchmarks/interrupted.py` does it for all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "interrupted.py"


@pytest.mark.slow
def test_two_starts_and_kills_give_the_right_results(tmp_path):
    numbers = tmp_path / "numbers.json"
    words = ["--pairs", "3", "--kills", "6", "--only", "embed", "pretrain", "pack", "--json", str(numbers)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [command["command"] for command in json.loads(numbers.read_text())["commands"]] == [
        "embed",
        "pretrain",
        "pack",
    ]
