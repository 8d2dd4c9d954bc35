"""The label-efficiency study: end to end at toy size, killed and taken up again; its statistics; bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "label_efficiency"
COMMAND = [sys.executable, str(FOLDER / "study.py"), "--size", "quick", "--part", "phantoms"]
COMMAND += ["--arms", "both", "contrast", "none", "--pretrainings", "1"]


@pytest.fixture(scope="module")
def study_modules():
    """The study's own modules, as its command finds them."""
    sys.path.insert(0, str(FOLDER))
    import analysis
    import study

    yield analysis, study
    sys.path.remove(str(FOLDER))


def run(study, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "--size", "quick", *arguments])
    study.main()


@pytest.mark.slow
def test_three_arms_end_to_end_after_a_kill(study_modules, tmp_path, monkeypatch, capsys):
    _, study = study_modules
    out = tmp_path / "study"
    process = subprocess.Popen([*COMMAND, "--out", str(out)], stdout=subprocess.DEVNULL, env={**os.environ})
    while process.poll() is None and not (out / "units" / "draw" / "test.json").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in (out / "units").rglob("*.json")}
    assert {p.stem for p in before} >= {"pretrain", "test"}

    run(study, monkeypatch, *COMMAND[4:], "--out", str(out))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())  # nothing was done twice
    assert not list((out / "failed").rglob("*.json"))
    report = json.loads((out / "study.json").read_text())
    found = report["tasks"]["phantoms"]["measures"]
    assert report["tasks"]["phantoms"]["sets"]["test"]["n"] == 80
    pairs = report["tasks"]["phantoms"]["pairs"]
    for measured, keys, arms, size in (
        (found["probe"], ("50", "100"), {"both", "contrast", "none", "pixels", "hog"}, (80, 40)),
        (found["probe-places"], ("50", "100"), {"both", "none"}, (80, 40)),
        # 40 true and 40 shuffled reports, of the first 21 patients
        (pairs, ("reports",), {"both", "contrast", "none"}, (80, 21)),
    ):
        for key in keys:
            assert set(measured["means"][key]) == arms
            gap, means = measured["differences"][key]["both - none"], measured["means"][key]
            assert gap["value"] == pytest.approx(means["both"]["value"] - means["none"]["value"], abs=1e-6)
            assert gap["low"] < gap["value"] < gap["high"]
            assert (gap["n"], gap["patients"]) == size
    assert {arm: mean["n"] for arm, mean in pairs["means"]["vectors"].items()} == {"contrast": 80}
    assert found["probe"]["means"]["50"]["both"]["subsets"] == 2
    assert found["probe"]["means"]["100"]["both"]["subsets"] == 1
    table = (out / "table.md").read_text()
    assert "both losses" in table
    assert "80 images (40 patients)" in table
    assert "both - none" in table
    assert "true report against another's | the same by contrast" in table
    assert (out / "phantoms-probe-main.png").stat().st_size > 10_000
    learnt = report["pretraining"]["pretrain/both-0"]["held_out"]
    assert learnt["words"] > 100
    assert all(0 < learnt[k] < 10 for k in ("right", "wrong", "unigram"))

    capsys.readouterr()
    run(study, monkeypatch, *COMMAND[4:], "--out", str(out), "--dry-run")
    listed = capsys.readouterr().out.splitlines()
    assert all(line.startswith("done") for line in listed[:-1])
    assert listed[-1].startswith("0.0 hours")

    from arms import SIZES
    from phantoms import finetune_units
    from units import Study

    here = Study(out, "quick", SIZES["quick"], None, 1, ("both", "none"))
    plan = {u.name: u for u in finetune_units(here)}
    tuned = plan["phantoms/finetune/both-0/published-50-0"]
    assert set(tuned.needs) == {"pretrain/both-0", "draw/val", "draw/train", "draw/test"}
    assert study.attempt(here, plan["draw/val"])
    assert study.attempt(here, tuned)
    assert 0 <= here.read(tuned.name)["auroc"] <= 1


def test_every_arm_is_a_model_that_can_be_trained(study_modules):
    from arms import ARMS, SAYS, SIZES, pretraining

    from mrm.models.mrm import MRM
    from mrm.runs.pretraining import pretrain_task

    config = pretraining(SIZES["quick"].phantom, Path("records.csv"), Path("tokenizer.json"), Path("out"), seed=0)
    for arm, change in ARMS.items():
        changed = config if change is None else change(config)
        assert set(pretrain_task(changed, MRM(changed.model)).weights) >= {"image", "report"}
        assert arm == "both" or change is None or changed != config
        assert arm in SAYS


def test_a_unit_that_fails_is_noted_and_tried_again(study_modules, tmp_path, monkeypatch, capsys):
    _, study = study_modules
    from arms import SIZES
    from units import Study, Unit

    here = Study(tmp_path, "quick", SIZES["quick"])
    broken = [True]

    def fragile(_):
        if broken[0]:
            raise OSError("disk is full")
        return {"says": "well"}

    plan = [Unit("a/first", fragile), Unit("b/second", lambda _: {}, ("a/first",)), Unit("c/third", lambda _: {})]
    study.work(here, plan, hours=1)
    assert here.done("c/third")
    assert not here.done("a/first")
    assert not here.done("b/second")
    assert "disk is full" in (tmp_path / "failed" / "a" / "first.json").read_text()
    assert "1 units failed and will be tried again: a/first" in capsys.readouterr().out
    broken[0] = False
    study.work(here, plan, hours=1)
    assert here.done("a/first")
    assert here.done("b/second")
    assert not list((tmp_path / "failed").rglob("*.json"))


def test_two_processes_share_the_units(study_modules, tmp_path):
    """A unit that another process holds is left to it; its lock goes with the process."""
    _, study = study_modules
    from arms import SIZES
    from units import Study, Unit

    here, unit = Study(tmp_path, "quick", SIZES["quick"]), Unit("a", lambda _: {})
    with study.lock(here, unit) as first, study.lock(here, unit) as second:
        assert (first, second) == (True, False)
    with study.lock(here, unit) as again:
        assert again


def test_the_interval_over_patients_and_runs_covers_the_truth(study_modules):
    """Simulated: a true mean, errors of test patients shared by all runs, of pre-trainings and of label subsets."""
    analysis, _ = study_modules
    from mrm.statistics.intervals import Estimate

    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        patients, subsets = rng.normal(0, 0.01), rng.normal(0, 0.02, (1, 5))
        runs = 0.1 + patients + rng.normal(0, 0.02, (3, 1)) + subsets
        value = runs.mean()
        estimate = Estimate(value, value - 1.96 * 0.01, value + 1.96 * 0.01, 100, None)
        result = analysis.across(estimate, 100, runs)
        covered += result.low <= 0.1 <= result.high
    assert 0.93 <= covered / 1000 <= 0.99


def test_styles_of_fine_tuning_are_compared_on_the_same_labels(study_modules, tmp_path):
    """Scores that are the truth under noise of two sizes: the less noisy style is better, and by how much is known."""
    analysis, _ = study_modules
    from arms import SIZES, STYLES
    from measuring import Task, mean_auroc
    from units import Study

    rng, here = np.random.default_rng(0), Study(tmp_path, "quick", SIZES["quick"])
    labels = rng.integers(0, 2, (400, 2)).astype(float)
    lines = [f"{i}.png,p{i},{a:.0f},{b:.0f}" for i, (a, b) in enumerate(labels)]
    (tmp_path / "test.csv").write_text("\n".join(["image_path,patient_id,a,b", *lines]))
    task, expected = Task("made", ("a", "b"), lambda study, name: study.out / f"{name}.csv", (), (1, 1, 400)), []
    for number in range(2):
        scores = {
            style: labels + rng.normal(0, noise, labels.shape) for style, noise in (("modern", 1), ("published", 3))
        }
        for style, scores_NC in scores.items():
            name = task.unit("finetune", f"both-0/{style}-50-{number}")
            here.keep_arrays(name, scores=scores_NC[None])
            here.write("units", name, {})
        expected.append(mean_auroc(labels, scores["modern"]) - mean_auroc(labels, scores["published"]))
    for style in ("modern", "published"):  # draw 1 without draw 0: nothing to pair it with
        late = task.unit("finetune", f"both-0/{style}-100-1")
        here.keep_arrays(late, scores=labels[None])
        here.write("units", late, {})
    tuned = {style: analysis.Scores(here, task, f"finetune/{style}") for style in STYLES}
    found = analysis.styles(tuned, ["50", "100"])
    assert list(found["50"]) == ["both: modern - published"]
    assert found["100"] == {}
    gap = found["50"]["both: modern - published"]
    assert gap["value"] == pytest.approx(np.mean(expected))
    assert gap["p_holm"] < 0.05
    assert "| both: modern - published | +0.1" in "\n".join(analysis._differences(found, "style"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--part", "real"), "needs --data DIR"),
        (
            ("--part", "real", "--data", "nowhere"),
            "no rocov2-cxr/training.csv, covid-cxr/training.csv, pneumonia-cxr/labels.csv, tuberculosis/records.csv in it",
        ),
    ],
)
def test_what_is_missing_is_named(study_modules, tmp_path, monkeypatch, arguments, told):
    _, study = study_modules
    with pytest.raises(SystemExit, match=told):
        run(study, monkeypatch, "--out", str(tmp_path / "new"), *arguments)


def test_a_folder_of_something_else_or_of_another_study_is_refused(study_modules, tmp_path, monkeypatch):
    _, study = study_modules
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(SystemExit, match="holds no study"):
        run(study, monkeypatch, "--out", str(tmp_path / "letters"), "--part", "phantoms", "--dry-run")
    run(study, monkeypatch, "--out", str(tmp_path / "one"), "--part", "phantoms", "--dry-run")
    with pytest.raises(SystemExit, match=r"holds another study \(.*steps: .*\)"):
        run(study, monkeypatch, "--out", str(tmp_path / "one"), "--part", "phantoms", "--dry-run", "--size", "small")


def test_the_probe_chooses_its_strength_among_the_labels_it_is_trained_on(study_modules):
    """Two informative features among many: the strength that wins on records left out, found by fitting each in full."""
    from probes import FOLDS, STRENGTHS, fit
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    features = {name: rng.normal(size=(n, 80)) for name, n in (("train", 90), ("test", 500))}
    labels = {n: (x[:, :2] + rng.normal(0, 1, (len(x), 2)) > 0).astype(float) for n, x in features.items()}
    chosen = np.arange(0, 90, 2)  # 45 labels, fewer than features
    logits_NC, strength = fit(features, labels, chosen)  # and no other labels are there to choose by

    x, y = features["train"][chosen], labels["train"][chosen]
    x, test = (x - x.mean(0)) / x.std(0), (features["test"] - x.mean(0)) / x.std(0)
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS

    def left_out(c: float) -> float:
        aurocs = []
        for k in range(FOLDS):
            for label in y.T:
                model = LogisticRegression(C=c, max_iter=1000).fit(x[fold != k], label[fold != k])
                aurocs.append(roc_auc_score(label[fold == k], model.decision_function(x[fold == k])))
        return np.mean(aurocs)

    assert strength == max(STRENGTHS, key=left_out)
    for logits, label in zip(logits_NC.T, y.T, strict=True):
        whole = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(x, label).decision_function(test)
        assert np.corrcoef(logits, whole)[0, 1] > 0.999
    assert fit(features, {k: np.ones_like(v) for k, v in labels.items()}, chosen)[1] == STRENGTHS[0]


@pytest.mark.parametrize(
    ("caption", "finding", "named"),
    [
        ("Chest radiograph showing a left pleural effusion.", "effusion", True),
        ("No pneumothorax or pleural effusion was seen.", "effusion", False),
        ("Resolution of the effusion; enlarged heart.", "effusion", False),
        ("Resolution of the effusion; enlarged heart.", "cardiomegaly", True),
        ("Clear lungs, but a tube in the right main bronchus", "device", True),
        ("Massive consolidation", "nodule or mass", False),
        ("Bilateral ground-glass opacities without hemothorax", "opacity", True),
        ("Bilateral ground-glass opacities without hemothorax", "effusion", False),
    ],
)
def test_findings_are_read_from_captions(study_modules, caption, finding, named):
    import real

    assert real.named(caption, real.CAPTIONED[finding]) is named


def test_figures_that_look_alike_or_have_one_caption_stay_together(study_modules, tmp_path):
    """Of six images two are one at another size and two share a caption: four groups, so four figures to cut by."""
    import cv2
    import real

    from mrm.data.records import Record, Records

    rng, rows = np.random.default_rng(0), []
    for i in range(5):
        image = cv2.GaussianBlur(rng.integers(0, 255, (128, 128)).astype(np.uint8), (0, 0), 8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        rows.append(Record(tmp_path / f"{i}.png", report="Same words." if i in (1, 3) else f"Words {i}", name=str(i)))
    cv2.imwrite(str(tmp_path / "5.png"), cv2.resize(cv2.imread(str(tmp_path / "0.png")), (96, 96)))
    rows.append(Record(tmp_path / "5.png", report="Words 5", name="5"))
    groups = [r.patient for r in real.with_figures(Records(rows))]
    assert groups[0] == groups[5]
    assert groups[1] == groups[3]
    assert len(set(groups)) == 4


@pytest.mark.slow
def test_the_real_part_at_toy_size(study_modules, tmp_path, monkeypatch):
    """Lists cut by patient or figure; nothing that is tested on, but Shenzhen's images, is in pre-training."""
    _, study = study_modules
    data = Path(os.environ.get("MRM_SHARED", FOLDER.parents[2] / "shared")) / "data"
    if not (data / "rocov2-cxr").is_dir():
        pytest.skip("no real data beside the checkout")
    out = tmp_path / "study"
    run(study, monkeypatch, "--part", "real", "--data", str(data), "--arms", "none", "--out", str(out))
    assert not list((out / "failed").rglob("*.json"))
    from mrm.data.records import Records

    seen = {Path(r.name).name for r in Records.load(out / "real" / "records")}
    for task, overlap in (("captions", 0), ("pneumonia", 0), ("virus", 0), ("tuberculosis", 265)):
        test = Records.load(out / "real" / task / "test.csv")
        assert sum(Path(r.name).name in seen for r in test) == pytest.approx(overlap, abs=10)
        assert not {r.patient for r in test} & {r.patient for r in Records.load(out / "real" / task / "train.csv")}
    report = json.loads((out / "study.json").read_text())
    assert report["tasks"]["captions"]["pairs"]["means"]["reports"]["none"]["n"] == 80
