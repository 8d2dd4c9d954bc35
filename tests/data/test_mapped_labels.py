"""Labels of mapped records: those that are loaded, whatever is made of them, and nothing of them is held."""

import pickle
import tracemalloc
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mrm.data import images, shard_rows
from mrm.data.config import CropConfig, PackConfig
from mrm.data.eval_view import EvalView
from mrm.data.mapped_rows import MappedRows
from mrm.data.packing import open_source, pack
from mrm.data.record_cache import mapped_records
from mrm.data.record_sources import Labels
from mrm.data.records import Records, resolve_uncertain
from mrm.data.samples import LabelData
from mrm.system.errors import RecordError
from mrm.targets import TARGETS
from tests.support.image_files import random_image

CLASSES = ("mass", "nodule", "effusion")
CELLS = ("1", "0", "-1", "", "nan")


@pytest.fixture
def table(tmp_path) -> Path:
    """Forty records with labels of every kind, a column of levels and one of shares."""
    rng = np.random.default_rng(0)
    rows = [
        f"{n}.png,{n // 3},{','.join(rng.choice(CELLS, 3))},{rng.integers(3)},{rng.integers(5) / 4:g},F"
        for n in range(40)
    ]
    table = tmp_path / "training.csv"
    table.write_text("image_path,patient_id,mass,nodule,effusion,level,share,sex\n" + "\n".join(rows) + "\n")
    return table


@pytest.fixture
def listed(tmp_path) -> Path:
    """A published label list, whose images lie in two folders beside it."""
    for number, folder in enumerate(("images", "train/all_classes", "images")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{number}.png").write_bytes(images.encode_png(random_image(number)))
    (tmp_path / "list.txt").write_text("0.png 1 0\n1.png 0 0\n2.png 0 1\n")
    return tmp_path / "list.txt"


def both(place: Path, kept: Path, labels: Labels, images: Path | None = None) -> tuple[Records, Records]:
    """The records of a table, mapped in small batches, and loaded."""
    mapped = mapped_records(place, kept, images, labels=labels)
    assert isinstance(mapped.rows, MappedRows)
    loaded = Records.load(place, labels.classes, images, list_classes=labels.list_classes, kind=labels.kind)
    return mapped, loaded


def assert_same(mapped: Records, loaded: Records) -> None:
    assert (mapped.classes, mapped.kind, len(mapped)) == (loaded.classes, loaded.kind, len(loaded))
    np.testing.assert_array_equal(mapped.labels_NC, loaded.labels_NC)
    np.testing.assert_array_equal([r.labels for r in mapped], [r.labels for r in loaded])  # without an order of NaN
    np.testing.assert_array_equal(mapped[-1].labels, loaded[-1].labels)
    assert mapped.fingerprint() == loaded.fingerprint()
    assert mapped.fingerprint_unordered() == loaded.fingerprint_unordered()
    assert (mapped.with_report, mapped.patient_count) == (loaded.with_report, loaded.patient_count)
    for one, other in zip(mapped, loaded, strict=True):
        assert (one.image, one.name, one.patient, one.extra) == (other.image, other.name, other.patient, other.extra)


# The same labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        Labels(),
        Labels(CLASSES),
        Labels(("effusion", "mass")),
        Labels(("level",), "numbers"),
        Labels(("share",), "shares"),
    ],
)
def test_labels_of_a_table(table, tmp_path, monkeypatch, labels):
    monkeypatch.setattr("mrm.data.mapped_rows.BATCH_ROWS", 7)
    assert_same(*both(table, tmp_path / "kept", labels))
    assert_same(*both(table, tmp_path / "kept", labels))  # mapped again


def test_classes_that_no_one_names_are_the_numeric_columns(table, tmp_path):
    mapped, loaded = both(table, tmp_path / "kept", Labels(None, "numbers"))
    assert mapped.classes == (*CLASSES, "level", "share")
    assert_same(mapped, loaded)


def test_a_label_list_and_where_its_images_are(listed, tmp_path):
    for labels in (Labels(), Labels(("a", "b")), Labels(None, list_classes=("c", "d"))):
        again = labels != Labels()  # other names than at the start before
        with pytest.warns(UserWarning, match="were read with other labels") if again else nullcontext():
            mapped, loaded = both(listed, tmp_path / "kept", labels)
        assert_same(mapped, loaded)
    assert mapped[1].image == tmp_path / "train" / "all_classes" / "1.png"


def test_images_of_a_list_that_were_moved_are_sought_again(listed, tmp_path):
    mapped_records(listed, tmp_path / "kept")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="its records were read with other labels, or their images sought in another"):
        mapped = mapped_records(listed, tmp_path / "kept", tmp_path / "elsewhere")
    assert mapped[0].image == tmp_path / "elsewhere" / "0.png"
    (tmp_path / "elsewhere").rename(tmp_path / "all_classes")
    mapped_records(listed, tmp_path / "kept2")
    (tmp_path / "all_classes").rename(tmp_path / "images")
    with pytest.warns(UserWarning, match=r"kept2: the images of the list are no longer where they were"):
        assert mapped_records(listed, tmp_path / "kept2")[0].image == tmp_path / "images" / "0.png"


def test_labels_that_were_packed(table, listed, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_rows, "BATCH_ROWS", 7)
    for n in range(40):
        (tmp_path / f"{n}.png").write_bytes(images.encode_png(random_image(n)))
    pack(open_source(table), tmp_path / "packed", PackConfig(16), workers=1)
    for number, labels in enumerate((Labels(CLASSES), Labels(("level",), "numbers"), Labels(None, "numbers"))):
        assert_same(*both(tmp_path / "packed", tmp_path / f"kept{number}", labels))
    pack(open_source(listed), tmp_path / "list", PackConfig(16), workers=1)
    for number, labels in enumerate((Labels(None), Labels(("a", "b")), Labels(None, list_classes=("c", "d")))):
        assert_same(*both(tmp_path / "list", tmp_path / f"listed{number}", labels))
    with pytest.raises(RecordError, match="packed from a list of 2 labels, expected 3"):
        mapped_records(tmp_path / "list", tmp_path / "none", labels=Labels(("a", "b", "c")))


# What is made of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["ones", "zeros", "ignore"])
def test_uncertain_labels(table, tmp_path, policy):
    mapped, loaded = (resolve_uncertain(r, policy) for r in both(table, tmp_path / "kept", Labels(CLASSES)))
    assert not (mapped.labels_NC == -1).any()
    assert_same(mapped, loaded)
    chosen = [33, 2, 2, 17]
    assert_same(mapped.select(chosen), loaded.select(chosen))
    assert_same(pickle.loads(pickle.dumps(mapped.select(chosen))), loaded.select(chosen))


def test_levels_become_steps_and_levels_again(table, tmp_path):
    stated = both(table, tmp_path / "kept", Labels(("level",), "numbers"))
    target = TARGETS["ordinal"].of_training(stated[1])
    assert target == TARGETS["ordinal"].of_training(stated[0])
    steps = [target.labels(records) for records in stated]
    assert steps[0].classes == ("level >= 1", "level >= 2")
    assert_same(*steps)
    assert_same(*(target.as_stated(records) for records in steps))


def test_what_is_not_stated_beside_a_class_is_zero(tmp_path):
    (tmp_path / "one.csv").write_text("image_path,a,b\n1.png,1,\n2.png,,\n3.png,0,1\n")
    stated = both(tmp_path / "one.csv", tmp_path / "kept", Labels(("a", "b")))
    assert_same(*(TARGETS["multiclass"].of_training(r).labels(r) for r in stated))


def test_labels_that_are_given(table, tmp_path):
    given_NC = np.random.default_rng(1).random((40, 3))
    stated = [resolve_uncertain(r, "ones") for r in both(table, tmp_path / "kept", Labels(CLASSES))]
    mapped, loaded = (r.with_labels(given_NC, kind="shares") for r in stated)
    assert_same(mapped, loaded)
    assert_same(mapped.select([9, 0]), loaded.select([9, 0]))
    doubled = partial(np.multiply, 0.5)
    assert_same(mapped.select([9, 0]).relabelled(doubled), loaded.select([9, 0]).relabelled(doubled))


# Memory ---------------------------------------------------------------------------------------------------------


def test_samples_of_labelled_records_hold_nothing_of_each(tmp_path):
    """20,000 records with uncertain labels: less than three bytes of each is held, by what tracemalloc sees."""
    n = 20_000
    (tmp_path / "many.csv").write_text("image_path,a,b\n" + "".join(f"{i}.png,{i % 3 - 1},{i % 2}\n" for i in range(n)))
    mapped_records(tmp_path / "many.csv", tmp_path / "kept", labels=Labels(("a", "b")))
    tracemalloc.start()
    try:
        records = resolve_uncertain(
            mapped_records(tmp_path / "many.csv", tmp_path / "kept", labels=Labels(("a", "b"))), "ignore"
        )
        data = LabelData(TARGETS["multilabel"].of_training(records).labels(records), EvalView(16), CropConfig())
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3 * n
    np.testing.assert_array_equal(data.records[4].labels, [0, 0])
    np.testing.assert_array_equal(data.records[3].labels, [np.nan, 1])
