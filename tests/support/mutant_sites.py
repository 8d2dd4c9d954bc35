"""Where a file can be changed, and how: the operators of cosmic-ray, and a result turned into None."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider

# Variables in place of others are left out: nearly all of them fail at once, so they ask nothing of a test.
LEFT_OUT = ("VariableReplacer", "VariableInserter")


class Change(NamedTuple):
    """A change of one place: the n-th where an operator applies in a file, and the line before and after."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.before.strip()}  ->  {self.after.strip()}"

    def difference(self) -> str:
        """The line before and after, as two lines."""
        return f"{self.file}:{self.line}\n- {self.before.strip()}\n+ {self.after.strip()}"


class ReturnNone(Operator):
    """`return x` to `return None`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if self._applies(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        nothing = parso.parse("return None").children[0]
        nothing.get_first_leaf().prefix = node.get_first_leaf().prefix  # its indentation
        return nothing

    @staticmethod
    def _applies(node: Any) -> bool:
        return node.type == "return_stmt" and len(node.children) > 1 and node.children[1].get_code().strip() != "None"

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    return 1", "def f():\n    return None"),)


@cache
def operators() -> dict[str, Operator]:
    """Every operator by its name."""
    provider = OperatorProvider()
    return {name: provider[name]() for name in provider if name not in LEFT_OUT} | {"ReturnNone": ReturnNone()}


def mutated(text: str, change: Change) -> str:
    """The text of the file with the change."""
    code = mutate_code(text, operators()[change.operator], change.occurrence)
    if code is None:
        raise ValueError(f"{change.file}: {change.operator} {change.occurrence} does not apply")
    return str(code)


def sample(files: dict[str, str], count: int, seed: str) -> list[Change]:
    """Changes of at most `count` places by the seed, one of each place, from files and their texts.

    What changes no more than an annotation is passed over.
    """
    places: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
    for file, text in files.items():
        for name, occurrence, (line, column) in positions(text):
            places.setdefault((file, line, column), []).append((name, occurrence))
    rng = random.Random(seed)
    order = sorted(places)
    rng.shuffle(order)
    changes: list[Change] = []
    for file, line, column in order:
        if len(changes) == count:
            break
        name, occurrence = rng.choice(places[file, line, column])
        code = str(mutate_code(files[file], operators()[name], occurrence))
        if _meaning(code) not in (None, _meaning(files[file])):
            changes.append(Change(file, name, occurrence, line, column, *_differing(files[file], code, line)))
    return sorted(changes)


def positions(text: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """(operator, occurrence, (line, column)) of everything that an operator can change."""
    nodes = list(ast_nodes(parso.parse(text)))
    for name, operator in operators().items():
        positions = (position for node in nodes for position in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            yield name, occurrence, start


def _differing(text: str, code: str, line: int) -> tuple[str, str]:
    """The line of the change before and after."""
    old, new = text.splitlines(), code.splitlines()
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), line - 1)
    return old[at], new[at] if at < len(new) else ""


def _meaning(text: str) -> str | None:
    """The syntax tree without annotations of functions and variables of functions; None if it is no program."""
    try:
        tree = ast.parse(text)
        compile(text, "changed", "exec", dont_inherit=True)  # a `return` outside of a function can be parsed
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)
