"""A corpus that a user describes in a YAML file: read exactly as it says, and refused where the file or a table is wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.data import images
from mrm.data.report_languages import language_of
from mrm.system.errors import ConfigError, MRMError, RecordError
from tests.support.image_files import write_image

DESCRIPTION = """
corpus: Ward 7
version: "1"
tables:
  - file: list.csv
    columns: {image_path: "scans/{Nr}", patient_id: Pat, reader: (Reader), class: (Kind), x: (X), y: (Y), x2: (X2), y2: (Y2),
              report_content: (Befund)}
labels:
  rows: reader
  classes: [Effusion, Mass]
  columns: {Mass: Raumforderung}
  values: {ja: "1", nein: "0"}
language: de
"""
HEADER = "Nr,Pat,Reader,Effusion,Raumforderung"


def ward(
    tmp_path: Path, rows: str, header: str = HEADER, description: str = DESCRIPTION, encoding: str = "utf-8"
) -> Path:
    """A folder with three images 20 wide and 24 high, a table, and beside it the description; returns the latter."""
    for number in (1, 2, 3):
        write_image(tmp_path / f"ward/scans/{number}.png", number)
    (tmp_path / "ward/list.csv").write_text(f"{header}\n{rows}", encoding=encoding)
    (tmp_path / "ward.yaml").write_text(description)
    return tmp_path / "ward.yaml"


def prepared(file: Path, **options):
    return prepare(
        str(file), file.parent / "ward", file.parent / "out", Options(val=0, test=0, fractions=(), workers=1, **options)
    )


def test_a_description_of_a_user_is_a_corpus(tmp_path):
    rows = "1,a,r1,ja,nein\n2,b,r1,nein,\n3,b,r1,-1,1\n"
    corpus = prepared(ward(tmp_path, rows))
    assert corpus.records.classes == ("Effusion", "Mass")
    assert [(r.patient, str(r.labels)) for r in corpus.records] == [
        ("a", "(1.0, 0.0)"),
        ("b", "(0.0, nan)"),
        ("b", "(-1.0, 1.0)"),
    ]
    assert corpus.facts["release"] == "1"


def test_of_readers_who_disagree_the_majority_counts_and_a_tie_is_uncertain(tmp_path):
    rows = "1,a,r1,ja,nein\n1,a,r2,ja,ja\n1,a,r3,nein,\n2,b,r1,nein,nein\n2,b,r2,ja,nein\n"
    labels = {r.patient: str(r.labels) for r in prepared(ward(tmp_path, rows)).records}
    assert labels == {"a": "(1.0, -1.0)", "b": "(-1.0, 0.0)"}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_a_table_in_another_encoding_keeps_its_letters(tmp_path, encoding):
    file = ward(tmp_path, "1,Müller,r1,ja,nein\n", encoding=encoding)
    if encoding == "cp1252":
        with pytest.warns(UserWarning, match="read as Windows-1252"):
            corpus = prepared(file)
    else:
        corpus = prepared(file)
    assert corpus.records[0].patient == "Müller"


def test_boxes_outside_their_image_or_without_a_size_are_left_out_and_named(tmp_path):
    header = f"{HEADER},Kind,X,Y,X2,Y2"
    rows = [
        *("1,a,r1,ja,,Effusion,1,2,11,12", "1,a,r2,ja,,Effusion,-0.5,0,20.5,24", "1,a,r3,ja,,Mass,,,,"),
        *("2,b,r1,ja,,Effusion,5,5,4,9", "2,b,r2,ja,,Effusion,15,5,30,9", "2,b,r3,ja,,Effusion,5,5,5,9"),
    ]
    corpus = prepared(ward(tmp_path, "\n".join(rows), header))
    lines = (tmp_path / "out/boxes.csv").read_text().replace(f"{tmp_path}/ward/", "").splitlines()
    assert lines == [
        "image_path,class,x,y,width,height,reader,text",
        "scans/1.png,Effusion,1,2,10,10,r1,",
        "scans/1.png,Effusion,0,0,20,24,r2,",
    ]
    assert corpus.facts["excluded"] == {
        "box without a size": 2,
        "box outside its image": 1,
        "image without label": 1,
    }
    assert (
        "list.csv, line 6: Effusion x 15, y 5, width 15, height 4 in 20 x 24"
        in (tmp_path / "out/excluded.csv").read_text()
    )
    assert corpus.facts["found"]["boxes"] == 2


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("1,2,,4", "the box has no x2; it needs four numbers"),
        ("1,2,x,4", "'x' is not a box in numbers"),
        ("1,2,inf,4", "'inf' is not a box in numbers"),
    ],
)
def test_a_box_that_is_not_four_numbers_is_refused_with_its_line(tmp_path, box, message):
    file = ward(tmp_path, f"1,a,r1,ja,,Effusion,{box}\n", f"{HEADER},Kind,X,Y,X2,Y2")
    with pytest.raises(RecordError, match=f"list.csv, line 2: {message}"):
        prepared(file)


def test_reports_in_another_language_are_noted(tmp_path):
    rows = [
        "1,a,r1,ja,,Die Lunge ist frei und das Herz nicht vergrößert.",
        "2,b,r1,ja,,The heart is normal and there is no effusion in the left lung.",
    ]
    corpus = prepared(ward(tmp_path, "\n".join(rows), f"{HEADER},Befund"))
    assert next(n for n in corpus.facts["notes"] if "language" in n).startswith(
        "of 2 different reports, 1 in English, though the corpus is in German"
    )


@pytest.mark.parametrize(
    ("report", "language"),
    [
        ("No acute disease.", ""),
        ("Silueta cardiaca de tamaño normal. Senos libres sin derrame en las bases.", "es"),
        ("Opacidades nos campos pulmonares, sem derrame; aumento da área do coração com os hilos.", "pt"),
        ("Pas d'épanchement dans les culs de sac, sans foyer et une silhouette normale.", "fr"),
    ],
)
def test_the_language_of_a_report_is_told_by_its_common_words(report, language):
    assert language_of(report) == language


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "classes:",
            "klasses:",
            "unknown setting 'klasses'; did you mean labels.classes|unknown setting 'klasses'; did you mean classes",
        ),
        ("rows: reader", "rows: patient", "unknown value 'patient'; choose from image, finding, reader"),
        ("image_path:", "path:", "table list.csv: columns: no image_path"),
        ("    columns:", "    match: {Nr: '('}\n    columns:", r"table list.csv: Nr: '\(' is not a pattern"),
        ("    columns:", "    split: holdout\n    columns:", "unknown set holdout; choose from train, val, test"),
        ('ja: "1"', 'ja: "2"', "values: 'ja' cannot mean '2'"),
        ("tables:", "tables: [", "line 5: is not YAML"),
        ("tables:", "tables: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_a_wrong_description_is_refused_with_the_setting(tmp_path, old, new, message):
    assert old in DESCRIPTION
    file = ward(tmp_path, "1,a,r1,ja,nein\n", description=DESCRIPTION.replace(old, new, 1))
    with pytest.raises(MRMError, match=message):
        prepared(file)


def test_a_description_that_is_not_there_or_no_text_is_refused(tmp_path):
    (tmp_path / "ward").mkdir()
    with pytest.raises(ConfigError, match=r"ward.yaml: no such file"):
        prepared(tmp_path / "ward.yaml")
    (tmp_path / "ward.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"ward.yaml: is not a text file in UTF-8"):
        prepared(tmp_path / "ward.yaml")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,a,r1,vielleicht,nein", "list.csv, line 2: label 'vielleicht' in column Effusion is none of '1'"),
        ("../../x,a,r1,ja,nein", r"list.csv, line 2: the path .* leads out of the source folder"),
        (",a,r1,ja,nein", "list.csv, line 2: names no image in scans/{Nr}"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, row, message):
    with pytest.raises(RecordError, match=message):
        prepared(ward(tmp_path, f"{row}\n"))


def test_the_description_of_an_export_is_taken_the_same_way(tmp_path):
    file = ward(
        tmp_path,
        "1,a,ja,nein\n2,b,nein,ja\n3,c,ja,ja\n",
        "image,patient,Effusion,Mass",
        "tables: [{file: list.csv}]\nlabels: {classes: [Effusion]}\n",
    )
    corpus = prepared(file)
    assert [r.labels for r in corpus.records] == [(1,), (0,), (1,)]


def test_sixteen_bit_images_whose_values_fill_a_part_of_the_range_are_as_bright_as_those_that_fill_it(tmp_path):
    """PadChest's PNG files have 16 bits, and values up to 255, 4,095 or 65,535."""
    ramp = np.tile(np.linspace(0, 1, 64), (48, 1))
    shown = []
    for top in (255, 4095, 65535):
        file = tmp_path / f"{top}.png"
        cv2.imwrite(str(file), (ramp * top).astype(np.uint16))
        shown.append(images.read(file).astype(int))
    assert shown[0].max() - shown[0].min() >= 250
    assert np.abs(shown[0] - shown[2]).max() <= 2
    assert np.abs(shown[1] - shown[2]).max() <= 2
