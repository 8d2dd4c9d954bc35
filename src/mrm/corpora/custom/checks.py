"""What joined rows and headers contradict each other in."""

from __future__ import annotations

from collections.abc import Sequence

from mrm.corpora.contract import Exclusion
from mrm.corpora.custom.archive import Archive
from mrm.corpora.custom.joining import Entry
from mrm.data.chest_tags import RADIOGRAPHS, TOLERATED
from mrm.data.records import Records

OTHER_PATIENT = "patient of the row is not that of the image"
Pairs = Sequence[tuple[Entry, str]]


def patients(pairs: Pairs, archive: Archive) -> tuple[Pairs, list[Exclusion], list[str]]:
    """The pairs of which row and header do not state different patients, an exclusion for each other, and notes.

    Where most differ, the table and the headers have ids of different kinds, as after a pseudonymisation: nothing is
    left out then, and the ids of the table are used.
    """
    stated, differing = 0, []
    for entry, image in pairs:
        ours, theirs = entry.cells.get("patient_id", ""), archive.header(image).get("patient_id", "")
        stated += bool(ours and theirs)
        if ours and theirs and ours != theirs:
            differing.append((entry, image, f"{entry.where}: {ours!r}, but the header has {theirs!r}"))
    if not differing:
        return pairs, [], []
    if len(differing) > stated / 2:
        note = (
            f"{len(differing):,} of {stated:,} patients differ between table and headers; those of the table are used"
        )
        return pairs, [], [note]
    excluded = [Exclusion(image, OTHER_PATIENT, detail) for _, image, detail in differing]
    lost = {image for _, image, _ in differing}
    return [pair for pair in pairs if pair[1] not in lost], excluded, []


def contrary_labels(records: Records) -> list[str]:
    """A note on studies whose images have contrary labels (1 and 0) for a class."""
    seen: dict[tuple[str, int], tuple[float, str]] = {}
    contrary: dict[tuple[str, int], tuple[str, str]] = {}
    for record in records:
        for number, value in enumerate(record.labels):
            if not record.study or value not in (0.0, 1.0):
                continue
            before, name = seen.setdefault((record.study, number), (value, record.name))
            if before != value:
                contrary.setdefault((record.study, number), (name, record.name))
    if not contrary:
        return []
    (_, number), (first, second) = next(iter(contrary.items()))
    studies = len({study for study, _ in contrary})
    return [
        f"{studies:,} studies have images with contrary labels, such as {first} and {second} for {records.classes[number]}; "
        "if labels are of studies, correct the table"
    ]


def without_study(archive: Archive) -> list[str]:
    """A note on DICOM files whose header has no StudyInstanceUID."""
    lacking = [name for name in archive.images if (header := archive.header(name)) and "study_uid" not in header]
    if not lacking:
        return []
    return [
        f"{len(lacking):,} DICOM files have no StudyInstanceUID, such as {lacking[0]}; each counts as a study of its own"
    ]


def no_radiographs(records: Records, archive: Archive) -> list[str]:
    """A note on images of another modality, such as the CT of the same request."""
    counts = archive.count((record.name for record in records), "modality")
    others = {modality: n for modality, n in counts.items() if modality.upper() not in RADIOGRAPHS | TOLERATED}
    if not others:
        return []
    shown = ", ".join(f"{modality} {n:,}" for modality, n in others.items())
    return [
        f"{sum(others.values()):,} images are no radiographs (CR, DX, RG) by their headers: {shown}; take them out of the "
        "source if they are not wanted"
    ]
