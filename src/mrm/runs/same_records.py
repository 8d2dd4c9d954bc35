"""A run resumes on the records that it started on, and on no others.

A model folder says which records its model has seen, and a sample's crop follows from its place in the file. Records that
are added, changed or put into another order after the start would make both untrue.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.records import Records
from mrm.system.errors import RunError
from mrm.system.files import write_json
from mrm.training.trainer import processes

FILE = "records.json"  # of a run: how many records each of its sets has, and their fingerprints
UNORDERED = "fingerprint_unordered"  # in that file: tells another order from other records


def require_same_records(
    run: Path, sets: Mapping[str, tuple[Path, Records]], areas: Mapping[str, np.ndarray] = {}
) -> None:
    """Note the records of a new run; raises RunError for one that resumes on others.

    `sets` has the file and the records of each set, by its name ("training"). `areas` are the
    pixels (N, C) of each class in the masks of a set.
    """
    file = Path(run) / FILE
    now = {name: _summary(records, areas.get(name)) for name, (_, records) in sets.items()}
    with processes().main_process_first():
        if not file.is_file() and not (Path(run) / "last").exists():
            write_json(file, {name: now[name] | {UNORDERED: sets[name][1].fingerprint_unordered()} for name in sets})
        then = _read(file)
        for name, (path, records) in sets.items():
            if difference := _difference(then.get(name), now[name], records):
                raise RunError(
                    f"{path}: are not the {name} records that the run {run} started on: {difference}. Restore the file to "
                    f"resume; or train on the new records in another --out, with --init {run} to begin with its weights"
                )


def _summary(records: Records, areas_NC: np.ndarray | None) -> dict[str, Any]:
    return {
        "n": len(records),
        "fingerprint": records.fingerprint(),
        "masks": None if areas_NC is None else hashlib.blake2b(areas_NC.tobytes(), digest_size=8).hexdigest(),
    }


def _read(file: Path) -> dict[str, Any]:
    """What a run noted at its start. Raises RunError where it is not there, or damaged."""
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = None
    if not isinstance(noted, dict):
        raise RunError(
            f"{file}: absent or damaged, so it is unknown which records this run started on; choose another --out"
        )
    return noted


def _difference(then: Any, now: Mapping[str, Any], records: Records) -> str:
    """How `records`, which `now` sums up, differ from those at the start, in words; '' if they do not."""
    if not isinstance(then, dict):
        return "it had none"
    if all(then.get(key) == value for key, value in now.items()):
        return ""
    if then.get("n") != now["n"]:
        return f"{then.get('n'):,} records then, {now['n']:,} now"
    if then.get(UNORDERED) == records.fingerprint_unordered():
        moved = then.get("fingerprint") != now["fingerprint"]
        return "the same records in another order" if moved else "the same images with other masks"
    return f"{now['n']:,} records as then, but a name, report, patient, study, view or label of them is another"
