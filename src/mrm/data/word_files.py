"""The text of a Word document (`.docx`): its paragraphs, without the headers and footers of its pages."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from mrm.system import unpacking
from mrm.system.errors import ReportError

LARGEST = 20 << 20  # bytes of the text with its markup; a report has some thousands
PART = "word/document.xml"
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"  # the other edition of the standard
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # says a text box a second time


def read_docx(path: Path) -> str:
    """The paragraphs of a document, one a line. Raises ReportError for a damaged, locked or oversized file."""
    with open(path, "rb") as file:
        if file.read(4) == b"\xd0\xcf\x11\xe0":
            raise ReportError(
                f"{path}: protected by a password, or a document of Word 2003; save it as .docx without one"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(PART).file_size > LARGEST:
                raise ReportError(
                    f"{path}: its text unpacks to {archive.getinfo(PART).file_size:,} bytes; a report has at most {LARGEST:,}"
                )
            content = unpacking.read_member(archive, PART, path.stat().st_size)
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise ReportError(f"{path}: declares entities, which no Word document does; it is not read")
        return _text(content)
    except unpacking.TooLargeError as error:
        raise ReportError(f"{path}: {error}") from None
    except (*unpacking.ARCHIVE_ERRORS, ElementTree.ParseError) as error:
        raise ReportError(f"{path}: not a Word document, or a damaged one ({error}); save it again") from None


def _text(content: bytes) -> str:
    parts: list[str] = []
    hidden = 0
    for event, element in ElementTree.iterparse(io.BytesIO(content), ("start", "end")):
        tag = element.tag.replace(_STRICT, _WORD)
        if tag == _FALLBACK:
            hidden += 1 if event == "start" else -1
        elif hidden or event == "start":
            continue
        elif tag == f"{_WORD}t":
            parts.append(element.text or "")
        elif tag == f"{_WORD}tab":
            parts.append("\t")
        elif tag in (f"{_WORD}br", f"{_WORD}cr", f"{_WORD}p"):
            parts.append("\n")
            element.clear()
    return "".join(parts).strip("\n")
