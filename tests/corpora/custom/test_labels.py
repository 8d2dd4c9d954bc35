"""Words of labels in six languages, one column that names findings, and what is not understood."""

from pathlib import Path

import pytest

from mrm.corpora import prepare
from mrm.corpora.custom.joining import Entry
from mrm.corpora.custom.labels import label_reader
from mrm.corpora.options import Options
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.image_files import write_image

NAN = float("nan")


def entries(*cells: str, column: str = "TB") -> list[Entry]:
    return [Entry(f"labels.csv, line {n}", {}, {column: text}) for n, text in enumerate(cells, 2)]


def read(*cells: str, classes=("TB",), **options) -> list:
    rows = entries(*cells)
    reader = label_reader(rows, classes, **options)
    return [reader(row.labels) for row in rows]


def same(found: list, expected: list[float]) -> bool:
    return [repr(labels) for labels in found] == [repr((value,)) for value in expected]


@pytest.mark.parametrize(
    ("present", "absent", "uncertain"),
    [
        ("ja", "nein", "unklar"),
        ("Ja", "NEIN", "fraglich"),
        ("oui", "non", "douteux"),
        ("sí", "no", "dudoso"),
        ("si", "no", "incerto"),
        ("sim", "não", "incerto"),
        ("pos", "neg", "uncertain"),
        ("positiv", "negativ", "unsicher"),
        ("présent", "absent", "incertain"),
        ("1", "0", "-1"),
        ("1,0", "0,0", "-1,0"),
        ("1.0", "0.0", "-1.0"),
        ("TRUE", "FALSE", "-1"),
    ],
)
def test_words_of_six_languages_are_labels(present, absent, uncertain):
    assert same(read(present, absent, f" {uncertain} ", "", "k.A.", "n/a"), [1.0, 0.0, -1.0, NAN, NAN, NAN])


def test_plus_and_minus_are_labels_where_a_column_has_no_other_words_and_it_is_said():
    rows = entries("+", "-", "", "–", "n/a")
    reader = label_reader(rows, ("TB",))
    assert same([reader(row.labels) for row in rows], [1.0, 0.0, NAN, 0.0, NAN])
    assert "TB: has only + and -, which are read as 1 and 0" in reader.lines()


def test_a_minus_among_other_words_states_nothing():
    assert same(read("ja", "nein", "-"), [1.0, 0.0, NAN])
    assert same(read("-", "-"), [NAN, NAN])


def test_a_cross_is_present_and_what_an_empty_cell_means_is_asked():
    rows = entries("x", "", "X")
    reader = label_reader(rows, ("TB",))
    assert same([reader(row.labels) for row in rows], [1.0, NAN, 1.0])
    assert any('--values "x=1,empty=0"' in line for line in reader.lines())
    assert same(read("x", "", "n/a", words={"x": "1", "empty": "0"}), [1.0, 0.0, 0.0])


def test_own_words_are_explained_by_the_user_and_take_precedence():
    words = {"gesichert": "1", "ausgeschlossen": "0", "V.a.": "-1", "unklar": "", "2": "-1"}
    assert same(
        read("Gesichert", "ausgeschlossen", "v.a.", "unklar", "2", "ja", words=words), [1.0, 0.0, -1.0, NAN, -1.0, 1.0]
    )
    with pytest.raises(RecordError, match=r"values: 'ja' cannot mean '2'; choose 1 .present., 0 .absent., -1"):
        read("ja", words={"ja": "2"})


def test_two_is_a_label_only_when_it_is_declared_and_words_that_are_not_understood_are_counted_with_their_lines():
    rows = entries("0", "1", *["2"] * 4, "maybe")
    reader = label_reader(rows, ("TB",))
    assert [reader(row.labels) for row in rows][2] == ("TB", "2")
    assert (
        "TB: '2' 4 times (labels.csv, line 4; labels.csv, line 5; labels.csv, line 6; ...), "
        "'maybe' 1 times (labels.csv, line 8)" in reader.advice
    )
    assert '--values "2=1"' in reader.advice
    assert any("2 = NOT UNDERSTOOD (4)" in line for line in reader.lines())


# One column that names findings ---------------------------------------------------------------------------


def names(*cells: str, classes=(), separator="", words=None):
    rows = entries(*cells, column="Finding")
    reader = label_reader(rows, classes, "Finding", separator, words)
    return reader, [reader(row.labels) for row in rows]


@pytest.mark.parametrize("sign", ["|", ";", ", ", "\n", " / "])
def test_several_findings_in_a_cell_are_a_class_each(sign):
    cells = (
        f"Pneumonia{sign}Effusion",
        "pneumonia",
        "Effusion",
        "No Finding",
        "",
        "Effusion",
        "Mass",
        f"Mass{sign}Effusion",
    )
    reader, labels = names(*cells)
    assert reader.classes == ("Effusion", "Mass", "Pneumonia")
    unstated = labels.pop(4)
    assert all(value != value for value in unstated)
    assert labels == [(1, 0, 1), (0, 0, 1), (1, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)]
    assert any("findings are separated by" in line for line in reader.lines())


def test_a_column_of_one_class_name_is_a_class_for_each_name():
    reader, labels = names("bacteria", "virus", "normal", "virus, probable", "bacteria")
    assert reader.classes == ("bacteria", "virus", "virus, probable")  # the comma is part of a name
    assert labels == [(1, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 1), (1, 0, 0)]
    assert "Finding: each cell is one name; --label-separator says otherwise" in reader.lines()
    assert names("bacteria", "normal", classes=("normal",))[1] == [(0.0,), (1.0,)]  # asked for, it is a class


def test_only_the_classes_asked_for_are_read_and_other_names_are_counted():
    reader, labels = names("Mass|Effusion", "Effusion", "Rib fracture", classes=("effusion",))
    assert (reader.classes, labels) == (("effusion",), [(1.0,), (1.0,), (0.0,)])
    assert any("no label: Mass 1, Rib fracture 1" in line for line in reader.lines())
    with pytest.raises(RecordError, match="column Finding: no row names Edema; the names are Mass, Effusion"):
        names("Mass|Effusion", classes=("Edema",))


def test_a_finding_beside_a_word_for_none_is_not_understood():
    reader, labels = names("Mass|No Finding", "Mass", "Effusion|o.B.")
    assert labels[0] == ("Finding", "Mass|No Finding")
    assert "a row that names a finding cannot be normal too" in reader.advice


def test_own_words_for_no_finding_and_for_nothing_stated():
    _, labels = names("Mass", "thorax regular", "see CT", words={"thorax regular": "0", "see CT": ""})
    assert labels[:2] == [(1.0,), (0.0,)]
    assert labels[2][0] != labels[2][0]


def test_a_stated_separator_is_used_and_a_column_of_texts_is_refused():
    assert names("A+B", "A", separator="plus")[0].classes == ("A", "B")
    assert names("A|B", "A", separator="none")[0].classes == ("A", "A|B")
    with pytest.raises(RecordError, match="unknown delimiter 'ab'"):
        names("A", separator="ab")
    with pytest.raises(RecordError, match=r"column Finding: has 60 different names .* more than 50; name those to use"):
        names(*(f"text {n}" for n in range(60)))
    with pytest.raises(RecordError, match="column Finding: names no finding"):
        names("normal", "")


# A whole preparation ---------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path) -> Path:
    for n in range(30):
        write_image(tmp_path / "scans" / f"{n}.png", n)
    return tmp_path / "scans"


def table(scans: Path, *words: str) -> None:
    lines = [f"{n}.png;{words[n % len(words)]}" for n in range(30)]
    (scans / "labels.csv").write_text("\n".join(["image_path;TB", *lines]), encoding="cp1252")


def test_labels_of_a_german_table_are_written_as_ones_and_zeros(scans, tmp_path):
    table(scans, "ja", "nein", "prüfen")
    options = Options(classes=("TB",), values={"prüfen": "-1"}, val=0, test=0)
    prepare("custom", scans, tmp_path / "out", options)
    records = Records.load(tmp_path / "out" / "records.csv", classes=["TB"])
    assert records.labels_NC[:, 0].tolist() == [1.0, 0.0, -1.0] * 10
    again = Options(config=tmp_path / "out" / "description.yaml", val=0, test=0)
    prepare("custom", scans, tmp_path / "again", again)
    assert (tmp_path / "again" / "records.csv").read_text() == (tmp_path / "out" / "records.csv").read_text()


def test_findings_in_one_column_become_classes(scans, tmp_path):
    table(scans, "Pneumonia|Effusion", "Effusion", "No Finding")
    corpus = prepare("custom", scans, tmp_path / "out", Options(label_column="TB", val=0, test=0))
    assert {c: n["positive"] for c, n in corpus.facts["classes"].items()} == {"Effusion": 20, "Pneumonia": 10}
    assert "column: TB" in (tmp_path / "out" / "description.yaml").read_text()


def test_words_that_are_not_understood_are_the_reason_that_is_named_and_the_way_out(scans, tmp_path):
    table(scans, "wahrscheinlich", "kaum")
    with pytest.raises(RecordError) as refused:
        prepare("custom", scans, tmp_path / "out", Options(classes=("TB",)))
    message = str(refused.value)
    assert "The largest reason, for 30 of 30: label not understood" in message
    assert "'wahrscheinlich' 15 times (labels.csv, line 2; labels.csv, line 4; labels.csv, line 6; ...)" in message
    assert "unpack" not in message
    assert '--values "wahrscheinlich=1"' in message
    assert (tmp_path / "out" / "excluded.csv").read_text().count("label not understood") == 30


def test_some_words_that_are_not_understood_are_a_note(scans, tmp_path):
    table(scans, "ja", "nein", "kaum")
    corpus = prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), val=0, test=0))
    assert corpus.facts["excluded"] == {"label not understood": 10}
    assert any("TB: 'kaum' 10 times" in note for note in corpus.facts["notes"])
