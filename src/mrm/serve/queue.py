"""The one thread that runs the models, and the line of jobs before it; images of one line go in batches."""

# Shapes: B images, K values of each, H W pixels
from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """Something for the model: an image to classify, together with others, or work of its own."""

    image_HW: np.ndarray | None = None
    work: Callable[[], Any] | None = None
    future: Future = field(default_factory=Future)


class Worker:
    """A thread for the models, which are never used by two at once.

    `classify` takes images (B, H, W) uint8 to values (B, K). Jobs are done in their order; images that follow each
    other go together, up to `batch`, and the first of them waits up to `wait` seconds for the others.
    """

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], batch: int, wait: float) -> None:
        self._classify, self._batch, self._wait = classify, batch, wait
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self.batches = self.images = 0
        self._thread = threading.Thread(target=self._loop, name="mrm-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    async def values(self, image_HW: np.ndarray) -> np.ndarray:
        """What `classify` gives (K,) of an image at the model's size."""
        return await self._do(Job(image_HW=image_HW))

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, called in the model's thread."""
        return await self._do(Job(work=work))

    async def _do(self, job: Job) -> Any:
        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        try:
            return await asyncio.wrap_future(job.future)
        finally:  # of a request that has run out of time nothing stays behind
            with self._ready:
                if job in self._jobs:
                    self._jobs.remove(job)

    def close(self) -> None:
        """Finish what waits, and stop."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _loop(self) -> None:
        while jobs := self._next():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                for job, result in zip(live, self._results(live), strict=True):
                    job.future.set_result(result)
            except BaseException as error:  # whatever it is, it belongs to those who asked, and the thread lives on
                for job in live:
                    job.future.set_exception(error)
            del jobs, live  # images are not held while waiting for the next

    def _results(self, jobs: list[Job]) -> list[Any]:
        if jobs[0].work is not None:
            return [jobs[0].work()]
        images_BHW = np.stack([job.image_HW for job in jobs if job.image_HW is not None])
        self.batches += 1
        self.images += len(jobs)
        return list(self._classify(images_BHW))

    def _next(self) -> list[Job]:
        """The next job, or the images that make the next batch; nothing when closed."""
        with self._ready:
            while True:
                self._ready.wait_for(lambda: self._jobs or self._closed)
                if self._jobs and self._jobs[0].work is None:
                    self._ready.wait_for(lambda: len(self._jobs) >= self._batch or self._closed, self._wait)
                if self._jobs or self._closed:
                    break  # else the only one has run out of time meanwhile
            taken: list[Job] = []
            while self._jobs and len(taken) < self._batch:
                alone = self._jobs[0].work is not None
                if taken and alone:
                    break
                taken.append(self._jobs.popleft())
                if alone:
                    break
            return taken


class Readers:
    """A few threads that decode images. Nothing waits inside the pool, so what is given up leaves no bytes there."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="mrm-reader")
        self._free = asyncio.Semaphore(count)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, called in a reader's thread."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future = self._pool.submit(work)
        # Freed when the thread is, which may be after the request has run out of time.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Stop when what is being decoded is done."""
        self._pool.shutdown()
