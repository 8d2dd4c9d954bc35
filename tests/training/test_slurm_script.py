"""The script for SLURM: a job is requeued when that helps, and only then."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*No CUDA runtime.*")
SCRIPT = Path(__file__).parents[2] / "examples" / "slurm_pretrain.sh"


def submitted(tmp_path: Path, step: str, **environment: str) -> tuple[int, str, str]:
    """The example as SLURM would run it, with `step` in the place of srun: status, output, what was asked of SLURM."""
    tools = tmp_path / "bin"
    tools.mkdir()
    asked = tmp_path / "asked"
    scontrol = f'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> {asked}; fi'
    for name, body in (("srun", f'echo "$@" > {tmp_path}/srun\n{step}'), ("scontrol", scontrol)):
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    known = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "RUN": "run"}
    done = subprocess.run(
        ["bash", str(SCRIPT), "--seed", "3"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": f"{tools}:{os.environ['PATH']}", **known, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, asked.read_text().strip() if asked.exists() else ""


SAVES = "mkdir -p run; ln -sfn checkpoints/step-00000040 run/last"


def test_a_finished_job_is_not_requeued(tmp_path):
    status, said, asked = submitted(tmp_path, f"{SAVES}; exit 0")
    assert (status, asked) == (0, ""), said
    line = (tmp_path / "srun").read_text()
    assert "--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:29500 --rdzv-id 7" in line
    assert line.strip().endswith("-m mrm pretrain mimic --records training.csv --out run --seed 3")


def test_a_job_that_was_stopped_after_it_got_further_is_requeued(tmp_path):
    assert submitted(tmp_path, f"{SAVES}; exit 1")[::2] == (0, "requeue 7")


def test_a_job_whose_shell_is_signalled_too_still_waits_for_its_step(tmp_path):
    status, said, asked = submitted(tmp_path, f"kill -TERM $PPID; sleep 1; {SAVES}; exit 1")
    assert (status, asked) == (0, "requeue 7"), said


@pytest.mark.parametrize("further", [True, False])
def test_a_job_that_cannot_get_on_is_not_requeued_for_ever(tmp_path, further):
    step, count = (f"{SAVES}; exit 1", "100") if further else ("exit 2", "0")
    status, _, asked = submitted(tmp_path, step, SLURM_RESTART_COUNT=count)
    assert (status, asked) == (1 if further else 2, "")
