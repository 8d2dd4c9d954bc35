"""Open-i, the Indiana University chest X-ray collection: 7,470 PNG images and 3,955 reports in XML.

Layout and counts: openi.nlm.nih.gov/faq and Demner-Fushman et al. 2016, doi:10.1093/jamia/ocv080. The archive
NLMCXR_reports.tgz unpacks to `ecgen-radiology/<number>.xml`, NLMCXR_png.tgz to PNG files named by the `id` of
the report's `parentImage`. The reports are de-identified with XXXX, which is kept. No patient numbers are
published, so the report's id stands for the patient; nor are views, only one caption for both images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mrm.corpora.contract import ABSENT, DUPLICATE, Exclusion, Options, Release, file_stem, images_of, inside
from mrm.data.folders import list_images
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Record, Records
from mrm.data.sections import select_sections
from mrm.system.errors import RecordError

EXPECTED = {"images": 7_470, "reports": 3_955}
CUT = "report cut off or not XML"
NO_IMAGE = "report without image"
NO_REPORT = "image of no report"
PARTS = (
    "COMPARISON",
    "INDICATION",
    "FINDINGS",
    "IMPRESSION",
)  # the labels of AbstractText, in the files' order


@dataclass(frozen=True)
class Report:
    """One XML file. `images` are (parentImage id, caption)."""

    name: str
    uid: str
    parts: tuple[tuple[str, str], ...]
    mesh: tuple[str, ...]
    images: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The report as one text with its titles, so that sections can still be selected later."""
        return "\n".join(f"{title}: {text}" for title, text in self.parts if text)


def read(source: Path, options: Options) -> Release:
    """Join reports and images by the ids in the XML. Raises RecordError if there are no reports."""
    files = list_images(source, suffixes=(".xml",))
    if not files:
        raise RecordError(
            f"{source}: has no XML reports; unpack NLMCXR_reports.tgz there, which creates ecgen-radiology/"
        )
    excluded: list[Exclusion] = []
    reports = _read_reports(files, excluded)
    records = Records(_records(source, reports, options, excluded), (), "Open-i")
    return Release(
        records=records,
        inputs=list(files.values()),
        version="NLMCXR",
        excluded=excluded,
        expected=EXPECTED,
        counts={
            "reports": len(reports),
            "reports with an image here": len({r.study for r in records}),
            "reports without findings": sum(not dict(r.parts).get("FINDINGS") for r in reports),
            "reports without findings and impression": sum(not _says_something(r) for r in reports),
        },
        purpose="reports",
        notes=["the publisher gives no patient numbers: the report's id stands for the patient"],
    )


def read_report(content: bytes, name: str) -> Report:
    """Parse an XML report. Raises ElementTree.ParseError if it is cut off, LookupError or ValueError for its encoding."""
    root = ElementTree.fromstring(content)
    uid = root.find("uId")
    texts: dict[str, str] = {}
    for node in root.iter("AbstractText"):
        title = (node.get("Label") or "").strip().upper() or "FINDINGS"
        words = " ".join("".join(node.itertext()).split())
        texts[title] = f"{texts.get(title, '')} {words}".strip()
    order = sorted(texts, key=lambda t: PARTS.index(t) if t in PARTS else len(PARTS))
    return Report(
        name=name,
        uid=(uid.get("id") if uid is not None else None) or f"CXR{Path(name).stem}",
        parts=tuple((title, texts[title]) for title in order),
        mesh=tuple(t for node in root.iter("major") if (t := " ".join((node.text or "").split()))),
        images=tuple((p.get("id", "").strip(), _caption(p)) for p in root.iter("parentImage")),
    )


def _caption(image: ElementTree.Element) -> str:
    return " ".join((image.findtext("caption") or "").split())


def _read_reports(files: dict[str, Path], excluded: list[Exclusion]) -> list[Report]:
    reports: dict[str, Report] = {}
    for name, file in sorted(files.items(), key=lambda item: (len(item[0]), item[0])):  # 2.xml before 10.xml
        try:
            report = read_report(file.read_bytes(), name)
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            excluded.append(Exclusion(name, CUT, str(error)))
            continue
        if report.uid in reports:
            excluded.append(Exclusion(name, DUPLICATE, f"{report.uid} is already in {reports[report.uid].name}"))
        else:
            reports[report.uid] = report
    return list(reports.values())


def _records(source: Path, reports: Sequence[Report], options: Options, excluded: list[Exclusion]) -> list[Record]:
    """One record for each image of each report, in the order of the reports."""
    files = images_of(options, source, source)
    by_stem = {file_stem(name): name for name in files}
    rows: dict[str, Record] = {}
    for report in reports:
        text = select_sections(report.text, options.sections) if report.text else ""
        if not report.images:
            excluded.append(Exclusion(report.name, NO_IMAGE))
        for image, caption in report.images:
            name = by_stem.get(inside(source, image, report.name))
            if name is None:
                excluded.append(Exclusion(f"{image}.png", ABSENT, report.name))
            elif name in rows:
                excluded.append(Exclusion(name, DUPLICATE, f"{report.name} names it again"))
            else:
                rows[name] = _record(report, text, name, files[name], caption)
    excluded += [Exclusion(name, NO_REPORT) for name in files if name not in rows]
    return list(rows.values())


def _record(report: Report, text: str, name: str, file: Path | PlacedImage, caption: str) -> Record:
    extra = {"mesh": "; ".join(report.mesh), "caption": caption}
    return Record(file, text, patient=report.uid, study=report.uid, extra=extra, name=name)


def _says_something(report: Report) -> bool:
    parts = dict(report.parts)
    return bool(parts.get("FINDINGS") or parts.get("IMPRESSION"))
