"""Rows kept until a table is whole: half a line, or a row without its values, is dropped; all is joined by key."""

import os
import resource

import numpy as np
import pytest

from mrm.system.errors import OutputError
from mrm.system.partial_results import AGAIN, Partial


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
    partial.add(0, [("a", {"x": 1}), ("b", {"x": 2})], np.arange(6).reshape(2, 3))
    file = partial.folder / "part-0.values"
    with open(file, "ab") as opened:
        opened.write(bytes(7))
    again = begun_again(partial)
    again.add(0, [("c", {"x": 3})], np.full((1, 3), 9))
    assert values(again, "c", "a", "b") == [[9, 9, 9], [0, 1, 2], [3, 4, 5]]
    assert list(again.rows(["c", "a"])) == [{"x": 3}, {"x": 1}]
    os.truncate(file, file.stat().st_size - 5)  # the disk was full
    assert begun_again(partial).done() == {"a", "b"}


def test_values_belong_to_their_row_though_another_process_wrote_between_the_two_files(partial):
    """Two processes append to the same files: values a, values b, row b, row a. By position, each had the other's."""
    lines, file = partial.folder / "part-0.jsonl", partial.folder / "part-0.values"
    partial.add(0, [("a", {"x": 1})], np.full((1, 3), 1))
    row_a = lines.read_bytes()
    partial.add(0, [("b", {"x": 2})], np.full((1, 3), 2))
    row_b = lines.read_bytes().removeprefix(row_a)
    lines.write_bytes(row_b + row_a)
    assert values(begun_again(partial), "a", "b") == [[1, 1, 1], [2, 2, 2]]
    content = file.read_bytes()
    file.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])
    assert values(begun_again(partial), "a", "b") == [[1, 1, 1], [2, 2, 2]]


def test_a_row_in_the_middle_whose_values_are_missing_costs_no_other_row(partial):
    partial.add(0, [("a", {}), ("b", {}), ("c", {})], np.arange(9).reshape(3, 3))
    file = partial.folder / "part-0.values"
    record = file.stat().st_size // 3
    content = file.read_bytes()
    file.write_bytes(content[:record] + content[2 * record :])
    again = begun_again(partial)
    assert again.done() == {"a", "c"}
    assert values(again, "c", "a") == [[6, 7, 8], [0, 1, 2]]


def test_a_row_that_is_to_be_tried_again_counts_until_there_is_another(partial):
    partial.add(0, [("a", {"error": "gone", AGAIN: True}), ("b", {})], np.array([[np.nan] * 3, [1, 2, 3]]))
    assert partial.done() == {"b"}
    assert next(partial.rows(["a"]))["error"] == "gone"
    assert np.isnan(values(partial, "a")).all()
    partial.add(1, [("a", {"x": 5})], np.full((1, 3), 7))  # by another rank
    assert partial.done() == {"a", "b"}
    assert next(partial.rows(["a"])) == {"x": 5}
    assert values(partial, "a") == [[7, 7, 7]]


def test_a_full_disk_is_named_and_the_rows_before_it_are_kept(partial):
    """A limit on the size of files stands for the full disk."""
    partial.add(0, [("a", {})], np.ones((1, 3)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.npy\.partial: cannot be written \(File too large\)"):
            partial.add(0, [("b", {})], np.ones((1, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = begun_again(partial)
    again.add(0, [("b", {})], np.full((1, 3), 2))
    assert values(again, "b", "a") == [[2, 2, 2], [1, 1, 1]]


def test_names_of_any_characters_are_keys(partial):
    keys = ["Ä/ü.png", "a\0002", "b\udcff.png"]
    partial.add(0, [(key, {}) for key in keys], np.arange(9).reshape(3, 3))
    assert values(begun_again(partial), *reversed(keys)) == [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
