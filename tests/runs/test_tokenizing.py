"""The command `tokenizer`."""

from dataclasses import replace

import pytest

from mrm import runs
from mrm.data.records import Record, Records
from mrm.runs.tokenizing import advice
from mrm.system.errors import RunError
from tests.support.configs import pretrain_config


def test_a_tokenizer_needs_reports(phantoms, tmp_path):
    bare = Records([Record(r.image, name=r.name) for r in Records.load(phantoms / "records.csv")])
    file = bare.to_csv(tmp_path / "images.csv")
    with pytest.raises(RunError, match="none of the 48 records has a report"):
        runs.train_tokenizer(file, tmp_path / "tokenizer.json")
    tokenizer = runs.train_tokenizer(phantoms / "records.csv", tmp_path / "tokenizer.json", size=200)
    assert tokenizer.size == 200


GERMAN = ["Kein Pleuraerguss, kein Pneumothorax.", "Herz nicht verbreitert, Zwerchfell glatt begrenzt."]


def with_reports(phantoms, tmp_path, reports):
    rows = [
        Record(r.image, reports[i % len(reports)], name=r.name)
        for i, r in enumerate(Records.load(phantoms / "records.csv"))
    ]
    return Records(rows).to_csv(tmp_path / "german.csv")


def test_a_vocabulary_of_another_language_is_named_with_its_pieces_for_a_word(phantoms, tmp_path):
    tokenizer = runs.train_tokenizer(phantoms / "records.csv", tmp_path / "tokenizer.json")
    english, german = Records.load(phantoms / "records.csv"), Records.load(with_reports(phantoms, tmp_path, GERMAN))
    assert advice(tokenizer, english, "tokenizer.json") == ""
    fit = tokenizer.fit(r.report for r in german)
    assert f"the tokenizer of t.json splits a word of these reports into {fit.pieces:.1f} pieces on average" in advice(
        tokenizer, german, "t.json"
    )
    assert advice(tokenizer, Records([]), "t.json") == ""


def test_pretraining_says_that_a_given_vocabulary_is_of_another_language(phantoms, tmp_path):
    runs.train_tokenizer(phantoms / "records.csv", tmp_path / "tokenizer.json")
    records = with_reports(phantoms, tmp_path, GERMAN)
    config = pretrain_config(phantoms, tmp_path / "run", steps=1)
    with pytest.warns(UserWarning, match=r"tokenizer\.json splits a word .* pieces on average.*`mrm tokenizer RECORDS"):
        runs.pretrain(replace(config, records=records, tokenizer=tmp_path / "tokenizer.json"))
