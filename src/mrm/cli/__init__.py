"""The command `mrm`. Each command is a small function in one of these files, which calls one in `runs`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from mrm.cli import data, machine, testing, training, using
from mrm.system.errors import (
    AugmentError,
    CheckpointError,
    ConfigError,
    ExplainError,
    ImageError,
    OutlierError,
    OutputError,
    PackError,
    PredictError,
    ProbeError,
    RecordError,
    ReportError,
    RunError,
    SegmenterError,
    StoreError,
    TrainingError,
)

EXPECTED = (
    AugmentError,
    ExplainError,
    CheckpointError,
    ImageError,
    ConfigError,
    OutlierError,
    OutputError,
    PackError,
    ProbeError,
    PredictError,
    RecordError,
    ReportError,
    RunError,
    SegmenterError,
    StoreError,
    TrainingError,
)
GROUPS = {
    "data": data.COMMANDS,
    "training": training.COMMANDS,
    "testing": testing.COMMANDS,
    "using a model": using.COMMANDS,
    "this machine": machine.COMMANDS,
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; expected errors print one line and exit with 2, Ctrl-C exits with 130."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = lambda message, *_, **__: f"mrm: warning: {message}\n"
    name = argv[0] if argv else "--help"
    try:
        if name in ("-h", "--help"):
            print(usage())
        elif name in COMMANDS:
            COMMANDS[name].run(argv[1:])
        else:
            raise ConfigError(f"no command {name!r}; `mrm --help` lists them")
    except EXPECTED as error:
        print(f"mrm: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mrm: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stdout = None
    except OSError as error:  # a disk that is full, a folder that is none
        print(
            f"mrm: error: {error}; see that it is there, and that there is room and the right to write", file=sys.stderr
        )
        sys.exit(2)


def usage() -> str:
    """The list of commands with their first lines."""
    lines = ["mrm: learn from radiographs and their reports, then classify with few labels"]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  mrm {name:11} {command.about}" for name, command in commands.items())]
    return "\n".join([*lines, "", "mrm COMMAND --help explains each."])
