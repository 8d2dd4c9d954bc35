"""Records of a folder without a table: the names of its folders are labels and splits."""

from __future__ import annotations

from pathlib import PurePosixPath

from mrm.corpora.custom.archive import Archive, extra_of
from mrm.corpora.custom.reports import ReportTexts
from mrm.corpora.custom.values import SPLITS
from mrm.corpora.options import Options
from mrm.data.records import Record
from mrm.system.errors import RecordError


def read_folder(archive: Archive, texts: ReportTexts, options: Options) -> list[Record]:
    """A record for each image; its labels and its split are in the names of its folders. Raises RecordError."""
    images = archive.images
    rows = []
    for name, file in images.items():
        folders = [part.lower() for part in PurePosixPath(name).parent.parts]
        split = next((SPLITS[f] for f in folders if f in SPLITS), "")
        labels = tuple(float(c.lower() in folders) for c in options.classes)
        facts = archive.facts(name)
        report = texts.find(name, facts)
        rows.append(
            Record(
                image=file,
                report=report,
                patient=facts.get("patient_id", ""),
                study=facts.get("study_id", ""),
                view=facts.get("view", ""),
                labels=labels,
                extra=extra_of(split, facts),
                name=name,
            )
        )
    for i, c in enumerate(options.classes):
        if not any(r.labels[i] for r in rows):
            inner = sorted({PurePosixPath(n).parent.name for n in images} - {""})
            raise RecordError(
                f"no folder {c} with images; the folders with images are {', '.join(inner[:20]) or 'none'}"
            )
    return rows
