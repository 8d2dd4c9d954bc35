"""The tokens of all reports of a set, one array after the other: in memory, or in files of the run that are mapped.

    FOLDER/tokens.bin    the ids of all reports in a row, uint16, or int32 where the vocabulary is larger
    FOLDER/ends.bin      where each report ends in them, int64
    FOLDER/tokens.json   of which records they are, and how they were made

All ranks of a machine and their workers map the same files, so that no process holds the tokens.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.record import Record
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.sections import select_sections
from mrm.system.errors import RecordError
from mrm.system.files import write_by, write_json
from mrm.system.output_folder import make_folder, writing
from mrm.system.progress import Progress
from mrm.system.typed_json import read_as

VERSION = 1  # of the files
TOKENS, ENDS, INDEX = "tokens.bin", "ends.bin", "tokens.json"
AT_ONCE = 4096  # reports that are tokenized together


class ReportTokens:
    """The token ids of N reports: `flat` has all of them in a row, and report i ends before `ends[i]`."""

    def __init__(self, flat: np.ndarray, ends: np.ndarray) -> None:
        self.flat, self.ends = flat, ends

    def ids(self, index: int) -> np.ndarray:
        """The token ids of a report, `[CLS]` first, int64."""
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]].astype(np.int64)


class MappedTokens(ReportTokens):
    """Report tokens in the files of a folder. It can be pickled, and another process then maps the files itself."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        flat, ends = (np.memmap(folder / name, kind, "r") for name, kind in ((TOKENS, index.kind), (ENDS, "int64")))
        super().__init__(flat, ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedTokens, (self.folder, self.index)


@dataclass(frozen=True)
class Index:
    """The content of `tokens.json`."""

    version: int
    records: str  # their fingerprint
    tokenizer: str  # a digest of its file
    sections: list[str]
    length: int
    kind: str  # "uint16" or "int32"
    n: int  # reports
    tokens: int

    def problem(self, folder: Path) -> str:
        """What is wrong with the files of the folder; '' if nothing."""
        for name, count in ((TOKENS, self.tokens * np.dtype(self.kind).itemsize), (ENDS, self.n * 8)):
            try:
                size = (folder / name).stat().st_size
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if size != count:
                return f"{name} has {size:,} bytes, but {count:,} were written"
        return ""


def tokens_of(records: Sequence[Record], tokenizer: Tokenizer, length: int, sections: Sequence[str]) -> ReportTokens:
    """The tokens of the reports, in memory; at most `length` of each, `[CLS]` first."""
    ids = list(_encoded((record.report for record in records), tokenizer, length, sections))
    return ReportTokens(np.concatenate(ids).astype(_kind(tokenizer)), np.cumsum([len(i) for i in ids]))


def mapped_tokens(
    folder: Path, records: Records, tokenizer: Tokenizer, length: int, sections: Sequence[str], prepares: bool = True
) -> MappedTokens:
    """The tokens of the reports, mapped; `folder` keeps them for the next start and for other processes.

    Of several ranks one `prepares` the folder, and the others open it afterwards. Raises OutputError for a folder that cannot
    be written, and RecordError for one that was not prepared.
    """
    digest = hashlib.blake2b(tokenizer.to_json().encode(), digest_size=16).hexdigest()
    made = {
        "records": records.fingerprint(),
        "n": len(records),
        "tokenizer": digest,
        "sections": list(sections),
        "length": length,
        "kind": _kind(tokenizer),
    }
    index, reason = _existing(folder, made)
    if index is None and not prepares:
        raise RecordError(
            f"{folder}: the tokens of the reports, which the first rank has made, are not there ({reason or 'no files'}); the "
            "output folder must be on storage that all nodes share"
        )
    if index is None:
        if reason:
            warnings.warn(f"{folder}: {reason}; the reports are tokenized again", stacklevel=2)
        index = _write(folder, _encoded(records.values("report"), tokenizer, length, sections), made)
    return MappedTokens(folder, index)


def _existing(folder: Path, made: dict[str, Any]) -> tuple[Index | None, str]:
    """The index of the folder if its files fit; else why they do not, '' where there are none."""
    file = folder / INDEX
    if not file.exists():
        return None, ""
    try:
        index = read_as(Index, file, VERSION)
    except (OSError, ValueError) as error:
        return None, str(error)
    if other := [name for name, value in made.items() if getattr(index, name) != value]:
        return None, f"the tokens were made with another {other[0]}"
    problem = index.problem(folder)
    return (None, problem) if problem else (index, "")


def _write(folder: Path, ids: Iterable[np.ndarray], made: dict[str, Any]) -> Index:
    """Write the files of the folder, the index last. Raises OutputError."""
    n, kind = made["n"], made["kind"]
    make_folder(folder)
    with writing(folder), Progress("tokenizing reports", n) as progress:
        (folder / INDEX).unlink(missing_ok=True)  # it must never describe other files than those beside it
        ends_N = np.zeros(n, np.int64)

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                for number, ids_T in enumerate(progress.over(ids)):
                    file.write(ids_T.astype(kind).tobytes())
                    ends_N[number] = len(ids_T)

        write_by(folder / TOKENS, write)
        np.cumsum(ends_N, out=ends_N)
        write_by(folder / ENDS, ends_N.tofile)
        index = Index(version=VERSION, **made, tokens=int(ends_N[-1]))
        write_json(folder / INDEX, asdict(index))
    return index


def _encoded(
    reports: Iterator[str], tokenizer: Tokenizer, length: int, sections: Sequence[str]
) -> Iterator[np.ndarray]:
    while some := list(islice(reports, AT_ONCE)):
        different = list(dict.fromkeys(some))  # the images of a study have one report, and are neighbours
        ids = tokenizer.encode([select_sections(report, sections) for report in different], length)
        by_report = dict(zip(different, ids, strict=True))
        yield from (by_report[report] for report in some)


def _kind(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.size < 2**16 else "int32"
