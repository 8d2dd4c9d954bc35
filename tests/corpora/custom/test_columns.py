"""What columns are taken for: as asked, by their names in four languages, by their values; and why the others are not used."""

import pytest

from mrm.corpora.custom.columns import take

UIDS = [f"1.2.840.{n}" for n in range(20)]
ACCESSIONS = [f"{n:07d}" for n in range(40, 60)]
KNOWN = {
    "image_uid": set(),
    "series_uid": set(),
    "study_uid": set(UIDS),
    "accession": set(ACCESSIONS),
    "patient_id": {f"P{n}" for n in range(9)} | {"0", "1"},
    "image_path": {f"IM{n}" for n in range(20)},
}
TEXTS = [f"No infiltrate, no effusion, heart of normal size, number {n}." for n in range(20)]


def taken(asked=None, classes=(), **columns) -> dict[str, tuple[str, str]]:
    """Our name and the reason of each column."""
    names = list(columns)
    return {t.column: (t.name, t.reason) for t in take(names, columns, asked or {}, list(classes), KNOWN)}


@pytest.mark.parametrize(
    ("column", "name"),
    [
        *[("Image Path", "image_path"), ("Dateiname", "image_path"), ("Nom du fichier", "image_path")],
        *[("ruta", "image_path"), ("SOPInstanceUID", "image_uid"), ("Series Instance UID", "series_uid")],
        *[("StudyInstanceUID", "study_uid"), ("Accession Number", "accession"), ("Acc.-Nr.", "accession")],
        *[("Anforderungsnummer", "accession"), ("Numéro d'accès", "accession"), ("Número de acceso", "accession")],
        *[("MRN", "patient_id"), ("Patienten-ID", "patient_id"), ("IPP", "patient_id"), ("NHC", "patient_id")],
        *[("Report", "report_content"), ("Befund", "report_content"), ("Compte-rendu", "report_content")],
        *[("Informe", "report_content"), ("Sex", "sex"), ("Geschlecht", "sex"), ("Sexe", "sex"), ("Género", "sex")],
        *[("Age (years)", "age"), ("Alter", "age"), ("Âge", "age"), ("Edad", "age"), ("Study Date", "date")],
        *[("Untersuchungsdatum", "date"), ("Date de l'examen", "date"), ("Fecha", "date"), ("View Position", "view")],
        *[("Strahlengang", "view"), ("Incidence", "view"), ("Proyección", "view"), ("study_id", "study_id")],
    ],
)
def test_names_in_four_languages_without_accents_and_signs(column, name):
    assert taken(**{column: ["x", "y"]}) == {column: (name, "by its name")}


@pytest.mark.parametrize("column", ["Geburtsdatum", "date of birth", "CRP", "Date de naissance", "Station"])
def test_other_names_are_taken_for_nothing(column):
    assert taken(**{column: ["a", "b"]}) == {column: ("", "not used")}


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        (UIDS, "study_uid", "20 of 20 values are in the headers"),
        ([*ACCESSIONS[:15], "x"], "accession", "15 of 16 values are in the headers"),
        ([f"P{n}" for n in range(8)], "patient_id", "8 of 8 values are in the headers"),
        ([f"IM{n}" for n in range(8)], "image_path", "8 of 8 values are names of images"),
        (["a/1.dcm", "a/2.DCM", ""], "image_path", "its values are names of image files"),
        (TEXTS, "report_content", "its values are long texts"),
        (["PA", "LL", "PA"], "view", "its values are PA, LL"),
        (["w", "m", "m"], "sex", "its values are w, m"),
        (["train", "test", "val"], "split", "its values are train, test, val"),
        (["2024-01-31", "2024-02-01"], "date", "its values are dates, such as 2024-01-31"),
    ],
)
def test_values_say_what_a_column_of_an_unknown_name_is(values, name, reason):
    assert taken(K17=values) == {"K17": (name, reason)}


def test_a_few_numbers_that_are_patients_by_chance_are_not_taken_for_patients():
    assert taken(TB=["0", "1", "1"]) == {"TB": ("", "values 0, 1 look like labels; if so, name it with --classes")}


def test_what_is_asked_comes_first_and_each_name_is_taken_once():
    columns = taken(
        {"accession": "Nummer"}, ["TB"], Nummer=["a", "b"], Accession=ACCESSIONS, TB=["0"], Datum=["x"], Date=["q"]
    )
    assert columns["Nummer"] == ("accession", "as asked")
    assert columns["TB"] == ("label", "as asked")
    assert columns["Accession"] == ("", "not used")
    assert columns["Datum"] == ("date", "by its name")
    assert columns["Date"] == ("", "not used")


def test_a_second_column_of_a_kind_says_which_was_taken():
    columns = taken(Report=TEXTS, History=TEXTS, Empty=["", ""])
    assert columns["History"] == ("", "looks like report_content too, but Report is taken for it")
    assert columns["Empty"] == ("", "empty")


def test_our_own_name_comes_before_a_synonym():
    columns = taken(File=["a.png"], image_path=["b.png"])
    assert columns == {
        "File": ("", "looks like image_path too, but image_path is taken for it"),
        "image_path": ("image_path", "by its name"),
    }
