"""Read tables of text: CSV in any of its forms, also compressed, in bounded memory whatever the file holds."""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mrm.system import unpacking
from mrm.system.errors import RecordError
from mrm.system.spreadsheet_cells import GUARD, unguarded
from mrm.system.table_form import DELIMITERS, Rows, TableForm, header_span, sign_of
from mrm.system.text_files import Decoded, check_encoding, decode, encoding_of

LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++")
LONGEST_HEADER = 1_000_000  # characters of the names of the columns
LONGEST_LINE = 10_000_000  # characters of a line, and of a cell with line breaks: a report has thousands
STREAMED = 1 << 26  # bytes from which a file of UTF-8 is read a part at a time, and not into memory
BEGINNING = 1 << 22  # characters of such a file by which the separator of the columns is found out
SAMPLE = 20  # records by which the separator of the columns is found out
UTF_8 = "utf-8-sig"  # as Python names it, with or without a byte order mark
ENCRYPTED = 1  # the bit of a zip archive's flags


def read_csv(path: Path, form: TableForm) -> tuple[Rows, Decoded, str]:
    """(Line number, fields) of every record of a CSV, the header too; how its text was read; what separates its columns.

    Spaces after commas and quoted line breaks are allowed. Cells that were guarded against a spreadsheet come back as they
    were. Raises RecordError for a file that is no such table, for some of them where the rows are consumed. The text of
    what is returned is empty where the file is read a part at a time.
    """
    last = header_span(form.header_lines)[1] if form.header_lines else 0
    if _is_streamed(path, form):
        with _opened(path) as file:
            beginning = file.read(BEGINNING)
        _check_beginning(path, beginning)
        if len(beginning) == BEGINNING:  # its last line is not whole
            beginning = beginning[: beginning.rfind("\n") + 1] or beginning
        sign, before = _delimiter(path, beginning, form.delimiter)
        return _records(path, _lines(path), sign, before, last), Decoded("", UTF_8), sign
    decoded = decode(_unpacked(path), str(path), form.encoding)
    text = decoded.text
    _check_beginning(path, text)
    _check_lines(path, text)
    sign, before = _delimiter(path, text, form.delimiter)
    lines = (match[0] for match in LINE.finditer(text))  # one at a time, as a copy of the text in UCS-4 is large
    return _records(path, lines, sign, before, last), decoded, sign


def _check_beginning(path: Path, text: str) -> None:
    first = LINE.search(text)
    if first and len(first[0]) > LONGEST_HEADER:
        raise _no_header(path, f"{len(first[0]):,} characters")


def _is_streamed(path: Path, form: TableForm) -> bool:
    """Whether the file is large, and UTF-8 from its beginning to its end, as it is or as the form says."""
    if path.suffix in (".gz", ".zip") or not path.is_file() or path.stat().st_size < STREAMED:
        return False
    if form.encoding and check_encoding(form.encoding) != UTF_8:
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        part = file.read(BEGINNING)
        if encoding_of(part) != UTF_8 or not re.search(rb"[\r\n]", part):
            return False
        try:
            while part:
                decoder.decode(part)
                part = file.read(BEGINNING)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _opened(path: Path) -> IO[str]:
    return open(path, encoding=UTF_8, newline="")  # line breaks stay as they are


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, one at a time. Raises RecordError for one that is too long."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                length = len(line)
                while not line.endswith(("\r", "\n")) and (line := file.readline(LONGEST_LINE)):
                    length += len(line)
                raise _too_long(path, number, length)
            yield line


def _records(path: Path, lines: Iterator[str], sign: str, before: int, header: int) -> Rows:
    """(First line, fields) of each record after the first `before` lines; blank records are left out.

    A quote that is never closed would silently swallow the rest of the file; an end mark shows whether one is open. Excel
    appends empty fields; those beyond the header, whose last line is `header` or the first, are cut off.
    """
    end = "\x04end-of-file\x04"  # without a sign that may separate columns
    csv.field_size_limit(LONGEST_LINE)
    records = itertools.chain(itertools.islice(lines, before, None), ["\n", end])
    reader = csv.reader(records, delimiter=sign, skipinitialspace=not sign.isspace())
    line, width = before + 1, 0
    try:
        for row in reader:
            if row and row[-1].endswith(f"\n{end}"):
                raise RecordError(
                    f"{path}: line {line}: a quote opens there and is never closed; close it, or double it if it is part "
                    "of the text"
                )
            if row != [end] and any(map(str.strip, row)):
                if len(row) > width:
                    if not width or line <= header:
                        width = len(row)
                    while len(row) > width and not row[-1].strip():
                        row.pop()
                yield line, [unguarded(cell) if cell.startswith(GUARD) else cell for cell in row]
            line = before + reader.line_num + 1
    except csv.Error as error:
        reason = f"a cell has more than {LONGEST_LINE:,} characters" if "limit" in str(error) else str(error)
        raise RecordError(
            f"{path}: line {line}: {reason}; is a quote opened there and never closed, or is this no table?"
        ) from None


def _check_lines(path: Path, text: str) -> None:
    """Raises RecordError for a line that is too long, found by leaps of such a length."""
    start = 0
    while start + LONGEST_LINE < len(text):
        end = max(text.rfind(sign, start, start + LONGEST_LINE + 1) for sign in "\r\n")
        if end < 0:
            number = len(LINE.findall(text[:start])) + 1
            length = len(LINE.match(text, start)[0])  # type: ignore[index]  # there is at least one character
            raise _too_long(path, number, length)
        start = end + 1


def _too_long(path: Path, number: int, length: int) -> RecordError:
    return RecordError(
        f"{path}: line {number} has {length:,} characters; a line of a table has at most {LONGEST_LINE:,}"
    )


def _delimiter(path: Path, text: str, stated: str) -> tuple[str, int]:
    """What separates the columns, and how many lines come before the header.

    Excel writes semicolons where the comma separates decimals, and may say so in a line `sep=;` before the header.
    """
    first = re.search(r"[^\r\n]+", text)
    if first is None:
        return sign_of(stated or ","), 0
    before, line = 0, first[0]
    excel = re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE)
    if excel:
        before = len(LINE.findall(text[: first.start()])) + 1
        following = re.compile(r"[^\r\n]+").search(text, first.end())
        line = following[0] if following else ""
    if stated:
        sign = sign_of(stated)
        others = [name for other, name in DELIMITERS.items() if other in line]
        if sign not in line and others:
            raise RecordError(
                f"{path}: its first line has no {DELIMITERS.get(sign, repr(sign))}, though --delimiter names it; the line has "
                f"{' and '.join(others)}"
            )
        return sign, before
    if excel:
        return excel[1], before
    unquoted = re.sub(r'"[^"]*"', "", line)
    signs = [sign for sign in DELIMITERS if sign in unquoted]
    return (_most_regular(text, signs) if len(signs) > 1 else (signs or [","])[0]), 0


def _most_regular(text: str, signs: list[str]) -> str:
    """The sign that splits the first records into equally many fields, and into the most; a comma where none is better."""

    def columns(sign: str) -> int:
        lines = itertools.islice((match[0] for match in LINE.finditer(text)), 50 * SAMPLE)
        records = itertools.islice(csv.reader(lines, delimiter=sign, skipinitialspace=not sign.isspace()), SAMPLE)
        widths = Counter(len(row) for row in records if any(row))
        return next(iter(widths)) if len(widths) == 1 and widths.total() > 1 else 0

    try:
        numbers = {sign: columns(sign) for sign in signs}
    except csv.Error:
        return ","
    best = max(signs, key=lambda sign: numbers[sign])  # the first of equals, which is the comma
    return best if numbers[best] or "," in signs else max(signs, key=text.partition("\n")[0].count)


def _no_header(path: Path, size: str) -> RecordError:
    return RecordError(f"{path}: its first line has {size}; a table with a header is expected")


def _unpacked(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return unpacking.read_bounded(file, size)
        if path.suffix != ".zip":
            return _plain(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise RecordError(f"{path}: expected one table, found {len(names)} files; unpack the archive")
            if archive.getinfo(names[0]).flag_bits & ENCRYPTED:
                raise RecordError(f"{path}: encrypted; unpack it with its password and give the table inside")
            return unpacking.read_member(archive, names[0], size)
    except unpacking.TooLargeError as error:
        raise RecordError(f"{path}: {error}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except unpacking.ARCHIVE_ERRORS as error:
        raise RecordError(f"{path}: damaged archive ({error}); download it again") from None


def _plain(path: Path) -> bytes:
    """The bytes of a file; one whose beginning has no line break is refused before the rest is read."""
    most = 4 * LONGEST_HEADER  # bytes, as a character has at most four
    with open(path, "rb") as file:
        head = file.read(most + 1)
        if len(head) > most and not re.search(rb"[\r\n]", head):
            raise _no_header(path, f"more than {most:,} bytes")
        if len(head) <= most:
            return head
        if file.seekable():  # so that a large file is in memory once
            file.seek(0)
            return file.read()
        return head + file.read()
