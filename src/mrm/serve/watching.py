"""New studies in an archive: the service reads each once it is complete, and stores a report of its frontal images in it.

    search every few seconds -> a study that no longer grows -> headers, images one by one -> the model -> report -> the archive

Requests of people come first: the watch is admitted like one more request, holds one image at a time, and waits while the
service is busy. It remembers nothing on a disk: whether a study has its report is asked of the archive, by the identifier that
follows from its images and the model. So it may be stopped at any moment, and no report is stored twice.
"""

# Shapes: K values of an image
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mrm.data import archive_address
from mrm.data.archive import STUDY_COUNT, STUDY_UID, Archive, ArchivedImage, Found, connected, value_of
from mrm.data.archive_address import Address
from mrm.data.archived_images import Search
from mrm.inference import dicom_sr
from mrm.inference.dicom_objects import Origin
from mrm.inference.studies import Pool
from mrm.serve import unattended, uploads
from mrm.serve.admission import Refused, Reservation
from mrm.serve.unattended import Service
from mrm.system.errors import ArchiveError, ConfigError, ImageError, LostArchiveError, UnreachableError

if TYPE_CHECKING:
    import pydicom

    from mrm.serve.models import Models

T = TypeVar("T")
DAYS = 1  # without a filter by StudyDate, studies of today and of so many days before it are watched


@dataclass
class Watch:
    """The watch over an archive: what it looks for, by which model, and what it has done since the start."""

    address: Address
    seconds: float  # between two searches; a study is complete when it has not grown from one to the next
    origin: Origin
    pool: Pool
    stored: int = 0
    failures: int = 0
    counts: dict[str, str] = field(default_factory=dict)  # images of each study at the last search
    done: dict[str, str] = field(default_factory=dict)  # the same, when the study was finished

    @classmethod
    def of(cls, address: str, seconds: float, models: Models) -> Watch:
        """The watch of a service, after one search, so that a wrong address or password is known at the start.

        Raises ArchiveError, ConfigError, MaskError.
        """
        pool = unattended.pool_of(models, "--watch")
        if not 1e-3 <= seconds < 1e6:
            raise ConfigError(f"--watch-seconds must be a number above 0, not {seconds}")
        watch = cls(archive_address.parse(address), seconds, models.origin, pool)
        unattended.ask(watch.now())
        return watch

    @property
    def settings(self) -> str:
        """How answers are computed, as reports say it."""
        return unattended.settings_of(self.pool)

    def now(self) -> Address:
        """What is searched: the address, without a StudyDate from yesterday on."""
        if self.address.study or any(name == "StudyDate" for name, _ in self.address.filters):
            return self.address
        first = date.today() - timedelta(days=DAYS)
        return replace(self.address, filters=(*self.address.filters, ("StudyDate", f"{first:%Y%m%d}-")))

    async def run(self, state: Service) -> None:
        """Watch until cancelled. Nothing that an archive does ends the watch."""
        threads = ThreadPoolExecutor(1, thread_name_prefix="mrm-archive")  # a connection belongs to one thread
        try:
            while True:
                try:
                    await _Round(self, state, threads).run()
                except (ArchiveError, ImageError) as error:
                    self._failed(state, error)
                except Exception as error:  # a fault costs this round, and is logged without its message
                    self.failures += 1
                    state.log.failure(error)
                await asyncio.sleep(self.seconds)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _failed(self, state: Service, error: Exception) -> None:
        """Log a failure without the identifiers in its message."""
        self.failures += 1
        state.log.write(f"warning: watch: {unattended.anonymous(error)}")


@dataclass
class _Round:
    """One search, and the studies that it finds complete."""

    watch: Watch
    state: Service
    threads: ThreadPoolExecutor

    async def run(self) -> None:
        watch = self.watch
        studies = await self._in_thread(lambda: list(Archive(watch.now()).studies()))
        before, watch.counts = watch.counts, {value_of(s, STUDY_UID): value_of(s, STUDY_COUNT) for s in studies}
        watch.done = {uid: count for uid, count in watch.done.items() if uid in watch.counts}
        for study in studies:
            uid = value_of(study, STUDY_UID)
            count = watch.counts[uid]
            if before.get(uid) != count or watch.done.get(uid) == count:
                continue  # it still grows, or is finished
            try:
                await self._study(study)
                watch.done[uid] = count
            except (LostArchiveError, ArchiveError):
                raise
            except UnreachableError as error:  # tried again in the next round
                watch._failed(self.state, error)
            except ImageError as error:  # deleted meanwhile, or without identifiers
                watch.done[uid] = count
                watch._failed(self.state, error)

    async def _study(self, study: Found) -> None:
        """Store the report of a study, unless it has no frontal radiograph, or the archive has the report."""
        watch = self.watch
        found = await self._in_thread(lambda: [record.image for record in Search(watch.now()).of_study(study)])
        images = [image for image in found if isinstance(image, ArchivedImage)][: unattended.MOST_IMAGES]
        headers = [await self._in_thread(image.header) for image in images]
        used = [number for number, header in enumerate(headers) if unattended.is_frontal(header)]
        if not used:
            return
        sources = [headers[number] for number in used]
        if await self._holds(sources):
            return
        read, values, said, unreadable = [], [], list[str](), list[str]()
        for number in used:
            try:
                values_K, warnings = await self._values(images[number])
            except Refused as error:
                unreadable.append(f"an image is left out: {error.reason}")
                continue
            said += warnings
            if values_K is not None:
                read.append(headers[number])
                values.append(values_K)
        if not read and not unreadable:
            return  # all look lateral
        if not read:
            raise ImageError(f"{watch.address}: no image of a study can be read: {unreadable[0]}")
        said += unreadable
        await self._report(read, np.stack(values), said)

    async def _holds(self, sources: Sequence[pydicom.Dataset]) -> bool:
        uid = dicom_sr.identifier(self.watch.origin, self.watch.settings, sources)
        study = str(sources[0].StudyInstanceUID)
        return await self._in_thread(lambda: connected(self.watch.address).holds(study, uid))

    async def _values(self, image: ArchivedImage) -> tuple[np.ndarray | None, list[str]]:
        """What the model computes of an image, and warnings; None, and the reason, for one that looks lateral.

        Raises Refused for one that cannot be read.
        """
        state, limits = self.state, self.state.limits

        async def read(reservation: Reservation) -> tuple[np.ndarray | None, list[str]]:
            data = await self._in_thread(image.read_bytes)
            if len(data) > limits.body_bytes:
                raise Refused(413, f"{len(data):,} bytes are more than this service accepts")
            reservation.add(len(data))
            how = state.models.eval_view, state.views.unattended
            upload = await state.in_decoder(uploads.decode, data, limits, *how)
            if upload.left_out:
                return None, [f"an image {upload.left_out}"]
            return await state.classify(upload.image_HW), upload.warnings

        return await unattended.admitted(state, "archive", read)

    async def _report(self, sources: Sequence[pydicom.Dataset], values_NK: np.ndarray, said: Sequence[str]) -> None:
        watch, models = self.watch, self.state.models

        def store() -> bool:
            made = unattended.report(models, sources, values_NK, said, watch.pool)
            return connected(watch.address).store(made)

        if await self._in_thread(store):
            watch.stored += 1

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
