"""Text as editors, spreadsheets and databases save it: UTF-8, UTF-16, UTF-32, or Windows-1252.

Unicode is recognised by its byte order mark or by its form. Bytes that are not UTF-8 are Windows-1252, of which Latin-1 is a
part, if they then read as text of Western Europe. Text in any other encoding is refused until its encoding is named, because
letters that are silently wrong are worse than a refusal.
"""

from __future__ import annotations

import codecs
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from mrm.system.errors import RecordError

INVISIBLE = "\ufeff\u200b\u2060"  # byte order mark, zero-width space, word joiner: blank, though str.strip() keeps them
MARKS = (  # the longer marks come first, since UTF-16's is the beginning of UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NAMES = {"utf-8-sig": "UTF-8", "cp1252": "Windows-1252"}  # as messages write them, where they are not in capitals
CANDIDATES = {  # encodings that a refusal proposes, with who writes them
    "cp850": "DOS",
    "mac-roman": "Mac",
    "cp1250": "Central Europe",
    "cp1254": "Turkey",
    "cp1251": "Cyrillic",
    "cp1253": "Greece",
    "shift_jis": "Japan",
    "gb18030": "China",
    "euc-kr": "Korea",
}
_LETTERS = "ÄÖÜäöüßÀÂÆÇÈÉÊËÎÏÔŒÙÛŸàâæçèéêëîïôœùûüÿÁÍÑÓÚáíñóúÃÕãõÅØåøÌÒìòªº"  # of the languages of Western Europe
_JOINING = "’´·\xa0\xad"  # symbols that may stand between two letters
_SYMBOLS = "€‚„…†‡‰‹‘“”•–—™›¡¢£¥§¨©«¬®¯°±²³µ¶¹»¼½¾¿×÷"  # that may not, if the letters are small
_ODD = re.compile(  # what text of Western Europe does not have, though it may have a few
    rf"[^\x00-\x7f{_LETTERS}{_JOINING}{_SYMBOLS}]"
    rf"|(?<=[A-Za-zß-ÿ])[{_SYMBOLS}](?=[a-zß-ÿ])"
    rf"|(?<=[a-zà-ÿ])[À-ÖØ-ÞŒŸ]|[{_LETTERS}]{{3,}}"
)
_ODD_SHARE = 0.05  # of the characters that are not ASCII


@dataclass(frozen=True)
class Decoded:
    """A text and how it was read. `replaced` counts bytes that are not of the encoding and became U+FFFD."""

    text: str
    encoding: str  # as Python names it
    replaced: int = 0
    first_bad_line: int = 0

    @property
    def guessed(self) -> bool:
        """Whether nothing in the file states its encoding, and it is not UTF-8 either."""
        return self.encoding == "cp1252"

    @property
    def name(self) -> str:
        """The encoding as messages write it."""
        return name_of(self.encoding)


def name_of(encoding: str) -> str:
    """An encoding as messages write it: UTF-8, Windows-1252, CP850."""
    return NAMES.get(encoding, encoding.upper())


def spelled(encoding: str) -> str:
    """An encoding as an option or a description states it: utf-8, windows-1252, cp850."""
    return {"utf-8-sig": "utf-8", "cp1252": "windows-1252"}.get(encoding, encoding)


def encoding_of(raw: bytes) -> str:
    """The encoding that the form of a text shows: that of its byte order mark; UTF-16 also where every other byte is zero;
    else UTF-8."""
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            return encoding
    first, second = (raw[:4096][at::2] for at in (0, 1))
    if len(second) > 1 and min(first.count(0), second.count(0)) == 0:
        if second.count(0) * 2 > len(second):
            return "utf-16-le"
        if first.count(0) * 2 > len(first):
            return "utf-16-be"
    return "utf-8-sig"


def decode(raw: bytes, where: str, encoding: str = "") -> Decoded:
    """The text of a file, in `encoding` or in the one that is found out. `where` names the file in messages.

    A few damaged bytes in text that is otherwise Unicode become U+FFFD and are counted. Raises RecordError for an unknown
    encoding, for bytes that the named encoding does not have, and for bytes that fit no guess.
    """
    if encoding:
        return _in_encoding(raw, where, encoding)
    stated = encoding_of(raw)
    try:
        return Decoded(raw.decode(stated), stated)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        damaged = raw.decode(stated, errors="replace")
        replaced = damaged.count("\ufffd")
        if stated != "utf-8-sig" or replaced <= sum(map(str.isalpha, re.findall(r"[^\x00-\x7f\ufffd]", damaged))):
            return Decoded(damaged, stated, replaced, line)
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        raise _unknown(raw, where, line) from None
    odd = sum(len(match[0]) for match in _ODD.finditer(text))
    if odd > _ODD_SHARE * len(re.findall(r"[^\x00-\x7f]", text)):
        raise _unknown(raw, where, line)
    return Decoded(text, "cp1252")


def check_encoding(encoding: str) -> str:
    """The encoding as Python names it. Raises RecordError for one that does not exist."""
    try:
        found = codecs.lookup(encoding)
        "".encode(encoding)  # `base64` and the like have a name, and are no encodings of text
    except (LookupError, ValueError):
        raise RecordError(
            f"unknown encoding {encoding!r}; choose one such as utf-8, utf-16, windows-1252, latin-1, "
            f"{', '.join(CANDIDATES)}"
        ) from None
    return "utf-8-sig" if found.name == "utf-8" else found.name


def _in_encoding(raw: bytes, where: str, encoding: str) -> Decoded:
    name = check_encoding(encoding)
    try:
        return Decoded(raw.decode(name), name)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RecordError(
            f"{where}: has bytes that are not {name_of(name)} (first on line {line}), though --encoding {encoding} names "
            "it; name another, or leave out --encoding to have it found out"
        ) from None


def _unknown(raw: bytes, where: str, line: int) -> RecordError:
    """The refusal of bytes that fit no guess, with the first word in the encodings in which it is one."""
    words = []
    match = re.search(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*", raw[_first_word(raw) :])
    word = match[0][:40] if match else b""
    for encoding, who in CANDIDATES.items():
        try:
            text = word.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text.isalpha() and not re.search(r"[^\W\d_A-Z][A-ZÀ-Þ]", text):
            words.append(f"{encoding} ({who}): {text!r}")
    shown = f"; the first word that is not ASCII would be {', '.join(words[:4])}" if words else ""
    return RecordError(
        f"{where}: neither UTF-8 nor Windows-1252 (first on line {line}){shown}; save the file as UTF-8, or name its "
        "encoding to `mrm prepare` with --encoding"
    )


def _first_word(raw: bytes) -> int:
    """Where the word begins that holds the first byte which is not ASCII."""
    first = re.search(rb"[\x80-\xff]", raw)
    at = first.start() if first else 0
    while at and raw[at - 1 : at].isalpha():
        at -= 1
    return at


def read_text(path: Path) -> str:
    """The text of a list. Raises RecordError for a file that is not text, and OSError."""
    decoded = decode(path.read_bytes(), str(path))
    if decoded.replaced:
        raise RecordError(
            f"{path}: not a text file in {decoded.name} (line {decoded.first_bad_line} has other bytes); save it as UTF-8"
        )
    if decoded.guessed:
        warnings.warn(f"{path}: read as {decoded.name}", stacklevel=3)
    return decoded.text
