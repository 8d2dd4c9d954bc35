"""Where a command looks the hashes of images up, and where it keeps those that it computes: beside the records.

The hashes of the images of a set lie in the folder of its file, or in the folder above where a corpus of several tasks keeps
them; those of a folder of shards, or of images with masks and all their splits, lie in that folder. Each file of hashes is read
once for a command, and again only where something was added to it. Shards in an object store have those that were uploaded with
them. What cannot be kept costs nothing but time: another command reads these images again.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit.kept_hashes import FILE, HASHES, KeptHashes
from mrm.data import shards
from mrm.system import object_store
from mrm.system.errors import StoreError
from mrm.system.files import is_file

LARGEST = 1 << 32  # bytes of a file of hashes that is fetched: those of 48 million images


class HashKeeper:
    """The hashes that a command knows and keeps.

    `own` are those of a folder that the command writes; `also` are folders where it looks hashes up. New hashes are kept
    `beside` the records of each set, and in `own` where that is impossible; without `beside` they are kept in `own` alone. A
    folder that cannot be read or written is named in a warning, unless it is that of `own`, which raises OSError.
    """

    def __init__(self, own: KeptHashes | None = None, beside: bool = True, also: Sequence[Path] = ()) -> None:
        self.own, self.beside, self.also = own, beside, [os.path.abspath(folder) for folder in also]
        self._opened: dict[str, KeptHashes | None] = {} if own is None else {own.folder: own}
        self._read_only = set[str]()

    def of(self, source: str) -> SetHashes:
        """The hashes that serve the set of records from `source`: a file, a folder, or anything else, which has none beside."""
        beside, own = self._at(place_beside(source)), self._at(None if self.own is None else self.own.folder)
        first = [beside, own] if self.beside else [own, beside]
        sources = dict.fromkeys(known for known in (*first, *map(self._at, self.also)) if known is not None)
        writable = first if self.beside else [own]
        targets = [known for known in sources if known in writable and known.folder not in self._read_only]
        return SetHashes(self, list(sources), targets)

    def _at(self, folder: str | None) -> KeptHashes | None:
        """The hashes of a folder, or at an address, as they are now; None without one, or if they cannot be read."""
        if folder is None:
            return None
        try:
            if folder not in self._opened:
                self._opened[folder] = (
                    self._fetched(folder) if object_store.address(folder) else KeptHashes(Path(folder))
                )
            elif (known := self._opened[folder]) is not None and known.folder == folder:
                known.refresh()
        except (OSError, StoreError) as error:
            if self.own is not None and folder == self.own.folder:
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            _warn(f"{_file_in(folder)}: cannot be read ({reason}), so the images are read in its place")
            self._opened[folder] = None
        return self._opened[folder]

    def _fetched(self, address: str) -> KeptHashes | None:
        """The hashes in a folder of an object store, to which nothing is added; None if there are none. Raises StoreError."""
        if FILE not in object_store.listed(address):
            return None
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / FILE).write_bytes(object_store.read(_file_in(address), limit=LARGEST))
            known = KeptHashes(Path(folder), called=_file_in(address))
        self._read_only.add(known.folder)
        return known

    def refuse(self, target: KeptHashes, error: OSError) -> None:
        """Write nothing more to hashes that cannot be written, and say so. Raises the error if they are `own`."""
        if target is self.own:
            raise error
        self._read_only.add(target.folder)
        _warn(
            f"{target.folder}: the hashes of its images cannot be kept there ({error.strerror or error}), so another command "
            "has to read these images again"
        )


class SetHashes:
    """The hashes that serve one set: looked up in all `sources`, and kept in the first of the `targets` that can be written.

    The targets come first among the sources.
    """

    def __init__(self, keeper: HashKeeper, sources: list[KeptHashes], targets: list[KeptHashes]) -> None:
        self._keeper, self._sources, self._targets = keeper, sources, targets

    def known(self, images: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """The hashes (P, 9) of images, zeros where none are kept, and for `add` the keys (S, P) by which they are kept.

        Those that only a later source has are copied to the first target, so that what is beside the records is complete.
        """
        words_P9 = np.zeros((len(images), HASHES), np.uint64)
        keys_SP = np.zeros((len(self._sources), len(images)), np.uint64)
        for number, source in enumerate(self._sources):
            unknown = np.flatnonzero(words_P9[:, 0] == 0)
            keys_SP[number, unknown] = source.keys([images[i] for i in unknown.tolist()])
            words_P9[unknown] = source.hashes(keys_SP[number, unknown])
            if self._targets and number > self._sources.index(self._targets[0]):
                for place in unknown[words_P9[unknown, 0] > 0].tolist():
                    self.add(keys_SP[:, place], words_P9[place].tolist())
        return words_P9, keys_SP

    def add(self, keys_S: np.ndarray, words: Sequence[int]) -> None:
        """Keep the hashes of an image, or zeros for one that cannot be read, which only the folder of the command notes."""
        while self._targets:
            target = self._targets[0]
            key = int(keys_S[self._sources.index(target)])
            if not key or (not words[0] and target is not self._keeper.own):
                return
            try:
                target.add(key, words)
                return
            except OSError as error:
                self._keeper.refuse(target, error)
                self._targets.pop(0)

    def close(self) -> None:
        """Write what was added."""
        for target in list(self._targets):
            try:
                target.flush()
            except OSError as error:
                self._keeper.refuse(target, error)
                self._targets.remove(target)


def place_beside(source: str) -> str | None:
    """The folder that keeps the hashes of the images of a file of records, or of a folder, or the address of packed ones.

    None if `source` is neither a path nor an address.
    """
    if object_store.address(source):
        return shards.folder_of(source)
    if not source or not os.path.exists(source):
        return None
    path = Path(os.path.abspath(source))
    base = path if path.is_dir() else path.parent
    if base.parent.name == "images" and (base.parents[1] / "annotations" / base.name).is_dir():
        base = base.parents[1]  # a split of images with masks, whose folder holds images alone
    return str(next((folder for folder in (base, base.parent) if is_file(folder / FILE)), base))


def _file_in(folder: str) -> str:
    return object_store.within(folder, FILE) if object_store.address(folder) else str(Path(folder) / FILE)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)  # one place, so that Python prints a message once
