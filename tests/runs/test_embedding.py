"""The command `embed`: features of the encoder as files."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import mrm
from mrm import runs
from mrm.data import finding_files
from mrm.inference import predict
from mrm.models import model_folder
from mrm.system.errors import OutputError
from tests.support.models import mrm_model
from tests.support.predictions import IN_PROCESS, Stopped, stop_after
from tests.support.run_files import table


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return model_folder.save(tmp_path_factory.mktemp("model") / "mrm", mrm_model())


@pytest.mark.parametrize("kind", ["pooled", "patches"])
def test_features_are_those_of_the_encoder_as_npy_and_as_parquet(pretrained, phantoms, tmp_path, kind):
    (tmp_path / "bad.png").write_bytes(b"")
    given = [phantoms / "images", tmp_path / "bad.png"]
    expected, unreadable = predict.features(mrm.load(pretrained), finding_files.records_at(given), kind, workers=0)
    assert len(unreadable) == 1
    for name in ("f.npy", "f.parquet"):
        written = runs.embed(pretrained, given, tmp_path / name, kind, IN_PROCESS)
        assert (written.n, written.unreadable) == (49, 1)
    array = np.load(tmp_path / "f.npy")
    np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(array[48]).all()
    names = table(tmp_path / "f.csv")
    assert len(names) == 49
    assert "empty" in names[48]["error"]
    stored = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    facts = json.loads(stored.schema.metadata[b"mrm"])
    assert facts == json.loads((tmp_path / "f.json").read_text())
    assert facts["shape"] == list(array.shape[1:])
    column = stored.column("feature").to_pylist()
    assert column[48] is None
    np.testing.assert_array_equal(np.array(column[:48], np.float32).reshape(array[:48].shape), array[:48])


def test_embedding_goes_on_too(pretrained, phantoms, tmp_path, monkeypatch):
    given = [phantoms / "images"]
    runs.embed(pretrained, given, tmp_path / "whole.npy", "pooled", IN_PROCESS)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            runs.embed(pretrained, given, tmp_path / "a.npy", "pooled", IN_PROCESS)
    with pytest.raises(OutputError, match="kind: pooled, now patches"):
        runs.embed(pretrained, given, tmp_path / "a.npy", "patches", IN_PROCESS)
    runs.embed(pretrained, given, tmp_path / "a.npy", "pooled", IN_PROCESS)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "whole.npy"))
