"""DICOM radiographs, in memory and on the disk."""

import io
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

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
    for key, value in tags.items():
        if value is None:
            delattr(made, key)
        else:
            setattr(made, key, value)
    raw = pixels.tobytes()
    made.PixelData = raw + b"\0" * (len(raw) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


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
    dataset.PixelData = random_image(seed, height, width).tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def dicom(image_HW, syntax=ExplicitVRLittleEndian, frame=None, **values) -> bytes:
    """A DICOM radiograph of an 8-bit image."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.Modality, dataset.BodyPartExamined = "Secret^Name", "DX", "CHEST"
    dataset.Rows, dataset.Columns = image_HW.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = encapsulate([frame]) if frame else image_HW.tobytes()
    dataset["PixelData"].VR = "OB"
    for key, value in values.items():
        setattr(dataset, key, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
