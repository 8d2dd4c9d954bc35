"""The thread that runs the models, batching images that wait together."""

# Shapes: B images, K values of each, H W pixels
from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """Work for the model: an image to classify together with others, or a function to call alone."""

    image_HW: np.ndarray | None = None
    work: Callable[[], Any] | None = None
    future: Future = field(default_factory=Future)


class ModelWorker:
    """The one thread that runs the models, so that no model is used twice at the same time.

    `classify` takes images (B, H, W) uint8 and returns values (B, K). Jobs are done in order. Consecutive images form a
    batch of at most `batch_size`; the first of them waits at most `batch_wait` seconds for the others.
    """

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], batch_size: int, batch_wait: float) -> None:
        self._classify, self._batch_size, self._batch_wait = classify, batch_size, batch_wait
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self.batches = self.images = 0
        self._thread = threading.Thread(target=self._loop, name="mrm-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """The number of waiting jobs."""
        return len(self._jobs)

    async def classify(self, image_HW: np.ndarray) -> np.ndarray:
        """The values (K,) that `classify` returns for an image at the model's size."""
        return await self._do(Job(image_HW=image_HW))

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, called in the model's thread."""
        return await self._do(Job(work=work))

    async def _do(self, job: Job) -> Any:
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        try:
            return await asyncio.wrap_future(job.future)
        finally:  # a request that has timed out leaves no job behind
            with self._ready:
                if job in self._jobs:
                    self._jobs.remove(job)

    def close(self) -> None:
        """Finish the waiting jobs, then stop."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _loop(self) -> None:
        while jobs := self._next_jobs():
            live_jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if live_jobs:
                self._finish(live_jobs)
            del jobs, live_jobs  # do not keep images in memory while waiting for the next

    def _finish(self, jobs: list[Job]) -> None:
        try:
            for job, result in zip(jobs, self._results(jobs), strict=True):
                job.future.set_result(result)
        except BaseException as error:  # any error belongs to the requests, and this thread lives on
            for job in jobs:
                job.future.set_exception(error)

    def _results(self, jobs: list[Job]) -> list[Any]:
        if jobs[0].work is not None:
            return [jobs[0].work()]
        images_BHW = np.stack([job.image_HW for job in jobs if job.image_HW is not None])
        self.batches += 1
        self.images += len(jobs)
        return list(self._classify(images_BHW))

    def _next_jobs(self) -> list[Job]:
        """The next job, or the images that form the next batch; an empty list once closed."""
        with self._ready:
            while True:
                self._ready.wait_for(lambda: self._jobs or self._closed)
                if self._jobs and self._jobs[0].work is None:
                    self._ready.wait_for(lambda: len(self._jobs) >= self._batch_size or self._closed, self._batch_wait)
                if self._jobs or self._closed:
                    return self._take_jobs()
                # The only job has timed out while it waited for others to form a batch.

    def _take_jobs(self) -> list[Job]:
        if self._jobs and self._jobs[0].work is not None:
            return [self._jobs.popleft()]
        batch: list[Job] = []
        while self._jobs and self._jobs[0].work is None and len(batch) < self._batch_size:
            batch.append(self._jobs.popleft())
        return batch
