"""A run resumes on the records that it started on; others are refused, and nothing of the run changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import runs
from mrm.data.records import Records
from mrm.runs.same_records import require_same_records
from mrm.system.errors import RunError
from tests.support.configs import finetune_config, pretrain_config
from tests.support.image_files import contents


def records_of(phantoms: Path, n: int | None = None) -> Records:
    return Records.load(phantoms / "records.csv", None)[:n]


CHANGES = {
    "grown": (lambda r: [*r, *r[:5]], "40 records then, 45 now"),
    "shrunk": (lambda r: r[:39], "40 records then, 39 now"),
    "reordered": (lambda r: [*r[1:], r[0]], "the same records in another order"),
    "another report": (lambda r: [replace(r[0], report="Normal."), *r[1:]], "40 records as then, but a name, report"),
    "another label": (
        lambda r: [replace(r[0], labels=tuple(1 - v for v in r[0].labels)), *r[1:]],
        "40 records as then",
    ),
    "another patient": (lambda r: [replace(r[0], patient="someone else"), *r[1:]], "40 records as then"),
    "another image": (lambda r: [replace(r[0], image=r[1].image, name=r[1].name), *r[1:]], "40 records as then"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_records_are_refused_with_what_differs_and_what_to_do(phantoms, tmp_path, change):
    first = records_of(phantoms, 40)
    require_same_records(tmp_path, {"training": (Path("train.csv"), first)})
    require_same_records(tmp_path, {"training": (Path("train.csv"), first)})
    alter, words = CHANGES[change]
    other = replace(first, rows=alter(list(first.rows)))
    with pytest.raises(
        RunError, match=rf"train\.csv: are not the training records .* started on: {words}.*another --out"
    ):
        require_same_records(tmp_path, {"training": (Path("train.csv"), other)})


def test_other_masks_and_other_validation_records_are_refused(phantoms, tmp_path):
    first, areas = records_of(phantoms, 4), np.arange(4)[:, None]
    sets = {"training": (Path("siim"), first), "validation": (Path("siim"), first)}
    require_same_records(tmp_path, sets, {"training": areas})
    with pytest.raises(RunError, match="the same images with other masks"):
        require_same_records(tmp_path, sets, {"training": areas + 1})
    with pytest.raises(RunError, match=r"are not the validation records .*: 4 records then, 3 now"):
        require_same_records(tmp_path, {**sets, "validation": (Path("siim"), first[:3])}, {"training": areas})


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_run_that_does_not_say_what_it_started_on_is_refused(phantoms, tmp_path, content):
    (tmp_path / "last").mkdir()
    if content:
        (tmp_path / "records.json").write_text(content)
    with pytest.raises(RunError, match=r"records\.json: absent or damaged, so it is unknown which records"):
        require_same_records(tmp_path, {"training": (Path("train.csv"), records_of(phantoms, 4))})


def run_without_its_copy(run: Path) -> dict[str, bytes]:
    """The files of a run except for `records/`, its copy of the records, which follows the table."""
    return {name: content for name, content in contents(run).items() if not name.startswith("records/")}


def test_a_pretraining_does_not_resume_on_records_that_have_grown(phantoms, tmp_path):
    """The audit of the issue: 40 records grown to 48, of which 8 would not be in `seen`."""
    file = tmp_path / "records.csv"
    bare = [replace(r, labels=()) for r in records_of(phantoms, 40)]
    Records(bare).to_csv(file)
    config = replace(pretrain_config(phantoms, tmp_path / "run", steps=4, audit="names"), records=file)
    runs.pretrain(config)
    before = run_without_its_copy(config.out)
    Records([replace(r, labels=()) for r in records_of(phantoms)]).to_csv(file)
    with (
        pytest.warns(UserWarning, match=r"records of .* as they were before; the records are converted again"),
        pytest.raises(RunError, match="40 records then, 48 now"),
    ):
        runs.pretrain(config)
    assert run_without_its_copy(config.out) == before
    Records(bare).to_csv(file)
    assert runs.pretrain(config) == tmp_path / "run"
    assert json.loads((tmp_path / "run" / "records.json").read_text())["training"]["n"] == 40


def test_a_finetuning_does_not_resume_on_another_order(phantoms, pretrained_run, tmp_path):
    records = records_of(phantoms)
    file = records.to_csv(tmp_path / "train.csv")
    config = finetune_config(phantoms, pretrained_run, tmp_path / "run", train=file, steps=2, audit="names")
    runs.finetune(config)
    replace(records, rows=list(reversed(records.rows))).to_csv(file)
    with pytest.raises(RunError, match="the same records in another order"):
        runs.finetune(config)
