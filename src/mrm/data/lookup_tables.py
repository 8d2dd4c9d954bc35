"""Lookup tables of DICOM (PS3.3, C.11.1 and C.11.2; palettes C.7.9): modality, VOI and palette tables in every form.

Files in use differ from the standard in known ways, so the table is told from its data: the first value is signed where
the values that it is applied to are, entries are words or bytes by the length of the data, and the depth of the output is
that of the largest entry, since many writers declare 16 bits for entries of 12.
"""

from dataclasses import dataclass

import numpy as np
import pydicom

from mrm.system.errors import ImageError

WORD = 1 << 16


@dataclass(frozen=True)
class LookupTable:
    """Entry i is the output for the value `first` + i; values outside take the nearest entry."""

    entries: np.ndarray  # int64
    first: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The entries (int64) for integer values."""
        return self.entries[np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)]

    @property
    def largest_output(self) -> int:
        """The value that is shown as white: all bits of the largest entry's depth, which is 8 at least."""
        return (1 << max(8, int(self.entries.max()).bit_length())) - 1


def read(item: pydicom.Dataset, lowest: float, highest: float, big_endian: bool, name: str, kind: str) -> LookupTable:
    """The table of an item of a modality or VOI LUT sequence.

    `lowest` and `highest` limit the values it will be applied to; `kind` ("VOI", "modality") is for messages. Raises
    `ImageError` where the table says nothing usable.
    """
    subject = f"{name}: the {kind} lookup table"
    return _table(item, "LUTDescriptor", "LUTData", (lowest, highest), big_endian, subject)


def read_palette(dataset: pydicom.Dataset, colour: str, highest: float, big_endian: bool, name: str) -> LookupTable:
    """The palette of a colour ("Red", "Green", "Blue") for indices from 0 to `highest`. Raises `ImageError`."""
    keyword = f"{colour}PaletteColorLookupTable"
    subject = f"{name}: the {colour.lower()} palette"
    return _table(dataset, f"{keyword}Descriptor", f"{keyword}Data", (0, highest), big_endian, subject)


def _table(
    item: pydicom.Dataset, descriptor: str, data: str, limits: tuple[float, float], big_endian: bool, subject: str
) -> LookupTable:
    count, first = _descriptor(item.get(descriptor), subject)
    swapped = big_endian and data in item and item[data].VR == "OW"
    entries = _entries(item.get(data), count, swapped, subject)
    signed = item[descriptor].VR == "SS"
    if first >= WORD // 2 and _is_signed(first, count, *limits, signed):
        first -= WORD
    return LookupTable(entries, first)


def _is_signed(first: int, count: int, lowest: float, highest: float, signed_descriptor: bool) -> bool:
    """Whether the bit pattern of a first value stands for a negative number: the reading by which the table meets the values.

    Where both meet them, or neither, it is negative if the values can be or the descriptor is signed.
    """
    as_unsigned, as_signed = (start <= highest and start + count > lowest for start in (first, first - WORD))
    return as_signed if as_signed != as_unsigned else lowest < 0 or signed_descriptor


def _descriptor(value: object, subject: str) -> tuple[int, int]:
    """The number of entries (0 stands for 65,536) and the bit pattern of the first value. Bits per entry are not used."""
    words = list(np.frombuffer(value, "<u2")) if isinstance(value, bytes) else list(value or ())  # type: ignore[call-overload]
    if len(words) != 3 or not all(isinstance(word, int | np.integer) for word in words):
        raise ImageError(f"{subject} has the descriptor {words}, not three numbers; save the image without it")
    return int(words[0]) % WORD or WORD, int(words[1]) % WORD


def _entries(data: object, count: int, swapped: bool, subject: str) -> np.ndarray:
    """The `count` entries: words, or bytes (one may be added to an even length) where the data are too short for words."""
    if isinstance(data, bytes):
        raw = data
    else:  # numbers, which pydicom has decoded, one for each word
        words = np.atleast_1d(np.asarray([] if data is None else data, np.int64))
        raw, swapped = (words % WORD).astype("<u2").tobytes(), False
    if len(raw) >= 2 * count:
        return np.frombuffer(raw, ">u2" if swapped else "<u2", count).astype(np.int64)
    if len(raw) not in (count, count + 1):
        raise ImageError(
            f"{subject} has {len(raw):,} bytes, but its descriptor says {count:,} entries of one or two bytes; "
            "save the image without it"
        )
    packed = np.frombuffer(raw, np.uint8)
    if swapped and len(raw) % 2 == 0:  # two bytes to a word, the first of them in its low half
        packed = packed.reshape(-1, 2)[:, ::-1].ravel()
    return packed[:count].astype(np.int64)
