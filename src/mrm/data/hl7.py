"""Reports in HL7 version 2 messages (ORU), as radiology information systems send and store them.

A message is lines, called segments; fields are separated by the sign after `MSH`, mostly `|`. The text of a report is in
the fifth field of the OBX segments of type TX, FT or ST; the OBR segment before them says of which order it is.
Source: HL7 v2.5.1, chapters 2 (escape sequences: 2.7, character sets: table 0211) and 7 (OBR, OBX).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mrm.system.errors import ReportError
from mrm.system.text_files import decode

TEXT_TYPES = ("TX", "FT", "ST")
STATUS = 11  # of OBX: whether the result is final
WITHDRAWN = ("D", "W", "X")  # result status of OBX: deleted, wrong, could not be obtained
CHARACTER_SETS = {  # table 0211 -> Python; the ones left out here are found out by the bytes
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/5": "iso8859-5",
    "8859/7": "iso8859-7",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
    "UNICODE UTF-16": "utf-16",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc-kr",
    "ISO IR87": "iso2022_jp",
    "BIG-5": "big5",
}
FOUND_OUT = ("", "ASCII", "UNICODE", "ISO IR6")


@dataclass(frozen=True)
class Report:
    """The report of one order. `keys` are its numbers, of the filler (OBR-3), the placer (OBR-2), then others."""

    keys: tuple[str, ...]
    text: str
    time: str = ""  # of the message: 20240131120000
    patient: str = ""


@dataclass
class Messages:
    """The reports in a file of messages, and what was left out: why, and how often."""

    reports: list[Report] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Signs:
    """What separates the parts of a message."""

    field: str
    component: str
    repetition: str
    escape: str


def read_messages(raw: bytes, where: str) -> Messages:
    """The reports in the messages of a file. Raises ReportError if it has no message, and names the damage of one.

    A file may hold several messages, framed by the bytes of MLLP or not, and the segments of a batch.
    """
    messages = Messages()
    blocks = re.split(rb"(?m)(?=^\x0b?MSH)", raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    starts = [block for block in blocks if block.lstrip(b"\x0b").startswith(b"MSH")]
    if not starts:
        raise ReportError(f"{where}: not an HL7 message; the first segment of one begins with MSH")
    for number, block in enumerate(starts, 1):
        place = where if len(starts) == 1 else f"{where}, message {number}"
        _read(block.lstrip(b"\x0b"), place, messages)
    return messages


def _read(block: bytes, where: str, messages: Messages) -> None:
    signs = _signs(block, where)
    charset = _charset(block.partition(b"\n")[0], signs)
    text = decode(block, where, charset)
    segments = [line.split(signs.field) for line in text.text.split("\n") if line.strip("\x0b\x1c ")]
    header = segments[0]
    kind = _at(header, 8).split(signs.component)[0]
    if kind and kind != "ORU":
        messages.left_out.append(f"a message of type {kind}, which holds no report")
        return
    patient = next(
        (_at(s, 3).split(signs.repetition)[0].split(signs.component)[0] for s in segments if s[0] == "PID"), ""
    )
    study = next((_at(s, 1).split(signs.component)[0] for s in segments if s[0] == "ZDS"), "")  # IHE: StudyInstanceUID
    if segments[-1][0] == "OBX" and not _at(segments[-1], STATUS) and not block.endswith((b"\n", b"\x1c")):
        raise ReportError(
            f"{where}: cut off in its last OBX segment, so the end of the report is missing; export it again"
        )
    orders = list(_orders(segments))
    if not orders:
        raise ReportError(
            f"{where}: no OBR segment, so the order of the report is not known; the message is damaged or cut off"
        )
    for order, observations in orders:
        keys = [_at(order, at).split(signs.component)[0].strip() for at in (3, 2, 18, 19, 20)]
        keys = [key for key in dict.fromkeys([*keys, study if len(orders) == 1 else ""]) if key]
        lines = _lines(observations, signs, charset or text.encoding, messages)
        if not keys:
            raise ReportError(f"{where}: an OBR segment without an order number (OBR-2, OBR-3)")
        if lines:
            messages.reports.append(Report(tuple(keys), "\n".join(lines), _at(header, 6), patient))
        else:
            messages.left_out.append("an order without text")


def _orders(segments: list[list[str]]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each OBR segment with the OBX segments that follow it."""
    starts = [i for i, segment in enumerate(segments) if segment[0] == "OBR"]
    for start, end in itertools.pairwise([*starts, len(segments)]):
        yield segments[start], [segment for segment in segments[start + 1 : end] if segment[0] == "OBX"]


def _lines(observations: list[list[str]], signs: _Signs, charset: str, messages: Messages) -> list[str]:
    lines = []
    for segment in observations:
        if _at(segment, 2) not in TEXT_TYPES:
            if _at(segment, 5):
                messages.left_out.append(f"an OBX segment of type {_at(segment, 2) or 'unknown'}, which is no text")
        elif _at(segment, STATUS) not in WITHDRAWN:
            lines += [_unescaped(part, signs, charset) for part in _at(segment, 5).split(signs.repetition)]
    return lines if any(line.strip() for line in lines) else []


def _at(segment: list[str], number: int) -> str:
    """The field of this number; empty if the segment ends before."""
    return segment[number] if number < len(segment) else ""


def _signs(block: bytes, where: str) -> _Signs:
    """The separators, which stand after MSH."""
    start = block[3:8].decode("latin-1")
    if len(start) < 5 or any(sign.isalnum() or sign.isspace() for sign in start[:4]) or len(set(start[:4])) < 4:
        raise ReportError(f"{where}: damaged; MSH must be followed by its separators, such as |^~\\&, not {start!r}")
    return _Signs(start[0], start[1], start[2], start[3])


def _charset(header: bytes, signs: _Signs) -> str:
    """The encoding that MSH-18 names; empty if it names none, and for ASCII, which many systems write whatever they send."""
    fields = header.decode("latin-1").split(signs.field)
    name = _at(fields, 17).split(signs.repetition)[0].strip().upper()  # MSH-1 is the separator itself
    if name in FOUND_OUT:
        return ""
    return CHARACTER_SETS.get(name, name)


def _unescaped(text: str, signs: _Signs, charset: str) -> str:
    """The text of a field, with what its escape sequences stand for; those of highlighting stand for nothing."""
    if signs.escape not in text:
        return text
    sign = re.escape(signs.escape)
    sequence = re.compile(
        rf"{sign}(X(?:[0-9A-Fa-f]{{2}})+|[FSTREHN]|[.](?:br|sp|sk|in|ti|fi|nf|ce)[ +-]?\d{{0,3}}|[CMZ][^{sign}]{{0,20}}){sign}"
    )
    plain = {"F": signs.field, "S": signs.component, "R": signs.repetition, "E": signs.escape, "T": "&"}

    def character(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "X":
            return bytes.fromhex(code[1:]).decode(charset, errors="replace")
        number = int(re.sub(r"\D", "", code) or 1)
        if code.startswith((".br", ".sp", ".ce")):
            return "\n" * min(number if code.startswith(".sp") else 1, 10)
        return " " * min(number, 80) if code.startswith(".sk") else plain.get(code, "")

    return sequence.sub(character, text)
