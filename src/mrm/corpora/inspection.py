"""Inspection of every image of a release, on all cores; an interrupted inspection resumes.

`inspect` opens each image: one that cannot be read becomes an exclusion, and a DICOM header fills in patient, view,
sex and age where the publisher's tables do not state them. `each` is the loop below it, which corpora that write
images also use.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mrm.corpora.contract import UNREADABLE, Exclusion, plain_age
from mrm.corpora.options import Check, Options
from mrm.data import header_index, headers, images
from mrm.data.header_index import Header, HeaderIndex
from mrm.data.in_memory import NamedBytes
from mrm.data.placed_images import PlacedImage
from mrm.data.reach import Reach
from mrm.data.records import Record, Records
from mrm.system.errors import UnreachableError, printable
from mrm.system.journal import Journal, file_state
from mrm.system.shares import WHOLE, Share
from mrm.system.worker_pool import QUICK, SLOW, each

KEPT = ".inspected.jsonl"
BAD_NAME = "file name is not UTF-8"
RENAME = "no table can hold this name; rename the file, for example with convmv -f latin1 -t utf8"
END = {"jpeg": b"\xff\xd9", "png": b"IEND", "dicom": b"\xff\xd9"}  # in DICOM that of the JPEG or JPEG 2000 inside


def inspect(
    records: Records, out: Path, options: Options, index: HeaderIndex | None = None
) -> tuple[Records, list[Exclusion]]:
    """The readable records, completed from their DICOM headers, and an exclusion for each unreadable one.

    The facts about each image are kept in `out` until `forget`, under its path, size and modification time, so that
    the same command resumes. With `options.check="none"` no file is opened. Raises UnreachableError if images cannot be
    reached: they are not damaged, and the same command tries them again. Headers in `index` are not read again.
    """
    named = records.where(_has_printable_path)
    badly_named = [Exclusion(r.name, BAD_NAME, RENAME) for r in records if not _has_printable_path(r)]
    readable, unreadable = (
        (named, []) if options.check == "none" else _inspected(named, out, options, index or HeaderIndex())
    )
    return readable, [*badly_named, *unreadable]


def examine(
    records: Records, out: Path, options: Options, index: HeaderIndex | None, share: Share
) -> tuple[Records, Records]:
    """Keep the facts about the images of one share in `out`, from which `inspect` then resumes.

    Returns the records whose images `inspect` opens, and those of the share. Raises as `inspect` does.
    """
    named = records.where(_has_printable_path)
    own = named.select(i for i in range(len(named)) if share.has(i))
    if options.check != "none":
        _inspected(own, out, options, index or HeaderIndex(), share)
    return named, own


def _key(record: Record, options: Options) -> str:
    return f"{options.check}|{file_state(Path(str(record.image)))}"


def _has_printable_path(record: Record) -> bool:
    """Whether a table in UTF-8 can hold the image's path."""
    return printable(str(record.image)) == str(record.image)


def _inspected(
    records: Records, out: Path, options: Options, index: HeaderIndex, share: Share = WHOLE
) -> tuple[Records, list[Exclusion]]:
    journal = Journal(out / KEPT, share)
    keys = [_key(record, options) for record in records]
    todo = [(k, r.image) for k, r in zip(keys, records, strict=True) if k not in journal.known]
    per_process = SLOW if options.check == "pixels" else QUICK
    with journal:
        images_and_headers = [(image, index.headers.get(Path(str(image)))) for _, image in todo]
        facts = each(
            partial(_facts_of, options.check), images_and_headers, options.workers, "inspecting images", per_process
        )
        lost, reach = [], Reach(records)
        for (key, _), fact in zip(todo, facts, strict=True):
            if fact.pop("again", None):  # not noted, so that it is tried again
                lost.append(fact["error"])
                reach.miss(fact["error"])
            else:
                reach.reached()
                journal.add(key, fact)
    if lost:
        raise UnreachableError(
            f"{len(lost)} images of {records.source} could not be reached; first error: {lost[0]}. They were there when their "
            "folder was read: is a disk or a share gone? Run the same command again"
        )
    seen = [journal.known[k] for k in keys]
    rows = [_with_facts(r, f) for r, f in zip(records, seen, strict=True) if "error" not in f]
    bad = [(r, f["error"]) for r, f in zip(records, seen, strict=True) if "error" in f]
    return replace(records, rows=rows), [Exclusion(r.name, UNREADABLE, error) for r, error in bad]


def forget(out: Path) -> None:
    """Remove the facts that `inspect` kept, once the corpus is complete."""
    Journal(out / KEPT).forget()


def _facts_of(check: Check, image_and_header: tuple[Path | PlacedImage, Header | None]) -> dict[str, str]:
    """The facts about one image, or the reason why it cannot be read. Runs in any process.

    The header is that of a DICOM file where it has been read; what it states is part of the records already.
    """
    stored, header = image_and_header
    try:
        image = NamedBytes(str(stored), stored.read_bytes()) if isinstance(stored, PlacedImage) else stored
        if header and check == "header" and {"height", "width"} <= header.keys() and _ends_well(image, "dicom"):
            return {}
        kind = headers.kind_of(headers.load(image, 132), str(image))
        if check == "header" and _ends_well(image, kind):
            images.size(image)
        else:
            images.read(image)
        return _dicom_facts(image) if kind == "dicom" and not header else {}
    except (UnreachableError, OSError) as error:
        return {"error": str(error), "again": "yes"}
    except Exception as error:  # damaged DICOM makes pydicom raise a dozen kinds
        return {"error": str(error) or type(error).__name__}


def _ends_well(image: Path | NamedBytes, kind: str) -> bool:
    """Whether the file ends with its end marker. Where it does not, only decoding can tell if it is cut off."""
    marker = END.get(kind, b"no such marker")
    if isinstance(image, NamedBytes):
        return marker in bytes(image.read_bytes()[-64:])
    with image.open("rb") as file:
        file.seek(max(0, image.stat().st_size - 64))
        return marker in file.read()


def _dicom_facts(image: Path | NamedBytes) -> dict[str, str]:
    header = header_index.read_header(image)
    facts = {"view": header.get("view", ""), "sex": header.get("sex", ""), "age": plain_age(header.get("age", ""))}
    return {**header_index.identity(header), **{name: value for name, value in facts.items() if value}}


def _with_facts(record: Record, facts: dict[str, str]) -> Record:
    """The record with the facts where it states none; a table takes precedence over a header."""
    if not facts:
        return record
    extra: dict[str, str] = {k: facts[k] for k in ("sex", "age", "accession", "date") if k in facts}
    return replace(
        record,
        patient=record.patient or facts.get("patient_id", ""),
        study=record.study or facts.get("study_id", ""),
        view=record.view or facts.get("view", ""),
        extra={**extra, **{k: v for k, v in record.extra.items() if v}},
    )
