"""Which tests run a line, and how long they take: measured by coverage and its contexts, a part of the tests at a time."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

IMPORTED = ""  # the context of lines that are run when a module is imported


class Span(NamedTuple):
    """The first and the last line of a part of a file."""

    first: int
    last: int

    def lines(self) -> range:
        """All of them."""
        return range(self.first, self.last + 1)


class LineTests:
    """The tests of each line of each file, nearest first and then the fastest."""

    def __init__(self, coverage_files: Iterable[Path], seconds: dict[str, float], root: Path, longest: float) -> None:
        """`seconds` are those of each test that passed; tests of `longest` seconds are given for a line."""
        self._coverage_files, self._seconds, self._root, self._longest = coverage_files, seconds, root, longest

    @cached_property
    def _files(self) -> dict[str, dict[int, set[str]]]:
        from coverage import CoverageData

        files: dict[str, dict[int, set[str]]] = {}
        for coverage_file in self._coverage_files:
            data = CoverageData(str(coverage_file))
            data.read()
            for name in data.measured_files():
                if (path := Path(name)).is_relative_to(self._root):
                    of_file = files.setdefault(str(path.relative_to(self._root)), {})
                    for line, contexts in data.contexts_by_lineno(name).items():
                        of_file.setdefault(line, set()).update(context.partition("|")[0] for context in contexts)
        return files

    def of(self, file: str, line: int) -> tuple[list[str], int, float]:
        """The tests for a change of this line, how many are left out for want of time, and the seconds that they take.

        A line of a function has the tests that run its statement, the head of a function those of its body, and any
        other line, which is run by import alone, those of all lines of the file.
        """
        of_file = self._files.get(file, {})
        names: set[str] = set()
        for span in spans((self._root / file).read_text(), line):
            names = set().union(*(of_file.get(number, ()) for number in span.lines())) & self._seconds.keys()
            if names:
                break
        mirrored = f"tests/{Path(file).relative_to('src/mrm').parent}/test_{Path(file).stem}.py"
        folder = f"tests/{Path(file).relative_to('src/mrm').parent}/"
        distance = {name: 2 - name.startswith(folder) - name.startswith(mirrored) for name in names}
        ordered = sorted(names, key=lambda name: (distance[name], self._seconds[name], name))
        chosen, total = [], 0.0
        for name in ordered:
            if not chosen or total + self._seconds[name] <= self._longest:  # after long ones, quick ones may still fit
                chosen.append(name)
                total += self._seconds[name]
        return chosen, len(ordered) - len(chosen), total


def spans(text: str, line: int) -> list[Span]:
    """Where to look for the tests of a line, in this order.

    A line of a function: its innermost statement (of `if` and its like the head alone), then its function. The head of
    a function, with decorators and defaults: its body. Any other line is run by import alone, whose test is whichever
    came first: the whole file.
    """
    whole = Span(1, len(text.splitlines()))
    function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    statement: ast.stmt | None = None
    for node in ast.walk(ast.parse(text)):  # outer nodes come before inner ones
        if isinstance(node, ast.stmt) and _start(node) <= line <= (node.end_lineno or node.lineno):
            statement = node
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                function = node
    if function is None or statement is None:
        return [whole]
    body = Span(function.body[0].lineno, function.end_lineno or function.lineno)
    if line < body.first:
        return [body, whole]
    last = statement.end_lineno or statement.lineno
    inner = [n.lineno for n in ast.walk(statement) if isinstance(n, ast.stmt) and n.lineno > line]
    return [Span(line, line), Span(_start(statement), min([last + 1, *inner]) - 1), body]


def _start(node: ast.stmt) -> int:
    """The first line of a statement, a decorator's if it has one."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def parts(root: Path) -> list[str]:
    """The folders of tests, and the files of tests beside them: tests/audit, tests/test_order.py."""
    folders = {file.relative_to(root).parts[1] for file in root.glob("tests/**/test_*.py")}
    return [f"tests/{name}" for name in sorted(folders)]


def measure(root: Path, folder: Path, chosen: list[str], workers: int, keep: bool, longest: float) -> LineTests:
    """Run the chosen parts of the tests under coverage, those apart that were measured with this code, or with any if
    `keep` is true.
    """
    seconds: dict[str, float] = {}
    files = []
    for part in chosen:
        place = folder / "coverage" / part.removeprefix("tests/").replace("/", ".")
        note, data, times = place / "code.json", place / "lines", place / "seconds.json"
        code = _code(root, part)
        if not (note.is_file() and (keep or json.loads(note.read_text()) == code)):
            place.mkdir(parents=True, exist_ok=True)
            note.unlink(missing_ok=True)
            _measure(root, part, place, data, workers)
            times.write_text(json.dumps(_seconds(place / "junit.xml")))
            note.write_text(json.dumps(code))
        files.append(data)
        seconds |= json.loads(times.read_text())
    return LineTests(files, seconds, root, longest)


def _measure(root: Path, part: str, place: Path, data: Path, workers: int) -> None:
    """Run a part of the tests under coverage."""
    settings = place / "coveragerc"
    settings.write_text(f"[run]\ndata_file = {data}\nsource = {root / 'src' / 'mrm'}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", part]
    command += ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
    command += ["--cov", "--cov-context", "test", "--cov-config", str(settings), "--cov-report", ""]
    command += ["--junitxml", str(place / "junit.xml"), "-o", "junit_family=xunit1"]
    subprocess.run(command, cwd=root, check=False)


def _seconds(junit: Path) -> dict[str, float]:
    """The seconds of each test that passed, by its name."""
    return {
        f"{case.attrib['file']}::{case.attrib['name']}": float(case.attrib["time"])
        for case in ElementTree.parse(junit).iter("testcase")
        if not len(case) or all(child.tag in ("properties", "system-out", "system-err") for child in case)
    }


def _code(root: Path, part: str) -> str:
    """A fingerprint of the code, of a part of the tests, and of what the tests share."""
    digest = hashlib.sha256()
    shared = [*root.glob("src/**/*.py"), *root.glob("tests/support/**/*.py"), root / "tests" / "conftest.py"]
    own = [root / part] if part.endswith(".py") else [*(root / part).glob("**/*.py")]
    for file in sorted({*shared, *own}):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
