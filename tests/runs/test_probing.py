"""Probes against brute force, and `mrm probe` from end to end."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import cli, runs
from mrm.data.records import Record, Records
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.runs import probe_units
from mrm.runs.probe_plan import ProbeConfig, Unit, named_models, short_names, subsets
from mrm.system.errors import RunError, UnreachableError
from tests.support.configs import MICRO
from tests.support.foreign_encoders import write_timm, write_transformers
from tests.support.html_pages import check_whole

CLASSES = ("effusion", "cardiomegaly")


# The command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with noise.seeded(3):
        return model_folder.save(tmp_path_factory.mktemp("probed") / "untrained", MRM(MICRO).eval())


@pytest.fixture(scope="module")
def sets(phantoms, tmp_path_factory):
    """The 48 phantoms in three files; training keeps half."""
    folder = tmp_path_factory.mktemp("sets")
    records = Records.load(phantoms / "records.csv", CLASSES)
    patients = sorted(set(records.patients))
    third = len(patients) // 4
    parts = {"train": patients[: 2 * third], "val": patients[2 * third : 3 * third], "test": patients[3 * third :]}
    for name, chosen in parts.items():
        records.where(lambda r, chosen=chosen: r.patient in chosen).to_csv(folder / f"{name}.csv")
    return {name: folder / f"{name}.csv" for name in parts}


def config(model, sets, out, **changes):
    init = changes.pop("init", (str(model), *changes.pop("against", ("random",))))
    return ProbeConfig(
        init, **sets, out=out, classes=CLASSES, workers=0,
        **{"fractions": (0.4, 1.0), "seeds": 2, "draws": 200, "floors": False, **changes},
    )  # fmt: skip


@pytest.fixture(scope="module")
def probed(model, sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out"
    return out, runs.probe(config(model, sets, out, floors=True))


def test_every_method_model_and_share_has_a_row_with_its_interval(probed):
    _, results = probed
    rows = {(r["method"], r["model"], r["fraction"]): r for r in results["rows"]}
    models = {(m, n, f) for m in ("linear", "neighbours") for n in ("untrained", "random") for f in (0.4, 1)}
    assert set(rows) == models | {("floor", n, f) for n in ("pixels", "HOG") for f in (0.4, 1)}
    for (_, name, fraction), row in rows.items():
        assert row["seeds"] == (1 if fraction == 1 else 2)
        assert 0 <= row["auroc"]["mean"]["value"] <= 1
        assert ("first_less_this" in row) == (name != "untrained")
    assert rows["linear", "untrained", 0.4]["records"][0] < rows["linear", "untrained", 1.0]["records"][0]


def test_the_page_shows_every_row_and_the_plot_is_an_image(probed):
    out, results = probed
    text = (out / "index.html").read_text()
    check_whole(text.replace('href="label_efficiency.png"', 'href="roc.png"'))
    for row in results["rows"]:
        assert f"{row['auroc']['mean']['value']:.3f}" in text
    assert (out / "label_efficiency.png").read_bytes()[1:4] == b"PNG"


@pytest.fixture(scope="module")
def fair(model, sets, tmp_path_factory):
    """Our model, two encoders of other programs, one of which is called as a published one is, and random weights."""
    folder = tmp_path_factory.mktemp("fair")
    published = write_transformers("dinov2", folder / "rad-dino").init
    convnext = Path(f"timm:convnext_tiny={write_timm('convnext_tiny', folder / 'convnext').init}")
    init = (str(model), str(published), str(convnext), "random")
    return runs.probe(config(model, sets, folder / "out", init=init, fractions=(1.0,))), folder / "out"


def test_encoders_of_other_programs_stand_in_the_same_table(fair):
    results, _ = fair
    names = ["untrained", "rad-dino", "convnext_tiny", "random"]
    assert list(results["models"]) == list(results["encoders"]) == names
    assert [r["model"] for r in results["rows"]] == names * 2
    assert len({tuple(r["records"]) for r in results["rows"]}) == 1  # the same labels for all
    assert [facts["image_size"] for facts in results["encoders"].values()] == [64, 56, 64, 64]
    assert results["encoders"]["convnext_tiny"]["mean"] == [0.5, 0.4, 0.3]


def test_p_values_are_corrected_for_all_comparisons_of_the_table(fair):
    results, out = fair
    gaps = [r["first_less_this"]["mean"] for r in results["rows"] if "first_less_this" in r]
    assert len(gaps) == 6
    expected, running = {}, 0.0
    for rank, number in enumerate(sorted(range(6), key=lambda i: gaps[i]["p"])):  # Holm, step by step
        running = max(running, min(1.0, (6 - rank) * gaps[number]["p"]))
        expected[number] = running
    assert [gap["p_holm"] for gap in gaps] == pytest.approx([expected[i] for i in range(6)])
    by_name = {(r["method"], r["model"]): r["auroc"]["mean"]["value"] for r in results["rows"]}
    for row in results["rows"]:
        if "first_less_this" in row:
            difference = by_name[row["method"], "untrained"] - by_name[row["method"], row["model"]]
            assert row["first_less_this"]["mean"]["difference"]["value"] == pytest.approx(difference)
    assert "p (Holm)" in (out / "index.html").read_text()


def test_what_each_encoder_has_seen_is_said(fair):
    results, out = fair
    seen = {name: facts["trained_on"] for name, facts in results["encoders"].items()}
    assert seen["rad-dino"].startswith("BRAX, CheXpert, MIMIC-CXR")
    assert "taken for rad-dino by its name" in seen["rad-dino"]
    assert (seen["convnext_tiny"], seen["random"]) == ("unknown", "nothing: its weights are random")
    lines = "\n".join(results["overlap"])
    assert "rad-dino: its training records cannot be compared with the test records" in lines
    assert "convnext_tiny: its training records cannot be compared" in lines
    assert "the training records of this model are unknown" in lines  # of ours, which has no fingerprints
    page = (out / "index.html").read_text()
    assert seen["rad-dino"] in page
    check_whole(page.replace('href="label_efficiency.png"', 'href="roc.png"'))


def test_encoders_of_one_name_are_told_apart_by_the_part_before():
    names = short_names(
        ["a/model", "b/model", "timm:convnext_tiny=c/w.pth", "hub/models--microsoft--rad-dino/snapshots/0a"]
    )
    assert [name.split("/")[-1] for name in names.values()] == ["model", "model", "convnext_tiny", "rad-dino"]
    assert len(set(names.values())) == 4
    with pytest.raises(RunError, match="two encoders have the same name: model, model; rename a folder"):
        short_names(["x/a/model", "y/a/model"])


@pytest.mark.parametrize("floor", ["pixels", "HOG"])
def test_an_encoder_that_is_called_as_a_floor_is_asks_for_another_name(model, sets, tmp_path, floor):
    called = config(model, sets, tmp_path / "out", init=(str(tmp_path / floor), "random"))
    with pytest.raises(RunError, match=f"an encoder is called {floor}, as a floor is; rename its folder"):
        named_models(called)
    assert named_models(replace(called, init=("random",))) == {"random": None}


def test_a_probe_goes_on_where_it_was_stopped(probed, model, sets, monkeypatch):
    out, results = probed
    lost = next((out / "units").glob("untrained-linear-40-seed1.npz"))
    before = {f.name: f.stat().st_mtime_ns for f in (out / "units").iterdir() if f != lost}
    lost.unlink()
    monkeypatch.setattr(probe_units.predict, "features", lambda *a, **k: pytest.fail("features are made once"))
    again = runs.probe(config(model, sets, out, floors=True))
    assert again["rows"] == results["rows"]
    assert {f.name: f.stat().st_mtime_ns for f in (out / "units").iterdir() if f != lost} == before


def test_fine_tuning_is_a_method_too(model, sets, tmp_path):
    given = config(model, sets, tmp_path / "out", fractions=(1.0,), seeds=1, finetune="tiny", max_steps=2, against=())
    row = next(r for r in runs.probe(given)["rows"] if r["method"] == "fine-tuning")
    assert row["auroc"]["mean"]["value"] is not None
    assert row["notes"] == [f"batch of {row['records'][0]} in place of 32"]


def test_an_image_size_is_that_of_all_encoders_and_of_fine_tuning(model, sets, tmp_path):
    given = replace(config(model, sets, tmp_path / "out"), image_size=96)
    for path in (Path(model), None):  # also of random weights
        assert probe_units.load_or_randomise(given, path).config.image_size == 96
    records = Records.load(sets["train"], CLASSES)
    settings, _ = probe_units.fine_tuning(
        replace(given, finetune="tiny"), Unit("m", "fine-tuning", 1.0, 0), None, records, records
    )
    assert settings.image_size == 96


def test_of_a_fine_tuning_the_tested_model_is_kept_and_nothing_else(model, sets, tmp_path, monkeypatch):
    out = tmp_path / "out"
    changes = {"fractions": (1.0,), "seeds": 1, "finetune": "tiny", "max_steps": 4, "against": ()}
    kept: list[list[str]] = []
    finetune = probe_units.finetune

    def tuned(settings):
        """Every step is a checkpoint, and the first is the best."""
        falling = iter(range(100, 0, -1))
        steps = replace(settings.training, validate_every=1, save_every=1)
        with monkeypatch.context() as patched:
            patched.setattr(probe_units.ranking, "auroc", lambda *_: next(falling) / 100)
            run = finetune(replace(settings, training=steps))
        kept.append(sorted(p.name for p in (run / "checkpoints").iterdir()))
        return run

    monkeypatch.setattr(probe_units, "finetune", tuned)
    results = runs.probe(config(model, sets, out, **changes))
    assert len(kept[0]) > 1
    run = out / "runs" / "untrained-fine-tuning-100-seed0"
    (folder,) = (run / "checkpoints").iterdir()
    assert folder.name == kept[0][0] == "step-00000001"
    assert results["rows"][-1]["settings"] == [1]
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "seen"]
    assert not (run / "last").is_symlink()
    (out / "units" / f"{run.name}.npz").unlink()
    monkeypatch.setattr(probe_units, "finetune", lambda settings: pytest.fail("trained twice"))
    again = runs.probe(config(model, sets, out, **changes))
    assert again["rows"] == results["rows"]


def test_shares_are_nested_by_patient_and_keep_rare_findings():
    rows = [
        Record(b"", patient=f"p{i // 2}", labels=(float(i % 3 == 0), float(i in (20, 60, 61, 100, 140, 180))), name="x")
        for i in range(400)
    ]
    records = Records(rows, CLASSES)
    for seed in range(3):
        cut = subsets(records, (0.01, 0.1, 1.0), seed)
        small, large, whole = (set(cut[f].tolist()) for f in (0.01, 0.1, 1.0))
        assert small < large < whole == set(range(400))
        assert len(large) == pytest.approx(40, abs=6)
        assert any(rows[i].labels[1] for i in small)
        chosen = {rows[i].patient for i in large}
        assert all((r.patient in chosen) == (i in large) for i, r in enumerate(rows))
    first, second = (subsets(records, (0.1,), seed)[0.1].tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": (0.0, 1.0)}, "above 0 and at most 1"),
        ({"fractions": (0.1, 0.1)}, "has a share twice"),
        ({"seeds": 0}, "--seeds must be 1 or more"),
        ({"against": ("random", "random")}, "an encoder is given twice"),
        ({"against": tuple("abcdefgh")}, "9 encoders are too many for one plot; give at most 8"),
        ({"against": ("gone",)}, "--init gone: no such file or folder"),
        ({"init": ()}, "--init needs an encoder first"),
        ({"init": ("random",)}, "--init needs an encoder first"),
        ({"finetune": "no-such"}, "unknown recipe 'no-such'"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, sets, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        runs.probe(config(model, sets, tmp_path / "out", **changes))


def test_records_of_one_label_value_are_named(model, sets, tmp_path):
    records = Records.load(sets["val"], CLASSES)
    one = Records([replace(r, labels=(1.0, 1.0)) for r in records], CLASSES).to_csv(tmp_path / "val.csv")
    with pytest.raises(RunError, match=r"val\.csv: no class has both positives and negatives"):
        runs.probe(config(model, {**sets, "val": one}, tmp_path / "out"))


def test_another_probe_in_the_folder_is_kept(probed, model, sets, capsys):
    out, _ = probed
    arguments = [
        "probe",
        f"--init={model}",
        *(f"--{k}={v}" for k, v in sets.items()),
        "--out",
        str(out),
        "--classes",
        "cardiomegaly",
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "holds another probe (different models; different records)" in capsys.readouterr().err


def test_features_are_not_kept_without_the_images_that_are_out_of_reach(model, sets, phantoms, tmp_path):
    """Kept with NaN, the image would be left out for ever: the same command does not compute features twice."""
    shutil.copytree(phantoms / "images", tmp_path / "images")
    parts = {name: tmp_path / f"{name}.csv" for name in sets}
    for name, file in sets.items():
        records = Records.load(file, CLASSES)
        rows = [replace(r, image=tmp_path / "images" / r.image.name) for r in records]
        replace(records, rows=rows).to_csv(parts[name])
    image = Records.load(parts["test"], CLASSES)[2].image
    image.rename(tmp_path / "aside")
    settings = config(model, parts, tmp_path / "out", against=(), fractions=(1.0,), seeds=1, draws=20)
    with pytest.raises(UnreachableError, match=r"no such file.*Run the same command again"):
        runs.probe(settings)
    assert not list((tmp_path / "out").rglob("*.npz"))
    (tmp_path / "aside").rename(image)
    runs.probe(settings)
    with np.load(next((tmp_path / "out" / "features").iterdir())) as kept:
        assert not any(np.isnan(kept[name]).any() for name in kept.files)
