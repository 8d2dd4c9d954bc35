"""One story from an archive to a reading room: 200 radiographs in Orthanc, predicted, killed once, reported, read, shown."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrm.data import images
from mrm.data.archived_images import records_of
from mrm.data.records import Records
from tests.support.archives import running_orthanc, use_account
from tests.support.dicom_files import dicom_bytes
from tests.support.dicom_tools import faults, output_of, shown
from tests.support.models import PROBED, probed_classifier
from tests.support.run_files import table
from tests.support.service_page import drop, findings_of, opened
from tests.support.waiting import until

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

EACH = 100  # phantoms, and real radiographs


def radiograph(number: int, image_HW: np.ndarray, patient: str, view: str) -> bytes:
    """The DICOM file of an image; two in a row are one study, in 12 bits as detectors write them."""
    study = number // 2
    values = (image_HW.astype(np.uint16) << 4) + (number % 16)
    tags = {"StudyInstanceUID": f"1.2.840.{study}", "SeriesInstanceUID": f"1.2.840.{study}.1", "StudyID": str(study)}
    tags |= {"SOPInstanceUID": f"1.2.840.{study}.1.{number}", "PatientID": patient, "PatientName": "Müller^Jürgen"}
    tags |= {"SpecificCharacterSet": "ISO_IR 100", "StudyDate": "20240102", "StudyTime": "120000", "ViewPosition": view}
    return dicom_bytes(values, BitsStored=12, HighBit=11, **tags)


def files(phantoms: Path, real: Path) -> list[bytes]:
    """The DICOM files: the phantoms, some of them several times with other noise, and real chest radiographs."""
    noise = np.random.default_rng(0)
    sources = [Records.load(phantoms / "records.csv", PROBED), Records.load(real / "records.csv", ("tuberculosis",))]
    made = []
    for source in sources:
        for turn in range(EACH):
            record = source[turn % len(source)]
            image_HW = images.read(record.image).astype(np.int16)
            if turn >= len(source):
                image_HW = image_HW + noise.integers(-3, 4, image_HW.shape)
            image_HW = images.resize(image_HW.clip(0, 255).astype(np.uint8), 512, 512)
            made.append(radiograph(len(made), image_HW, record.patient or "p", "PA" if turn % 2 == 0 else "AP"))
    return made


@pytest.mark.slow
def test_from_an_archive_to_its_reports_and_the_page(phantoms, shared_data, tmp_path, monkeypatch, chromium):
    sync = pytest.importorskip("playwright.sync_api")
    use_account(monkeypatch)
    model = probed_classifier(phantoms, tmp_path / "classifier")
    with running_orthanc(tmp_path) as orthanc:
        orthanc.add(*files(phantoms, shared_data / "tuberculosis"))
        address = f"{orthanc.address}?StudyDate=20240101-20240131&Modality=CR"
        words = [sys.executable, "-m", "mrm", "predict", str(model), address]
        words += ["--out", str(tmp_path / "predictions.csv"), "--store", "--batch", "8", "--workers", "1"]
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: stored(orthanc) >= 40, 300, running)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        before = {tags["SOPInstanceUID"] for tags in orthanc.instances("SR")}
        started = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        print(f"killed after {len(before)} reports; the rest took {time.monotonic() - started:.0f} s")
        assert done.returncode == 0, done.stderr
        assert re.search(r"resuming from image \d+/200", done.stdout)
        rows = {row["path"]: row for row in table(tmp_path / "predictions.csv")}
        reports = orthanc.instances("SR")
        assert len(rows) == 200
        assert not any(row["error"] for row in rows.values())
        assert len({tags["SOPInstanceUID"] for tags in reports}) == len(reports) == 200, "each once"
        assert before <= {tags["SOPInstanceUID"] for tags in reports}
        for tags in reports[::20]:
            check_report(orthanc.file(tags["orthanc"]), rows, tmp_path)
        check_page(sync, chromium, model, orthanc, rows, tmp_path)


def stored(orthanc) -> int:
    """The reports that the archive has, each of them a series' instance."""
    return orthanc.ask("GET", "/statistics").json()["CountInstances"] - 2 * EACH


def check_report(content: bytes, rows, folder) -> None:
    """dcmtk reads the number of the table in the report, and dicom3tools finds no fault."""
    file = folder / "one.sr.dcm"
    file.write_bytes(content)
    assert faults(file) == []
    text = shown(file)
    assert "not for clinical use" in text
    instance = re.search(r"1\.2\.840\.\d+\.1\.\d+", output_of("dcmdump", "+P", "ReferencedSOPInstanceUID", file))[0]
    row = next(row for path, row in rows.items() if path.endswith(f"/{instance}"))
    for name in PROBED:
        assert f"Certainty of Finding: {round(100 * float(row[name]), 4)} %" in text


def check_page(sync, chromium, model, orthanc, rows, folder) -> None:
    """The service's page shows a study of the archive with the mean of the logits of its two images."""
    serve = [sys.executable, "-m", "mrm", "serve", str(model), "--port", "0"]
    service = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert service.stdout
        address = service.stdout.readline().split()[0]
        study = records_of(f"{orthanc.address}/studies/1.2.840.7?Modality=CR")
        logits = [[np.log(p / (1 - p)) for p in (float(rows[r.name][name]) for name in PROBED)] for r in study]
        expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
        with sync.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            with opened(browser, address, seconds=180) as page:  # a busy machine
                drop(page, *((f"{n}.dcm", r.image.read_bytes()) for n, r in enumerate(study)))
                shown = findings_of(page)
            browser.close()
        assert {name: float(shown[name]) for name in PROBED} == pytest.approx(
            dict(zip(PROBED, expected, strict=True)), abs=6e-4
        )
    finally:
        service.terminate()
        service.wait(30)
