"""The changes that `make mutants` makes: sampled by a seed, with an effect, of files that exist."""

import multiprocessing
import os
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="the extra `mutants` is not installed")

from tests.support import mutants
from tests.support.mutant_sites import Change, mutated, positions, sample
from tests.support.mutant_tests import LineTests, parts, spans

TEXT = '''
def area(width: int | None, height: int = 3) -> int | None:
    """Width times height."""
    if width < 0 or height < 0:
        return 0
    for side in (width, height):
        print(side)
    return width * height
'''


@cache
def all_changes(text: str) -> list[Change]:
    return [c for seed in range(60) for c in sample({"a.py": text}, 100, str(seed))]


def test_a_seed_names_the_same_changes_for_good():
    assert sample({"a.py": TEXT}, 4, "0") == sample({"a.py": TEXT}, 4, "0")
    assert len({tuple(sample({"a.py": TEXT}, 4, str(seed))) for seed in range(5)}) > 1


def test_each_place_is_changed_at_most_once_and_no_annotation():
    changes = sample({"a.py": TEXT}, 100, "0")
    assert len({(c.line, c.column) for c in changes}) == len(changes) > 6
    assert all("int | None" in c.after for c in all_changes(TEXT) if c.line == 2)


def test_comparisons_signs_constants_and_results_are_changed():
    after = {c.after.strip() for c in all_changes(TEXT)}
    assert {"if width <= 0 or height < 0:", "if width < 0 and height < 0:"} <= after
    assert {"return width / height", "return None", "for side in []:"} <= after
    assert "def area(width: int | None, height: int = 4) -> int | None:" in after


def test_a_change_is_made_where_it_says():
    for change in sample({"a.py": TEXT}, 100, "1"):
        before, after = TEXT.splitlines(), mutated(TEXT, change).splitlines()
        differing = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
        assert differing[0] == (change.before, change.after)
        compile(mutated(TEXT, change), "changed", "exec")


def test_a_result_turned_into_none_is_still_the_result_of_its_function():
    names: dict = {}
    for change in all_changes(TEXT):
        if change.operator == "ReturnNone" and "height\n" in change.before + "\n":
            exec(mutated(TEXT, change), names)
    assert names["area"](2, 3) is None
    assert names["area"](-1, 3) == 0


def test_a_change_without_effect_is_known_wherever_its_line_stands():
    change = Change("a.py", "Number", 0, 7, 4, "    x = f(1, strict=True)", "    x = f(1, strict=False)")
    named = {"file": "a.py", "before": "x = f(1, strict=True)", "after": "x = f(1, strict=False)", "reason": ""}
    anywhere = {"before": "strict=True", "after": "strict=False", "reason": ""}
    assert mutants.is_without_effect(change, [named])
    assert mutants.is_without_effect(change, [anywhere])
    assert not mutants.is_without_effect(change, [{**named, "file": "b.py"}])
    assert not mutants.is_without_effect(change._replace(after="    x = f(2, strict=True)"), [anywhere])


def test_the_list_of_packages_names_files_and_each_change_without_effect_has_a_reason():
    assert len(mutants.packages()) >= 14
    for each in mutants.known_without_effect():
        assert len(each["reason"]) > 20
        if "file" in each:
            assert each["before"] in Path(mutants.ROOT, each["file"]).read_text()


LINES = '''LIMIT = 3


@cache
def first(
    limit: int = LIMIT,
) -> int:
    """Words."""
    if limit > 1:
        return sum([
            limit,
            1,
        ])
    return 0


@dataclass
class Second:
    size: int = 4

    def area(self) -> int:
        return self.size
'''


@pytest.mark.parametrize(
    ("line", "places"),
    [
        (1, [(1, 22)]),  # run by import: the tests of the whole file
        (4, [(8, 14), (1, 22)]),  # a decorator, a default: of what the function does
        (6, [(8, 14), (1, 22)]),
        (9, [(9, 9), (9, 9), (8, 14)]),  # of `if`, the condition alone
        (12, [(12, 12), (10, 13), (8, 14)]),  # a part of a longer statement
        (14, [(14, 14), (14, 14), (8, 14)]),
        (19, [(1, 22)]),  # a field of a class
        (22, [(22, 22), (22, 22), (22, 22)]),
    ],
)
def test_a_line_has_the_tests_of_its_statement_and_one_run_by_import_those_of_its_function_or_file(line, places):
    assert [tuple(span) for span in spans(LINES, line)] == places


def test_the_tests_of_a_line_are_those_that_ran_it_nearest_first(tmp_path):
    from coverage import CoverageData

    (tmp_path / "src/mrm/audit").mkdir(parents=True)
    (tmp_path / "src/mrm/audit/sets.py").write_text(LINES)
    near, far, failed = (
        "tests/audit/test_sets.py::test_a",
        "tests/runs/test_b.py::test_b",
        "tests/audit/test_sets.py::test_c",
    )
    files = []
    for number, lines in enumerate([{near: [9, 14], failed: [9]}, {far: [9, 10, 11, 12], "": [1, 19]}]):
        data = CoverageData(str(tmp_path / f"lines{number}"))
        for context, run in lines.items():
            data.set_context(f"{context}|run" if context else "")
            data.add_lines({str(tmp_path / "src/mrm/audit/sets.py"): run})
        data.write()
        files.append(tmp_path / f"lines{number}")
    tests = LineTests(files, {near: 2.0, far: 1.0}, tmp_path, longest=60)
    assert tests.of("src/mrm/audit/sets.py", 9) == ([near, far], 0, 3.0)
    assert tests.of("src/mrm/audit/sets.py", 13) == ([far], 0, 1.0)  # a bracket of the statement that only `far` runs
    assert tests.of("src/mrm/audit/sets.py", 14) == ([near], 0, 2.0)
    assert tests.of("src/mrm/audit/sets.py", 1) == ([near, far], 0, 3.0)
    assert tests.of("src/mrm/audit/sets.py", 22) == ([], 0, 0.0)
    assert LineTests(files, {near: 2.0, far: 1.0}, tmp_path, longest=2.5).of("src/mrm/audit/sets.py", 9)[:2] == (
        [near],
        1,
    )
    quick = LineTests(files, {near: 2.0, far: 1.0, failed: 0.4}, tmp_path, longest=1.5)
    assert quick.of("src/mrm/audit/sets.py", 9) == ([failed, far], 1, 1.4)


def test_the_parts_of_the_tests_are_their_folders_and_the_files_beside_them():
    names = parts(mutants.ROOT)
    assert {"tests/audit", "tests/mutants", "tests/test_order.py"} <= set(names)
    assert not {"tests/support", "tests/conftest.py"} & set(names)


MODULE = """HEIGHT = 3


def area(width: int, height: int = HEIGHT) -> int:
    if width < 0:
        return 0
    return width * height
"""
TESTS = """from area import area


def test_area():
    assert [area(2, 5), area(2), area(-1)] == [10, 6, 0]
"""


def test_what_matters_is_noticed_and_what_does_not_is_not(tmp_path, monkeypatch):
    """Changes one after another in a checkout of one module and one test, which is afterwards as it was."""
    expected = {
        "    return width / height": 1,
        "    return None": 1,
        "HEIGHT = 4": 1,  # run by import alone
        "    if width <= 0:": 0,  # of width 0 both give 0
        "    return width + height": 1,
    }
    for name, text in (("src/area.py", MODULE), ("test_area.py", TESTS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("OMP_NUM_THREADS", "PYTHONPATH", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be put back
    monkeypatch.setattr(mutants, "HEAVY", ("pytest",))
    changes = {}
    for operator, occurrence, (line, column) in positions(MODULE):
        change = Change("src/area.py", operator, occurrence, line, column, "", "")
        changes |= dict.fromkeys(set(mutated(MODULE, change).splitlines()) - set(MODULE.splitlines()), change)
    ours, theirs = multiprocessing.Pipe()
    for after in expected:
        theirs.send((changes[after], ["test_area.py::test_area"], 60.0))
    theirs.send(None)
    mutants.work(tmp_path, ours)
    assert [theirs.recv() for _ in expected] == list(expected.values())
    assert (tmp_path / "src/area.py").read_text() == MODULE
