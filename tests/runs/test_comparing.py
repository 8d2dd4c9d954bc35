"""The command `compare`: two tests of the same records, as their arrays say."""

import json
import math

import numpy as np
import pytest
from scipy.special import expit

from mrm import cli, runs
from mrm.evaluation.classifier_test import write_results
from mrm.evaluation.predictions import Predictions
from mrm.runs.comparing import overlap_beside
from mrm.statistics.comparison import (
    compare,
    delong_test,
    holm,
    sign_flip_test,
)
from mrm.system.errors import RecordError
from tests.support.html_pages import check_whole


def predicted(folder, probabilities_NC, labels_NC, patients, names=()):
    """The predictions.csv of a model."""
    names = list(names) or [f"r{i}" for i in range(len(labels_NC))]
    write_results(folder, {}, Predictions(names, patients, ("x", "y"), labels_NC, probabilities_NC))
    return folder / "predictions.csv"


def two_files(folder, n=120):
    rng = np.random.default_rng(0)
    labels_NC = (rng.random((n, 2)) < 0.4).astype(float)
    labels_NC[:10, 1] = np.nan
    patients = [f"p{i // 2}" for i in range(n)]
    scores = [expit(np.nan_to_num(labels_NC) * apart + rng.normal(size=(n, 2))) for apart in (2.0, 1.0)]
    files = [predicted(folder / name, s, labels_NC, patients) for name, s in zip("ab", scores, strict=True)]
    return labels_NC, patients, scores, files


def test_two_files_are_compared_as_their_arrays_are(tmp_path, capsys):
    labels_NC, patients, scores, files = two_files(tmp_path)
    cli.main(["compare", *map(str, files), "--out", str(tmp_path / "out"), "--draws", "300"])
    told = json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert (told["n"], told["patients"]) == (120, 60)
    direct = [delong_test(labels_NC[:, c], scores[0][:, c], scores[1][:, c], patients) for c in range(2)]
    corrected = holm([one.p for one in direct])
    for c, name in enumerate("xy"):
        expected = {**direct[c].to_dict(), "p_holm": float(corrected[c])}
        for key, value in told["classes"][name]["delong"].items():
            assert value == pytest.approx(expected[key], abs=1e-12)
    drawn = compare(labels_NC, *scores, ("x", "y"), "average_precision", patients, 300)
    assert told["classes"]["mean"]["average_precision"] == drawn["mean"].to_dict()
    text = (tmp_path / "out" / "index.html").read_text()
    check_whole(text)
    assert f"{direct[0].difference.value:+.3f}" in text
    assert "Minimum detectable difference" in text
    assert "AUROC (DeLong)" in capsys.readouterr().out


def test_models_that_tie_everywhere_do_not_differ(tmp_path):
    labels_NC, patients, _, _ = two_files(tmp_path)
    same = np.full(labels_NC.shape, 0.5)
    files = [predicted(tmp_path / name, same, labels_NC, patients) for name in ("c", "d")]
    compared = runs.compare(*files, tmp_path / "out", draws=100)
    assert str(compared["mean"]["auroc"]).startswith("+0.000 (+0.000 to +0.000), p=1.000")
    assert compared["x"]["delong"].p == 1


def test_one_class_only_or_one_patient_only_is_undefined_not_a_crash(tmp_path):
    labels_NC, patients, scores, _ = two_files(tmp_path)
    labels_NC[:, 1] = 0
    files = [predicted(tmp_path / n, s, labels_NC, patients) for n, s in zip("ef", scores, strict=True)]
    compared = runs.compare(*files, tmp_path / "out", draws=100)
    assert not compared["y"]["delong"].difference.defined
    assert math.isnan(compared["y"]["delong"].p_holm)
    assert "undefined (only negatives" in (tmp_path / "out" / "index.html").read_text()
    files = [predicted(tmp_path / n, s, labels_NC, ["p"] * 120) for n, s in zip("gh", scores, strict=True)]
    compared = runs.compare(*files, tmp_path / "one", draws=100)
    assert math.isnan(compared["x"]["auroc"].p)
    json.loads((tmp_path / "one" / "comparison.json").read_text(), parse_constant=pytest.fail)


def test_files_that_do_not_cover_the_same_records_are_named(tmp_path):
    labels_NC, patients, scores, files = two_files(tmp_path)
    other = predicted(tmp_path / "other", scores[1], labels_NC, patients, [f"r{i + 1}" for i in range(120)])
    with pytest.raises(
        RecordError, match=r"do not cover the same records: 1 of 120 only in .*a/predictions\.csv \(first: r0\)"
    ):
        runs.compare(files[0], other, tmp_path / "out")
    with pytest.raises(RecordError, match=r"no predictions\.csv or images\.csv in it"):
        runs.compare(files[0], tmp_path, tmp_path / "out")


def images(folder, dice_N, names=None, true=9):
    """The images.csv of a segmenter; NaN is an image without lesion, on which nothing is predicted."""
    lines = ["name,class,patient_id,intersection,predicted,true,pixels,dice"]
    for i, dice in enumerate(dice_N):
        name = names[i] if names else f"r{i}"
        lines.append(
            f"{name},lesion,,0,{0 if dice != dice else 5},{0 if dice != dice else true},100,{'' if dice != dice else dice}"
        )
    folder.mkdir()
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_two_segmenters_are_compared_by_permutation(tmp_path):
    rng = np.random.default_rng(0)
    first = np.where(np.arange(40) % 4 == 0, np.nan, rng.uniform(0.4, 1, 40).round(3))
    second = (first - 0.1 * rng.random(40)).round(3)
    a, b = images(tmp_path / "a", first), images(tmp_path / "b", second)
    compared = runs.compare(a, b, tmp_path / "out", draws=1000)["lesion"]
    direct = sign_flip_test(first, second, draws=10_000)
    assert compared["dice_positive"].difference == direct.difference
    assert compared["dice_positive"].p == direct.p < 0.01
    assert compared["dice_published"].first == pytest.approx((np.nansum(first) + 10) / 40)
    check_whole((tmp_path / "out" / "index.html").read_text())
    with pytest.raises(RecordError, match="do not agree which images show lesion"):
        runs.compare(a, images(tmp_path / "c", np.roll(first, 1)), tmp_path / "out")
    other = images(tmp_path / "d", first) / "images.csv"
    other.write_text(other.read_text().replace(",lesion,", ",nodule,"))
    with pytest.raises(RecordError, match=r"a/images\.csv has the classes lesion, .*d/images\.csv nodule"):
        runs.compare(a, other, tmp_path / "out")
    _, _, _, files = two_files(tmp_path / "classifiers")
    with pytest.raises(RecordError, match=r"holds images, .* holds predictions; they cannot be compared"):
        runs.compare(a, files[0], tmp_path / "out")


@pytest.mark.parametrize("content", ["[]", "{", "3"])
def test_results_beside_a_table_that_are_none_are_named(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(
        RecordError, match=r"results\.json: not the results of a test, or damaged .*; evaluate the model again"
    ):
        overlap_beside(tmp_path / "predictions.csv")
    file.write_text('{"overlap": ["3 records share a patient"]}')
    assert overlap_beside(tmp_path / "predictions.csv") == ["3 records share a patient"]
    file.write_text('{"overlap": null}')
    assert overlap_beside(tmp_path / "predictions.csv") == []
