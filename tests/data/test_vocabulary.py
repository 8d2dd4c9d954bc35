"""The table of findings: whole, without contradictions, and with every class of every corpus."""

import pytest

from mrm.corpora import CORPORA, covid, description, mimic
from mrm.corpora.preparing import PROGRAMS
from mrm.data import vocabulary
from mrm.data.vocabulary import finding_of, plain
from mrm.system.errors import RecordError

BY_PROGRAM = {"covid": covid.CLASSES, "mimic": mimic.CLASSES, "openi": ()}


@pytest.mark.parametrize("corpus", [name for name in CORPORA if name != "custom"])
def test_every_class_of_every_corpus_has_a_finding(corpus):
    classes = BY_PROGRAM[corpus] if corpus in PROGRAMS else description.load(corpus).labels.classes
    known = finding_of(vocabulary.table())
    assert [c for c in classes if plain(c) not in known] == []


def test_names_of_one_finding_lead_to_it_and_a_finding_to_itself():
    known = finding_of(vocabulary.table())
    assert {known[plain(n)] for n in ("Effusion", "Pleural Effusion", "pleural effusion", "PLEURAL-EFFUSION")} == {
        "Pleural Effusion"
    }
    assert known[plain("Infiltrate")] == "Infiltration"
    assert known[plain("Nodule/Mass")] not in (known["nodule"], known["mass"])  # either of two
    assert all(known[plain(row["finding"])] == row["finding"] for row in vocabulary.table())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,other\na,b\n", "no column finding; the columns found are name, other"),
        ("finding,other\nMass,lump\nNodule,Lump;spot\n", "'Lump' stands in the rows 'Mass' and 'Nodule'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(RecordError, match=message):
        vocabulary.read_table(tmp_path / "mine.csv")
