"""The order of the rooms: a folder imports only folders below it; imports inside functions count too."""

import ast
import graphlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mrm"

# Lowest first: a room imports from earlier lines only, so rooms of one line do not import each other.
ORDER = """
system
data
corpora  audit  statistics  models
targets
training  inference
evaluation  interop  recipes  serve
pages
runs
cli
"""
RANK = {room: rank for rank, line in enumerate(ORDER.strip().splitlines()) for room in line.split()}
STATISTICS_MAY_IMPORT = {"system", "data.records", "statistics"}  # arrays in, a number with its interval out
LONGEST_FILE, LONGEST_FUNCTION = 450, 60  # lines


def modules() -> dict[str, str]:
    """Name (`data.images`) and text of every module in a room."""
    files = {p.relative_to(SOURCE).with_suffix(""): p for p in sorted(SOURCE.rglob("*.py"))}
    return {
        ".".join(name.parts).removesuffix(".__init__"): p.read_text() for name, p in files.items() if name.parts[1:]
    }


def imported(source: str, package: str = "mrm") -> set[str]:
    """The modules of mrm that a file of `package` imports: `models.mrm`, `corpora.phantoms.phantom`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            near = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mrm":
            names.add(f"mrm.{node.attr}")
    return {m for name in names if name.startswith("mrm.") and (m := module_of(name.removeprefix("mrm.")))}


def module_of(name: str) -> str:
    """The module that `name` is or comes from: `models.mrm.MRM` is `models.mrm`; nothing for what `mrm` itself defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        file = SOURCE.joinpath(*parts[:length])
        if file.with_suffix(".py").is_file() or (file / "__init__.py").is_file():
            return ".".join(parts[:length])
    return ""


def package_of(module: str) -> str:
    return ".".join(["mrm", *module.split(".")[:-1]])


def forbidden(module: str, imports: set[str]) -> set[str]:
    """Those of `imports` that `module` must not import."""
    room = module.split(".")[0]
    upward = {name for name in imports if (other := name.split(".")[0]) != room and RANK[other] >= RANK[room]}
    if room == "statistics":
        upward |= {name for name in imports if not {name, name.split(".")[0]} & STATISTICS_MAY_IMPORT}
    return upward


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_rooms_below_its_own(module):
    assert not forbidden(module, imported(modules()[module], package_of(module)))


def test_no_module_imports_itself_by_a_detour():
    graph = {module: imported(text, package_of(module)) - {module} for module, text in modules().items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_folder_is_a_room_and_the_root_holds_almost_no_file():
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(RANK)
    assert len([p for p in SOURCE.iterdir() if p.is_file() and p.suffix == ".py"]) <= 3


def test_the_tests_mirror_the_rooms():
    folders = {p.name for p in Path(__file__).parent.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders - {"support", "benchmarks", "examples", "fuzz", "mutants"} == set(RANK)


def borrowed(source: str) -> set[str]:
    """The test files and conftests that a test file imports from; what tests share is in `tests.support`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    elsewhere = {name for name in names if name.startswith((".", "tests.", "test_", "conftest"))}
    return {name for name in elsewhere if not name.startswith("tests.support")}


def test_no_test_file_imports_from_another():
    files = sorted(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 60
    assert {str(file): names for file in files if (names := borrowed(file.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from test_trainer import MICRO",
        "from conftest import SHARED",
        "import test_trainer",
        "from tests.training.test_trainer import MICRO",
        "from tests.training import test_trainer",
        "from .test_trainer import MICRO",
        "def test_something():\n    from tests.conftest import SHARED",
    ],
)
def test_every_way_to_import_from_a_test_file_is_seen(source):
    assert borrowed(source)
    assert not borrowed("from tests.support.configs import MICRO\nimport tests.support.paths")


def test_no_file_is_named_for_nothing():
    assert not {m for m in modules() if {"utils", "misc", "common", "helpers"} & set(m.split("."))}


def test_files_and_functions_stay_short():
    for name, text in modules().items():
        assert len(text.splitlines()) <= LONGEST_FILE, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{name}.{node.name}"


def test_nothing_is_imported_only_to_be_imported_from_here():
    assert not [name for name, text in modules().items() if "noqa: F401" in text]


@pytest.mark.parametrize(
    "source",
    [
        "from mrm import runs",
        "from mrm.runs import pretraining",
        "import mrm.runs.pretraining",
        "def f():\n    from mrm.runs import pretraining",
        "import mrm\nmrm.runs.pretrain()",
        "from ..runs import pretraining",
        "from .. import runs",
    ],
)
def test_every_way_to_import_is_seen(source):
    found = imported(source, package_of("training.trainer"))
    assert {name.split(".")[0] for name in found} == {"runs"}
    assert forbidden("training.trainer", found) == found
    assert not forbidden("cli.training", found)


def test_rooms_of_one_rank_do_not_import_each_other():
    assert forbidden("evaluation.probes", {"serve.limits"}) == {"serve.limits"}
    assert not forbidden("evaluation.probes", {"evaluation.predictions", "training.trainer"})


def test_statistics_take_arrays():
    assert forbidden("statistics.dice", {"data.images", "data.records"}) == {"data.images"}
