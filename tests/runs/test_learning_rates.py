"""A learning rate chosen by short runs: which were tried, which was taken, and what is not done twice."""

import json
from dataclasses import replace

import pytest

import mrm
from mrm import runs
from mrm.runs import finetuning, learning_rates
from mrm.system.errors import RunError
from tests.support.configs import finetune_config
from tests.support.run_files import sigterm_after, table, trace

NAN = float("nan")


@pytest.fixture
def scored(monkeypatch):
    """Validations that give these scores one after the other: of each rate, then of the run. Short runs have 2 steps."""
    monkeypatch.setattr(learning_rates, "LEAST", 2)

    def script(*scores: float) -> None:
        left = iter(scores)
        monkeypatch.setattr(finetuning, "validation", lambda *_: lambda *_: {"score": next(left)})

    return script


def config_of(phantoms, pretrained_run, out, **changes):
    settings = {"steps": 6, "log_every": 1, "validate_every": 6, "floors": False, **changes}
    return replace(finetune_config(phantoms, pretrained_run, out, **settings), lr="auto")


def test_the_rate_with_the_best_auroc_is_taken_and_all_are_logged(phantoms, pretrained_run, tmp_path, scored, capsys):
    scored(0.5, 0.8, 0.7, NAN, 0.6, 0.9)
    run = runs.finetune(config_of(phantoms, pretrained_run, tmp_path / "run"))
    results = json.loads((run / "learning-rates.json").read_text())
    assert [t["lr"] for t in results["tried"]] == pytest.approx([1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
    assert [t["val_auroc"] for t in results["tried"]] == [0.5, 0.8, 0.7, None, 0.6]
    assert results["tried"][3]["why"] == "the logits are not finite"
    assert {t["steps"] for t in results["tried"]} == {2}
    assert results["chosen"] == pytest.approx(3e-4)
    assert mrm.load(run).card.origin["lr"] == pytest.approx(3e-4)
    assert max(float(row["lr"]) for row in trace(run)) == pytest.approx(3e-4)  # at its peak
    assert [len(trace(run / "learning-rates" / name)) for name in ("0.1", "10")] == [2, 2]
    assert not list(run.glob("learning-rates/*/checkpoints"))  # a short run leaves its logs alone
    printed = capsys.readouterr().out
    assert "3.00e-04" in printed
    assert "chosen" in printed


def test_a_stop_among_the_short_runs_repeats_none_that_has_its_result(phantoms, pretrained_run, tmp_path, scored):
    config = config_of(phantoms, pretrained_run, tmp_path / "run")
    scored(0.5, 0.8, 0.7, 0.6, 0.6, 0.9)
    whole = runs.finetune(config_of(phantoms, pretrained_run, tmp_path / "whole"))
    scored(0.5)
    with pytest.raises(StopIteration):  # the second short run ends without a result
        runs.finetune(config)
    scored(0.8, 0.7, 0.6, 0.6, 0.9)
    with sigterm_after(1), pytest.raises(SystemExit):  # of the second short run
        runs.finetune(config)
    assert [t["val_auroc"] for t in json.loads((config.out / "learning-rates.json").read_text())["tried"]] == [0.5]
    runs.finetune(config)
    assert (config.out / "learning-rates.json").read_text() == (whole / "learning-rates.json").read_text()
    assert trace(config.out) == trace(whole)
    scored()  # a finished run asks for nothing more
    runs.finetune(config)
    assert [row["step"] for row in table(config.out / "validation.csv")] == ["6"]


def test_where_no_rate_gives_an_auroc_the_run_is_refused_with_what_to_do(phantoms, pretrained_run, tmp_path, scored):
    scored(*[NAN] * 5)
    with pytest.raises(RunError, match=r"no learning rate gave an AUROC .* choose one with --training\.lr"):
        runs.finetune(config_of(phantoms, pretrained_run, tmp_path / "run"))
