"""The command `similar`: the nearest images of an index, to an image or to a text."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mrm
from mrm import runs
from mrm.cli import main
from mrm.data import finding_files, images
from mrm.inference import predict
from mrm.models import model_folder
from mrm.system.errors import MRMError, RecordError, ReportError, RunError
from tests.support.bright_and_dark import TEXTS, bright_or_dark, with_contrast
from tests.support.predictions import IN_PROCESS


@pytest.fixture(scope="module", params=[".npy", ".parquet"])
def index(request, pretrained, phantoms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("index") / f"f{request.param}"
    (out.parent / "bad.png").write_bytes(b"")
    runs.embed(pretrained, [phantoms / "images", out.parent / "bad.png"], out, "pooled", IN_PROCESS)
    return out


def test_neighbours_are_the_nearest_by_cosine(index, pretrained, phantoms, tmp_path):
    files = sorted((phantoms / "images").iterdir())
    features = predict.features(mrm.load(pretrained), finding_files.records_at(files), workers=0)[0]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = unit @ unit[5]
    copy = tmp_path / "copy.jpg"  # an image that the index does not know by its path
    copy.write_bytes(files[5].read_bytes())
    for query, order in ((copy, np.argsort(-expected)), (files[5], np.argsort(-expected)[1:])):
        got = runs.similar([query], index, pretrained, 6, IN_PROCESS)
        assert [a["path"] for a in got] == [str(files[i]) for i in order[:6]]
        assert [a["rank"] for a in got] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([a["cosine"] for a in got], expected[order[:6]], atol=1e-5)
    assert runs.similar([files[5]], index, None, 6)[0]["query"] == str(files[5])  # needs no model
    assert len(runs.similar([files[5]], index, None, 500)) == 47  # not itself, and not the one unreadable


def test_searches_that_cannot_be_answered_are_refused(index, model, pretrained, phantoms, awkward, tmp_path):
    image = awkward / "00-good.jpg"
    search = lambda *a, **k: runs.similar(*a, **{"reading": IN_PROCESS, **k})  # noqa: E731
    with pytest.raises(RunError, match="give its --model too"):
        search([image], index)
    with pytest.raises(RunError, match="made by another model"):
        search([image], index, model)
    with pytest.raises(RunError, match="made with precision 'fp32'"):
        search([image], index, pretrained, reading=replace(IN_PROCESS, precision="bf16"))
    with pytest.raises(RunError, match="empty"):
        search([awkward / "01-zero-bytes.png"], index, pretrained)
    with pytest.raises(RecordError, match="has no features"):
        search([index.parent / "bad.png"], index)
    with pytest.raises(RunError, match="--top must be"):
        search([image], index, pretrained, 0)
    with pytest.raises(RecordError, match="no such file or folder"):
        search(["nowhere.png"], index, pretrained)
    runs.embed(pretrained, [phantoms / "images" / "S0-000000.jpg"], tmp_path / "p.npy", "patches", IN_PROCESS)
    with pytest.raises(RecordError, match="--kind pooled"):
        search([image], tmp_path / "p.npy", pretrained)
    (tmp_path / "no.parquet").write_bytes(b"x")
    for name in ("no.parquet", "gone.npy", "index.csv"):
        with pytest.raises(RecordError, match=r"not an index written|an index ends in"):
            search([image], tmp_path / name, pretrained)


def test_a_text_finds_the_images_that_it_describes(bright_and_dark_model, tmp_path, capsys):
    """Ten bright and ten dark images, and one that cannot be read: the first ten of either text are all right."""
    model, index = model_folder.save(tmp_path / "model", with_contrast(bright_and_dark_model)), tmp_path / "f.parquet"
    (tmp_path / "images").mkdir()
    for i in range(20):
        (tmp_path / "images" / f"{i:02}.png").write_bytes(images.encode_png(bright_or_dark(i % 2 == 0, 500 + i)))
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    runs.embed(model, [tmp_path / "images"], index, "pooled", IN_PROCESS)
    answers = runs.similar([], index, model, 10, IN_PROCESS, TEXTS)
    for parity, text in enumerate(TEXTS):
        rows = [a for a in answers if a["query"] == text]
        assert {int(Path(a["path"]).stem) % 2 for a in rows} == {parity}
        assert [a["rank"] for a in rows] == list(range(1, 11))
        assert [a["cosine"] for a in rows] == sorted((a["cosine"] for a in rows), reverse=True)
    assert len(runs.similar([], index, model, 500, IN_PROCESS, TEXTS[:1])) == 20  # not the one unreadable
    main(["similar", "--text", TEXTS[1], "--index", str(index), "--model", str(model), "--top", "1"])
    assert capsys.readouterr().out.startswith(TEXTS[1] + "\n    1  ")


def test_a_text_needs_the_model_of_the_index_and_contrast(index, model, pretrained, awkward):
    search = partial(runs.similar, [], index, reading=IN_PROCESS, texts=["bright"])
    with pytest.raises(RunError, match="to search with a text, give the model that made it"):
        search()
    with pytest.raises(ReportError, match="pre-trained without contrast"):
        search(model=pretrained)
    with pytest.raises(MRMError, match="expected"):
        search(model=model)  # a classifier
    for queries, texts in (([], []), ([awkward / "00-good.jpg"], ["bright"])):
        with pytest.raises(RunError, match="either images to search for, or a text"):
            runs.similar(queries, index, pretrained, 5, IN_PROCESS, texts)
