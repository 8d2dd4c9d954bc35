"""What a DICOM file may cost to read, whatever it claims: its inflated size, its elements and fragments, its values.

pydicom inflates a deflated file in memory, whole, and takes microseconds and hundreds of bytes for each element, which
can be 8 bytes long. A file of a few megabytes could so take minutes and gigabytes. `mrm.data.dicom` reads through here.
"""

import io
import zlib

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from mrm.data.headers import Bytes
from mrm.system.errors import ImageError

MAX_INFLATED = 1 << 28  # bytes of a deflated file once inflated; the largest radiographs have a quarter of that
PIECE_BYTES, MAX_PIECE = 1 << 16, 1 << 20  # what is inflated at a time while it is counted, and the most it may become
MAX_SMALL_READS = (
    250_000  # pydicom makes one to three for each element, item or fragment; a radiograph has some hundred
)
MAX_VALUE = 1 << 20  # bytes of an element that describes the image; a table of 65,536 entries has an eighth of that
DESCRIBING = (0x0008, 0x0018, 0x0028)  # groups of elements that say how the image is to be read
SMALL = 8  # bytes, of the tag and length of an element


def read(data: Bytes, name: str, **options) -> pydicom.Dataset:
    """The file as `pydicom.dcmread` reads it with these options, within the limits. Raises `ImageError`."""
    prefix = bytes(data[128:132]) == b"DICM"
    file = _Counted(data, name)
    file.seek(132 if prefix else 0)  # without the prefix, the meta information may stand at the very start
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        dataset = _read_inflated(_inflated(data[file.tell() :], name), meta, name)
    else:
        file.seek(0)
        dataset = pydicom.dcmread(file, force=not prefix, **options)
    _check_values(dataset, name)
    return dataset


class _Counted(io.BytesIO):
    """A file that refuses to be read element by element more often than any radiograph requires."""

    def __init__(self, data: Bytes, name: str) -> None:
        super().__init__(data)
        self.name, self.small_reads = name, 0

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and 0 <= size <= SMALL:
            self.small_reads += 1
            if self.small_reads > MAX_SMALL_READS:
                raise ImageError(
                    f"{self.name}: has far more data elements, items or fragments than a radiograph; save the image alone"
                )
        if size is None or size < 0:  # pydicom reads all the rest only in order to inflate it
            raise ImageError(f"{self.name}: its meta information is damaged; save it without deflate compression")
        return super().read(size)


def _inflated(data: Bytes, name: str) -> bytes:
    """The deflated part of a file, inflated once it is known that this takes no more than MAX_INFLATED."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for at in range(0, len(data), PIECE_BYTES):
        piece = bytes(data[at : at + PIECE_BYTES])
        while piece:
            total += len(inflate.decompress(piece, MAX_PIECE))
            piece = inflate.unconsumed_tail
            if total > MAX_INFLATED:
                raise ImageError(
                    f"{name}: inflates to more than {MAX_INFLATED >> 20} MiB; save it without deflate compression"
                )
    inflate.flush()
    if not inflate.eof:
        raise ImageError(f"{name}: cut off, the deflated data have no end; download or copy the file again")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)


def _read_inflated(data: bytes, meta: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """The dataset of a deflated file, as if it had been stored without compression (PS3.5, A.5)."""
    content = read_dataset(_Counted(data, name), False, True)
    file_meta = pydicom.dataset.FileMetaDataset(meta)
    file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = pydicom.FileDataset(None, content, None, file_meta, False, True)  # type: ignore[arg-type]
    dataset.set_original_encoding(False, True, content._character_set)
    return dataset


def _check_values(dataset: pydicom.Dataset, name: str) -> None:
    """Refuse values that would take long to convert: a window centre of a million numbers, a sequence of a million items."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over the dataset itself converts every value
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
            continue
        if tag.group in DESCRIBING and len(element.value) > MAX_VALUE:
            raise ImageError(
                f"{name}: the data element {tag} has {len(element.value):,} bytes, more than any radiograph's; the file "
                "is damaged, download or copy it again"
            )
