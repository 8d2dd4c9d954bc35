"""Public corpora: one short file each, from the official release to `Records`.

`prepare` is the whole story; `contract` says what a corpus file gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from mrm.corpora import inspection, splits, writing
from mrm.corpora.contract import Exclusion, Options, Release
from mrm.corpora.writing import Corpus
from mrm.data.records import Records
from mrm.system import output_folder
from mrm.system.errors import RecordError

CORPORA = {  # name -> what it is; each has the module of its name
    "nih": "NIH ChestX-ray14",
    "chexpert": "CheXpert v1.0, full size or small",
    "rsna": "RSNA Pneumonia Detection Challenge, stage 2",
    "siim": "SIIM-ACR Pneumothorax Segmentation",
    "mimic": "MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR",
    "openi": "Open-i, Indiana University chest X-rays",
    "covid": "COVID-19 Image Data Collection",
    "custom": "your own images and reports, by a table or a folder",
}


def prepare(name: str, source: Path | str, out: Path | str, options: Options | None = None) -> Corpus:
    """Make records, splits and label lists of a corpus, from the folder it was downloaded to.

    Prints what was expected and found. Nothing is written into `source`; the same command again goes on
    where an interruption left off. Raises RecordError for a folder that is not the corpus, bad tables and
    a full disk.
    """
    options = options or Options()
    if name not in CORPORA:
        raise RecordError(f"no corpus {name!r}; there are {', '.join(CORPORA)}")
    source, out = _folders(Path(source), Path(out))
    release = read(name, source, options)
    output_folder.make_folder(out)
    with output_folder.writing(out):
        records, unreadable = inspection.inspect(release.records, out, options)
    release = _narrowed(release, records, unreadable, options)
    if options.splits and not set(release.splits) - set(splits.LISTS):
        release, sets = _published(release, options.splits)
    else:
        sets = splits.cut(release, options)
    sets = {k: splits.with_classes(v, _classes(v, release, options)) for k, v in sets.items()}
    if release.finish:
        with output_folder.writing(out):
            lost = release.finish(sets, out, options)
        release, sets = _without(release, sets, lost)
    empty = [f"{k}: no image in it, so it is not written" for k, v in sets.items() if not v]
    release = replace(release, notes=[*release.notes, *empty])
    sets = {k: v for k, v in sets.items() if v}
    corpus = writing.write(name, source, out, options, release, sets)
    inspection.forget(out)
    print(corpus.table())
    return corpus


def read(name: str, source: Path, options: Options) -> Release:
    """What the corpus file of `name` makes of `source`. Raises RecordError where there is no image."""
    release = import_module(f"mrm.corpora.{name}").read(source, options)
    if not release.records:
        raise RecordError(
            f"{source}: not one image of {CORPORA[name]} in it, though its tables are; "
            "are the images unpacked, and where the publisher puts them?"
        )
    return release


def _folders(source: Path, out: Path) -> tuple[Path, Path]:
    if not source.is_dir():
        raise RecordError(f"{source}: no such folder; --source is where the corpus was downloaded to")
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise RecordError(f"--out {out} and --source {source} overlap; a source is only read")
    return source, out


def _narrowed(release: Release, records: Records, unreadable: list[Exclusion], options: Options) -> Release:
    """The release with what the look at its images added and refused, and the wanted views only."""
    wanted = records.where(lambda r: not options.views or r.view in options.views)
    if not wanted:
        views = ", ".join(sorted({r.view or "not stated" for r in records}))
        raise RecordError(f"{release.records.source}: no image left; views found: {views or 'none'}")
    others = [Exclusion(r.name, "another view", r.view) for r in records if r.view not in options.views]
    seen = {r.image: r for r in wanted}

    def narrowed(part: Records) -> Records:
        rows = [
            replace(r, patient=s.patient, study=s.study, view=s.view, extra=s.extra)
            for r in part
            if (s := seen.get(r.image)) is not None
        ]
        return replace(part, rows=rows)

    return replace(
        release,
        records=wanted,
        splits={name: narrowed(part) for name, part in release.splits.items()},
        excluded=[*release.excluded, *unreadable, *(others if options.views else [])],
    )


def _published(release: Release, folder: Path) -> tuple[Release, Mapping[str, Records]]:
    found = splits.published(release, folder)
    expected = {k: v for k, v in release.expected.items() if k not in splits.LISTS}
    release = replace(
        release,
        expected={**expected, **found.expected},
        excluded=[*release.excluded, *found.excluded],
        notes=[*release.notes, *found.notes],
    )
    return release, found.splits


def _without(
    release: Release, sets: Mapping[str, Records], lost: list[Exclusion]
) -> tuple[Release, Mapping[str, Records]]:
    """Both without the records that could not be written."""
    gone = {e.name for e in lost}
    kept = release.records.where(lambda r: r.name not in gone)
    release = replace(release, records=kept, excluded=[*release.excluded, *lost])
    return release, {k: v.where(lambda r: r.name not in gone) for k, v in sets.items()}


def _classes(records: Records, release: Release, options: Options) -> tuple[str, ...]:
    """The classes of the sets: those asked for, else those of the published lists, else all."""
    chosen = options.classes or release.list_classes
    return chosen if chosen and (options.classes or set(chosen) <= set(records.classes)) else records.classes
