"""Hashes that identify records without revealing them: patient, study, file name and image.

A fingerprint takes about a hundred bytes a record and has no name, id or image in plain text. A model folder keeps
those of its training records, so a test set can be compared with them years later, without the images (`mrm.audit`).
What is stored of patients, studies and names is hashed with the key of the site (`mrm.audit.site_key`).
"""

import hashlib
import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit import site_key
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import HASHES
from mrm.audit.perceptual_hashes import content_hash, perceptual_hashes
from mrm.audit.site_key import SiteKey
from mrm.data import images
from mrm.data.patients import ORIGINAL, Origin, infer_origin, normalized_id
from mrm.data.reach import Reach
from mrm.data.records import Records
from mrm.system import hardware, unpacking
from mrm.system.errors import ConfigError, ImageError, RecordError, UnreachableError
from mrm.system.files import write_whole

IDENTITIES = ("patients", "studies", "names")  # what is hashed with a key before it is stored
VERSION = 4  # of the hashes; those of other versions cannot be compared
AT_ONCE = 1 << 12  # records whose images are looked for among the kept hashes, and then hashed, at a time
DEPTH = 4  # path parts of a name that are hashed: the file and up to three folders above it
ShowProgress = Callable[[int, int], None]  # (images done, images in all)
_SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp)$")


class OtherVersionError(RecordError):
    """Fingerprints whose hashes were computed in another way."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Hashes of N records, for comparison with others; 0 is unknown. Names in plain text are not saved.

    `key` is the id of the site key with which patients, studies and names were hashed; "" is without one, in memory only.
    """

    patients: np.ndarray  # (N,) uint64
    studies: np.ndarray  # (N,) uint64
    names: np.ndarray  # (N, DEPTH) uint64: the file name; with the folder above it; ...
    depths: np.ndarray  # (N,) uint8: how many of these parts it takes to tell the file from all others of the set
    exact: np.ndarray  # (N,) uint64: shape and pixels
    perceptual: np.ndarray  # (N, 2, 4) uint64: of the image as it is, and without its borders
    key: str = ""
    inferred: int = 0  # records whose patient was taken from the file name
    read: bool = False  # whether images were read
    version: int = VERSION
    unreadable: tuple[str, ...] = ()  # "name: reason"; not saved
    plain_names: tuple[str, ...] = ()  # the names in plain text; not saved

    def __len__(self) -> int:
        return len(self.exact)

    def name(self, index: int) -> str:
        """A record's name, or its number if only hashes were saved."""
        return self.plain_names[index] if self.plain_names else f"record {index + 1}"

    def keyed(self, key: SiteKey) -> "Fingerprints":
        """These fingerprints with patients, studies and names hashed with `key`. Raises RecordError if another key did so."""
        if self.key not in ("", key.id):
            raise RecordError("these fingerprints were hashed with another site key, and can have no second one")
        hashed: dict[str, Any] = {name: key.hashed(getattr(self, name)) for name in IDENTITIES}
        return self if self.key else replace(self, key=key.id, **hashed)

    def save(self, path: Path | str) -> Path:
        """Write an `.npz`, in which patients, studies and names are hashed with the key of this site.

        Raises ConfigError where there is no such key and none can be made.
        """
        stored = self if self.key else self.keyed(site_key.load_or_make())
        arrays: dict[str, Any] = {
            key: np.asarray(value) for key, value in vars(stored).items() if key not in ("unreadable", "plain_names")
        }
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return write_whole(Path(path), file.getvalue())

    @staticmethod
    def load(path: Path | str) -> "Fingerprints":
        """Read what `save` wrote. Raises RecordError for any other file, OtherVersionError for one whose hashes mean something else."""
        try:
            unpacking.check_archive(Path(path))
            with np.load(path, allow_pickle=False) as file:
                saved = {f.name: file[f.name] for f in fields(Fingerprints) if f.name in file}
            values = {key: array if array.ndim else array.item() for key, array in saved.items()}
            if not {"version", "key"} <= values.keys() or values["version"] != VERSION:
                raise OtherVersionError(f"{path}: fingerprints of another version of mrm; create them again")
            prints = Fingerprints(**values)
            _check_arrays(prints)
        except FileNotFoundError:
            raise RecordError(f"{path}: no such fingerprint file") from None
        except (ConfigError, RecordError):
            raise
        except unpacking.TooLargeError as error:
            raise RecordError(f"{path}: {error}") from None
        except Exception as error:  # damaged archives and arrays make NumPy raise a dozen kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RecordError(f"{path}: not a fingerprint file, or damaged ({reason}); create it again") from None
        if (prints.names.shape, prints.perceptual.shape) != ((len(prints), DEPTH), (len(prints), 2, 4)):
            raise OtherVersionError(f"{path}: fingerprints of another version of mrm; create them again")
        return prints


def _check_arrays(prints: Fingerprints) -> None:
    """Raises ValueError for fingerprints whose parts have other types or lengths than `fingerprint` gives them."""
    arrays = {key: value for key, value in vars(prints).items() if isinstance(value, np.ndarray)}
    for key in ("patients", "studies", "names", "depths", "exact", "perceptual"):
        if key not in arrays or arrays[key].dtype != (np.uint8 if key == "depths" else np.uint64):
            raise ValueError(f"{key} are no hashes")
    for key, array in arrays.items():
        if len(array) != len(prints):
            raise ValueError(f"{len(array)} {key} of {len(prints)} records")
    if not ((prints.depths >= 1) & (prints.depths <= DEPTH)).all():
        raise ValueError(f"a name does not have 1 to {DEPTH} parts")
    if (type(prints.inferred), type(prints.read), type(prints.key)) != (int, bool, str):
        raise ValueError("its counts are no numbers")


def fingerprint(
    records: Records,
    images: bool = True,
    workers: int | None = None,
    progress: ShowProgress | None = None,
    hashes: HashKeeper | None = None,
    kept: bool = False,
) -> Fingerprints:
    """The fingerprints of a set. An image that cannot be read is listed in `unreadable` and stops nothing.

    If none of the image files exists (a label list alone), images are not read and `read` is False. `progress` is
    called with (images done, images in all). `workers` threads read, by default one per core. Images whose hashes are kept
    beside the file of the records, or known to `hashes`, are not read again; `hashes` keeps those of others. Raises
    UnreachableError if the folder of the images goes away meanwhile, and, if the prints are to be `kept`, for an image that
    cannot be reached.
    """
    identities_N2, names_ND = np.zeros((len(records), 2), np.uint64), np.zeros((len(records), DEPTH), np.uint64)
    inferred = 0
    columns = [records.values(name) for name in ("name", ORIGINAL, "patient", "study")]
    for index, (name, original, patient, study) in enumerate(zip(*columns, strict=True)):
        origin = infer_origin(original or name)
        identities_N2[index] = _identity(patient, study, origin)
        names_ND[index] = _name_keys(original or name, origin)
        inferred += origin is not None and not patient
    read = images and any(not isinstance(r.image, Path) or r.image.is_file() for r in records)
    words_N9, unreadable = np.zeros((len(records), HASHES), np.uint64), tuple[str, ...]()
    if read:
        words_N9, unreadable = _hash_images(records, workers, progress, hashes, kept)
    return Fingerprints(
        patients=identities_N2[:, 0].copy(),
        studies=identities_N2[:, 1].copy(),
        names=names_ND,
        depths=_depths(names_ND),
        exact=words_N9[:, 0].copy(),
        perceptual=words_N9[:, 1:].reshape(-1, 2, 4).copy(),
        inferred=inferred,
        read=read,
        unreadable=unreadable,
        plain_names=tuple(records.values("name")),
    )


def comparable(first: Fingerprints, second: Fingerprints) -> tuple[Fingerprints, Fingerprints] | None:
    """Both with patients, studies and names hashed alike, so that these can be compared; None if that is impossible.

    It is impossible where another site's key, or one that this site no longer has, hashed those of one set.
    """
    if first.key == second.key:
        return first, second
    key = site_key.load()
    if key is None or not {first.key, second.key} <= {"", key.id}:
        return None
    return first.keyed(key), second.keyed(key)


def read_names(path: Path | str, images: Path | None = None) -> Records:
    """A file of records for an audit: labels are not read, and the images may be absent."""
    return Records.load(path, images=images, must_exist=False)


def _key(*parts: str) -> int:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


@lru_cache(maxsize=4096)  # the images of a study are neighbours
def _identity(patient: str, study: str, origin: Origin | None) -> tuple[int, int]:
    """Keys of patient and study, 0 if unknown. An id is unique within its corpus only, if the name tells the corpus."""
    corpus, inferred_patient, inferred_study = origin[:3] if origin else ("", "", "")
    patient = normalized_id(patient or inferred_patient)
    study = normalized_id(study or inferred_study, "study|s")
    return _key(corpus, patient) if patient else 0, _key(corpus, patient, study) if study else 0


def _name_keys(name: str, origin: Origin | None) -> tuple[int, ...]:
    """Keys of the file name, of the name with the folder above it, and so on up to DEPTH parts."""
    if name == "image in memory":
        return (0,) * DEPTH
    whole = origin.file if origin and origin.file else ""
    parts = _SUFFIX.sub("", (whole or name).replace("\\", "/").casefold()).split("/")
    return tuple(_key("/".join(parts if whole else parts[-depth:])) for depth in range(1, DEPTH + 1))


def _depths(names_ND: np.ndarray) -> np.ndarray:
    """(N,) path parts it takes to tell apart all files of this set that have the same name.

    `image1` means nothing without its folder; `00000001_000` needs no folder.
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
    records: Records, workers: int | None, progress: ShowProgress | None, hashes: HashKeeper | None, complete: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The hashes (N, 9) of all images, zeros for those that cannot be read, and which these are."""
    words_N9, unreadable = np.zeros((len(records), HASHES), np.uint64), []
    kept = (hashes or HashKeeper(beside=False)).of(records.source)
    reach, rest, start, done = Reach(records, any_number=True), iter(records), 0, 0
    with ThreadPoolExecutor(workers or hardware.cores()) as pool, closing(kept):
        while part := list(islice(rest, AT_ONCE)):
            known_P9, keys_SP = kept.known([r.image for r in part])
            words_N9[start : start + len(part)] = known_P9
            unknown = np.flatnonzero(known_P9[:, 0] == 0).tolist()
            done += len(part) - len(unknown)
            if progress and len(unknown) < len(part):
                progress(done, len(records))
            for place, result in zip(unknown, pool.map(_hash_image, (part[i].image for i in unknown)), strict=True):
                if isinstance(result, UnreachableError):
                    reach.miss(str(result))
                    if complete:
                        raise UnreachableError(
                            f"{result}. Run the same command again when it can be reached"
                        ) from result
                if isinstance(result, list):
                    words_N9[start + place] = result
                else:
                    unreadable.append(f"{part[place].name}: {result}")
                if not isinstance(result, UnreachableError):
                    kept.add(keys_SP[:, place], result if isinstance(result, list) else [0] * HASHES)
                done += 1
                if progress:
                    progress(done, len(records))
            start += len(part)
    return words_N9, tuple(unreadable)


def _hash_image(image: Any) -> list[int] | str | UnreachableError:
    """The exact hash and the eight words of the perceptual hashes, or why the image cannot be read."""
    try:
        grey = images.read(image)
    except UnreachableError as error:
        return error
    except ImageError as error:
        return str(error)
    return hashes_of(grey)


def hashes_of(image: np.ndarray) -> list[int]:
    """The exact hash of an (H, W) uint8 image, and the eight words of its perceptual ones."""
    return [content_hash(image), *perceptual_hashes(image).ravel().tolist()]
