"""DICOM radiographs, in memory and on the disk."""

import io
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.support.image_files import random_image


def dataset(pixels: np.ndarray, **tags) -> Dataset:
    """A chest radiograph with these stored values; `tags` change or add elements, None removes one."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"
    made.Modality, made.BodyPartExamined = "CR", "CHEST"
    bits = pixels.dtype.itemsize * 8
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    raw = pixels.tobytes()
    made.PixelData = raw + b"\0" * (len(raw) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    for key, value in tags.items():
        if value is None:
            delattr(made, key)
        else:
            setattr(made, key, value)
    return made


def saved(made: Dataset, **options) -> bytes:
    """The bytes of a DICOM file."""
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True, **options)
    return file.getvalue()


def lookup_table(entries, first: int, bits: int, kind: str = "US", packed: bool = False) -> Dataset:
    """An item of a modality or VOI LUT sequence: little endian words, or bytes; `kind` is that of the descriptor."""
    entries = np.asarray(entries)
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536, first, bits])
    data = entries.astype("u1" if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", data + bytes(len(data) % 2))
    return item


def dicom_bytes(pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, frame: bytes | None = None, **tags) -> bytes:
    """The file of such a radiograph; where a compressed `frame` is given, it stands for the pixels."""
    made = dataset(pixels, **tags)
    made.file_meta.TransferSyntaxUID = syntax
    if frame is not None:
        made.PixelData = encapsulate([frame])
        made["PixelData"].is_undefined_length = True
    return saved(made)


def write_dicom(path: Path, seed: int, height: int = 24, width: int = 20, **tags: str) -> None:
    """An uncompressed 8-bit radiograph of noise; `tags` by keyword (PatientID="a")."""
    path.parent.mkdir(parents=True, exist_ok=True)
    instance = generate_uid(entropy_srcs=[str(path)])
    path.write_bytes(dicom_bytes(random_image(seed, height, width), SOPInstanceUID=instance, **tags))
