"""Report tokens that are kept in files: the same as in memory, and what makes them be made again."""

import os
import pickle
import resource
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm.data import report_tokens
from mrm.data.records import Records
from mrm.data.report_tokens import ENDS, INDEX, TOKENS, mapped_tokens, tokens_of
from mrm.data.reports import Tokenizer
from mrm.system.errors import OutputError, RecordError
from tests.support.samples import REPORTS, record, report_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return report_tokenizer()


@pytest.fixture(scope="module")
def records() -> Records:
    """Thirty records whose seven reports repeat."""
    return Records([record(i, image=b"") for i in range(30)])


def same(first, second) -> bool:
    return np.array_equal(first.flat, second.flat) and np.array_equal(first.ends, second.ends)


def test_mapped_tokens_are_those_of_each_report(records, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(report_tokens, "AT_ONCE", 4)
    mapped = mapped_tokens(tmp_path, records, tokenizer, 12, ())
    for i, one in enumerate(records):
        np.testing.assert_array_equal(mapped.ids(i), tokenizer.encode([one.report], 12)[0])
    assert mapped.flat.dtype == np.uint16
    assert same(mapped, tokens_of(records, tokenizer, 12, ()))


def test_a_large_vocabulary_has_larger_numbers(records, tokenizer, tmp_path):
    class Large:
        """A tokenizer of 70,000 pieces, which gives each report the last of them."""

        size, to_json = 70_000, tokenizer.to_json

        def encode(self, reports, length):
            return [np.array([2, 69_999], np.int32) for _ in reports]

    assert mapped_tokens(tmp_path, records, Large(), 12, ()).ids(3).tolist() == [2, 69_999]


def test_only_the_chosen_sections_are_tokenized(tokenizer, tmp_path):
    text = "FINDINGS: Small effusion.\nIMPRESSION: Cardiomegaly"
    mapped = mapped_tokens(tmp_path, Records([record(0, report=text)]), tokenizer, 12, ("impression",))
    assert tokenizer.decode(mapped.ids(0)) == "cardiomegaly"


def test_a_second_start_tokenizes_nothing(records, tokenizer, tmp_path, monkeypatch):
    first = mapped_tokens(tmp_path, records, tokenizer, 12, ())
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("reports were tokenized"))
    assert same(mapped_tokens(tmp_path, records, tokenizer, 12, ()), first)
    assert same(mapped_tokens(tmp_path, records, tokenizer, 12, (), prepares=False), first)


def test_another_process_gets_the_place_of_the_tokens_and_not_the_tokens(records, tokenizer, tmp_path):
    mapped = mapped_tokens(tmp_path, records, tokenizer, 12, ())
    sent = pickle.dumps(mapped)
    assert np.asarray(mapped.flat).tobytes() not in sent
    assert np.asarray(mapped.ends).tobytes() not in sent
    assert same(pickle.loads(sent), mapped)


OTHERS = {
    "records": lambda r, t: (Records([replace(r[0], report="Oedema."), *r[1:]]), t, 12, ()),
    "tokenizer": lambda r, t: (r, Tokenizer.train(REPORTS, 60), 12, ()),
    "length": lambda r, t: (r, t, 11, ()),
    "sections": lambda r, t: (r, t, 12, ("findings",)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_tokens_of_something_else_are_made_again_and_that_is_said_once(records, tokenizer, tmp_path, what):
    mapped_tokens(tmp_path, records, tokenizer, 12, ())
    other = OTHERS[what](records, tokenizer)
    with pytest.warns(UserWarning, match=rf"made with another {what}; the reports are tokenized again"):
        mapped = mapped_tokens(tmp_path, *other)
    assert same(mapped, tokens_of(*other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped_tokens(tmp_path, *other)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


DAMAGES = {
    "tokens cut off": (lambda f: cut(f / TOKENS), r"tokens\.bin has [\d,]+ bytes, but [\d,]+ were written"),
    "ends cut off": (lambda f: cut(f / ENDS), r"ends\.bin has 239 bytes, but 240 were written"),
    "ends removed": (lambda f: (f / ENDS).unlink(), r"ends\.bin cannot be read \(No such file"),
    "index cut off": (lambda f: cut(f / INDEX) or cut(f / INDEX), r"tokens\.json is damaged"),
    "another version": (
        lambda f: (f / INDEX).write_text((f / INDEX).read_text().replace('"version": 1', '"version": 0')),
        r"tokens\.json is of version 0, and this mrm writes version 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_do_not_fit_are_made_again(records, tokenizer, tmp_path, damage):
    first = tokens_of(records, tokenizer, 12, ())
    mapped_tokens(tmp_path, records, tokenizer, 12, ())
    change, words = DAMAGES[damage]
    change(tmp_path)
    with pytest.raises(RecordError, match=rf"{words}.*on storage that all nodes share"):
        mapped_tokens(tmp_path, records, tokenizer, 12, (), prepares=False)
    with pytest.warns(UserWarning, match=words):
        assert same(mapped_tokens(tmp_path, records, tokenizer, 12, ()), first)


def test_a_node_without_the_shared_folder_is_told(records, tokenizer, tmp_path):
    with pytest.raises(RecordError, match=r"are not there \(no files\); the output folder must be on storage that all"):
        mapped_tokens(tmp_path / "away", records, tokenizer, 12, (), prepares=False)


def test_a_disk_that_fills_is_an_error_that_leaves_no_half_written_file(tokenizer, tmp_path):
    """A limit on the size of files stands for the full disk: the system refuses to write more in the same way."""
    many = Records([record(i, image=b"") for i in range(600)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\).*Free disk space"):
            mapped_tokens(tmp_path / "kept", many, tokenizer, 12, ())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []
    assert len(mapped_tokens(tmp_path / "kept", many, tokenizer, 12, ()).ends) == 600
