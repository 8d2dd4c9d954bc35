"""Made-up downloads for the tests of corpora: small images under the publishers' names, in their folders."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset

from mrm.data import images


def image(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def write_image(path: Path, seed: int, height: int = 24, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = images.encode_png if path.suffix == ".png" else images.encode_jpeg
    path.write_bytes(encode(image(seed, height, width)))


def write_dicom(path: Path, seed: int, height: int = 24, width: int = 20, **tags: str) -> None:
    """An uncompressed 8-bit radiograph; `tags` by keyword (PatientID="a")."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.BodyPartExamined, dataset.PhotometricInterpretation = "CR", "CHEST", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = image(seed, height, width).tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, to see that nothing was written into it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
