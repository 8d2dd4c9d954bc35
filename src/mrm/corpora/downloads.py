"""Where each corpus is got: its page and licence, and the files that a script may fetch or what a person must do first.

The table is `downloads.yaml`. Addresses, sizes and checksums are those that the publishers state, or what stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from mrm.corpora.catalogue import CORPORA, require_corpus
from mrm.system.archive_files import is_archive
from mrm.system.downloads import RemoteFile, read_small
from mrm.system.errors import ConfigError, DownloadError
from mrm.system.yaml_files import read_yaml


@dataclass(frozen=True)
class Source:
    """A file of a corpus: what is fetched, and where it goes below the folder of the corpus."""

    name: str
    urls: tuple[str, ...] = ()  # the publisher's, then mirrors
    bytes: int = 0
    md5: str = ""
    sha256: str = ""
    unpack: str = ""  # the folder that an archive is unpacked into; empty: the file stays as it is
    top: str = ""  # of an archive: the folder whose content is taken

    def __post_init__(self) -> None:
        if self.unpack and not is_archive(self.name):
            raise ConfigError(f"{self.name}: is no archive, so it cannot be unpacked")

    @property
    def remote(self) -> RemoteFile:
        """What is fetched."""
        return RemoteFile(self.name, self.urls, self.bytes, self.md5, self.sha256)


@dataclass(frozen=True)
class Download:
    """How a corpus is got. Either `files` are open to a script, or `by_hand` says what a person does first."""

    page: str
    licence: str
    files: tuple[Source, ...] = ()
    by_hand: str = ""
    record: str = ""  # a record of Zenodo, which states size, checksum and address of each file

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.by_hand):
            raise ConfigError(f"{self.page}: give either files or by_hand")


@cache
def table() -> dict[str, Download]:
    """How each corpus is got, by its name. Raises ConfigError for a table that is wrong."""
    with resources.as_file(resources.files("mrm.corpora") / "downloads.yaml") as file:
        return read_yaml(dict[str, Download], file, "the table of downloads")


def open_download(name: str) -> Download:
    """How a corpus is downloaded. Raises DownloadError for one that a script may not download, with what to do instead."""
    require_corpus(name)
    known = table().get(name)
    if known is None:
        raise DownloadError(f"{name}: no download is known of it; get its files yourself, and leave --download out")
    if known.by_hand:
        raise DownloadError(
            f"{name}: no script may download {CORPORA[name]}. {known.by_hand}; download it at {known.page}, and run the same "
            "command without --download"
        )
    return known


def stated(download: Download) -> Download:
    """The download with what its record states of each file: address, size and checksum. Without a record, as it is.

    Raises DownloadError for a record that does not state them.
    """
    if not download.record:
        return download
    answer = read_small(download.record)
    try:
        entries = {entry["key"]: entry for entry in answer["files"]}
        files = [_as_stated(file, entries[file.name]) for file in download.files]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DownloadError(
            f"{download.record}: does not state the files as it did ({type(error).__name__}: {error}); download them at "
            f"{download.page}"
        ) from None
    return replace(download, files=tuple(files))


def _as_stated(file: Source, entry: Mapping[str, Any]) -> Source:
    kind, _, digest = entry["checksum"].partition(":")
    if kind != "md5":
        raise ValueError(f"a checksum of the kind {kind}")
    return replace(file, urls=(entry["links"]["self"],), bytes=int(entry["size"]), md5=digest)
