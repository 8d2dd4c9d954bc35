"""Records: what files give, what is refused, what comes back when they are written."""

import csv
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrm.data.records import Record, Records, find_images, read_list, resolve_uncertain
from mrm.system.errors import RecordError
from mrm.system.tables import stated

NAN = float("nan")


def write(folder: Path, text: str | bytes, name: str = "training.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def image(path: Path) -> Path:
    """A file where a list looks for one; nothing here decodes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def facts(record: Record) -> tuple:
    """All that is known of a record, in a form in which NaN equals NaN."""
    labels = tuple(None if v != v else float(v) for v in record.labels)
    image = os.path.abspath(record.image)
    return (image, record.report, record.patient, record.study, record.view, labels, dict(record.extra))


def same(a: Records, b: Records) -> bool:
    return a.classes == b.classes and [facts(r) for r in a] == [facts(r) for r in b]


# training.csv -----------------------------------------------------------------------------------------


def test_spaces_after_commas_and_line_breaks_in_quotes_are_read_as_meant(tmp_path):
    path = write(
        tmp_path,
        "image_path, report_content, site\n"
        'a.jpg, "FINDINGS: clear, no effusion.\nIMPRESSION: ""normal"".", north\n'
        "/data/b.jpg, , south\n",
    )
    first, second = Records.load(path)
    assert first.image == tmp_path / "a.jpg"
    assert first.report == 'FINDINGS: clear, no effusion.\nIMPRESSION: "normal".'
    assert first.extra == {"site": "north"}
    assert second.image == Path("/data/b.jpg")
    assert second.report == ""


def test_relative_images_are_sought_in_the_folder_that_is_given(tmp_path):
    path = write(tmp_path, "image_path\na.jpg\n/data/b.jpg\n")
    assert [r.image for r in Records.load(path, images=Path("/images"))] == [
        Path("/images/a.jpg"),
        Path("/data/b.jpg"),
    ]


def test_further_columns_are_kept_and_written_back(tmp_path):
    path = write(tmp_path, "offset,image_path,report_content,licence,pneumonia\n3,a.jpg,clear,CC BY,1\n,b.jpg,,,0\n")
    records = Records.load(path)
    assert records.classes == ()
    assert records[0].extra == {"offset": "3", "licence": "CC BY", "pneumonia": "1"}
    again = Records.load(records.to_csv(tmp_path / "again.csv"))
    assert same(again, records)
    labelled = Records.load(tmp_path / "again.csv", classes=["pneumonia"])
    assert labelled.labels_NC.tolist() == [[1.0], [0.0]]


def test_the_real_training_file_has_350_pairs_whose_images_exist(shared_data, tmp_path):
    records = Records.load(shared_data / "covid-cxr" / "training.csv")
    assert len(records) == 350
    assert all(r.report and r.image.is_file() for r in records)
    assert max(len(r.report) for r in records) > 1000
    assert same(Records.load(records.to_csv(tmp_path / "again.csv")), records)


def test_the_real_label_file_has_5216_records_of_one_class(shared_data):
    records = Records.load(shared_data / "pneumonia-cxr" / "labels.csv", classes=None)
    assert len(records) == 5216
    assert records.classes == ("pneumonia",)
    assert records.labels_NC.mean() == pytest.approx(3875 / 5216)  # Kermany et al.: 3,875 of 5,216
    assert 0 < len(set(records.patients)) < 5216


TEXT = st.text(max_size=40)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT, st.sampled_from([1.0, 0.0, -1.0, NAN])), min_size=1, max_size=4))
@example(rows=[("cut\rhere", ' a "quoted", word', "\n", 1.0)])
@example(rows=[("\ufefffirst", "=1+1", "0", NAN), ("\x00", "\u2028x\u0085", '"', 0.0)])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_any_text_survives_being_written_and_read(tmp_path, form, rows):
    """White space around a field is not part of it, as `training.csv` allows spaces after commas."""
    records = Records(
        [
            Record(tmp_path / f"{i}.png", report, patient=stated(patient), labels=(label,), extra={"note": note})
            for i, (report, patient, note, label) in enumerate(rows)
        ],
        ("effusion, left",),
    )
    path = tmp_path / f"records.{form}"
    again = Records.load(getattr(records, f"to_{form}")(path), classes=records.classes)
    for before, after in zip(records, again, strict=True):
        stripped = (stated(before.report), {"note": stated(before.extra["note"])})
        assert (after.report, after.extra) == stripped
        assert facts(after)[2:6] == facts(before)[2:6]
        assert after.image == before.image


def test_parquet_as_pandas_writes_it_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "image_path": ["a.jpg", "b.jpg"],
        "report_content": ["clear", None],
        "edema": [1.0, NAN],
        "age": [60, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    records = Records.load(tmp_path / "r.parquet", classes=None)
    assert records.classes == ("edema",)
    assert [r.report for r in records] == ["clear", ""]
    assert records[0].labels == (1.0,)
    assert math.isnan(records[1].labels[0])
    assert records[1].extra == {"age": ""}


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = write(tmp_path, b"PAR1 but not really", "r.parquet")
    with pytest.raises(RecordError, match=r"r\.parquet: not a Parquet file"):
        Records.load(path)


def test_an_image_behind_a_link_keeps_its_name_when_written(tmp_path):
    """A data set is often a folder of links into a store whose names mean nothing."""
    store = image(tmp_path / "store" / "0f3a")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").symlink_to(store)
    path = Records([Record(tmp_path / "set" / "a.png")]).to_csv(tmp_path / "set" / "records.csv")
    assert Records.load(path)[0].name == "a.png"


# Files that cannot be used as they are ----------------------------------------------------------------


def test_a_missing_column_is_answered_with_the_columns_found(tmp_path):
    with pytest.raises(RecordError, match=r"no column image_path; the columns found are path, text"):
        Records.load(write(tmp_path, "path, text\na.jpg, clear\n"))


def test_classes_that_are_no_column_are_answered_with_the_columns_found(tmp_path):
    with pytest.raises(RecordError, match=r"no column edema, mass; the columns found are image_path, effusion"):
        Records.load(write(tmp_path, "image_path,effusion\na.jpg,1\n"), classes=["effusion", "edema", "mass"])


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_named(tmp_path, text):
    with pytest.raises(RecordError, match=r"training\.csv: empty file"):
        Records.load(write(tmp_path, text))


@pytest.mark.parametrize("classes", [(), None, ("effusion",)])
def test_a_header_alone_is_no_records(tmp_path, classes):
    with pytest.raises(RecordError, match=r"training\.csv: has no records"):
        Records.load(write(tmp_path, "image_path,report_content,effusion\n"), classes)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"none\.csv: no such file"):
        Records.load(tmp_path / "none.csv")


def test_bytes_that_are_not_utf8_are_read_as_windows_1252_and_warned_of(tmp_path):
    path = write(tmp_path, b"image_path,report_content\na.jpg,clear\nb.jpg,\x8cd\xe8me\n")
    with pytest.warns(UserWarning, match=r"training\.csv: read as Windows-1252, separated by commas"):
        records = Records.load(path)
    assert records[1].report == "Œdème"


BAD_FIELDS = "image_path,report_content\na.jpg,clear\nb.jpg,no effusion, no mass\nc.jpg\nd.jpg,normal\n"


def test_a_line_with_another_number_of_fields_stops_with_its_number(tmp_path):
    with pytest.raises(RecordError, match=r"2 bad lines: line 3: 3 fields, but the header has 2; line 4: 1 fields"):
        Records.load(write(tmp_path, BAD_FIELDS))


def test_bad_lines_are_left_out_only_when_asked_and_then_counted(tmp_path):
    with pytest.warns(UserWarning, match=r"left out 2 lines: line 3: 3 fields"):
        records = Records.load(write(tmp_path, BAD_FIELDS), on_error="skip")
    assert [r.name for r in records] == ["a.jpg", "d.jpg"]


def test_a_record_of_several_lines_is_numbered_by_its_first(tmp_path):
    path = write(tmp_path, 'image_path,report_content\na.jpg,clear\nb.jpg,"one\ntwo\nthree",4\n')
    with pytest.raises(RecordError, match=r"line 3: 3 fields"):
        Records.load(path)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_quote_never_closed_does_not_swallow_the_records_after_it(tmp_path, on_error):
    path = write(tmp_path, 'image_path,report_content\na.jpg,clear\nb.jpg,"no effusion\nc.jpg,normal\nd.jpg,normal\n')
    with pytest.raises(RecordError, match=r"training\.csv: line 3: a quote opens there and is never closed"):
        Records.load(path, on_error=on_error)


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(RecordError, match=r"more than one column is called effusion"):
        Records.load(write(tmp_path, "image_path,effusion,effusion\na.jpg,1,0\n"), classes=["effusion"])


def test_an_empty_image_path_is_a_bad_line(tmp_path):
    with pytest.raises(RecordError, match=r"line 3: empty image_path"):
        Records.load(write(tmp_path, "image_path,report_content\na.jpg,clear\n ,clear\n"))


# Labels -----------------------------------------------------------------------------------------------

LABELS = "image_path,age,Sex,patient_id,effusion,finding,mass\na.jpg,61,1,7,1,none,\nb.jpg,40,0,8,0,opacity,-1\nc.jpg,,0,8,,,0\n"


def test_numeric_columns_become_classes_but_not_age_sex_or_patient(tmp_path):
    records = Records.load(write(tmp_path, LABELS), classes=None)
    assert records.classes == ("effusion", "mass")
    np.testing.assert_array_equal(records.labels_NC, [[1, NAN], [0, -1], [NAN, 0]])
    assert records.patients == ["7", "8", "8"]


def test_named_classes_are_read_in_the_order_they_are_named(tmp_path):
    records = Records.load(write(tmp_path, LABELS), classes=["mass", "Sex"])
    np.testing.assert_array_equal(records.labels_NC, [[NAN, 1], [-1, 0], [0, 0]])


def test_no_labels_are_read_unless_asked_for(tmp_path):
    assert Records.load(write(tmp_path, LABELS)).labels_NC.shape == (3, 0)


@pytest.mark.parametrize(("stray", "shown"), [("11", "'11'"), ("yes", "'yes'"), ("0.5", "'0.5'"), ("inf", "'inf'")])
def test_a_stray_label_in_a_csv_names_line_record_and_column(tmp_path, stray, shown):
    path = write(tmp_path, f"image_path,effusion\na.jpg,1\nb.jpg,{stray}\nc.jpg,0\n")
    with pytest.raises(RecordError, match=rf"line 3: b\.jpg: {shown} in column effusion is not 1, 0, -1"):
        Records.load(path, classes=None)
    with pytest.warns(UserWarning, match="left out 1 lines"):
        assert len(Records.load(path, classes=None, on_error="skip")) == 2


def test_a_file_without_a_numeric_column_has_no_classes_to_learn(tmp_path):
    with pytest.raises(RecordError, match=r"no numeric column to use as a class; the columns are image_path, age"):
        Records.load(write(tmp_path, "image_path,age\na.jpg,61\n"), classes=None)


def test_records_with_other_labels_than_classes_cannot_be_made(tmp_path):
    with pytest.raises(RecordError, match=r"b\.png has 1 labels, expected 2 \(effusion, mass\)"):
        Records([Record(Path("a.png"), labels=(0, 1)), Record(Path("b.png"), labels=(1,))], ("effusion", "mass"))
    with pytest.raises(RecordError, match=r"a\.png: label 2 is not 1, 0"):
        Records([Record(Path("a.png"), labels=(2.0,))], ("effusion",))


def uncertain() -> Records:
    return Records([Record(Path("a"), labels=(-1, -1, 1)), Record(Path("b"), labels=(NAN, 0, -1))], ("x", "y", "z"))


@pytest.mark.parametrize(("policy", "value"), [("ones", 1.0), ("zeros", 0.0), ("ignore", NAN)])
def test_an_uncertain_policy_for_all_classes_changes_uncertain_labels_alone(policy, value):
    expected = [[value, value, 1], [NAN, 0, value]]
    np.testing.assert_array_equal(resolve_uncertain(uncertain(), policy).labels_NC, expected)


def test_an_uncertain_policy_can_differ_by_class_and_ignores_the_rest():
    resolved = resolve_uncertain(uncertain(), {"x": "ones", "z": "zeros"})
    np.testing.assert_array_equal(resolved.labels_NC, [[1, NAN, 1], [NAN, 0, 0]])


@pytest.mark.parametrize(("policy", "named"), [("maybe", "maybe"), ({"x": "one"}, "one"), ({"w": "ones"}, "w")])
def test_a_policy_or_class_that_does_not_exist_is_named(policy, named):
    with pytest.raises(RecordError, match=rf"\['{named}'\]"):
        resolve_uncertain(uncertain(), policy)


# Label lists ------------------------------------------------------------------------------------------


def listed(folder: Path, text: str | bytes, *names: str) -> Path:
    for name in names:
        image(folder / name)
    return write(folder, text, "train.txt")


def test_a_published_list_gives_names_and_labels(tmp_path):
    records = Records.load(listed(tmp_path, "a.png 0 1 0 \nb.png 1 0 0\n\n", "a.png"), ["x", "y", "z"])
    assert records.classes == ("x", "y", "z")
    assert records.labels_NC.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert records[0].image == tmp_path / "a.png"
    assert Records.load(tmp_path / "train.txt").classes == ("label0", "label1", "label2")


def test_a_list_written_is_the_list_read(tmp_path):
    path = listed(tmp_path, "a.png 0 1\nb.png 1 0\n", "a.png")
    assert Records.load(path).to_list(tmp_path / "again.txt").read_text() == path.read_text()


def test_a_list_cannot_hold_what_its_format_does_not(tmp_path):
    unstated = Records([Record(Path("a.png"), labels=(1,)), Record(Path("b.png"), labels=(NAN,))], ("x",))
    with pytest.raises(RecordError, match=r"b\.png: a label list can hold only 0 and 1; write a CSV"):
        unstated.to_list(tmp_path / "l.txt")
    spaced = Records([Record(Path("a b.png"), labels=(1,))], ("x",))
    with pytest.raises(RecordError, match=r"a b\.png: a name in a label list cannot have spaces; write a CSV"):
        spaced.to_list(tmp_path / "l.txt")
    assert not (tmp_path / "l.txt").exists()


STRAY = "a.jpg 0\nb.jpg 11\nc.jpg 1\n"


def test_the_stray_11_of_the_published_viral_list_stops_with_line_and_record(tmp_path):
    with pytest.raises(
        RecordError, match=r"train\.txt: 1 bad lines: line 2: b\.jpg has label '11'; a label list can hold only 0 and 1"
    ):
        Records.load(listed(tmp_path, STRAY, "a.jpg"))


def test_a_stray_label_in_a_list_is_left_out_when_asked_and_counted(tmp_path):
    with pytest.warns(UserWarning, match=r"left out 1 lines: line 2: b\.jpg has label '11'"):
        records = Records.load(listed(tmp_path, STRAY, "a.jpg"), on_error="skip")
    assert [r.name for r in records] == ["a.jpg", "c.jpg"]


def test_the_published_viral_list_itself(shared_data):
    path = shared_data / "covid-cxr" / "splits" / "isviral_train.txt"
    stray = [line.split()[0] for line in path.read_text().splitlines() if line.split()[1:] not in (["0"], ["1"])]
    if not stray:
        assert set(Records.load(path).labels_NC.ravel()) == {0.0, 1.0}
        return
    with pytest.raises(RecordError, match=stray[0]):
        Records.load(path)
    with pytest.warns(UserWarning, match=f"left out {len(stray)} lines"):
        Records.load(path, on_error="skip")


def test_a_list_with_another_number_of_classes_says_how_many_it_has(tmp_path):
    path = listed(tmp_path, "a.png 0 1\nb.png 1 0\n", "a.png")
    for on_error in ("stop", "skip"):  # every line would be left out
        with pytest.raises(
            RecordError, match=r"has 2 labels a line, but 3 classes are expected \(x, y, z\); name its 2"
        ):
            Records.load(path, ["x", "y", "z"], on_error=on_error)


def test_one_line_with_another_number_of_labels_than_most_is_bad(tmp_path):
    with pytest.raises(RecordError, match=r"line 3: c\.png has 1 labels, expected 2"):
        Records.load(listed(tmp_path, "a.png 0 1\nb.png 1 0\nc.png 1\n", "a.png"))


def test_an_empty_list_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"train\.txt: empty label list"):
        Records.load(listed(tmp_path, "\n \n"))


def test_a_list_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does(tmp_path):
    records = Records.load(listed(tmp_path, b"\xef\xbb\xbfa.png 1\r\nb.png 0\r\n", "a.png"))
    assert [r.name for r in records] == ["a.png", "b.png"]


def test_a_list_that_is_no_text_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"train\.txt: neither UTF-8 nor Windows-1252"):
        Records.load(listed(tmp_path, b"a.png 1\n\xff\xfe\x00 0\n", "a.png"))


@pytest.mark.parametrize("place", ["", "images", "all_classes", "train/all_classes", "test/all_classes"])
def test_images_of_a_list_are_found_in_every_published_place(tmp_path, place):
    wanted = image(tmp_path / place / "a.png")
    assert Records.load(listed(tmp_path, "a.png 1\n"))[0].image == wanted


def test_images_spread_over_several_places_are_each_found(tmp_path):
    first, second = (
        image(tmp_path / "train" / "all_classes" / "a.png"),
        image(tmp_path / "test" / "all_classes" / "b.png"),
    )
    assert [r.image for r in Records.load(listed(tmp_path, "a.png 1\nb.png 0\n"))] == [first, second]


def test_names_with_folders_are_found_too(tmp_path):
    wanted = image(tmp_path / "images" / "p1" / "s1" / "a.png")
    assert Records.load(listed(tmp_path, "p1/s1/a.png 1\n"))[0].image == wanted


def test_a_folder_that_is_given_is_the_only_one_searched(tmp_path):
    image(tmp_path / "a.png")
    wanted = image(tmp_path / "elsewhere" / "a.png")
    path = listed(tmp_path, "a.png 1\n")
    assert read_list(path, images=tmp_path / "elsewhere")[0].image == wanted
    with pytest.raises(RecordError, match="found in any folder that exists"):
        read_list(path, images=tmp_path / "nowhere")


def test_when_no_image_is_found_the_folders_searched_are_listed(tmp_path):
    image(tmp_path / "images" / "other.png")
    with pytest.raises(RecordError) as error:
        Records.load(listed(tmp_path, "a.png 1\nb.png 0\n"))
    assert f"none of its 2 images was found in {tmp_path}, {tmp_path / 'images'}" in str(error.value)
    assert "--images DIR" in str(error.value)


def test_an_image_that_is_not_found_keeps_a_place_to_be_missed_at(tmp_path):
    found = find_images(["a.png", "gone.png"], listed(tmp_path, "", "a.png"))
    assert found == [tmp_path / "a.png", tmp_path / "gone.png"]


def test_the_published_covid_list_finds_its_images(shared_data):
    records = Records.load(shared_data / "covid-cxr" / "splits" / "iscovid_train.txt")
    assert sum(r.image.is_file() for r in records) > 0.9 * len(records)


# Sequence, splits, fingerprint ------------------------------------------------------------------------


def cohort(patients: int, each: int = 2) -> Records:
    return Records([Record(Path(f"{p}-{i}.png"), patient=f"p{p}") for p in range(patients) for i in range(each)])


def test_a_slice_keeps_classes_and_order():
    records = Records([Record(Path(f"{i}.png"), labels=(i % 2,)) for i in range(5)], ("x",))
    assert [r.name for r in records[1:4]] == ["1.png", "2.png", "3.png"]
    assert records[1:4].classes == ("x",)
    assert [r.name for r in records.select([4, 0])] == ["4.png", "0.png"]
    assert [r.name for r in records.where(lambda r: r.labels == (1,))] == ["1.png", "3.png"]


def test_patients_are_unknown_as_soon_as_one_is():
    known = cohort(2, 1)
    assert known.patients == ["p0", "p1"]
    assert Records([*known, Record(Path("c.png"))]).patients == ["p0", "p1", ""]


def test_a_split_shares_no_patient_and_loses_no_record():
    records = cohort(400)
    parts = records.split({"train": 0.7, "val": 0.1, "test": 0.2})
    assert sorted(r.name for part in parts.values() for r in part) == sorted(r.name for r in records)
    train, val, test = ({r.patient for r in part} for part in parts.values())
    assert len(train | val | test) == len(train) + len(val) + len(test) == 400


def test_a_split_is_near_its_shares_and_may_leave_some_out():
    parts = cohort(4000, 1).split({"a": 0.5, "b": 0.25})
    assert len(parts["a"]) == pytest.approx(2000, abs=130)  # four deviations of a fair draw
    assert len(parts["b"]) == pytest.approx(1000, abs=110)


def test_a_patient_stays_in_his_part_when_records_are_added_and_moves_with_the_seed():
    shares = {"train": 0.8, "test": 0.2}
    before, after = cohort(100).split(shares), cohort(500, 3).split(shares)
    for part in shares:
        assert {r.patient for r in before[part]} <= {r.patient for r in after[part]}
    other = cohort(100).split(shares, seed=1)
    assert {r.patient for r in before["test"]} != {r.patient for r in other["test"]}


def test_a_smaller_training_share_is_part_of_the_larger():
    small, large = (cohort(300).split({"train": share})["train"] for share in (0.1, 0.3))
    assert {r.name for r in small} < {r.name for r in large}


def test_records_of_unknown_patient_are_placed_by_name():
    records = Records([Record(Path(f"{i}.png")) for i in range(200)])
    parts = records.split({"a": 0.5, "b": 0.5})
    assert 60 < len(parts["a"]) < 140


@pytest.mark.parametrize("shares", [{"a": 0.8, "b": 0.3}, {"a": -0.1}, {}])
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(RecordError, match="shares must be positive and sum to at most 1"):
        cohort(2).split(shares)


CHANGES = {
    "image": lambda r, c: (Record(Path("b.png"), "clear", "p", labels=(1.0,)), c),
    "report": lambda r, c: (Record(Path("a.png"), "clear.", "p", labels=(1.0,)), c),
    "patient": lambda r, c: (Record(Path("a.png"), "clear", "q", labels=(1.0,)), c),
    "label": lambda r, c: (Record(Path("a.png"), "clear", "p", labels=(NAN,)), c),
    "class": lambda r, c: (r, ("mass",)),
    "study": lambda r, c: (Record(Path("a.png"), "clear", "p", "s", labels=(1.0,)), c),
    "view": lambda r, c: (Record(Path("a.png"), "clear", "p", "", "PA", labels=(1.0,)), c),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_any_field(change):
    record, classes = Record(Path("a.png"), "clear", "p", labels=(1.0,)), ("effusion",)
    other, names = CHANGES[change](record, classes)
    assert Records([record], classes).fingerprint() != Records([other], names).fingerprint()


def test_the_fingerprint_is_of_the_values_however_they_came(tmp_path):
    made = Records([Record(Path("a.png"), "clear", "p", labels=(1, np.float32(0), NAN))], ("x", "y", "z"))
    text = "image_path,report_content,patient_id,x,y,z\na.png,clear,p,1.0,-0,\n"
    assert made.fingerprint() == Records.load(write(tmp_path, text), ["x", "y", "z"]).fingerprint()
    assert made.fingerprint() != Records([*made, *made], made.classes).fingerprint()


# Words for missing, other forms of tables, damaged paths -----------------------------------------------------


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "-", " ", "<NA>", "N/A", "#N/A"])
def test_a_word_for_missing_is_no_patient_study_view_report_label_or_other_text(tmp_path, word):
    """pandas writes a missing value as `nan`; all unknown patients must not become one patient of that name."""
    path = write(
        tmp_path,
        "image_path,report_content,patient_id,study_id,view,sex,effusion\n"
        f"a.png,{word},{word},{word},{word},{word},{word}\nb.png,Clear.,P1,S1,PA,F,1\n",
    )
    records = Records.load(path, classes=None)
    assert records.classes == ("effusion",)
    first, second = records
    assert (first.report, first.patient, first.study, first.view, first.extra) == ("", "", "", "", {"sex": ""})
    assert math.isnan(first.labels[0])
    assert (second.report, second.patient, second.extra["sex"]) == ("Clear.", "P1", "F")
    assert records.patients == ["", "P1"]  # the first is unknown


def test_a_missing_word_as_the_path_is_a_row_without_image(tmp_path):
    path = write(tmp_path, "image_path,effusion\nnan,1\nb.png,0\n")
    with pytest.raises(RecordError, match="line 2: empty image_path"):
        Records.load(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_a_table_as_german_excel_saves_it_is_read(tmp_path, encoding):
    text = "image_path;patient_id;report_content;effusion\nä.png;7;Erguß, links;1\n"
    records = Records.load(write(tmp_path, text.encode(encoding)), classes=None)
    assert records.classes == ("effusion",)
    assert facts(records[0])[1:6] == ("Erguß, links", "7", "", "", (1.0,))
    assert records[0].image == tmp_path / "ä.png"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-be"])
def test_a_label_list_is_read_in_every_form_of_unicode(tmp_path, encoding):
    image(tmp_path / "a.png")
    listed = read_list(write(tmp_path, "a.png 1 0\n".encode(encoding), "list.txt"))
    assert [(r.name, r.labels) for r in listed] == [("a.png", (1.0, 0.0))]


def test_a_nul_byte_in_a_path_is_a_bad_line(tmp_path):
    path = write(tmp_path, "image_path,effusion\na.png\0,1\nb.png,0\n")
    with pytest.raises(RecordError, match=r"line 2: image_path 'a\.png\\x00' has a NUL byte, .*the table is damaged"):
        Records.load(path, ["effusion"])
    with pytest.warns(UserWarning, match="left out 1 lines"):
        assert [r.name for r in Records.load(path, ["effusion"], on_error="skip")] == ["b.png"]


def test_a_nul_byte_in_a_label_list_is_named(tmp_path):
    image(tmp_path / "a.png")
    with pytest.raises(RecordError, match="NUL byte"):
        read_list(write(tmp_path, "a.png 1\nb\0.png 0\n", "list.txt"))


def test_a_file_name_that_is_not_utf8_is_a_record_whose_name_can_be_printed():
    record = Record(Path(os.fsdecode(b"/data/gr\xf6\xdfe.png")))
    assert record.name == r"/data/gr\xf6\xdfe.png"
    assert os.fsencode(record.image) == b"/data/gr\xf6\xdfe.png"


def test_records_come_back_from_a_csv_that_a_spreadsheet_cannot_compute(tmp_path):
    texts = ["- No effusion.", "=1+1", "'=1", "+49 30", "@home", "-0.5", "plain"]
    rows = [
        Record(
            tmp_path / f"{n}.png",
            f"{text} seen",
            f"p{text}",
            text.strip("'"),
            text,
            (-1.0, 0.0),
            {"=note": text, "age": "-1"},
        )
        for n, text in enumerate(texts)
    ]
    records = Records(rows, ("-x", "edema"))
    file = records.to_csv(tmp_path / "records.csv")
    again = Records.load(file, ("-x", "edema"))
    assert again.rows == [replace(r, name=r.image.name) for r in rows]
    with open(file, newline="", encoding="utf-8") as text:
        cells = [cell for line in csv.reader(text) for cell in line]
    assert {c for c in cells if c[:1] in set("=+-@")} == {"-1", "-0.5"}  # labels and numbers are no formulas
