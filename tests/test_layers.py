"""A module imports only modules that stand above it in the table; imports inside functions count too."""

import ast
import graphlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mrm"

# One line a rank, lowest first: a module imports from earlier lines only. The digit is the level of the design.
TABLE = """
0  noise  losses  intervals  store  headers  tables  resuming  machine
0  metrics  predictions  shards  sections  similarity
0  records
0  calibration  comparison  seeds  outliers  overlap  reports  dicom  rows
0  images
0  masks
1  inputs  model  classifier  augment
1  sampling
1  batches  pack  corpora  fingerprints
1  loading
1  segmenter  audit  dicom_seg  subgroups
2  weights  published
2  checkpoint
3  optimization  journal
3  tasks  parallel  saving
3  training
4  predict
4  neighbours  explain  filling  export  evaluate  probing
4  segmentation
5  recipes  pages
5  suites
6  runs
7  demo  serve
7  cli
7  __main__
"""
# Inside a folder of modules: what its files may share. A folder's `__init__` gathers them and is free.
SHARED = {
    "corpora": ("contract", "inspection", "splits", "phantom"),
    "pages": ("",),
    "serve": ("",),
    "runs": ("opening", "pretraining"),
    "cli": ("command",),
}

LINES = [line.split() for line in TABLE.strip().splitlines()]
RANK = {
    module: (int(level), order) for order, (level, *modules) in enumerate(LINES) for module in modules
}  # module: (level, order)


def imported(source: str, package: str = "mrm") -> set[str]:
    """The modules of mrm that a file of `package` imports: `model`, `corpora.phantom`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            near = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mrm":
            found.add(f"mrm.{node.attr}")
    return {m for name in found if name.startswith("mrm.") and (m := _module(name.removeprefix("mrm.")))}


def _module(name: str) -> str:
    """The module that `name` is or comes from: `model.MRM` is `model`; nothing for what `mrm` itself defines."""
    parts = name.split(".")
    for length in (2, 1):
        file = SOURCE.joinpath(*parts[:length])
        if file.with_suffix(".py").is_file() or (file / "__init__.py").is_file():
            return ".".join(parts[:length])
    return parts[0] if parts[0] in RANK else ""


def forbidden(module: str, imports: set[str]) -> set[str]:
    """Those of `imports` that `module` must not import."""
    top, *inside = module.split(".")
    bad = set()
    for name in imports:
        other, *within = name.split(".")
        if other != top:
            bad |= {name} if RANK.get(other, (9, 0)) >= RANK[top] else set()
        elif inside and inside != ["__init__"] and not (within and within[0].startswith(SHARED[top])):
            bad.add(name)
    return bad


def modules() -> dict[str, str]:
    """Name and text of every module but `mrm` itself."""
    files = {p.relative_to(SOURCE).with_suffix(""): p for p in sorted(SOURCE.rglob("*.py"))}
    return {".".join(name.parts): p.read_text() for name, p in files.items() if name.parts != ("__init__",)}


def package_of(module: str) -> str:
    return ".".join(["mrm", *module.split(".")[:-1]])


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_modules_of_a_lower_rank(module):
    assert module.split(".")[0] in RANK, f"{module}: not in the table of this test; give it a line there"
    assert not forbidden(module, imported(modules()[module], package_of(module)))


def test_no_module_imports_itself_by_a_detour():
    files = modules()
    graph = {m: imported(text, package_of(m)) - {m} for m, text in files.items() if not m.endswith("__init__")}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_file_is_named_for_nothing():
    assert not {m for m in modules() if {"utils", "misc", "common", "helpers"} & set(m.split("."))}


@pytest.mark.parametrize(
    "source",
    [
        "from mrm import runs",
        "from mrm.runs import pretrain",
        "import mrm.runs",
        "def f():\n    from mrm.runs import pretrain",
        "import mrm\nmrm.runs.pretrain()",
        "from .runs import pretrain",
        "from . import runs",
    ],
)
def test_every_way_to_import_is_seen(source):
    assert imported(source) == {"runs"}
    assert forbidden("training", imported(source)) == {"runs"}
    assert not forbidden("cli", imported(source))


def test_modules_of_one_rank_do_not_import_each_other():
    assert forbidden("evaluate", {"explain"}) == {"explain"}
    assert not forbidden("training", {"tasks"})


def test_corpora_share_what_is_meant_to_be_shared_and_nothing_else():
    assert not forbidden("corpora.nih", {"corpora.contract", "corpora.splits", "records", "images"})
    assert forbidden("corpora.nih", {"corpora.chexpert", "checkpoint"}) == {"corpora.chexpert", "checkpoint"}
    assert not forbidden("corpora.__init__", {"corpora.nih"})
