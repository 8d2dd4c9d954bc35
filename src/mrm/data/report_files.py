"""Files that hold reports: text, RTF, HTML, Word documents and HL7 messages. The content decides, where it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mrm.data.hl7 import Report, read_messages
from mrm.data.report_text import RTF, plain_text
from mrm.data.word_files import read_docx
from mrm.system.errors import RecordError, ReportError
from mrm.system.tables import stated
from mrm.system.text_files import decode

TEXTS = (".txt", ".rtf", ".html", ".htm")
DOCUMENTS = (".docx", ".doc")
MESSAGES = (".hl7", ".oru")
SUFFIXES = (*TEXTS, *DOCUMENTS, *MESSAGES)
LARGEST = 256 << 20  # bytes of a file of messages; of another file a tenth


@dataclass
class ReportFile:
    """The reports in a file, how its bytes were read, and what of it is no report."""

    reports: list[Report]
    guessed: bool = False  # its encoding
    replaced: bool = False  # some bytes
    left_out: list[str] = field(default_factory=list)


def read_report_file(path: Path, encoding: str = "") -> ReportFile:
    """The reports in a file; the key of a report that is no message is the name of its file, without the suffix.

    Raises ReportError for a file that is damaged or far too large, or whose letters are not known, and OSError.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        messages = start.lstrip(b"\x0b\r\n").startswith((b"MSH", b"FHS", b"BHS")) or path.suffix.lower() in MESSAGES
        if size > (LARGEST if messages else LARGEST // 10):
            raise ReportError(f"{path}: {size:,} bytes, which no report has")
        raw = b"" if path.suffix.lower() in DOCUMENTS else start + file.read()
    try:
        if path.suffix.lower() in DOCUMENTS:
            return ReportFile(_one(path, read_docx(path)))
        if messages:
            content = read_messages(raw, str(path))
            return ReportFile(content.reports, left_out=content.left_out)
        if raw.lstrip().startswith(RTF.encode()):  # ASCII, whatever letters it stands for
            return ReportFile(_one(path, plain_text(raw.decode("latin-1"))))
        decoded = decode(raw, str(path), encoding)
        return ReportFile(
            _one(path, plain_text(decoded.text)), decoded.guessed and not encoding, bool(decoded.replaced)
        )
    except (RecordError, ReportError) as error:  # the former of an encoding that fits no guess
        text = str(error)
        raise ReportError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _one(path: Path, text: str) -> list[Report]:
    return [Report((path.stem,), text)] if (text := stated(text)) else []
