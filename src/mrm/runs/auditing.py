"""What sets of records share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mrm.audit import overlaps
from mrm.audit.fingerprints import read_names
from mrm.audit.overlaps import AuditReport
from mrm.system.errors import RunError
from mrm.system.files import write_whole
from mrm.system.progress import Progress


def audit(sets: Sequence[Path], json: Path | None, images: bool, within: bool, examples: int) -> AuditReport:
    """Audit files of records against each other; prints the verdict, and writes it to `json` if given."""
    if len(sets) < 2 and not within:
        raise RunError(
            "an audit compares two sets or more; name another, or look for repeats in this one with --within"
        )
    base = Path(os.path.commonpath([path.absolute().parent for path in sets]))  # short names for the tables
    short = [str(path.absolute().relative_to(base)) for path in sets]
    names = [name if short.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(short, 1)]
    loaded = {name: read_names(path) for name, path in zip(names, sets, strict=True)}
    verdict = overlaps.audit(loaded, images, within, examples=examples, progress=Progress)
    if json:
        write_whole(json, verdict.to_json().encode())
    print(verdict.table())
    return verdict
