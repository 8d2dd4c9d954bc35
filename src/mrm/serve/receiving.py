"""Images that a modality or an archive sends to the service (C-STORE): one report of each study, once no more of it comes.

    an association -> an image -> read in a process of its own -> the model -> its values, kept with the header
    -> the study is quiet -> one report of its frontal images -> a folder, an archive

The sender gets its answer when the model has read the image, so that a busy service slows it down and an image that cannot be
read is refused at once. No pixels are kept, and nothing is written but reports. While reports cannot be delivered, images are
refused, so that the sender keeps them.
"""

# Shapes: K values of an image
from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrm.data import archive_address
from mrm.data.archive import connected
from mrm.data.archive_address import Address
from mrm.data.chest_tags import RADIOGRAPHS
from mrm.inference import dicom_objects, dicom_sr
from mrm.inference.studies import GUESSED_LATERAL, Pool
from mrm.serve import dicom_connections, unattended, uploads
from mrm.serve.admission import Refused, Reservation
from mrm.serve.dicom_options import DicomOptions
from mrm.serve.limits import Limits
from mrm.serve.unattended import MOST_IMAGES, Service
from mrm.system.errors import ArchiveError, ConfigError, MaskError, OutputError, UnreachableError
from mrm.system.files import write_by, write_whole
from mrm.system.output_folder import writing

if TYPE_CHECKING:
    import pydicom

    from mrm.serve.models import Models

# Status of a C-STORE (PS3.4, B.2.3)
SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
COMMENT = 64  # characters that an answer has for a reason
MOST_STUDIES = 1000  # that are remembered; the one without news for longest gives way once it has its report
RETRY_SECONDS = 30.0  # after a report could not be delivered
KEPT_GROUPS, LONGEST_VALUE = (0x0008, 0x0010, 0x0018, 0x0020, 0x0028), 1024  # of a header: what a report may repeat
GRACE = 5.0  # seconds that an answer may take beyond the limit of the service


@dataclass
class Study:
    """What is known of a study: of each image the header and the values, by the identifier of the image."""

    images: dict[str, tuple[pydicom.Dataset, np.ndarray]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    due: float = 0.0  # by `time.monotonic`
    reported: int = 0  # how many images the last report is of

    @property
    def waits(self) -> bool:
        """Whether it has images that no report is of."""
        return len(self.images) > self.reported


@dataclass
class Reception:
    """The port, the studies that came in, and where their reports go."""

    options: DicomOptions
    limits: Limits
    pool: Pool
    archive: Address | None
    received: int = 0
    refused: int = 0
    reports: int = 0
    failures: int = 0
    studies: dict[tuple[str, str], Study] = field(default_factory=dict)  # by patient and study
    undelivered: bool = False
    stopping: bool = False

    def __post_init__(self) -> None:
        self._counting = threading.Lock()  # associations have a thread each
        self.server = dicom_connections.listen(self.options, self.limits, self._received)

    @classmethod
    def of(cls, options: DicomOptions, models: Models, limits: Limits, watched: Address | None) -> Reception | None:
        """The reception of a service, which listens from now on; None without a port. `watched` is the archive of --watch.

        Raises ConfigError, MaskError, OutputError, RunError, and ArchiveError for an archive that cannot be asked.
        """
        if options.dicom_port is None:
            return None
        pool = unattended.pool_of(models, "--dicom-port")
        if not (options.dicom_store or watched or options.dicom_out):
            raise ConfigError(
                "--dicom-port needs to know where reports go: give --dicom-out DIR, --dicom-store or --watch"
            )
        if options.dicom_out:
            _check_folder(options.dicom_out)
        archive = _reachable(options.dicom_store) if options.dicom_store else watched  # which has been asked
        return cls(options, limits, pool, archive)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server.server_address[1])

    async def run(self, state: Service) -> None:
        """Receive until cancelled; then end the associations and report what has come in so far."""
        self.state, self.loop = state, asyncio.get_running_loop()
        listening = threading.Thread(target=self.server.serve_forever, args=(0.1,), name="mrm-dicom", daemon=True)
        listening.start()
        threads = ThreadPoolExecutor(1, thread_name_prefix="mrm-reports")  # a connection belongs to one thread
        try:
            while True:
                await self._deliver(threads)
                await asyncio.sleep(min(1.0, self.options.dicom_quiet_seconds / 4))
        finally:
            self.stopping = True
            await asyncio.to_thread(self.server.shutdown)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._deliver(threads, at_once=True), self.limits.timeout_seconds)
            if left := sum(len(study.images) for study in self.studies.values() if study.waits):
                state.log.write(f"warning: dicom: {left:,} images that were received are in no report; send them again")
            threads.shutdown(wait=False, cancel_futures=True)

    # Receiving ----------------------------------------------------------------------------------------------

    def _received(self, event: Any) -> pydicom.Dataset:
        """The answer to a C-STORE, in the thread of its association."""
        import pydicom

        status, reason = OUT_OF_RESOURCES, "the service is stopping"
        with suppress(RuntimeError):  # the loop has ended
            taking = self._take(event.encoded_dataset(), str(event.request.AffectedSOPInstanceUID))
            answer = asyncio.run_coroutine_threadsafe(taking, self.loop)
            try:
                status, reason = answer.result(self.limits.timeout_seconds + GRACE)
            except LateError:
                answer.cancel()
                reason = "the service is busy; send it again later"
            except Exception as error:  # a fault costs this image, and is logged without its message
                status, reason = NOT_UNDERSTOOD, "the image cannot be processed"
                self.state.log.failure(error)
        with self._counting:
            self.received += status == SUCCESS
            self.refused += status != SUCCESS
        response = pydicom.Dataset()
        response.Status = status
        if reason:
            response.ErrorComment = reason.encode("ascii", "replace").decode()[:COMMENT]
        return response

    async def _take(self, data: bytes, instance: str) -> tuple[int, str]:
        """Read an image and keep its values; returns the status, and the reason of a refusal."""
        if self.stopping or self.undelivered:
            why = "the service is stopping" if self.stopping else "reports cannot be delivered at present"
            return OUT_OF_RESOURCES, f"{why}; send it again later"
        if any(instance in study.images for study in self.studies.values()):
            return SUCCESS, ""
        if len(data) > self.limits.body_bytes:
            return NOT_UNDERSTOOD, f"{len(data):,} bytes are more than this service accepts"
        try:
            return await asyncio.wait_for(self._read(data, instance), self.limits.timeout_seconds)
        except TimeoutError:
            return OUT_OF_RESOURCES, "the service is busy; send it again later"
        except Refused as error:
            return NOT_UNDERSTOOD, error.reason
        except MaskError:
            return NOT_UNDERSTOOD, "no report can refer to it: identifiers are missing"

    async def _read(self, data: bytes, instance: str) -> tuple[int, str]:
        state = self.state

        async def read(reservation: Reservation) -> tuple[int, str]:
            reservation.add(len(data))
            how = state.models.eval_view, state.views.unattended
            upload, whole = await state.in_decoder(uploads.decode_dicom, data, self.limits, *how)
            header = dicom_objects.source_of(_small(whole), "the image", dicom_sr.WHAT)
            modality = str(header.get("Modality") or "")
            if str(header.SOPInstanceUID) != instance or modality not in {"", *RADIOGRAPHS}:
                return MISMATCH, "its identifier or modality is not that of the radiograph that was announced"
            if not upload.left_out:
                return self._keep(instance, header, await state.classify(upload.image_HW), upload.warnings)
            if upload.view == GUESSED_LATERAL:
                return self._keep(instance, header, None, [f"an image {upload.left_out}"])
            return SUCCESS, ""

        return await unattended.admitted(state, "dicom", read)

    def _keep(
        self, instance: str, header: pydicom.Dataset, values_K: np.ndarray | None, said: list[str]
    ) -> tuple[int, str]:
        """Keep the values of an image with its study; of one that looks lateral there are none, and the report says so."""
        key = str(header.get("PatientID") or ""), str(header.StudyInstanceUID)
        study = self.studies.pop(key, None) or Study()  # put back as the latest
        if len(self.studies) >= MOST_STUDIES:
            old = next((key for key, other in self.studies.items() if not other.waits), None)
            if old is None:
                return OUT_OF_RESOURCES, f"{MOST_STUDIES:,} studies wait for their reports; send it again later"
            del self.studies[old]
        self.studies[key] = study
        if len(study.images) >= MOST_IMAGES:
            return OUT_OF_RESOURCES, f"the study has {MOST_IMAGES} images already"
        if values_K is not None:
            study.images[instance] = header, values_K
        study.said += [text for text in said if text not in study.said]
        study.due = time.monotonic() + self.options.dicom_quiet_seconds
        return SUCCESS, ""

    # Reports ------------------------------------------------------------------------------------------------

    async def _deliver(self, threads: ThreadPoolExecutor, at_once: bool = False) -> None:
        """Deliver the reports of the studies that are complete; with `at_once` of all that wait."""
        failed = False
        for study in [study for study in self.studies.values() if study.waits]:
            if study.due > time.monotonic() and not at_once:
                continue
            images, said = list(study.images.values()), list(study.said)
            try:
                await asyncio.get_running_loop().run_in_executor(threads, self._report, images, said)
                self.reports += 1
            except (ArchiveError, OutputError, UnreachableError) as error:  # the study stays, and is tried again
                failed = True
                study.due = time.monotonic() + RETRY_SECONDS
                self._failed(error)
                continue
            except Exception as error:  # no other attempt would end better
                self.failures += 1
                self.state.log.failure(error)
            study.reported = len(images)
            self.undelivered = False
        self.undelivered = self.undelivered or failed

    def _report(self, images: list[tuple[pydicom.Dataset, np.ndarray]], said: list[str]) -> None:
        """Make a report and bring it to the folder and the archive, each once. Raises as they do."""
        made = unattended.report(
            self.state.models, [header for header, _ in images], np.stack([v for _, v in images]), said, self.pool
        )
        if self.options.dicom_out:
            file = self.options.dicom_out / f"{made.SOPInstanceUID}.sr.dcm"
            with writing(self.options.dicom_out):
                if not file.exists():
                    write_by(file, made.save_as)
        if self.archive:
            connected(self.archive).store(made)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self.state.log.write(f"warning: dicom: a report waits: {unattended.anonymous(error)}")


def _small(header: pydicom.Dataset) -> pydicom.Dataset:
    """What a report may repeat of a header: short texts and numbers of the groups of patient, study and image."""
    import pydicom

    kept = pydicom.Dataset()
    kept.file_meta = pydicom.dataset.FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for tag in list(header.keys()):
        if tag.group not in KEPT_GROUPS or not pydicom.datadict.keyword_for_tag(tag):
            continue
        with suppress(Exception):  # damaged values make pydicom raise a dozen kinds
            element = header[tag]
            if element.VR not in ("SQ", "OB", "OW", "UN") and len(str(element.value)) <= LONGEST_VALUE:
                kept.add(element)
    return kept


def _check_folder(folder: Path) -> None:
    """Make the folder of reports, and try to write into it. Raises OutputError."""
    with writing(folder):
        write_whole(folder / ".mrm-trial", b"").unlink()


def _reachable(text: str) -> Address:
    """The address of an archive that answers a search. Raises ArchiveError."""
    address = archive_address.parse(text)
    unattended.ask(replace(address.at(""), filters=(("StudyDate", f"{date.today():%Y%m%d}"),)))
    return address
