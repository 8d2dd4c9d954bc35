"""`mrm prepare CORPUS --download`: the files of a corpus from its publisher, after a question, verified and unpacked.

Nothing is downloaded that a person must sign for, and nothing without consent. Archives are removed once they are unpacked. What
is done stands in `.downloaded.jsonl` of the folder, so the same command resumes: in the middle of a file, or of an archive.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mrm.corpora.catalogue import CORPORA
from mrm.corpora.downloads import Download, Source, open_download, stated
from mrm.runs.output_lock import alone_in
from mrm.system import archive_files, downloads
from mrm.system.errors import ConfigError, DownloadError, OutputError
from mrm.system.journal import Journal
from mrm.system.output_folder import writing
from mrm.system.progress import Progress

DONE = ".downloaded.jsonl"
UNPACKED = 1.1  # of the size of an archive of images, which are packed already
MB, GB = 10**6, 10**9


@alone_in("source")
def download(name: str, source: Path, yes: bool = False) -> None:
    """Download the files of a corpus into the folder `source`, and unpack them there. `yes` consents beforehand.

    Raises DownloadError for a corpus that no script may download and for files that are not what their publisher states,
    LostSourceError where no server answers, ConfigError without consent, and OutputError for a disk with too little room.
    """
    known = stated(open_download(name))
    done = Journal(source / DONE).known
    missing = [file for file in known.files if not _is_there(file, source, done)]
    if missing:
        sizes = {file.name: file.bytes or downloads.size_of(file.urls[0]) for file in missing}
        print(_question(name, known, sizes, source))
        _require_room(missing, sizes, source)
        _require_consent(yes)
    for file in known.files:
        if file in missing or not file.unpack:
            with writing(source):
                facts = _fetch(file, source, known.page)
                with Journal(source / DONE) as journal:
                    journal.add(file.name, facts)
    print(f"{source}: all files of {CORPORA[name]} are there")


def _is_there(file: Source, source: Path, done: Mapping[str, Any]) -> bool:
    """Whether a file is there, or what an archive held."""
    if not file.unpack:
        return (source / file.name).is_file()
    return file.name in done and (source / done[file.name]["first"]).is_file()


def _question(name: str, known: Download, sizes: Mapping[str, int], source: Path) -> str:
    """What a person agrees to."""
    stated = [f"{sum(sizes.values()) / GB:,.2f} GB"] if any(sizes.values()) else []
    unknown = [name for name, size in sizes.items() if not size]
    size = " and ".join(stated + ([f"an unknown size of {', '.join(unknown)}"] if unknown else []))
    lines = {
        "files": f"{', '.join(sizes)}",
        "from": ", ".join(dict.fromkeys(urlsplit(url).netloc for file in known.files for url in file.urls[:1])),
        "size": f"{size}; {_free(source) / GB:,.1f} GB are free at {source}",
        "licence": known.licence,
        "page": known.page,
    }
    return "\n".join([CORPORA[name], *(f"  {label}: {text}" for label, text in lines.items())])


def _require_room(files: list[Source], sizes: Mapping[str, int], source: Path) -> None:
    """Raises OutputError if the disk has less room than the files take, with the largest archive before it is removed."""
    archives = [sizes[file.name] for file in files if file.unpack]
    plain = sum(sizes[file.name] for file in files if not file.unpack)
    needed = plain + UNPACKED * sum(archives) + max(archives, default=0)
    here = sum(part.stat().st_size for part in source.glob(".*.part")) if source.is_dir() else 0
    if (free := _free(source)) < needed - here:
        raise OutputError(
            f"{source}: {(needed - here) / GB:,.1f} GB are needed, to unpack as well, and {free / GB:,.1f} GB are free; free disk "
            "space, or choose another --source"
        )


def _free(folder: Path) -> int:
    """The free bytes of the disk that a folder is on, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _require_consent(yes: bool) -> None:
    """Raises ConfigError unless a person agrees now, or has agreed by `yes`."""
    if yes:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise ConfigError(
            "--download: nothing was downloaded, because nobody can be asked here; give --yes to agree to the licence"
        )
    answer = ""
    with suppress(EOFError):
        answer = input("Do you agree to the licence, and download? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("--download: nothing was downloaded, as you did not agree")


def _fetch(file: Source, source: Path, page: str) -> dict[str, Any]:
    """One file, downloaded and unpacked; what is recorded of it. Raises DownloadError."""
    with Progress(f"{file.name}, MB") as progress:
        path = downloads.download(file.remote, source, _in_megabytes(progress))
    facts = {"urls": list(file.urls), "bytes": path.stat().st_size, "md5": file.md5, "sha256": file.sha256}
    if not file.unpack:
        return facts
    try:
        with Progress(f"unpacking {file.name}, MB") as progress:
            files = archive_files.unpack(path, source / file.unpack, file.top, _in_megabytes(progress))
        if not files:
            raise DownloadError(f"{path}: holds none of the files that it is for")
    except DownloadError as error:
        path.unlink()
        raise DownloadError(
            f"{error}. It was removed: run the same command again, and if that repeats, see {page}"
        ) from None
    path.unlink()
    return {**facts, "files": len(files), "first": files[0].relative_to(source).as_posix()}


def _in_megabytes(progress: Progress) -> Callable[[int, int], None]:
    """A callback that shows bytes as megabytes; a file of unknown size is never done."""
    return lambda done, total: progress(done // MB, total // MB if total else done // MB + 1)
