"""The command `embed`: features of the encoder as files."""

import errno
import json
import resource

import numpy as np
import pyarrow.parquet
import pytest

import mrm
from mrm import runs
from mrm.data import finding_files
from mrm.inference import predict
from mrm.models.image_sizes import at_size
from mrm.runs import embedding
from mrm.system import files
from mrm.system.errors import ConfigError, OutputError
from tests.support.predictions import IN_PROCESS, Stopped, stop_after
from tests.support.run_files import table


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


def test_an_index_of_larger_images_is_searched_at_its_size(pretrained, phantoms, tmp_path):
    images = sorted((phantoms / "images").iterdir())[:6]
    runs.embed(pretrained, images, tmp_path / "f.npy", "pooled", IN_PROCESS, image_size=96)
    assert json.loads((tmp_path / "f.json").read_text())["image_size"] == 96
    expected = predict.features(at_size(mrm.load(pretrained), 96), finding_files.records_at(images), workers=0)[0]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, rtol=1e-4, atol=1e-5)
    copy = tmp_path / "copy.png"
    copy.write_bytes(images[3].read_bytes())
    (nearest,) = runs.similar([copy], tmp_path / "f.npy", pretrained, top=1, reading=IN_PROCESS)
    assert nearest["path"] == str(images[3])
    assert nearest["cosine"] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match=r"image_size 90 x 90 does not divide"):
        runs.embed(pretrained, images, tmp_path / "g.npy", "pooled", IN_PROCESS, image_size=90)


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


@pytest.mark.parametrize("reserves", [True, False])
def test_a_full_disk_is_an_error_in_words_and_leaves_no_half_file(
    pretrained, phantoms, tmp_path, monkeypatch, reserves
):
    """A limit on the size of files stands for the full disk. A mapped file would have ended the process by SIGBUS."""
    out = tmp_path / "out" / "f.npy"
    runs.embed(pretrained, [phantoms / "images"], tmp_path / "whole.npy", "pooled", IN_PROCESS)
    if not reserves:  # a file system that cannot reserve space
        monkeypatch.setattr(files.os, "posix_fallocate", unsupported)
    real, limits = embedding._write_npy, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_full_disk(work, *rest):
        size = (tmp_path / "whole.npy").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, limits[1]))
        real(work, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_write_npy", on_full_disk)
        try:
            with pytest.raises(OutputError, match=r"f\.npy: cannot be written \(File too large\)"):
                runs.embed(pretrained, [phantoms / "images"], out, "pooled", IN_PROCESS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in out.parent.iterdir()) == ["f.csv", "f.json", "f.npy.partial"]
    runs.embed(pretrained, [phantoms / "images"], out, "pooled", IN_PROCESS)
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def unsupported(*_):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")
