"""Reports as Word (`.docx`) and radiology information systems (HL7 v2) save them."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
COMPATIBLE = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def write_docx(path: Path, paragraphs: Sequence[str], header: str = "", body: str = "") -> Path:
    """ECMA-376. `body` takes the place of the paragraphs; `header` is the header of each page."""
    content = body or "".join(f'<w:p><w:r><w:t xml:space="preserve">{escape(p)}</w:t></w:r></w:p>' for p in paragraphs)
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    parts: Mapping[str, str] = {
        "[Content_Types].xml": f'<Types xmlns="{types}"/>',
        "word/document.xml": f'<w:document xmlns:w="{WORD}" xmlns:mc="{COMPATIBLE}"><w:body>{content}</w:body></w:document>',
        "word/header1.xml": f'<w:hdr xmlns:w="{WORD}"><w:p><w:r><w:t>{escape(header)}</w:t></w:r></w:p></w:hdr>',
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def oru(
    accession: str,
    *lines: str,
    time: str = "20240131120000",
    charset: str = "UNICODE UTF-8",
    patient: str = "p1",
    placer: str = "P",
) -> str:
    """A message with a report of so many lines, each in an OBX segment of type TX."""
    segments = [
        f"MSH|^~\\&|RIS|KH|ARCHIVE|KH|{time}||ORU^R01^ORU_R01|1|P|2.5.1||||||{charset}",
        f"PID|1||{patient}^^^KH||Doe^Jane",
        f"OBR|1|{placer}|{accession}^RIS|24566-5^Chest",
        *(f"OBX|{n}|TX|59776-5^Findings||{line}||||||F" for n, line in enumerate(lines, 1)),
    ]
    return "\r".join(segments) + "\r"
