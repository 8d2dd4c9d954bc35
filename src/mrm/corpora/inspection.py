"""A look at every image, on all cores, with progress; what was seen survives an interruption.

`inspect` opens each image of a release: one that cannot be read becomes an exclusion, and a DICOM header
fills in patient, view, sex and age where the publisher's tables do not say. `each` is the loop under it,
which corpora that write images use too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pydicom

from mrm.corpora.contract import UNREADABLE, Check, Exclusion, Options
from mrm.data import headers, images
from mrm.data.records import Record, Records
from mrm.system import hardware
from mrm.system.journal import Journal, file_state

KEPT = ".inspected.jsonl"
QUICK, SLOW = 1000, 50  # so many headers, or whole images, are done in the time that a process takes to start
END = {"jpeg": b"\xff\xd9", "png": b"IEND", "dicom": b"\xff\xd9"}  # DICOM: of the JPEG or JPEG 2000 inside
_TAGS = {"patient": "PatientID", "study": "StudyInstanceUID", "view": "ViewPosition", "sex": "PatientSex"}


def inspect(records: Records, out: Path, options: Options) -> tuple[Records, list[Exclusion]]:
    """The records with what their DICOM headers add, without those that cannot be read, and these.

    Facts of each image are kept in `out` until `forget`, under its path, size and time of change, so that
    the same command resumes. `options.check="none"` opens nothing.
    """
    if options.check == "none":
        return records, []
    journal = Journal(out / KEPT)
    keys = [f"{options.check}|{file_state(Path(str(r.image)))}" for r in records]
    todo = [(k, r.image) for k, r in zip(keys, records, strict=True) if k not in journal.known]
    look, alone = partial(_look, options.check), SLOW if options.check == "pixels" else QUICK
    with journal:
        facts = each(look, [image for _, image in todo], options.workers, "looking at images", alone)
        for (key, _), fact in zip(todo, facts, strict=True):
            journal.add(key, fact)
    seen = [journal.known[k] for k in keys]
    rows = [_with_facts(r, f) for r, f in zip(records, seen, strict=True) if "error" not in f]
    bad = [(r, f["error"]) for r, f in zip(records, seen, strict=True) if "error" in f]
    return replace(records, rows=rows), [Exclusion(r.name, UNREADABLE, error) for r, error in bad]


def forget(out: Path) -> None:
    """Drop what `inspect` kept; the corpus is complete."""
    Journal(out / KEPT).forget()


def _look(check: Check, image: Path) -> dict[str, str]:
    """Facts of one image, or why it cannot be read. Runs in any process."""
    try:
        kind = headers.kind_of(headers.load(image, 132), str(image))
        if check == "header" and _ends_well(image, kind):
            images.size(image)
        else:
            images.read(image)
        return _dicom_facts(image) if kind == "dicom" else {}
    except Exception as error:  # damaged DICOM makes pydicom raise a dozen kinds
        return {"error": str(error) or type(error).__name__}


def _ends_well(image: Path, kind: str) -> bool:
    """Whether the end marker is where a whole file has it; where it is not, decoding tells if it is cut off."""
    with image.open("rb") as file:
        file.seek(max(0, image.stat().st_size - 64))
        return END.get(kind, b"no such marker") in file.read()


def _dicom_facts(image: Path) -> dict[str, str]:
    tags = [*_TAGS.values(), "PatientAge"]
    header = pydicom.dcmread(image, stop_before_pixels=True, specific_tags=tags, force=True)
    facts = {name: str(header.get(tag) or "").strip() for name, tag in _TAGS.items()}
    age = str(header.get("PatientAge") or "").strip().upper()
    facts["age"] = age.removesuffix("Y").lstrip("0") or ("0" if age else "")
    return {name: value for name, value in facts.items() if value}


def _with_facts(record: Record, facts: dict[str, str]) -> Record:
    """The record with facts where it has none; a table knows better than a header."""
    if not facts:
        return record
    extra: dict[str, str] = {k: facts[k] for k in ("sex", "age") if k in facts}
    return replace(
        record,
        patient=record.patient or facts.get("patient", ""),
        study=record.study or facts.get("study", ""),
        view=record.view or facts.get("view", ""),
        extra={**extra, **{k: v for k, v in record.extra.items() if v}},
    )


def each(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int = 0, what: str = "", alone: int = QUICK
) -> Iterator[Any]:
    """`function` of each item, in order, with progress, on `workers` processes (0: one per core).

    Each process has `alone` items at the least, and with fewer than two of them this one does all.
    """
    processes = min(workers or hardware.cores(), max(1, len(items) // alone))
    if processes == 1:
        yield from _progress(map(function, items), len(items), what)
        return
    context = multiprocessing.get_context("spawn")  # the caller may hold threads of OpenCV and PyTorch
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        yield from _progress(pool.map(function, items, chunksize=min(32, alone)), len(items), what)


def _start_worker() -> None:
    """One thread for images, for one process per core is enough; and an end with the command, however that ends."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command itself tells the user
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # a pool's worker would wait for ever for what a killed command no longer sends


def _progress(results: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    """Passes results on and says on standard error how many, how fast and how long: ten times a second on a
    terminal, once a minute in a log, never for what takes less than two seconds."""
    terminal = sys.stderr.isatty()
    start = due = 0.0
    for done, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if done == 1:  # processes have started now
            start, due = now, now + 2
        if now < due and not (done == total and due > start + 2):
            continue
        due = now + (0.1 if terminal else 60)
        rate = done / max(now - start, 1e-9)
        text = f"{what}: {done:,} of {total:,}, {rate:,.0f}/s, {(total - done) / rate:,.0f} s left"
        print(text, end="\r" if terminal and done < total else "\n", file=sys.stderr, flush=True)
