"""Sets whose file names tell that one corpus took its images from the other, under other names and patients."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from mrm.data.patients import infer_origin

TITLES = {
    "nih": "NIH ChestX-ray14",
    "rsna": "RSNA Pneumonia",
    "siim": "SIIM-ACR Pneumothorax",
    "ranzcr": "RANZCR CLiP",
    "chestx-det": "ChestX-Det",
}
NAMES = {  # how the files of a corpus are named, beside those that `infer_origin` knows
    "rsna": re.compile(r"(?:^|/)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(?:dcm|png|jpe?g)$", re.I),
    "siim": re.compile(r"(?:^|/)1\.2\.276\.0\.7230010\.3\.1\.4\.8323329(?:\.\d+){3}(?:\.(?:dcm|png|jpe?g))?$"),
    "ranzcr": re.compile(r"(?:^|/)train/1\.2\.826\.0\.1\.3680043\.8\.498\.\d{20,}\.(?:jpe?g|png)$"),
    "chestx-det": re.compile(r"(?:^|/)(?:train|test)_data/(?:\w+/)?\d{5}\.png$"),
}
FAMILIES = {"nih": ("rsna", "siim", "ranzcr", "chestx-det")}  # where images come from: the corpora that took them
LEAST = 0.05  # share of a set's names that tells of a corpus


def corpora_of(names: Sequence[str]) -> dict[str, int]:
    """The corpora that the names of a set tell of, and how many names do."""
    counts = Counter(filter(None, map(_corpus_of, names)))
    return {corpus: n for corpus, n in counts.items() if n >= LEAST * len(names)}


def _corpus_of(name: str) -> str:
    plain = name.replace("\\", "/")
    if origin := infer_origin(plain):
        return origin.corpus
    return next((corpus for corpus, pattern in NAMES.items() if pattern.search(plain)), "")


def related(names: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each two sets of which one has images of a corpus that took them from the other's, or from the same one."""
    found = {name: corpora_of(own) for name, own in names.items()}
    notes = []
    for first, second in combinations(found, 2):
        for source, members in FAMILIES.items():
            family = (source, *members)
            ours, theirs = ({c: n for c, n in found[s].items() if c in family} for s in (first, second))
            if ours and theirs and len(ours.keys() | theirs.keys()) > 1:
                shown = (
                    f"{s} has images named as in {_shown(own, len(names[s]))}"
                    for s, own in ((first, ours), (second, theirs))
                )
                notes.append(
                    f"{', '.join(shown)}; the images of {_titles(c for c in (*ours, *theirs) if c != source)} come from "
                    f"{TITLES[source]} under other names and patients, so only the comparison of what images show, or a publisher's "
                    "list of the original names, finds those that are in both"
                )
    return notes


def _shown(corpora: Mapping[str, int], records: int) -> str:
    return " and ".join(f"{TITLES[c]} ({n:,} of {records:,})" for c, n in corpora.items())


def _titles(corpora: Iterable[str]) -> str:
    return " and ".join(TITLES[c] for c in dict.fromkeys(corpora))
