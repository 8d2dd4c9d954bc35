"""The command `mrm`. Each command is a small function in one of these files, which calls one in `mrm.runs`.

Nothing heavy is imported before a command has understood its options and starts to work.
"""

from __future__ import annotations

import difflib
import io
import sys
import warnings
from collections.abc import Sequence

from mrm.cli import data_preparation, labelling, machine_check, model_testing, model_training, model_use, service
from mrm.system.errors import ConfigError, MRMError
from mrm.system.permissions import restricted

GROUPS = {
    "data": {**data_preparation.COMMANDS, **labelling.COMMANDS},
    "training": model_training.COMMANDS,
    "testing": model_testing.COMMANDS,
    "using a model": {**model_use.COMMANDS, **service.COMMANDS},
    "this machine": machine_check.COMMANDS,
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Expected errors print one line and exit with 2, or with 3 where images could not be reached.

    Ctrl-C exits with 130. What the command writes has the permissions of `mrm.system.permissions`, also what libraries
    write for it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name of a file must not end a command that prints it
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"mrm: warning: {message}\n"
    try:
        with restricted():
            dispatch(words)
    except MRMError as error:
        _fail(str(error), error.status)
    except KeyboardInterrupt:
        print("mrm: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = None
    except OSError as error:  # such as a full disk, or a path that is not a folder
        _fail(f"{error}; check that the path exists, that there is space left, and that you have permission to write")


def dispatch(words: Sequence[str]) -> None:
    """Run the command that the first word names. Raises ConfigError for an unknown one."""
    name, rest = split_name(words) if words else ("--help", [])
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        from mrm import __version__

        print(f"mrm {__version__}")
    elif name in COMMANDS:
        COMMANDS[name].run(rest)
    else:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else "`mrm --help` lists the commands"
        raise ConfigError(f"unknown command {name!r}; {advice}")


def split_name(words: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the command that a command line begins with, which may be two words, and the words after it."""
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:length]), list(words[length:])


def usage() -> str:
    """The list of commands with the first line of each."""
    lines = ["mrm: learn from radiographs and their reports, then classify and segment with few labels"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  mrm {name:12} {command.about}" for name, command in commands.items())]
    lines += [
        "",
        "exit status: 0 done; 1 overlaps found, or parts failed; 2 refused; 3 some images could not",
    ]
    lines += ["be read (run the same command again if a share was gone); 75 stopped and saved; 130 interrupted"]
    return "\n".join([*lines, "", "`mrm COMMAND --help` explains a command and its options."])


def _fail(message: str, status: int = 2) -> None:
    print(f"mrm: error: {message}", file=sys.stderr)
    sys.exit(status)
