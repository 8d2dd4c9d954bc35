"""The command: help worth reading, errors in one line, a run from a recipe and from its own YAML."""

import subprocess
import sys

import pytest

from mrm import cli
from mrm.cli import training
from tests.support.commands import run_cli


def test_help_lists_every_command(capsys):
    code, out, _ = run_cli(capsys, "--help")
    assert code == 0
    for name in cli.COMMANDS:
        assert f"mrm {name} " in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run_cli(capsys, command, "--help")
    assert code == 0
    assert "usage" in out
    for slip in ("{None}", "(default: )", "(default: None)", "type: ignore"):
        assert slip not in out


def test_what_goes_without_an_option_has_a_name(capsys):
    for command, words in {
        "compare": "FIRST SECOND --out",
        "predict": "MODEL PATHS ...",
        "recipes": "[-h] [NAME]",
        "benchmark": "SUITE",
    }.items():
        assert words in run_cli(capsys, command, "--help")[1].splitlines()[0]


@pytest.mark.parametrize(("command", "recipe"), [(c, r) for c, t in training.TRAINING.items() for r in t.recipes])
def test_every_recipe_prints_whole_and_explains_its_options(capsys, command, recipe):
    code, out, _ = run_cli(capsys, "recipes", recipe)
    assert code == 0
    assert "training:" in out
    code, out, _ = run_cli(capsys, command, recipe, "--help")
    assert code == 0
    assert "--max-steps" in out
    assert "--seed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian"], "no command 'pretrian'"),
        (["pretrain", "mimik", "--records", "a", "--out", "b"], "unknown recipe 'mimik'; choose from mimic"),
        (["pretrain", "tiny", "--records", "none.csv", "--out", "{tmp}/run"], "none.csv: no such file of records"),
        (["evaluate", "nowhere", "--records", "a", "--out", "b"], "nowhere: no such file or folder"),
        (["pretrain", "--config", "none.yaml"], "--config needs a YAML file"),
    ],
)
def test_errors_are_one_line_and_exit_with_two(capsys, tmp_path, arguments, message):
    code, _, err = run_cli(capsys, *(a.replace("{tmp}", str(tmp_path)) for a in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("mrm: error: ")
    assert "Traceback" not in err


def test_a_place_that_cannot_be_written_to_is_one_line(capsys, phantoms, tmp_path):
    (tmp_path / "file").touch()
    file, out = str(phantoms / "records.csv"), str(tmp_path / "file" / "t.json")
    code, _, err = run_cli(capsys, "tokenizer", file, "--out", out)
    assert code == 2
    assert err.startswith("mrm: error: ")
    assert err.count("\n") == 1
    assert "right to write" in err


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.COMMANDS["demo"]._replace(run=interrupted))
    assert run_cli(capsys, "demo") == (130, "", "mrm: interrupted\n")


def test_a_run_can_be_given_back_as_its_yaml(capsys, phantoms, tmp_path):
    options = ["--max-steps", "2", "--training.global-batch", "4", "--training.workers", "0", "--audit", "names"]
    code, out, err = run_cli(
        capsys, "pretrain", "tiny", "--records", str(phantoms / "records.csv"), "--out", str(tmp_path / "a"), *options
    )
    assert code == 0, err
    assert "step 2/2" in out
    code, out, err = run_cli(
        capsys, "pretrain", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")
    )
    assert code == 0, err
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()


def test_audit_answers_with_its_exit_status(capsys, phantoms, tmp_path):
    file = str(phantoms / "records.csv")
    code, out, _ = run_cli(capsys, "audit", file, file, "--no-images", "--json", str(tmp_path / "verdict.json"))
    assert code == 1
    assert "NOT clean" in out
    assert (tmp_path / "verdict.json").is_file()


def test_the_module_runs_as_a_script():
    done = subprocess.run([sys.executable, "-m", "mrm", "recipes", "nih-1"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "lr: 0.03" in done.stdout
