"""A run that is prolonged: what it does to the schedule is said, what was before is kept, and nothing else may change."""

import pytest

from mrm import recipes, runs
from mrm.models import model_folder
from mrm.system.errors import OutputError, RunError
from mrm.training.config import lr_at
from tests.support.configs import finetune_config, pretrain_config
from tests.support.run_files import trace, weights


def rates(run) -> list[float]:
    return [float(row["lr"]) for row in trace(run)]


def test_a_finished_run_goes_on_by_the_schedule_of_the_longer_one(phantoms, tmp_path, capsys):
    run = tmp_path / "run"
    runs.pretrain(pretrain_config(phantoms, run, steps=6))
    with pytest.raises(OutputError, match=r"training\.steps: 6, now 10.*To prolong the run, repeat it with more steps"):
        runs.pretrain(pretrain_config(phantoms, run))
    runs.pretrain(pretrain_config(phantoms, run, extend=True))
    schedule = {total: [lr_at(s, peak=1e-3, warmup=2, total=total) for s in range(total)] for total in (6, 10)}
    assert rates(run) == pytest.approx([*schedule[6], *schedule[10][6:]])
    said = capsys.readouterr().out
    assert "prolonged from 6 to 10 steps" in said
    assert f"it was {schedule[6][5]:.2e} in the last step and is {schedule[10][6]:.2e} in the next" in said
    assert model_folder.read_card(run / "last").origin["prolonged_at"] == [6]
    assert "steps: 6" in (run / "config-until-step-00000006.yaml").read_text()
    config = recipes.from_yaml(recipes.PretrainConfig, (run / "config.yaml").read_text())
    assert (config.training.steps, config.extend) == (10, False)


def test_a_prolonged_run_that_is_stopped_resumes_with_or_without_the_option(phantoms, tmp_path):
    run = tmp_path / "run"
    runs.pretrain(pretrain_config(phantoms, run, steps=6))
    runs.pretrain(pretrain_config(phantoms, run, extend=True))
    before = weights(run)
    for extend in (True, False):
        runs.pretrain(pretrain_config(phantoms, run, extend=extend))
        assert all((value == before[name]).all() for name, value in weights(run).items())
    assert [file.name for file in run.glob("config-until-*")] == ["config-until-step-00000006.yaml"]


def test_the_best_checkpoint_stays_the_best_of_the_whole_run(phantoms, pretrained_run, tmp_path):
    run = tmp_path / "run"
    runs.finetune(finetune_config(phantoms, pretrained_run, run, steps=6))
    runs.finetune(finetune_config(phantoms, pretrained_run, run, steps=12, extend=True))
    scores = {int(row["step"]): float(row["score"]) for row in _validation(run)}
    assert sorted(scores) == [6, 12]
    best = model_folder.read_card(run / "best").origin["step"]
    assert scores[best] == max(scores.values())


def _validation(run):
    from tests.support.run_files import table

    return table(run / "validation.csv")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 4}, RunError, "the run has done 6 steps, and 4 are not more; ask for more"),
        ({"steps": 10, "seed": 1}, OutputError, r"holds another run \(seed: 0, now 1\)"),
        ({"steps": 10, "lr": 0.5}, OutputError, r"training\.lr"),
    ],
)
def test_other_changes_and_fewer_steps_are_refused(phantoms, tmp_path, changes, error, message):
    run = tmp_path / "run"
    runs.pretrain(pretrain_config(phantoms, run, steps=6))
    before = [(run / name).read_bytes() for name in ("log.csv", "config.yaml")]
    with pytest.raises(error, match=message):
        runs.pretrain(pretrain_config(phantoms, run, extend=True, **changes))
    assert [(run / name).read_bytes() for name in ("log.csv", "config.yaml")] == before


def test_there_must_be_a_run_to_prolong(phantoms, tmp_path):
    with pytest.raises(
        RunError, match="holds no run with a checkpoint, so there is nothing to prolong; leave out --extend"
    ):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "new", extend=True))
    assert not (tmp_path / "new").exists()
