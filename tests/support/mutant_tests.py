"""Which tests run a line, and how long they take: measured once with all tests, by coverage and its contexts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import cached_property
from pathlib import Path

LONGEST = 60.0  # seconds of tests that are run for a change
IMPORTED = ""  # the context of lines that are run when a module is imported


class LineTests:
    """The tests of each line of each file, nearest first and then the fastest."""

    def __init__(self, coverage_file: Path, seconds: dict[str, float], root: Path) -> None:
        """`seconds` are those of each test that passed."""
        from coverage import CoverageData

        self._data = CoverageData(str(coverage_file))
        self._data.read()
        self._seconds, self._root = seconds, root

    @cached_property
    def _files(self) -> dict[str, dict[int, set[str]]]:
        files = {}
        for name in self._data.measured_files():
            if (path := Path(name)).is_relative_to(self._root):
                lines = self._data.contexts_by_lineno(name)
                files[str(path.relative_to(self._root))] = {
                    line: {context.partition("|")[0] for context in contexts} for line, contexts in lines.items()
                }
        return files

    def of(self, file: str, line: int) -> tuple[list[str], int, float]:
        """The tests for a change of this line, how many are left out for want of time, and the seconds that they take.

        A line that is run by import alone, such as a constant, has the tests of all lines of its file.
        """
        lines = self._files.get(file, {})
        names = lines.get(line, set()) & self._seconds.keys()
        if not names and IMPORTED in lines.get(line, set()):
            names = set().union(*lines.values()) & self._seconds.keys()
        mirrored = f"tests/{Path(file).relative_to('src/mrm').parent}/test_{Path(file).stem}.py"
        folder = f"tests/{Path(file).relative_to('src/mrm').parent}/"
        distance = {name: 2 - name.startswith(folder) - name.startswith(mirrored) for name in names}
        ordered = sorted(names, key=lambda name: (distance[name], self._seconds[name], name))
        chosen, total = [], 0.0
        for name in ordered:
            if chosen and total + self._seconds[name] > LONGEST:
                break
            chosen.append(name)
            total += self._seconds[name]
        return chosen, len(ordered) - len(chosen), total


def measure(root: Path, folder: Path, workers: int, keep: bool = False) -> LineTests:
    """Run all tests under coverage, unless that was done for this code, or for any if `keep` is true."""
    note, data, times = folder / "code.json", folder / "coverage", folder / "times.json"
    code = _code(root)
    if not (data.is_file() and times.is_file() and note.is_file() and (keep or json.loads(note.read_text()) == code)):
        note.unlink(missing_ok=True)
        settings, junit = folder / "coveragerc", folder / "junit.xml"
        settings.write_text(f"[run]\ndata_file = {data}\nsource = {root / 'src' / 'mrm'}\n")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            str(workers),
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--cov", "--cov-context", "test", "--cov-config", str(settings), "--cov-report", ""]
        subprocess.run([*command, "--junitxml", str(junit), "-o", "junit_family=xunit1"], cwd=root, check=False)
        times.write_text(json.dumps(_seconds(junit)))
        note.write_text(json.dumps(code))
    return LineTests(data, json.loads(times.read_text()), root)


def _seconds(junit: Path) -> dict[str, float]:
    """The seconds of each test that passed, by its name."""
    return {
        f"{case.attrib['file']}::{case.attrib['name']}": float(case.attrib["time"])
        for case in ElementTree.parse(junit).iter("testcase")
        if not len(case) or all(child.tag in ("properties", "system-out", "system-err") for child in case)
    }


def _code(root: Path) -> str:
    """A fingerprint of the code and its tests."""
    digest = hashlib.sha256()
    for file in sorted([*root.glob("src/**/*.py"), *root.glob("tests/**/*.py")]):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
