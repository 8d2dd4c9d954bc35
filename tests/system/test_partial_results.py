"""Rows kept until a table is whole: half a line, or a row without its values, is dropped; all is joined by key."""

import os
import resource

import numpy as np
import pytest

from mrm.system.errors import OutputError
from mrm.system.partial_results import AGAIN, Partial
from mrm.system.shares import Share


@pytest.fixture
def partial(tmp_path) -> Partial:
    begun = Partial(tmp_path / "a.npy", width=3)
    begun.begin({})
    return begun


def begun_again(partial: Partial) -> Partial:
    again = Partial(partial.folder.with_name("a.npy"), width=3)
    again.begin({})
    return again


def values(partial: Partial, *keys: str) -> list[list[float]]:
    return [v.tolist() for v in partial.values(keys)]


def test_values_without_their_line_and_lines_without_their_values_are_dropped(partial):
    partial.add([("a", {"x": 1}), ("b", {"x": 2})], np.arange(6).reshape(2, 3))
    file = partial.folder / "part-1-of-1.values"
    with open(file, "ab") as opened:
        opened.write(bytes(7))
    again = begun_again(partial)
    again.add([("c", {"x": 3})], np.full((1, 3), 9))
    assert values(again, "c", "a", "b") == [[9, 9, 9], [0, 1, 2], [3, 4, 5]]
    assert list(again.rows(["c", "a"])) == [{"x": 3}, {"x": 1}]
    os.truncate(file, file.stat().st_size - 5)  # the disk was full
    assert begun_again(partial).done() == {"a", "b"}


def test_values_belong_to_their_row_though_another_process_wrote_between_the_two_files(partial):
    """Two processes append to the same files: values a, values b, row b, row a. By position, each had the other's."""
    lines, file = partial.folder / "part-1-of-1.jsonl", partial.folder / "part-1-of-1.values"
    partial.add([("a", {"x": 1})], np.full((1, 3), 1))
    row_a = lines.read_bytes()
    partial.add([("b", {"x": 2})], np.full((1, 3), 2))
    row_b = lines.read_bytes().removeprefix(row_a)
    lines.write_bytes(row_b + row_a)
    assert values(begun_again(partial), "a", "b") == [[1, 1, 1], [2, 2, 2]]
    content = file.read_bytes()
    file.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])
    assert values(begun_again(partial), "a", "b") == [[1, 1, 1], [2, 2, 2]]


def test_a_row_in_the_middle_whose_values_are_missing_costs_no_other_row(partial):
    partial.add([("a", {}), ("b", {}), ("c", {})], np.arange(9).reshape(3, 3))
    file = partial.folder / "part-1-of-1.values"
    record = file.stat().st_size // 3
    content = file.read_bytes()
    file.write_bytes(content[:record] + content[2 * record :])
    again = begun_again(partial)
    assert again.done() == {"a", "c"}
    assert values(again, "c", "a") == [[6, 7, 8], [0, 1, 2]]


def test_a_row_that_is_to_be_tried_again_counts_until_there_is_another(partial):
    partial.add([("a", {"error": "gone", AGAIN: True}), ("b", {})], np.array([[np.nan] * 3, [1, 2, 3]]))
    assert partial.done() == {"b"}
    assert next(partial.rows(["a"]))["error"] == "gone"
    assert np.isnan(values(partial, "a")).all()
    other = Partial(partial.folder.with_name("a.npy"), 3, Share(2, 2))
    other.add([("a", {"x": 5})], np.full((1, 3), 7))
    assert partial.done() == {"a", "b"}
    assert next(partial.rows(["a"])) == {"x": 5}
    assert values(partial, "a") == [[7, 7, 7]]


def test_a_full_disk_is_named_and_the_rows_before_it_are_kept(partial):
    """A limit on the size of files stands for the full disk."""
    partial.add([("a", {})], np.ones((1, 3)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.npy\.partial: cannot be written \(File too large\)"):
            partial.add([("b", {})], np.ones((1, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = begun_again(partial)
    again.add([("b", {})], np.full((1, 3), 2))
    assert values(again, "b", "a") == [[2, 2, 2], [1, 1, 1]]


def test_names_of_any_characters_are_keys(partial):
    keys = ["Ä/ü.png", "a\0002", "b\udcff.png"]
    partial.add([(key, {}) for key in keys], np.arange(9).reshape(3, 3))
    assert values(begun_again(partial), *reversed(keys)) == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]


def test_a_batch_is_there_as_a_whole_or_not_at_all(partial):
    """What another share is just writing does not count, nor does a line that a disk has damaged."""
    other = Partial(partial.folder.with_name("a.npy"), 3, Share(2, 2))
    other.add([("a", {}), ("b", {})], np.arange(6).reshape(2, 3))
    other.add([("c", {}), ("d", {})], np.arange(6, 12).reshape(2, 3))
    whole = other.part.read_bytes()
    other.part.write_bytes(whole[:-4])
    assert begun_again(partial).done() == {"a", "b"}
    assert other.part.read_bytes() == whole[:-4]  # its own share repairs it
    other.part.write_bytes(b"\0" * 20 + whole[20:])
    assert begun_again(partial).done() == {"c", "d"}
    assert values(partial, "d") == [[9, 10, 11]]


def test_rows_of_another_format_are_refused(partial, tmp_path):
    (partial.folder / "settings.json").write_text("{}\n")
    with pytest.raises(
        OutputError, match=r"holds another unfinished table \(version: None, now 2\); repeat the command"
    ):
        begun_again(partial)


def test_one_share_puts_the_table_together(partial):
    partial.add([("a", {})], np.zeros((1, 3)))
    with partial.merging() as pending:
        assert pending
        partial.keep()
    with partial.merging() as pending:
        assert not pending
    partial.add([("b", {})], np.zeros((1, 3)))
    with partial.merging() as pending:
        assert pending
        partial.remove()
    with partial.merging() as pending:
        assert not pending
