"""The manual: every command line in README and docs/ is one that `mrm` takes, and every Python block names what there is."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from mrm import cli
from mrm.cli.options import fields_of, options_of
from mrm.cli.parsing import parse
from mrm.cli.recipe_options import FILE, RECIPE, kind_of
from tests.support.commands import run_cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
RECIPES = {"pretrain": "mimic", "finetune": "nih-1", "segment": "siim-100"}  # their options are those of a recipe
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*[a-z]")


@pytest.fixture
def printed(capsys):
    """What `mrm` prints for some words."""

    @cache
    def text(*words: str) -> str:
        return run_cli(capsys, *words)[1]

    return text


def code_of(page: Path) -> list[str]:
    """Lines of code blocks and pieces of inline code, with continued lines joined."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line.split("  #")[0] for block in blocks for line in block.splitlines()] + inline


def commands_in(page: Path) -> list[list[str]]:
    """The words after `mrm` of each command line that a page shows."""
    lines = [
        re.fullmatch(r"(?:torchrun .*-m |\$ )?mrm ([a-z][a-z-]*(?: .*)?)", " ".join(c.split())) for c in code_of(page)
    ]
    return [match[1].split() for match in lines if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_recipes_and_options_of_a_page_exist(page, printed):
    names = re.findall(r"^ +mrm ([a-z-]+(?: [a-z-]+)?) ", printed("--help"), re.MULTILINE)
    for line in commands_in(page):
        name, words = cli.split_name(line)
        assert name in names, f"mrm {name}"
        recipe = [RECIPES[name]] if name in RECIPES else []
        if recipe and words and re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", words[0]):
            assert words[0] in cli.COMMANDS[name].recipes, f"mrm {name} {words[0]}"
        options = {"--help", "--config", *OPTION.findall(printed(*name.split(), *recipe, "--help"))}
        assert not set(OPTION.findall(" ".join(words))) - options, f"mrm {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_of_code_blocks_are_understood(page):
    """The parser of the command takes each line with its values."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"\s*(?:torchrun .*-m )?mrm ([a-z].*)", line)
            words = shlex.split(match[1], comments=True) if match else [""]
            name, rest = cli.split_name(words)
            if name not in cli.COMMANDS or "..." in words:
                continue
            command = cli.COMMANDS[name]
            if command.recipes is None:
                parse(options_of(command.function), rest)
            else:
                parse([RECIPE, FILE, *fields_of(kind_of(command.function))], rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_name_what_there_is(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        tree, modules = ast.parse(block), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {a.name: importlib.import_module(a.name) for a in node.names if a.name.startswith("mrm")}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("mrm"):
                exec(compile(ast.Module([node], []), str(page), "exec"), modules)  # fails where a name is absent
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"


def test_the_tests_that_stand_for_a_promise_of_security_exist():
    named = re.findall(r"`((?:tests|benchmarks)/[\w/.-]+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_manual_names_the_environment_variables_that_are_read():
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    manual = "".join(page.read_text() for page in PAGES)
    read = set(re.findall(r"\bMRM_[A-Z_]+\b", sources))
    assert {"MRM_ACCESS", "MRM_SITE_KEY", "MRM_CACHE", "MRM_TOKEN"} <= read
    assert {name for name in read if name not in manual} == set()
