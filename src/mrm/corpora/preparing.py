"""From the download of a public corpus to records, splits and label lists.

`prepare` tells the whole story; `mrm.corpora.contract` describes what the file of each corpus provides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from mrm.corpora import custom, description, inspection, mask_folders, splits, temporal, writing
from mrm.corpora import described as described_corpus
from mrm.corpora.catalogue import CORPORA, require_corpus
from mrm.corpora.contract import ABSENT, UNNAMED, Exclusion, Release, file_stem
from mrm.corpora.description import CorpusDescription
from mrm.corpora.options import Options
from mrm.corpora.writing import Corpus
from mrm.data import boxes
from mrm.data.dividing import with_classes
from mrm.data.header_index import HeaderIndex
from mrm.data.records import Record, Records
from mrm.system import output_folder
from mrm.system.collection import no_collection
from mrm.system.errors import RecordError
from mrm.system.lock import OPENING, in_turn
from mrm.system.shares import Share

ADVICE = {ABSENT: "Unpack the images and keep them where the publisher puts them"}  # by the largest reason
PROGRAMS = ("mimic", "openi", "covid")  # read by `mrm.corpora.NAME`; the others by a description


def prepare(name: str, source: Path | str, out: Path | str, options: Options | None = None) -> Corpus:
    """Write the records, splits and label lists of a corpus, from the folder it was downloaded to.

    Prints the publisher's counts beside those of this download. Nothing is written into `source`. After an
    interruption the same command resumes. Raises RecordError for a folder that is not the corpus, for tables that
    cannot be used and for a full disk.
    """
    options = options or Options()
    require_corpus(name)
    source, out = _folders(Path(source), Path(out))
    release = read(name, source, options, out)
    if release.understood:
        print(release.understood, end="\n\n")
    output_folder.make_folder(out)
    _require_records(name, release, source, out)
    with output_folder.writing(out):
        records, unreadable = inspection.inspect(release.records, out, options, release.headers)
    release = _narrowed(release, records, unreadable, options)
    _require_records(name, release, source, out)
    release = _with_boxes(release)
    if options.box_masks:
        release = _with_box_masks(name, release)
    release, sets = _divided(release, options)
    if release.finish:
        with output_folder.writing(out):
            failed = release.finish(sets, out, options)
        release, sets = _without(release, sets, failed)
    empty = [f"{split}: has no images, so it is not written" for split, part in sets.items() if not part]
    release = replace(release, notes=[*release.notes, *empty])
    sets = {split: part for split, part in sets.items() if part}
    corpus = writing.write(name, source, out, options, release, sets)
    inspection.forget(out)
    print(corpus.table())
    return corpus


def examine(name: str, source: Path | str, out: Path | str, options: Options, share: Share) -> tuple[Records, Records]:
    """Do a share of what `prepare` does with every image, and keep it in `out`, from which `prepare` resumes.

    Returns all records whose images are opened, and those of the share. Raises as `prepare` does.
    """
    require_corpus(name)
    source, out = _folders(Path(source), Path(out))
    output_folder.make_folder(out)
    with in_turn(out / OPENING):  # headers that are read for all are kept by the first share
        release = read(name, source, options, out)
    _require_records(name, release, source, out)
    with output_folder.writing(out):
        return inspection.examine(release.records, out, options, release.headers, share)


def preview(
    name: str, source: Path | str, options: Options | None = None, out: Path | None = None
) -> tuple[str, Mapping[str, str]]:
    """How the tables of a corpus are understood and what would be written, for the terminal, and further files.

    Nothing is written. Headers that an earlier preparation kept in `out` are not read again. Raises RecordError as `prepare` does.
    """
    options = options or Options()
    require_corpus(name)
    source = Path(source)
    _require_source(source)
    release = read(name, source, options, out, keeps=False)
    sets: Mapping[str, Records] = {}
    if release.records:
        release = _narrowed(release, release.records, [], options)
    if release.records:
        release, sets = _divided(release, options)
    return writing.preview(name, release, sets), release.files


def read(name: str, source: Path, options: Options, kept: Path | None = None, keeps: bool = True) -> Release:
    """What the module of the corpus reads from `source`. Headers that `custom` reads are kept in `kept`, if it `keeps`."""
    described = None if name in (*PROGRAMS, "custom") else description.load(name)
    _check_images(name, described, options)
    if described or name in PROGRAMS:
        with no_collection():  # they open no image
            if described:
                return described_corpus.read(described, source, options)
            return import_module(f"mrm.corpora.{name}").read(source, options)
    if name != "custom":
        options = replace(options, config=Path(name))
    return custom.read(source, options, HeaderIndex(kept, keeps))


def _check_images(name: str, described: CorpusDescription | None, options: Options) -> None:
    """Raises RecordError for images in an object store that cannot be taken from there."""
    if not options.images:
        return
    if described is None and name not in PROGRAMS:
        raise RecordError("--images: custom reads the headers of images from a folder; copy them to this machine")
    if options.box_masks:
        raise RecordError(
            "--images and --box-masks exclude each other; masks are written beside images of this machine"
        )
    if described and described.masks:
        raise RecordError("--images: this corpus writes its images with masks, from a folder; leave --images out")


def _require_records(name: str, release: Release, source: Path, out: Path) -> None:
    """Raises RecordError if no record is left: with the largest reason, once all reasons are in `excluded.csv`."""
    if release.records:
        return
    file = writing.write_excluded(out, release.excluded)
    of_rows = [e for e in release.excluded if not e.reason.startswith(UNNAMED)]
    reasons = Counter(e.reason for e in of_rows or release.excluded).most_common()
    if not reasons:
        raise RecordError(
            f"{source}: has the tables of {CORPORA.get(name, name)} but none of its images. {ADVICE[ABSENT]}"
        )
    reason, count = reasons[0]
    example = next(e for e in release.excluded if e.reason == reason)
    advice = ADVICE.get(reason, "") if not release.advice else release.advice
    raise RecordError(
        f"{source}: no record is left. The largest reason, for {count:,} of {len(of_rows or release.excluded):,}: {reason} "
        f"({example.name}{': ' if example.detail else ''}{example.detail}). {advice}{'. ' if advice else ''}"
        f"{file} lists all of them"
    )


def _with_boxes(release: Release) -> Release:
    """The release with the boxes of its records that lie in their images, and an exclusion for each other."""
    if not release.boxes:
        return release
    kept, refused = boxes.inside_images(release.boxes, release.records)
    counts = {**release.counts, "boxes": sum(map(len, kept.values()))}
    return replace(release, boxes=kept, excluded=[*release.excluded, *(Exclusion(*r) for r in refused)], counts=counts)


def _with_box_masks(name: str, release: Release) -> Release:
    """The release with segmentation folders to write from its boxes. Raises RecordError if it has none, or masks of its own."""
    if release.finish or not any(release.boxes.values()):
        reason = "has masks of its own" if release.finish else "has no boxes"
        raise RecordError(f"--box-masks: {name} {reason}; leave it out")
    by_id = {file_stem(r.name): release.boxes.get(r.name, ()) for r in release.records}
    if len(by_id) < len(release.records):
        raise RecordError(
            f"--box-masks: images of {name} share their names, which masks are told apart by; leave it out"
        )
    return replace(release, finish=partial(mask_folders.write_folders, by_id))


def _divided(release: Release, options: Options) -> tuple[Release, Mapping[str, Records]]:
    """The release with notes on patients and sets, and its sets with the classes that are written."""
    if options.split_by == "file":
        release = splits.without_placeholder(release)
    release = replace(release, notes=[*release.notes, *_patient_notes(release, options)])
    release, sets = _sets(release, options)
    return release, {split: with_classes(part, _classes(part, release, options)) for split, part in sets.items()}


def _sets(release: Release, options: Options) -> tuple[Release, Mapping[str, Records]]:
    """The sets of the release: by date, by published lists, or by patient or file; and the release with notes on them."""
    if options.split_by == "date":
        return temporal.cut_by_date(release, options)
    if options.splits and not set(release.splits) - set(splits.LISTS):
        return _published(release, options.splits, options)
    return release, splits.cut(release, options)


def _patient_notes(release: Release, options: Options) -> list[str]:
    """How the patients are known, once the headers have been read, and what follows for the splits."""
    patients, notes = release.records.known_patients, []
    if patients.inferred:
        notes.append(f"the patients of {patients.inferred:,} images are taken from their published file names")
    if options.split_by == "file":
        notes.append("split by file, as asked: images of one patient may be in several sets")
    elif patients.unknown and release.patient_advice:
        unread = " (DICOM headers were not read)" if options.check == "none" else ""
        notes.append(
            f"{patients.unknown:,} images have no patient{unread}, so splits may share patients; {release.patient_advice}"
        )
    return notes


def _require_source(source: Path) -> None:
    if not source.is_dir():
        raise RecordError(f"{source}: no such folder; --source is the folder the corpus was downloaded to")


def _folders(source: Path, out: Path) -> tuple[Path, Path]:
    _require_source(source)
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise RecordError(f"--out {out} and --source {source} overlap; nothing may be written into the source")
    return source, out


def _narrowed(release: Release, records: Records, unreadable: list[Exclusion], options: Options) -> Release:
    """The release with the facts from its image headers, without unreadable images and views not in the options."""
    selected, other_views = records, list[Exclusion]()
    if options.views:
        selected = records.where(lambda r: r.view in options.views)
        other_views = [Exclusion(r.name, "another view", r.view) for r in records if r.view not in options.views]
    views = ", ".join(sorted({r.view or "not stated" for r in records}))
    inspected = {r.image: r for r in selected}
    return replace(
        release,
        records=selected,
        splits={name: _with_facts(part, inspected) for name, part in release.splits.items()},
        excluded=[*release.excluded, *unreadable, *other_views],
        advice=release.advice if selected else f"The views of the readable images are {views or 'none'}",
    )


def _with_facts(part: Records, inspected: Mapping[Any, Record]) -> Records:
    """The records of a split that were inspected, with the patient, study, view and further facts found there."""
    rows = []
    for record in part:
        facts = inspected.get(record.image)
        if facts is record:
            rows.append(record)
        elif facts is not None:
            rows.append(replace(record, patient=facts.patient, study=facts.study, view=facts.view, extra=facts.extra))
    return replace(part, rows=rows)


def _published(release: Release, folder: Path, options: Options) -> tuple[Release, Mapping[str, Records]]:
    """The release, and its splits by the published lists in `folder`."""
    lists = splits.with_validation(splits.published(release, folder), options)
    expected = {name: count for name, count in release.expected.items() if name not in splits.LISTS}
    release = replace(
        release,
        expected={**expected, **lists.expected},
        excluded=[*release.excluded, *lists.excluded],
        notes=[*release.notes, *lists.notes],
    )
    return release, lists.splits


def _without(
    release: Release, sets: Mapping[str, Records], failed: list[Exclusion]
) -> tuple[Release, Mapping[str, Records]]:
    """The release and its sets without the records that could not be written."""
    names = {e.name for e in failed}
    written = release.records.where(lambda r: r.name not in names)
    release = replace(release, records=written, excluded=[*release.excluded, *failed])
    return release, {split: part.where(lambda r: r.name not in names) for split, part in sets.items()}


def _classes(records: Records, release: Release, options: Options) -> tuple[str, ...]:
    """The classes of the sets: those in the options, else those of the published lists, else all."""
    chosen = options.classes or release.list_classes
    return chosen if chosen and (options.classes or set(chosen) <= set(records.classes)) else records.classes
