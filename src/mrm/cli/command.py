"""What a command of `mrm` is: a function whose docstring and parameters say everything about it.

The list of all commands needs nothing but the functions; options are read when a command is called or explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrm.cli import help_text, options, parsing, recipe_options
from mrm.system.errors import ConfigError

if TYPE_CHECKING:
    from mrm.recipes import Recipe

HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Command:
    """A command: its function, and for one that trains the recipes that its configuration may come from."""

    function: Callable[..., None]
    recipes: Mapping[str, Recipe] | None = None
    under: str = ""  # the word that is typed before its own: `label` of `label check`

    @property
    def name(self) -> str:
        """As it is typed, with hyphens."""
        return f"{self.under} {self.function.__name__.replace('_', '-')}".strip()

    @property
    def about(self) -> str:
        """The first line of its help."""
        return (self.function.__doc__ or "").splitlines()[0]

    def run(self, words: Sequence[str]) -> None:
        """Do what the words of the command line say, or print the help. Raises ConfigError for words it cannot take."""
        if HELP & set(words):
            print(self.help(words))
            return
        try:
            positional, named = self.arguments(words)
        except ConfigError as error:
            raise ConfigError(f"{error} (see `mrm {self.name} --help`)") from error
        self.function(*positional, **named)

    def arguments(self, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the function, from the words of the command line."""
        if self.recipes is not None:
            return [recipe_options.configuration(self.function, self.recipes, words)], {}
        accepted = options.options_of(self.function)
        values = parsing.parse(accepted, words)
        parsing.require(accepted, values)
        return options.arguments_of(self.function, values)

    def help(self, words: Sequence[str]) -> str:
        """The help, for a command that trains that of the recipe among the words."""
        docs = options.read_docstring(self.function)
        if self.recipes is not None:
            return recipe_options.help_of(self.name, docs, self.function, self.recipes, words)
        return help_text.help_text(self.name, docs, options.options_of(self.function))


def commands(
    *functions: Callable[..., None], recipes: Mapping[str, Recipe] | None = None, under: str = ""
) -> dict[str, Command]:
    """Functions as commands, by their names; `under` is a word that is typed before."""
    listed = [Command(function, recipes, under) for function in functions]
    return {command.name: command for command in listed}
