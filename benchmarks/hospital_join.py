"""How long a hospital's table takes to find its images: 50,000 rows, 100,000 DICOM headers, and a second start.

    python benchmarks/hospital_join.py --out benchmarks/results/hospital_join.json

The files are real, small DICOM of different patients, studies and accession numbers, in an archive's folders; two images a
study. One row in a hundred has lost its leading zeros, one in two hundred has an accession number that no image has. Each
start is a process of its own, whose largest memory includes that of its workers one by one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

IMAGES_A_STUDY = 2
TEXTS = {
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "PatientName": "Muster^Person",
    "PatientBirthDate": "19600101",
    "PatientSex": "F",
    "PatientAge": "060Y",
    "StudyTime": "101112",
    "ContentDate": "20200101",
    "Manufacturer": "Maker of machines",
    "InstitutionName": "Hospital of a town",
    "StationName": "ROOM1",
    "StudyDescription": "Thorax in zwei Ebenen",
    "SeriesDescription": "Thorax pa",
    "ProtocolName": "Chest",
    "ReferringPhysicianName": "Doctor^Any",
    "KVP": "120",
    "ExposureTime": "10",
    "DeviceSerialNumber": "12345",
    "SoftwareVersions": "1.0",
    "StudyID": "1",
    "SeriesNumber": "1",
    "InstanceNumber": "1",
    "WindowCenter": "2048",
    "WindowWidth": "4096",
}


def main() -> None:
    """Write the archive, join it twice, print the times, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--join", type=Path, help=argparse.SUPPRESS)  # one start, in a process of its own
    options = parser.parse_args()
    if options.join:
        print(json.dumps(join(options.join, options.workers)))
        return
    import torch  # not in a start, which needs none

    from mrm.system.hardware import cores, device_name

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.perf_counter()
        write_archive(folder / "archive", options.rows)
        write_table(folder / "ris.csv", options.rows)
        report = {
            "processor": device_name(torch.device("cpu")),
            "cores": cores(),
            "rows": options.rows,
            "images": options.rows * IMAGES_A_STUDY,
            "load of the machine before": round(os.getloadavg()[0], 1),
            "seconds to write the archive": round(time.perf_counter() - start, 1),
            "first start": started(folder, options.workers),
            "second start": started(folder, options.workers),
        }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def started(folder: Path, workers: int) -> dict[str, float]:
    """The times of one start."""
    command = [sys.executable, __file__, "--join", str(folder), "--workers", str(workers)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def join(folder: Path, workers: int) -> dict[str, float]:
    """Read the headers and join the table, as `mrm prepare custom` does before it inspects the images."""
    from mrm.corpora import custom
    from mrm.corpora.custom.archive import find_images
    from mrm.corpora.options import Options
    from mrm.data.header_index import HeaderIndex

    clock = Clock()
    images, _ = find_images(folder / "archive")
    times = clock.lap("files listed")
    index = HeaderIndex(folder / "kept")
    index.read(list(images.values()), workers)
    read_now = index.read_now
    times |= clock.lap("headers")
    options = Options(table=(folder / "ris.csv",), classes=("TB",), workers=workers)
    release = custom.read(folder / "archive", options, index)
    times |= clock.lap("files listed again, table read, joined and reported")
    return {
        **times,
        "headers read": read_now,
        "headers per second": round(read_now / times["headers, s"]),
        "headers per second of processor time": round(read_now / times["headers, s of processor time"]),
        "records": len(release.records),
        "rows and images left out": len(release.excluded),
        "largest memory of the command, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        "largest memory of a worker, MB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000),
    }


class Clock:
    """Time, and processor time of this process and its workers, since the last lap."""

    def __init__(self) -> None:
        self.last = self._now()

    def lap(self, name: str) -> dict[str, float]:
        """The times since the last lap."""
        before, self.last = self.last, self._now()
        wall, processor = (max(0.1, round(now - then, 1)) for now, then in zip(self.last, before, strict=True))
        return {f"{name}, s": wall, f"{name}, s of processor time": processor}

    def _now(self) -> tuple[float, float]:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in usage)


# The export -------------------------------------------------------------------------------------------------


def accession(study: int) -> str:
    """The accession number of a study: with leading zeros, and digits in no order."""
    return f"00{(study * 7_919) % 10_000_019 + 10_000_000:08d}"


def write_archive(root: Path, studies: int) -> None:
    """Real DICOM files of 16 x 16 pixels with the elements of a radiograph, all different.

    pydicom writes one, and its values are replaced by others of their length.
    """
    file = io.BytesIO()
    first = values(0, 0)
    content = template()
    for keyword, value in first.items():
        setattr(content, keyword, value)
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    content.save_as(file, enforce_file_format=True)
    for study in range(studies):
        folder = root / f"{study % 97:02}" / values(study, 0)["PatientID"] / str(study)
        folder.mkdir(parents=True)
        for number in range(IMAGES_A_STUDY):
            raw = file.getvalue()
            for keyword, value in values(study, number).items():
                raw = raw.replace(first[keyword].encode(), value.encode())
            (folder / f"IM{number:05d}").write_bytes(raw)


def values(study: int, number: int) -> dict[str, str]:
    """What differs from image to image: texts of one length, none of which is part of another."""
    return {
        "SOPInstanceUID": f"1.2.826.0.1.3680043.10.999.4.{10_000_000 + study}.{number}",
        "SeriesInstanceUID": f"1.2.826.0.1.3680043.10.999.3.{10_000_000 + study}.{number}",
        "StudyInstanceUID": f"1.2.826.0.1.3680043.10.999.2.{10_000_000 + study}",
        "PatientID": f"Q{study // 3:09d}",
        "AccessionNumber": accession(study),
        "StudyDate": f"20{10 + study % 14}{1 + study % 12:02d}{1 + study % 28:02d}",
        "ViewPosition": "LL" if number else "PA",
    }


def template() -> Dataset:
    """A chest radiograph of 16 x 16 pixels with what an archive usually states about it."""
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = ComputedRadiographyImageStorage
    for keyword, value in TEXTS.items():
        setattr(content, keyword, value)
    content.Rows = content.Columns = 16
    content.SamplesPerPixel, content.PixelRepresentation = 1, 0
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 12, 11
    content.PhotometricInterpretation = "MONOCHROME2"
    content.PixelData = bytes(2 * 16 * 16)
    return content


def write_table(file: Path, studies: int) -> None:
    """A semicolon table with a row for each study; some keys are damaged."""
    lines = ["AccessionNumber;TB;Befund;CRP"]
    for study in range(studies):
        key = accession(study)
        if study % 100 == 0:
            key = key.lstrip("0")
        elif study % 200 == 1:
            key = f"{9_999_000_000 + study}"
        lines.append(f"{key};{study % 2};Kein Nachweis von Infiltraten, Nummer {study}.;{study % 90},5")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
