"""The notebooks are committed as they ran: in order, whole, without a trace of the machine; and they still run."""

import ast
import importlib
import re

import nbformat
import pytest

from tests.support.notebooks import NOTEBOOKS, VERSION, executed

EACH = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|opt|var|work|Users|private|mnt)/|[A-Z]:\\\\|site-packages")


def code_cells(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def kinds(cell) -> list[str]:
    """What a cell shows: printed text, values, figures."""
    return sorted({"figure" if "image/png" in o.get("data", {}) else o.output_type for o in cell.outputs})


def test_there_are_five():
    assert [file.stem[0] for file in NOTEBOOKS] == list("12345")


@EACH
def test_a_notebook_is_committed_as_it_ran(file):
    book = nbformat.read(file, VERSION)
    nbformat.validate(book)
    assert book.cells[0].source.startswith("# ")
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert any("figure" in kinds(cell) or "text/html" in str(cell.outputs) for cell in cells)
    assert file.stat().st_size < 400_000


@EACH
def test_a_notebook_says_nothing_of_the_machine_that_ran_it(file):
    book = nbformat.read(file, VERSION)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    assert MACHINE.search(nbformat.writes(book)) is None


@EACH
def test_a_notebook_uses_what_there_is(file):
    """Every name that it imports from mrm, and every attribute of a module of mrm, exists."""
    modules: dict[str, object] = {}
    for cell in code_cells(nbformat.read(file, VERSION)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                modules |= {a.name: importlib.import_module(a.name) for a in node.names if a.name == "mrm"}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("mrm"):
                for alias in node.names:
                    value = _member(node.module, alias.name)
                    if isinstance(value, type(ast)):
                        modules[alias.name] = value
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
    assert "mrm" in modules or "runs" in modules


def _member(module: str, name: str):
    """A name of a module, or a module within it."""
    parent = importlib.import_module(module)
    return getattr(parent, name) if hasattr(parent, name) else importlib.import_module(f"{module}.{name}")


@pytest.mark.slow
@EACH
def test_a_notebook_still_runs_and_shows_the_same_kinds_of_things(file):
    committed, now = nbformat.read(file, VERSION), executed(file)
    assert [kinds(cell) for cell in code_cells(now)] == [kinds(cell) for cell in code_cells(committed)]
