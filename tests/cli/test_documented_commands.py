"""The command lines of the README and the documentation are understood as they stand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrm import cli
from mrm.cli.options import fields_of, options_of
from mrm.cli.parsing import parse
from mrm.cli.recipe_options import FILE, RECIPE, kind_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after `mrm` of every line in a code block that calls a command."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:torchrun .*-m )?mrm ([a-z].*)", line):
                words = shlex.split(match[1], comments=True)
                if words[0] in cli.COMMANDS and "..." not in words:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_line_is_understood(page):
    for name, *words in command_lines(page):
        command = cli.COMMANDS[name]
        if command.recipes is None:
            known = options_of(command.function)
        else:
            known = [RECIPE, FILE, *fields_of(kind_of(command.function))]
        parse(known, words)


def test_command_lines_are_found():
    assert sum(len(list(command_lines(page))) for page in PAGES) > 20
