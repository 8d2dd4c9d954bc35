"""Sets of phantoms that the demo and the benchmark's suite `phantom` draw for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import ALL, Kinds


def draw_sets(
    folder: Path, counts: Mapping[str, int], first_seed: int, size: int, kinds: Kinds = ALL
) -> dict[str, Path]:
    """Draw `counts[name]` phantoms under FOLDER/NAME unless they are there. Returns the record file of each set.

    Each set has its own seed, starting from `first_seed`, and so its own patients.
    """
    files = {}
    for number, (name, count) in enumerate(counts.items()):
        files[name] = folder / name / "records.csv"
        if not files[name].is_file():
            print(f"drawing {count} phantoms: {name}", flush=True)
            phantom_files.write(folder / name, count, seed=first_seed + number, size=size, kinds=kinds)
    return files
