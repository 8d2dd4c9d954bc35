"""Sets by time: a model is trained on earlier images and tested on later ones, as it would be used.

Each record of a known day (`extra["date"]`) goes to training, validation or test by the first day of its patient: a patient
with images on both sides of a day is in the earlier set with all of them, so that the test has new patients only. Without a
first day of the validation, it is a share of the earlier patients. Records without a date are in no set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date

from mrm.corpora import splits
from mrm.corpora.contract import Exclusion, Release
from mrm.corpora.options import Options
from mrm.data.dates import day_of, span
from mrm.data.dividing import divide, fractions, is_stated, require_patients
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

UNDATED = "no date, so in no set (in records.csv only)"


def day(record: Record) -> date | None:
    """The day of a record's study; None where it is not stated."""
    return day_of(record.extra.get("date", ""))


def cut_by_date(release: Release, options: Options) -> tuple[Release, dict[str, Records]]:
    """`train`, `val`, `test` and `train_<per cent>` by `options.test_from` and `val_from`; and the release with notes.

    The publisher's own sets are not used. Raises RecordError where there are no dates, or a set would be empty.
    """
    if own := sorted(set(release.splits) - set(splits.LISTS)):
        raise RecordError(
            f"--split-by date: {release.records.source} has sets of its own ({', '.join(own[:4])}); leave the option out"
        )
    days = [day(record) for record in release.records]
    whole = span(days)
    if whole is None:
        raise RecordError(
            f"--split-by date: no image of {release.records.source} has a date, neither in a table nor in its header; name the "
            "column with --columns date=COLUMN if a table has one, or split by patient"
        )
    require_patients(release.records)
    parts, notes = _by_first_day(release.records, days, _bounds(options), whole)
    if release.purpose != "reports":
        parts["train"] = parts["train"].where(is_stated)
    if "val" not in parts and options.val:
        parts["val"], parts["train"] = divide(parts["train"], options.val, options.seed, "val")
        notes.append(
            f"val is {options.val:.0%} of the earlier images, by patient; --val-from DAY takes the latest of them"
        )
    _require_all(parts, options, whole)
    if release.purpose != "reports":
        parts |= fractions(parts["train"], options.fractions, options.seed)
    undated = [Exclusion(r.name, UNDATED) for r, known in zip(release.records, days, strict=True) if not known]
    if undated:
        notes.append(f"{len(undated):,} images have no date, so they are in no set and in records.csv only")
    if release.splits:
        notes.append(f"split by date, as asked: the publisher's sets ({', '.join(release.splits)}) are not used")
    release = replace(release, excluded=[*release.excluded, *undated], notes=[*release.notes, *notes])
    return release, splits.ordered(parts)


def _bounds(options: Options) -> dict[str, date]:
    """The first day of each set after training, earliest first."""
    given = {"val": options.val_from, "test": options.test_from}
    return {name: date.fromisoformat(text) for name, text in given.items() if text}


def _by_first_day(
    records: Records, days: list[date | None], bounds: Mapping[str, date], whole: tuple[date, date]
) -> tuple[dict[str, Records], list[str]]:
    """The sets, each patient in that of the first day; and a note for each bound about the patients on both sides."""
    people, first = records.people, dict[str, date]()
    for person, known in zip(people, days, strict=True):
        if known:
            first[person] = min(known, first.get(person, known))

    def set_of(at: date) -> str:
        return next((name for name, start in reversed([*bounds.items()]) if at >= start), "train")

    parts = {
        name: records.select(i for i, person in enumerate(people) if days[i] and set_of(first[person]) == name)
        for name in ("train", *bounds)
    }
    notes = [f"split by date: the images run from {whole[0]} to {whole[1]}"]
    for name, start in bounds.items():
        moved = [p for p, known in zip(people, days, strict=True) if known and first[p] < start <= known]
        notes.append(
            f"{name} is from {start} on, without {len(set(moved)):,} patients who have images before that day too: they are in "
            f"the earlier set, with {len(moved):,} images of later days, so that {name} has new patients only"
        )
    return parts, notes


def _require_all(parts: Mapping[str, Records], options: Options, whole: tuple[date, date]) -> None:
    """Raises RecordError, with the days that there are, if a set is empty."""
    asked = f"--test-from {options.test_from}" + (f" with --val-from {options.val_from}" if options.val_from else "")
    for name, part in parts.items():
        if not part:
            raise RecordError(
                f"{asked} leaves no images for {name}: the images run from {whole[0]} to {whole[1]}, and a patient with images "
                "on both sides of a day is in the earlier set; choose another day"
            )
