"""Cuts by patient: shares, rare classes, nesting, stability when records are added."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrm.corpora.contract import Options, Release
from mrm.corpora.splits import Published, as_listed, cut, published, with_validation, without_placeholder
from mrm.data.dividing import HANDFUL, choose, divide, fractions, patients_in, with_classes
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

RATES = (0.3, 0.05, 0.004)  # how often each class is seen; of the last, a dozen patients


def made(patients: int, seed: int = 0) -> Records:
    """Patients with one to thirty images, most with few, as in NIH."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        prone = rng.random(3) < RATES
        for n in range(min(30, 1 + int(rng.pareto(1.2)))):
            labels = tuple(float(v) for v in prone & (rng.random(3) < 0.7))
            rows.append(Record(Path(f"{p}/{n}.png"), patient=f"p{p}", labels=labels))
    return Records(rows, ("common", "less", "rare"))


@pytest.fixture(scope="module")
def many() -> Records:
    return made(3000)


def people(records: Records) -> set[str]:
    return set(records.patients)


def test_sets_have_their_shares_and_no_common_patient(many):
    sets = cut(Release(many, [], "1"), Options())
    shares = {k: len(v) / len(many) for k, v in sets.items()}
    assert shares["test"] == pytest.approx(0.2, abs=0.005)
    assert shares["val"] == pytest.approx(0.1, abs=0.005)
    assert shares["train_10"] == pytest.approx(0.07, abs=0.003)
    assert shares["train_1"] == pytest.approx(0.007, abs=0.002)
    assert sum(len(sets[k]) for k in ("train", "val", "test")) == len(many)
    assert not people(sets["train"]) & people(sets["val"])
    assert not people(sets["test"]) & (people(sets["train"]) | people(sets["val"]))


@pytest.mark.parametrize("seed", range(8))
def test_rare_classes_are_in_the_smallest_set(many, seed):
    smallest = fractions(many, (1, 10), seed)["train_1"]
    assert smallest.labels_NC.max(axis=0).tolist() == [1, 1, 1]


@settings(max_examples=40)
@given(st.integers(0, 99), st.lists(st.integers(1, 99), unique=True, min_size=2, max_size=4))
def test_smaller_sets_lie_in_larger_ones(seed, percents):
    parts = list(fractions(made(60, seed), percents, seed).values())
    for small, large in itertools.pairwise(parts):
        assert people(small) <= people(large)


@settings(max_examples=40)
@given(st.integers(0, 999), st.floats(0.01, 0.9))
def test_a_class_with_a_handful_of_patients_is_in_every_share(seed, share):
    records = made(80, seed)
    taken, _ = divide(records, share, seed, "labels")
    shown = Counter(c for p in patients_in(records, records.people, "") for c in p.shows)
    for c, count in shown.items():
        assert count < HANDFUL or taken.labels_NC[:, c].max(initial=0) == 1


def test_a_patients_place_does_not_hang_on_the_order_of_records(many):
    shuffled = many.select(np.random.default_rng(0).permutation(len(many)))
    assert people(fractions(many, (10,), 0)["train_10"]) == people(fractions(shuffled, (10,), 0)["train_10"])


@settings(max_examples=12)
@given(st.integers(0, 99), st.integers(0, 5), st.floats(0, 0.4), st.floats(0, 0.4))
def test_sets_are_complete_and_apart_and_the_same_for_any_order_of_rows(seed, unknown, val, test):
    rows = [r for r in made(25, seed) if int(r.image.stem) < 6]  # no patient has most of the images
    rows = [replace(r, patient="") if i < unknown else r for i, r in enumerate(rows)]
    release = Release(Records(rows, ("common", "less", "rare")), [], "1")
    options = Options(val=val, test=test, fractions=(10,), seed=seed)
    sets = cut(release, options)
    whole = [sets[name] for name in ("train", "val", "test") if name in sets]
    assert sorted(r.image for part in whole for r in part) == sorted(r.image for r in rows)
    for one, other in itertools.combinations(whole, 2):
        assert not (people(one) - {""}) & (people(other) - {""})
    assert {r.image for r in sets["train_10"]} <= {r.image for r in sets["train"]}
    mixed = release.records.select(np.random.default_rng(seed).permutation(len(rows)))
    again = cut(replace(release, records=mixed), options)
    assert {k: {r.image for r in v} for k, v in again.items()} == {k: {r.image for r in v} for k, v in sets.items()}


def test_records_that_are_added_move_few_patients(many):
    before = cut(Release(many, [], "1"), Options())
    new = [replace(r, patient=f"new {r.patient}") for r in made(150, seed=9)]
    after = cut(Release(Records([*many, *new], many.classes), [], "1"), Options())
    moved = sum(len(people(before[k]) - people(after[k])) for k in ("train", "val", "test"))
    assert moved <= 0.01 * 3000
    assert len(people(before["train_10"]) - people(after["train_10"])) <= 0.15 * len(people(before["train_10"]))


def test_seeds_give_other_sets(many):
    assert people(divide(many, 0.2, 0, "test")[0]) != people(divide(many, 0.2, 1, "test")[0])


def test_without_patient_ids_each_image_stands_for_itself():
    rows = [Record(Path(f"{i}.png"), labels=(float(i % 2),)) for i in range(100)]
    sets = cut(Release(Records(rows, ("a",)), [], "1"), Options())
    assert {k: len(v) for k, v in sets.items()} == {
        "train": 70,
        "val": 10,
        "test": 20,
        "train_1": 2,
        "train_10": 7,
    }


def test_the_publishers_sets_are_kept_and_what_is_missing_is_cut(many):
    test = many.where(lambda r: r.patient.endswith("7"))
    train = many.where(lambda r: not r.patient.endswith("7"))
    for given_sets in ({"test": test}, {"test": test, "train": train}):
        sets = cut(Release(many, [], "1", splits=given_sets), Options())
        assert sets["test"].rows == test.rows
        assert len(sets["train"]) + len(sets["val"]) == len(train)
        assert len(sets["val"]) == pytest.approx(len(train) / 10, rel=0.05)


@pytest.mark.parametrize(("options", "message"), [
    (Options(test=1.0), "shares of 0.1 for val and 1 for test"),
    (Options(val=0.5, test=0.5), "shares of 0.5 for val and 0.5 for test"),
    (Options(test=-0.1), "shares of 0.1 for val and -0.1 for test"),
    (Options(val=-0.1), "shares of -0.1 for val and 0.2 for test"),
    (Options(fractions=(0,)), "share of the training labels must be .*, not 0 %"),
    (Options(fractions=(100,)), "share of the training labels must be .*, not 100 %"),
])  # fmt: skip
def test_shares_that_make_no_sense_are_refused(many, options, message):
    with pytest.raises(RecordError, match=message):
        cut(Release(many, [], "1"), options)


def test_half_of_nothing_is_nothing():
    assert choose([], 0.5) == set()


def test_an_id_that_stands_for_everybody_is_taken_away_and_that_is_said():
    rows = [Record(Path(f"{i}.png"), patient="ANONYMOUS" if i < 2 else f"p{i}") for i in range(4)]
    records = Records(rows, ())
    release = without_placeholder(Release(records, [], "1", splits={"test": records.select([0, 3])}, notes=["first"]))
    assert [r.patient for r in release.records] == ["", "", "p2", "p3"]
    assert [r.patient for r in release.splits["test"]] == ["", "p3"]
    assert release.notes == [
        "first",
        "2 images have the patient 'ANONYMOUS', which seems to stand for everybody; they count as of unknown patient",
    ]
    known = Release(records.select([2, 3]), [], "1")
    assert without_placeholder(known) is known


@pytest.mark.parametrize(("purpose", "train"), [("labels", "acd"), ("segmentation", "acd"), ("reports", "abcd")])
def test_images_without_a_stated_label_are_for_learning_from_reports_alone(purpose, train):
    labels = {"a": 1.0, "b": float("nan"), "c": 0.0, "d": -1.0}
    rows = [Record(Path(f"{name}.png"), patient=name, labels=(value,)) for name, value in labels.items()]
    release = Release(Records(rows, ("x",)), [], "1", purpose=purpose)
    sets = cut(release, Options(val=0, test=0, fractions=(50,)))
    assert "".join(r.image.stem for r in sets["train"]) == train
    assert set(sets) == ({"train"} if purpose == "reports" else {"train", "train_50"})


# ---- lists -------------------------------------------------------------------------------------------------


def test_a_folder_without_lists_is_refused(many, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecordError, match="no label lists"):
            published(Release(many, [], "1"), folder)


def test_repeated_lines_of_a_list_are_counted(many, tmp_path):
    (tmp_path / "val_list.txt").write_text("0.png 0 0 1\n0.png 0 0 1\n")
    release = Release(many, [], "1", list_classes=many.classes, key=lambda name: name.split("/")[-1])
    found = published(release, tmp_path)
    assert [e.reason for e in found.excluded] == ["duplicate row"]
    assert len(found.splits["val"]) == 1


def test_a_list_of_names_alone_has_the_classes_and_labels_of_the_publisher(many, tmp_path):
    (tmp_path / "test_list.txt").write_text("0.png\n")
    sets = published(Release(many, [], "1", key=lambda name: name.split("/")[-1]), tmp_path).splits
    assert (sets["test"].classes, len(sets["test"])) == (many.classes, 1)
    assert sets["train"].classes == many.classes
    assert "0.png" not in {r.name.split("/")[-1] for r in sets["train"]}


def test_a_set_for_validation_is_cut_where_lists_for_training_and_test_lack_one(many):
    for names, share in (("train val test", 0.1), ("train", 0.1), ("test", 0.1), ("train test", 0.0)):
        lists = Published(dict.fromkeys(names.split(), many), {}, [], [])
        assert with_validation(lists, Options(val=share)) is lists
    sets = with_validation(Published({"test": many, "train": many}, {}, [], []), Options(val=0.25)).splits
    assert list(sets) == ["train", "val", "test"]
    assert len(sets["train"]) + len(sets["val"]) == len(sets["test"]) == len(many)
    assert len(sets["val"]) == pytest.approx(len(many) / 4, rel=0.05)
    assert not people(sets["train"]) & people(sets["val"])


@pytest.mark.parametrize(
    ("line", "message"),
    [("0.png 0 1", "has 2 labels a line, but 3 classes are expected"), ("0.png 0 1 2", "1 bad lines")],
)
def test_a_list_of_other_labels_is_refused(many, tmp_path, line, message):
    (tmp_path / "val_list.txt").write_text(line)
    with pytest.raises(RecordError, match=rf"val_list.txt: {message}"):
        published(Release(many, [], "1", list_classes=many.classes), tmp_path)


def test_uncertain_and_unstated_labels_follow_the_corpus():
    nan = float("nan")
    records = Records([Record(Path("a.png"), labels=(-1, -1, nan))], ("a", "b", "c"))
    release = Release(records, [], "1", uncertain={"a": "ones"}, unstated_absent=True)
    assert as_listed(records, release).rows[0].labels == (1, 0, 0)
    strict = replace(release, unstated_absent=False)
    assert str(as_listed(records, strict).rows[0].labels) == "(1.0, nan, nan)"
    assert as_listed(records, release, "zeros").rows[0].labels == (0, 0, 0)
    with pytest.raises(RecordError, match=r"uncertain labels: unknown policy \['maybe'\]"):
        as_listed(records, release, "maybe")


def test_classes_can_be_chosen_and_unknown_ones_are_named(many):
    assert with_classes(many, ("rare", "common")).labels_NC.tolist() == many.labels_NC[:, [2, 0]].tolist()
    with pytest.raises(RecordError, match=r"unknown class hernia; choose from common, less, rare"):
        with_classes(many, ("hernia",))


@pytest.fixture
def four() -> Release:
    """Four images, of which the last has no stated label."""
    labels = {"a": (1, 0), "b": (0, 0), "c": (1, 1), "d": (float("nan"), float("nan"))}
    rows = [Record(Path(f"{name}.png"), labels=tuple(map(float, values))) for name, values in labels.items()]
    return Release(Records(rows, ("x", "y")), [], "1", list_classes=("x", "y"))


def test_labels_that_differ_from_the_publishers_are_counted_among_those_that_both_state(four, tmp_path):
    (tmp_path / "val_list.txt").write_text(
        "a.png 0 1\nb.png 0 1\nd.png 1 0\n"
    )  # 2 of a and 1 of b; d has none to compare
    (tmp_path / "test_list.txt").write_text("c.png 1 1\n")
    lists = published(four, tmp_path)
    differing = [note for note in lists.notes if "differ" in note]
    assert differing == ["val_list.txt: 3 of 4 labels differ from the publisher's table"]
    assert lists.splits["val"].labels_NC.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_labels_are_those_of_the_publisher_unless_the_list_states_labels_of_known_classes(four, tmp_path):
    (tmp_path / "val_list.txt").write_text("c.png\na.png\n")  # names alone
    assert published(four, tmp_path).splits["val"].labels_NC.tolist() == [[1, 1], [1, 0]]
    (tmp_path / "val_list.txt").write_text("c.png 0 0\na.png 0 0\n")  # of which classes, nobody says
    lists = published(replace(four, list_classes=()), tmp_path)
    assert (lists.splits["val"].classes, lists.splits["val"].labels_NC.tolist()) == (("x", "y"), [[1, 1], [1, 0]])
    assert not any("differ" in note for note in lists.notes)


@pytest.mark.parametrize(("lists", "train", "note"), [
    ({"train": "a", "val": "b"}, "a", ""),
    ({"val": "b", "test": "c"}, "a", "no train_list.txt: train is the 1 images in no val or test list"),
    ({"few": "a"}, None, ""),
])  # fmt: skip
def test_a_training_set_is_made_of_the_rest_where_lists_hold_some_out_and_name_none(four, tmp_path, lists, train, note):
    labels = {"a": "1 0", "b": "0 0", "c": "1 1"}
    for name, image in lists.items():
        file = "few.txt" if name == "few" else f"{name}_list.txt"
        (tmp_path / file).write_text(f"{image}.png {labels[image]}\n")
    result = published(four, tmp_path)
    assert set(result.splits) == {*lists, *(["train"] if train else [])}
    assert not train or [r.image.stem for r in result.splits["train"]] == [train]
    assert result.notes == ([note] if note else [])
