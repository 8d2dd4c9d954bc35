"""Auditing sets of records against each other: the patients, studies, files and images that they share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mrm.audit import overlaps
from mrm.audit.fingerprints import read_names
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.overlaps import AuditReport
from mrm.runs.output_lock import alone_on
from mrm.system.errors import RunError
from mrm.system.files import write_whole
from mrm.system.progress import Progress


@alone_on("json")
def audit(
    sets: Sequence[Path], json: Path | None = None, images: bool = True, within: bool = False, examples: int = 5
) -> AuditReport:
    """Audit files of records against each other, print the report, and write it to `json` if given. Returns the report.

    The hashes of the images are kept beside each file, so that nothing reads them again (`mrm.audit.hash_keeping`).
    `images` compares what the images show, too; `within` also looks for repeats inside each set; `examples` is the
    number of pairs named for each overlap.
    """
    if len(sets) < 2 and not within:
        raise RunError(
            "an audit compares at least two sets; name another one, or look for repeats in this one with --within"
        )
    hashes = HashKeeper()
    loaded = {name: read_names(path) for name, path in zip(short_names(sets), sets, strict=True)}
    with ExitStack() as lines:
        report = overlaps.audit(
            loaded,
            images,
            within,
            examples=examples,
            progress=lambda name: lines.enter_context(Progress(name)),
            hashes=hashes,
        )
    if json:
        write_whole(json, report.to_json().encode())
    print(report.table())
    return report


def short_names(sets: Sequence[Path]) -> list[str]:
    """A name for each set: its path below the folder that all are in, numbered if a set is given twice."""
    base = Path(os.path.commonpath([path.absolute().parent for path in sets]))
    short = [str(path.absolute().relative_to(base)) for path in sets]
    return [name if short.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(short, 1)]
