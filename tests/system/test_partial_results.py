"""Rows kept until a table is whole: half a line, or values without one, are dropped."""

import os

import numpy as np

from mrm.system.partial_results import Partial


def test_values_without_their_line_and_lines_without_their_values_are_dropped(tmp_path):
    partial = Partial(tmp_path / "a.npy", width=3)
    partial.begin({})
    partial.add(0, [("a", {"x": 1}), ("b", {"x": 2})], np.arange(6).reshape(2, 3))
    with open(partial.folder / "part-0.f32", "ab") as file:
        file.write(bytes(7))
    again = Partial(tmp_path / "a.npy", width=3)
    again.begin({})
    again.add(0, [("c", {"x": 3})], np.full((1, 3), 9))
    assert [v.tolist() for v in again.values(["c", "a", "b"])] == [[9, 9, 9], [0, 1, 2], [3, 4, 5]]
    assert list(again.rows(["c", "a"])) == [{"x": 3}, {"x": 1}]
    os.truncate(partial.folder / "part-0.f32", 4 * 3 * 2 + 5)  # the disk was full
    once_more = Partial(tmp_path / "a.npy", width=3)
    once_more.begin({})
    assert set(once_more.places()) == {"a", "b"}
