"""Classes, numbers and levels through fine-tuning, tests, predictions, ensembles and ONNX; and learning from a teacher."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import mrm
from mrm import runs
from mrm.data.records import Records
from mrm.models import model_folder
from mrm.runs import teaching
from mrm.system.errors import CheckpointError, ConfigError, RecordError, RunError
from mrm.targets import target_of
from tests.support.configs import finetune_config
from tests.support.run_files import table

TARGETS = ("multiclass", "regression", "ordinal")
COLUMNS = {"multiclass": ("none", "small", "large"), "regression": ("size",), "ordinal": ("grade",)}


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """48 radiographs of 24 patients: noise with a bright disc of grade 0, 1 or 2, and its size; every eighth is labelled wrong."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        grade = number % 3
        image_HW = rng.integers(60, 100, (64, 64)).astype(np.uint8)
        if grade:
            cv2.circle(image_HW, (32, 32), 10 * grade, 240, -1)
        cv2.imwrite(str(folder / f"{number}.png"), image_HW)
        grade = (grade + (number % 8 == 7)) % 3
        classes = [int(grade == k) for k in range(3)]
        rows.append([f"{number}.png", f"p{number // 2}", *classes, 1000 + 20.5 * grade, grade])
    head = ["image_path", "patient_id", *COLUMNS["multiclass"], "size", "grade"]
    write_rows(folder / "records.csv", head, rows)
    return folder / "records.csv"


def write_rows(file, head, rows):
    with open(file, "w", newline="") as text:
        csv.writer(text).writerows([head, *rows])
    return file


def with_cell(discs, out, row, column, value):
    """The table with another value in one cell; images stay where they are."""
    with open(discs, newline="") as text:
        head, *rows = csv.reader(text)
    rows[row][head.index(column)] = value
    return write_rows(discs.with_name(out), head, rows)


def config(discs, init, out, target, **changes):
    """A short run that learns discs."""
    changes = {"steps": 30, "lr": 3e-3, "ema": None, "validate_every": 30, "save_every": 15, **changes}
    made = finetune_config(
        discs, init, out, train=changes.pop("train", discs), val=changes.pop("val", discs), **changes
    )
    return replace(made, target=target, classes=COLUMNS.get(target, ("large",)))


@pytest.fixture(scope="module")
def models(discs, pretrained_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("targets")
    return {t: runs.finetune(config(discs, pretrained_run, place / t, t)) for t in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_learned_and_its_measures_have_intervals(target, models, discs, tmp_path, capsys):
    results = runs.evaluate(models[target], discs, tmp_path, draws=100)
    mean = results["classes"]["mean"]
    named = {
        "multiclass": ("auroc", "kappa"),
        "regression": ("r2", "mae"),
        "ordinal": ("auroc", "quadratic_kappa", "mae"),
    }
    for name in named[target]:
        assert mean[name]["low"] <= mean[name]["value"] <= mean[name]["high"]
        assert "24 patients" in mean[name]["note"]
    assert mean["r2" if target == "regression" else "auroc"]["value"] > 0.5
    assert named[target][-1].replace("_", " ") in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text()
    words = {"multiclass": "called large", "regression": "Mean absolute error", "ordinal": "Quadratic kappa"}
    assert words[target] in page
    assert "<svg" in page
    card = model_folder.read_card(models[target] / "best")
    assert card.tested[0].classes["mean of classes"].keys() >= set(named[target])
    assert card.origin["target"] == target


def test_a_page_says_what_each_record_was_called(models, discs, tmp_path):
    counts = runs.evaluate(models["ordinal"], discs, tmp_path, draws=10)["confusion"]
    assert counts["names"] == ["0", "1", "2"]
    assert np.sum(counts["counts"]) == 48
    assert [sum(row) for row in counts["counts"]] == [16, 16, 16]


@pytest.mark.parametrize("target", TARGETS)
def test_predictions_say_the_class_the_level_or_the_number(target, models, discs, tmp_path):
    runs.predict(models[target], [discs], tmp_path / "p.csv")
    rows = table(tmp_path / "p.csv")
    model = mrm.Predictor(models[target])
    values = model([str(discs.parent / f"{n}.png") for n in range(3)]).probabilities_NC
    if target == "multiclass":
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-6)
        assert rows[0]["class"] == COLUMNS[target][int(values[0].argmax())]
    elif target == "regression":
        assert float(rows[2]["size"]) == pytest.approx(values[2, 0], rel=1e-5)
        assert 900 < values[2, 0] < 1200
        assert "size decision" not in rows[0]
    else:
        assert (np.diff(values, axis=1) <= 0).all()
        assert int(rows[2]["grade"]) == int((values[2] >= 0.5).sum())


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_exported_as_onnx_computes_what_is_predicted(target, models, discs):
    from mrm.interop.onnx_export import onnx_model, preparation

    network = model_folder.load(models[target])
    image = cv2.imread(str(discs.parent / "2.png"), cv2.IMREAD_GRAYSCALE)
    expected = mrm.Predictor(models[target])(str(discs.parent / "2.png")).probabilities_NC
    with torch.inference_mode():
        given = onnx_model(network)(torch.from_numpy(image)[None])[1]
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    assert preparation(network)["target"] == target


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_onnx_gives_what_the_model_predicts(target, models, discs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from mrm.interop.onnx_export import export_onnx

    export_onnx(model_folder.load(models[target]), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", "values" if target == "regression" else "probabilities"]
    image = cv2.imread(str(discs.parent / "2.png"), cv2.IMREAD_GRAYSCALE)
    given = session.run(None, {"image": image[None]})[1]
    expected = mrm.Predictor(models[target])(str(discs.parent / "2.png")).probabilities_NC
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_regressions_averages_numbers_of_different_scales(models, discs, pretrained_run, tmp_path):
    half = Records.load(discs, ("size",), kind="numbers").where(lambda r: r.labels[0] > 1000)
    file = half.to_csv(tmp_path / "half.csv")
    other = runs.finetune(config(discs, pretrained_run, tmp_path / "other", "regression", train=file, val=file, seed=1))
    joined = runs.ensemble([models["regression"], other], tmp_path / "joined")
    image = str(discs.parent / "1.png")
    single = [mrm.Predictor(model)(image).probabilities_NC for model in (models["regression"], other)]
    np.testing.assert_allclose(mrm.Predictor(joined)(image).probabilities_NC, np.mean(single, axis=0), rtol=1e-5)


@pytest.mark.parametrize("target", ["multiclass", "ordinal"])
def test_cross_validation_learns_classes_and_levels(target, discs, pretrained_run, tmp_path):
    settings = runs.CrossvalConfig(
        "tiny", discs, pretrained_run, tmp_path, folds=2, repeats=1, classes=COLUMNS[target], target=target,
        max_steps=4, floors=target == "multiclass", workers=0,
    )  # fmt: skip
    results = runs.crossval(settings)
    expected = {"multiclass": COLUMNS["multiclass"], "ordinal": ("grade >= 1", "grade >= 2")}[target]
    assert set(results["classes"]) == {"mean", *expected}
    assert results["tested"] == 48
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0].endswith(",".join(expected))
    assert len(lines) == 49


# Refusals -----------------------------------------------------------------------------------------------


def test_what_has_no_meaning_for_a_target_is_refused(models, discs, pretrained_run, tmp_path):
    from mrm.runs.reading_options import Reading

    with pytest.raises(RunError, match=r"calibrating, with a threshold for each finding, needs findings"):
        runs.calibrate(models["multiclass"], discs)
    with pytest.raises(RunError, match=r"--by-study max, .* needs findings .* --target regression"):
        runs.predict(models["regression"], [discs], tmp_path / "p.csv", Reading(by_study="max"))
    with pytest.raises(RunError, match="--by, which compares AUROC between groups, needs probabilities"):
        runs.evaluate(models["regression"], discs, tmp_path / "t", by=("sex",))
    with pytest.raises(RunError, match="the doubt of an image needs probabilities"):
        runs.select(models["regression"], [discs], tmp_path / "s.csv", 3)
    with pytest.raises(RunError, match="crossval measures AUROC, which numbers do not have"):
        runs.crossval(
            runs.CrossvalConfig("tiny", discs, pretrained_run, tmp_path / "c", classes=("size",), target="regression")
        )


def test_a_folder_for_other_programs_that_read_findings_is_refused(models, tmp_path):
    from mrm.interop.hub_folder import write_hub_folder
    from mrm.interop.monai_bundle import write_bundle

    with pytest.raises(CheckpointError, match=r"a hub folder, .* needs findings"):
        write_hub_folder(models["regression"], tmp_path / "hub")
    with pytest.raises(CheckpointError, match="a MONAI bundle needs findings"):
        write_bundle(models["multiclass"], tmp_path / "bundle")
    assert not (tmp_path / "hub").exists()
    assert not (tmp_path / "bundle").exists()


def test_the_service_refuses_numbers(models):
    from mrm.serve.models import load

    with pytest.raises(RunError, match="the service needs probabilities"):
        load(models["regression"], None, torch.device("cpu"))


@pytest.mark.parametrize(
    ("target", "cell", "said"),
    [
        ("multiclass", (1, "large", "1"), r"1\.png has more than one of the classes none, small, large"),
        ("regression", (1, "size", "big"), r"line 3: 1\.png: 'big' in column size is not a number or empty"),
        ("regression", (1, "size", "inf"), r"'inf' in column size is not a number"),
        ("ordinal", (1, "grade", "7"), r"no record has the level 3, 4, 5, 6 of grade"),
        ("ordinal", (1, "grade", "0.5"), r"1\.png has the level 0\.5 of grade; the levels are 0 to 2"),
        ("multilabel", (1, "large", "0.5"), r"'0\.5' in column large is not 1, 0, -1"),
    ],
)
def test_bad_labels_are_named_before_anything_is_written(target, cell, said, discs, pretrained_run, tmp_path):
    bad = with_cell(discs, "bad.csv", *cell)
    with pytest.raises(RecordError, match=said):
        runs.finetune(config(discs, pretrained_run, tmp_path / "run", target, train=bad))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"target": "multiclass", "loss": "focal"},
            "--loss focal is for findings; --target multiclass has a loss of its own",
        ),
        ({"target": "regression", "soft_labels": True}, "--soft-labels are shares"),
        ({"target": "regression", "probe_first": True}, "--probe-first and --lr auto"),
        ({"soft_labels": True, "loss": "asymmetric"}, "--loss asymmetric is for labels of 0 and 1"),
        ({"teacher_share": 0.0}, "--teacher-share must be above 0 and at most 1, not 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, said, discs, pretrained_run, tmp_path):
    with pytest.raises(ConfigError, match=said):
        replace(config(discs, pretrained_run, tmp_path, "multilabel"), **changes)


# Soft labels and teachers -------------------------------------------------------------------------------


def test_soft_labels_train_and_those_outside_0_to_1_are_named(discs, pretrained_run, tmp_path):
    soft = with_cell(discs, "soft.csv", 1, "large", "0.7")
    runs.finetune(config(discs, pretrained_run, tmp_path / "run", "multilabel", train=soft, soft_labels=True, steps=2))
    bad = with_cell(discs, "bad.csv", 1, "large", "1.2")
    with pytest.raises(
        RecordError, match=r"line 3: 1\.png: '1\.2' in column large is not a share from 0 to 1 or empty"
    ):
        runs.finetune(config(discs, pretrained_run, tmp_path / "b", "multilabel", train=bad, soft_labels=True))


@pytest.mark.parametrize("target", TARGETS)
def test_a_pupil_learns_half_of_what_its_teacher_says_and_resumes_on_it(
    target, models, discs, pretrained_run, tmp_path
):
    setup = config(discs, pretrained_run, tmp_path / "run", target, teacher=(models[target],), steps=3)
    meaning = target_of(model_folder.read_card(models[target] / "best").architecture)
    train = meaning.labels(Records.load(discs, COLUMNS[target], kind=meaning.kind))
    (tmp_path / "run").mkdir()
    taught = teaching.taught(setup, meaning, train, teaching.teachers_of(setup, meaning))
    said = mrm.Predictor(models[target])([str(discs.parent / f"{n}.png") for n in range(48)]).probabilities_NC
    np.testing.assert_allclose(taught.labels_NC, (said + train.labels_NC) / 2, rtol=1e-4, atol=1e-6)
    if target == "multiclass":
        np.testing.assert_allclose(taught.labels_NC.sum(axis=1), 1, rtol=1e-6)
    kept = (tmp_path / "run" / teaching.FILE).read_bytes()
    teaching.taught(setup, meaning, train, teaching.teachers_of(setup, meaning))
    assert (tmp_path / "run" / teaching.FILE).read_bytes() == kept


def test_a_teacher_labels_images_that_state_nothing(discs, models, pretrained_run, tmp_path):
    unlabelled = with_cell(discs, "unlabelled.csv", 4, "size", "")
    setup = config(
        discs,
        pretrained_run,
        tmp_path / "run",
        "regression",
        train=unlabelled,
        teacher=(models["regression"],),
        steps=2,
    )
    run = runs.finetune(setup)
    meaning = target_of(model_folder.read_card(models["regression"] / "best").architecture)
    train = meaning.labels(Records.load(unlabelled, COLUMNS["regression"], kind=meaning.kind))
    taught_N1 = teaching.taught(replace(setup, out=run), meaning, train, teaching.teachers_of(setup, meaning)).labels_NC
    said_N1 = mrm.Predictor(models["regression"])([str(discs.parent / f"{n}.png") for n in range(48)]).probabilities_NC
    right_N1 = (said_N1 + train.labels_NC) / 2
    right_N1[4] = said_N1[4]  # nothing is stated of it, so the teacher alone speaks
    np.testing.assert_allclose(taught_N1, right_N1, rtol=1e-4, atol=1e-6)


def test_a_teacher_of_other_classes_or_another_target_is_refused(discs, models, pretrained_run, tmp_path):
    other = config(discs, pretrained_run, tmp_path / "run", "multilabel", teacher=(models["ordinal"],))
    with pytest.raises(RunError, match="was trained with --target ordinal, this run is multilabel"):
        runs.finetune(other)
    fewer = replace(
        config(discs, pretrained_run, tmp_path / "run", "multiclass", teacher=(models["multiclass"],)),
        classes=("none", "small"),
    )
    rows = Records.load(discs, ("none", "small")).where(lambda r: sum(r.labels) == 1)
    file = rows.to_csv(tmp_path / "two.csv")
    with pytest.raises(
        RunError, match="knows none, small, large, and this run learns none, small; a teacher has the same"
    ):
        runs.finetune(replace(fewer, train=file, val=file))
    assert not (tmp_path / "run").exists()
