"""The help of a command: how it is called, what it does, an example, and its options by group, 100 columns wide."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mrm.cli.options import REQUIRED, Docstring, Option, is_mapping

WIDTH = 100
MARGIN = 30  # columns for the options; their texts stand beside them
NAMES = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def help_text(command: str, docs: Docstring, options: Sequence[Option], extra: Sequence[str] = ()) -> str:
    """The whole help; `extra` are paragraphs between the text and the options."""
    texts = [docs.about, *docs.text.split("\n\n"), *extra]
    paragraphs = [usage(command, options), *(wrapped(text) for text in texts if text)]
    if docs.example:
        paragraphs.append("example:\n" + textwrap.indent(docs.example, "  "))
    paragraphs += [f"{title.lower()}:\n" + "\n".join(lines) for title, lines in _groups(options).items()]
    return "\n\n".join(paragraphs)


def usage(command: str, options: Sequence[Option]) -> str:
    """One line, or a few: positional arguments and what has to be given."""
    words = [o.flag for o in options if o.positional]
    words += [f"{o.flag} {metavar(o)}" for o in options if not o.positional and o.default is REQUIRED]
    rest = any(not o.positional and o.default is not REQUIRED for o in options)
    line = " ".join([f"usage: mrm {command}", *words, *(["[options]"] if rest else [])])
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False, break_long_words=False)


def wrapped(text: str) -> str:
    """A paragraph in lines that fit."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def _groups(options: Iterable[Option]) -> dict[str, list[str]]:
    """The lines of every group, in the order in which the groups first occur; the machine comes last."""
    groups: dict[str, list[str]] = {}
    for option in options:
        groups.setdefault(option.group, []).extend(_lines(option))
    last = groups.pop("Machine", None)
    return groups | ({"Machine": last} if last else {})


def _lines(option: Option) -> list[str]:
    """An option and its text: beside each other, or below each other where the option is long."""
    head = f"  {option.flag}" + ("" if option.positional else f" {metavar(option)}".rstrip())
    text = " ".join(part for part in (option.help, note(option)) if part)
    beside = textwrap.wrap(text, WIDTH - MARGIN, break_on_hyphens=False) or [""]
    indented = [" " * MARGIN + line for line in beside[1:]]
    if len(head) < MARGIN - 1:
        return [f"{head:{MARGIN}}{beside[0]}".rstrip(), *indented]
    return [head, *([" " * MARGIN + beside[0]] if beside[0] else []), *indented]


def metavar(option: Option) -> str:
    """What stands for an option's value: PATH, N, {fp32,bf16}, TEXT ...; nothing for a switch."""
    if option.kind is bool:
        return ""
    name = _name(option.kind)
    return f"[{name} ...]" if option.variadic else name


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if is_mapping(kind):
        return "NAME=VALUE"
    if get_origin(kind) is tuple:
        inner = [part for part in get_args(kind) if part is not Ellipsis]
        return " ".join(_name(part) for part in inner)
    return NAMES[kind]


def note(option: Option) -> str:
    """What follows an option's text: that it is required, its default, or how to switch it off."""
    value = option.default
    if value is REQUIRED:
        return "" if option.positional else "(required)"
    if option.kind is bool and value:
        return f"(default; --no-{option.flag.removeprefix('--')} switches it off)"
    if value is None or value is False or value in ("", (), {}):
        return ""
    return f"(default: {shown(value)})"


def shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, dict):
        return ",".join(f"{k}={shown(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def without_defaults(options: Iterable[Option]) -> list[Option]:
    """The same options without their defaults, for a help that holds for several recipes."""
    return [o if o.default is REQUIRED else dataclasses.replace(o, default=None) for o in options]
