"""Hashes of records by which they are known again: patient, study, file name and image.

A hundred bytes a record, and no name, id or image in clear: a model folder keeps those of its training
records, so that years later, without the images, a test set can be compared with them (`mrm.audit`).
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrm.audit.perceptual_hashes import content_hash, perceptual_hash
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.system import hardware
from mrm.system.errors import ImageError, RecordError
from mrm.system.files import write_whole
from mrm.system.journal import Journal, file_state

DEPTH = 4  # names are known with up to three folders above the file
Progress = Callable[[int, int], None]  # (images done, images in all)
_SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp)$")

# How published file names give the patient, and the study where they do. RSNA's names tell radiographs apart, not
# people, and SIIM's neither. `file` is the part that names the file, where the last part alone does not.
PUBLISHED_NAMES = {
    "nih": re.compile(r"(?:^|/)(?P<patient>\d{8})_\d{3}(?:\.|$)"),
    "chexpert": re.compile(r"(?:^|/)(?P<file>patient(?P<patient>\d{5})/study(?P<study>\d+)/.*)$"),
    "mimic": re.compile(r"(?:^|/)p(?P<patient>\d{8})/s(?P<study>\d{8})(?:/|$)"),
    "openi": re.compile(r"(?:^|/)CXR(?P<patient>\d+)(?:_\d+)?_IM-\d+-\d+"),
}


class Origin(NamedTuple):
    """What a published file name tells."""

    corpus: str
    patient: str
    study: str = ""
    file: str = ""


def infer_origin(name: str) -> Origin | None:
    """Corpus, patient, study and file ("" where not given) by a published name; None for any other name."""
    for corpus, pattern in PUBLISHED_NAMES.items():
        if match := pattern.search(name.replace("\\", "/")):
            return Origin(corpus, **match.groupdict())
    return None


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Hashes of N records, for comparison with others; 0 is unknown. What is shown in clear is not saved."""

    patients: np.ndarray  # (N,) uint64
    studies: np.ndarray  # (N,) uint64
    names: np.ndarray  # (N, DEPTH) uint64: the file name; with the folder above it; ...
    depths: np.ndarray  # (N,) uint8: how many of these it takes to tell the file from all others of the set
    exact: np.ndarray  # (N,) uint64: shape and pixels
    perceptual: np.ndarray  # (N, 4) uint64
    inferred: int = 0  # records whose patient was taken from the file name
    read: bool = False  # whether images were looked at
    unreadable: tuple[str, ...] = ()  # "name: reason"; not saved
    shown: tuple[str, ...] = ()  # the names in clear; not saved

    def __len__(self) -> int:
        return len(self.exact)

    def name(self, index: int) -> str:
        """A record's name, or, where only hashes were kept, its number."""
        return self.shown[index] if self.shown else f"record {index + 1}"

    def save(self, path: Path | str, identities: bool = True) -> Path:
        """Write an `.npz`.

        Who tries all possible ids can find which were hashed; `identities=False` leaves out patients,
        studies and names, and keeps the hashes of images.
        """
        arrays: dict[str, Any] = {
            key: np.asarray(value) for key, value in vars(self).items() if key not in ("unreadable", "shown")
        }
        if not identities:
            arrays |= {key: np.zeros_like(arrays[key]) for key in ("patients", "studies", "names")}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return write_whole(Path(path), file.getvalue())

    @staticmethod
    def load(path: Path | str) -> "Fingerprints":
        """Read what `save` wrote. Raises RecordError for any other file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                kept = [f.name for f in fields(Fingerprints) if f.name in file]
                prints = Fingerprints(**{key: file[key] if file[key].ndim else file[key].item() for key in kept})
        except FileNotFoundError:
            raise RecordError(f"{path}: no such file of fingerprints") from None
        except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise RecordError(f"{path}: no fingerprints, or damaged ({error}); make them again") from None
        if prints.names.shape != (len(prints), DEPTH) or prints.perceptual.shape != (len(prints), 4):
            raise RecordError(f"{path}: fingerprints of another version; make them again")
        return prints


def fingerprint(
    records: Records,
    images: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Fingerprints:
    """The fingerprints of a set. An image that cannot be read is listed in `unreadable`, never fatal.

    Where not one image file of the set exists (a label list alone), images are not looked at and `read`
    is False. `progress` is called with (images done, images in all); `workers` threads read, one per core
    unless given. What an open `journal` knows of a file is not read again.
    """
    origins = [infer_origin(r.name) for r in records]
    people = [_identity(r, o) for r, o in zip(records, origins, strict=True)]
    names = [_name_keys(r.name, o) for r, o in zip(records, origins, strict=True)]
    names_ND = np.array(names, np.uint64).reshape(-1, DEPTH)
    read = images and any(not isinstance(r.image, Path) or r.image.is_file() for r in records)
    exact, perceptual, unreadable = _hash_images(
        records if read else records[:0], len(records), workers, progress, journal
    )
    return Fingerprints(
        patients=np.array([p for p, _ in people], np.uint64),
        studies=np.array([s for _, s in people], np.uint64),
        names=names_ND,
        depths=_depths(names_ND),
        exact=exact,
        perceptual=perceptual,
        inferred=sum(o is not None and not r.patient for r, o in zip(records, origins, strict=True)),
        read=read,
        unreadable=unreadable,
        shown=tuple(r.name for r in records),
    )


def read_names(path: Path | str, images: Path | None = None) -> Records:
    """A file of records for an audit: no labels needed, and its images may be absent."""
    return Records.load(path, images=images, must_exist=False)


def _key(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _identity(record: Record, origin: Origin | None) -> tuple[int, int]:
    """Keys of patient and study, 0 if unknown. Ids count within their corpus, where the name tells it."""
    corpus, inferred_patient, inferred_study = origin[:3] if origin else ("", "", "")
    patient = _plain(record.patient or inferred_patient, "patient|p")
    study = _plain(record.study or inferred_study, "study|s")
    return _key(corpus, patient) if patient else 0, _key(corpus, patient, study) if study else 0


def _plain(text: str, prefix: str) -> str:
    """An id as compared: "00000001", "patient1" and "1" are one, for tables and file names differ in this."""
    text = text.strip().casefold()
    number = re.fullmatch(rf"(?:{prefix})?[-_ ]?0*(\d+)(?:\.0)?", text)
    return number[1] if number else text


def _name_keys(name: str, origin: Origin | None) -> tuple[int, ...]:
    """Keys of the file name, of the name with the folder above it, and so on up to DEPTH parts."""
    if name == "image in memory":
        return (0,) * DEPTH
    whole = origin.file if origin and origin.file else ""
    parts = _SUFFIX.sub("", (whole or name).replace("\\", "/").casefold()).split("/")
    return tuple(_key("/".join(parts if whole else parts[-depth:])) for depth in range(1, DEPTH + 1))


def _depths(names_ND: np.ndarray) -> np.ndarray:
    """(N,) parts of the path it takes to tell all files of one name in this set apart.

    `image1` says nothing until the folder stands with it; `00000001_000` needs none.
    """
    distinct = np.unique(names_ND, axis=0)
    depths = np.full(len(distinct), DEPTH, np.uint8)
    for depth in range(DEPTH - 1, 0, -1):
        keys, counts = np.unique(distinct[:, depth - 1], return_counts=True)
        depths[np.isin(distinct[:, depth - 1], keys[counts == 1])] = depth
    files, of_distinct = np.unique(distinct[:, 0], return_inverse=True)
    needed = np.zeros(len(files), np.uint8)
    np.maximum.at(needed, of_distinct, depths)
    return needed[np.searchsorted(files, names_ND[:, 0])]


def _hash_images(
    records: Sequence[Record], n: int, workers: int | None, progress: Progress | None, journal: Journal | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    exact, perceptual, unreadable = np.zeros(n, np.uint64), np.zeros((n, 4), np.uint64), []
    keys = [file_state(r.image) if journal and isinstance(r.image, Path) else "" for r in records]
    known = journal.known if journal else {}
    hash_one = lambda record, key: known.get(key) or _hash_image(record)  # noqa: E731
    with ThreadPoolExecutor(workers or hardware.cores()) as pool:
        for index, result in enumerate(pool.map(hash_one, records, keys)):
            if isinstance(result, str):
                unreadable.append(f"{records[index].name}: {result}")
            else:
                exact[index], *perceptual[index] = result
            if journal and keys[index] and keys[index] not in known:
                journal.add(keys[index], result)
            if progress:
                progress(index + 1, n)
    return exact, perceptual, tuple(unreadable)


def _hash_image(record: Record) -> list[int] | str:
    """The exact hash and the four words of the perceptual one, or why the image cannot be read."""
    try:
        image = images.read(record.image)
    except ImageError as error:
        return str(error)
    return [content_hash(image), *perceptual_hash(image).tolist()]
