"""The study of few labels: its differences against hand computation, its draws, and what a kill leaves."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mrm.data.records import Record, Records
from mrm.runs.kept_models import write_arrays

FOLDER = Path(__file__).parents[2] / "benchmarks" / "few_labels"


@pytest.fixture(scope="module")
def study():
    """The study's own modules, as its command finds them."""
    sys.path.insert(0, str(FOLDER))
    import differences
    import few_labels
    import label_tasks

    yield few_labels, differences, label_tasks
    sys.path.remove(str(FOLDER))


def records(positives: int, negatives: int) -> Records:
    labels = [1.0] * positives + [0.0] * negatives
    return Records([Record(Path(f"{i}.png"), patient=f"p{i}", labels=(y,)) for i, y in enumerate(labels)], ("x",))


def test_a_difference_has_the_variance_of_patients_draws_and_pretrainings(study):
    """One task, two pre-trainings (rows) and three draws (columns): every part by hand."""
    _, differences, _ = study
    gap = np.array([[0.01, 0.02, 0.03], [0.03, 0.05, 0.04]])
    one = differences.across([differences.OfTask(gap, 0.0004)])
    runs, draws = np.array([0.02, 0.04]).var(ddof=1) / 2, np.array([0.02, 0.035, 0.035]).var(ddof=1) / 3
    variance = 0.0004 + runs + draws
    df = variance**2 / (runs**2 / 1 + draws**2 / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert (one.value, one.low, one.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half))
    assert one.p == pytest.approx(2 * stats.t.sf(0.03 / math.sqrt(variance), df))


def test_tasks_share_their_pretrainings_and_not_their_draws(study):
    _, differences, _ = study
    gaps = [np.array([[0.0, 0.02], [0.04, 0.06]]), np.array([[0.05, 0.05], [0.01, 0.01]])]
    both = differences.across([differences.OfTask(gap, 0.0001) for gap in gaps])
    # pre-trainings: their means over tasks are equal, so they add nothing; draws differ in the first task alone
    draws = np.array([0.02, 0.04]).var(ddof=1) / 2 / 4
    variance = 0.0002 / 4 + draws
    half = stats.t.ppf(0.975, variance**2 / draws**2) * math.sqrt(variance)
    assert both.high - both.value == pytest.approx(half)


def test_one_pretraining_and_one_draw_leave_the_variance_of_patients(study):
    _, differences, _ = study
    one = differences.across([differences.OfTask(np.array([[0.1]]), 0.0025)])
    assert (one.low, one.high) == pytest.approx((0.1 - 1.959964 * 0.05, 0.1 + 1.959964 * 0.05))


def test_draws_keep_the_share_of_positives_and_differ(study):
    _, _, label_tasks = study
    pool = records(40, 160)
    drawn = [label_tasks.drawn(pool, 50, number) for number in (0, 1, 0)]
    assert [int(d.labels_NC.sum()) for d in drawn] == [10, 10, 10]
    names = [[r.name for r in d] for d in drawn]
    assert names[0] == names[2] != names[1]
    assert len(set(names[0])) == 50
    assert int(label_tasks.drawn(records(4, 196), 10, 0).labels_NC.sum()) == 3  # too few to learn from otherwise


def unit(task: str, encoder: str, method: str, draw: int, auroc: float) -> dict:
    return {"task": task, "labels": "50", "draw": draw, "encoder": encoder, "method": method, "auroc": auroc,
            "average_precision": 0.5, "seconds": 1.0, "steps": 40, "test": 60, "pool": 100}  # fmt: skip


def test_the_page_compares_finished_units_and_forgets_a_line_that_a_kill_has_cut(study, tmp_path):
    few_labels, differences, _ = study
    rng = np.random.default_rng(0)
    test = records(20, 40)
    test.to_csv(tmp_path / "tasks" / "t" / "test.csv")
    rows = []
    for encoder in ("both-0", "both-1"):
        for draw in range(3):
            for method, strength in (("full", 0.5), ("lora", 1.5)):
                scores = strength * test.labels_NC[:, 0] + rng.normal(size=60)
                rows.append(unit("t", encoder, method, draw, round(0.5 + strength / 5, 4)))
                write_arrays(tmp_path / "scores" / f"t_50_{draw}_{encoder}_{method}.npz", {"scores": scores})
    rows.pop()  # one cell is missing: its draw is left out of the comparison
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "units.jsonl").write_text(lines + '{"task": "t", "labe')
    table = differences.write(tmp_path, tmp_path / "page")
    (compared,) = json.loads((tmp_path / "page" / "results.json").read_text())["comparisons"]
    assert (compared["value"], compared["draws"], compared["pretrainings"]) == (pytest.approx(0.2), 2, 2)
    assert compared["p"] == compared["p_holm"]  # the only one of its family
    assert "| lora (both) less full (both) | +0.200 |" in table
    assert table.startswith("11 units, 0 minutes of one core. Fine-tunings have 40 steps.")
    assert len(few_labels.finished(tmp_path, 40)) == 11
    with pytest.raises(SystemExit, match="have 40 steps; give --steps, or another --out"):
        few_labels.finished(tmp_path, 300)
    assert (tmp_path / "page" / "labels.png").stat().st_size > 5_000


def test_a_unit_is_planned_once_and_floors_need_no_encoder(study):
    few_labels, _, _ = study
    plan = list(few_labels.planned(["both-0", "image-0", "random-0"]))
    assert len(plan) == len(set(plan))
    assert sum(u.method == "floor" for u in plan) == 5 * 2 * (3 * 5 + 1)
    assert {u.method for u in plan if u.encoder == "image-0"} == {"probe", "full"}
    assert plan[0].labels == "10"
    assert plan[-1].labels == "all"
