"""Text as editors and spreadsheets save it: in UTF-8, or with a byte order mark in UTF-16 or UTF-32."""

from __future__ import annotations

import codecs
from pathlib import Path

from mrm.system.errors import RecordError

INVISIBLE = "\ufeff\u200b\u2060"  # byte order mark, zero-width space, word joiner: blank, though str.strip() keeps them
MARKS = (  # the longer marks come first, since UTF-16's is the beginning of UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(raw: bytes) -> str:
    """The encoding of a text: that of its byte order mark; UTF-16 also where every other byte is zero; else UTF-8."""
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


def read_text(path: Path) -> str:
    """The text of a list. Raises RecordError for a file that is not text, and OSError."""
    raw = path.read_bytes()
    try:
        return raw.decode(encoding_of(raw))
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text file in UTF-8 ({error}); save it as UTF-8") from None
