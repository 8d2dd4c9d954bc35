"""The command `tokenizer`."""

import pytest

from mrm import runs
from mrm.data.records import Record, Records
from mrm.system.errors import RunError


def test_a_tokenizer_needs_reports(phantoms, tmp_path):
    bare = Records([Record(r.image, name=r.name) for r in Records.load(phantoms / "records.csv")])
    file = bare.to_csv(tmp_path / "images.csv")
    with pytest.raises(RunError, match="none of the 48 records has a report"):
        runs.train_tokenizer(file, tmp_path / "tokenizer.json")
    tokenizer = runs.train_tokenizer(phantoms / "records.csv", tmp_path / "tokenizer.json", size=200)
    assert tokenizer.size == 200
