"""Damaged files of every kind are read or refused in words, in little time and memory (`make fuzz` for 6,000 of them)."""

import pytest

from tests.support.fuzz_kinds import kinds
from tests.support.fuzzing import Kind, damaged, faults_of, try_one, watched

SHORT = 1000


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> list[Kind]:
    return kinds(tmp_path_factory.mktemp("valid"))


def test_the_valid_files_are_read(known, tmp_path):
    for kind in known:
        for content in kind.valid:
            outcome = try_one(kind._replace(valid=[content]), -1, tmp_path, undamaged=True)
            assert outcome.result == "read", outcome


def test_damaged_files_are_read_or_refused(known, tmp_path):
    outcomes = [try_one(known[number % len(known)], number, tmp_path) for number in range(SHORT)]
    assert [o for o in outcomes if o.result not in ("read", "refused")] == []
    assert [o for o in outcomes if o.seconds > 10] == []
    assert sum(o.result == "refused" for o in outcomes) > SHORT / 4


def test_a_number_names_the_same_file_for_good(known):
    assert damaged(known[0], 3) == damaged(known[0], 3) != damaged(known[0], 4)


@pytest.mark.slow
def test_six_thousand_damaged_files(tmp_path):
    outcomes = watched(range(6000), tmp_path)
    assert len(outcomes) == 6000
    assert faults_of(outcomes) == {"tracebacks": [], "over 1 GiB": [], "over 10 s": []}
