"""Images on their way through a model: a row for each as it goes, resumable, shared by ranks."""

# Shapes: B images of a batch
from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mrm
from mrm.data import sampling
from mrm.data.finding_files import record_keys
from mrm.data.records import Records
from mrm.inference import neighbours, predict
from mrm.inference.predict import Computed
from mrm.models import model_folder
from mrm.runs.reading_options import Reading, named_failures
from mrm.system.errors import ImageError, RunError
from mrm.system.files import write_whole
from mrm.system.partial_results import Partial, Row
from mrm.system.progress import Progress
from mrm.training.trainer import processes

KNOWN: dict[str, type] = dict.fromkeys(neighbours.NAMED, str)  # the first columns of every table
NOTES: dict[str, type] = {"warning": str, "error": str}  # the last ones
DECIDING = ("thresholds", "temperatures", "outline_thresholds", "outliers")  # of a card: what results depend on
SHOWN = 5  # warnings of images that are printed; the table has them all


@dataclass(frozen=True)
class Written:
    """What a command has written: where, of how many images, and how many could not be read."""

    out: Path
    n: int
    unreadable: int

    def __str__(self) -> str:
        return f"{self.out}: {self.n:,} images" + (
            f"; {self.unreadable:,} could not be read, see the column error" if self.unreadable else ""
        )


class Work:
    """Images on their way through a model: which there are, which rows are there, and which are to be made."""

    def __init__(
        self,
        what: str,
        model: Any,
        source: Path,
        records: Records,
        out: Path,
        reading: Reading,
        settings: Mapping[str, Any] | None = None,
        width: int = 0,
    ) -> None:
        self.what, self.model, self.records, self.out, self.reading = what, model, records, out, reading
        self.width, self.keys, self.processes = width, record_keys(records), processes()
        self.settings = {
            "command": what,
            "model": model_folder.weights_digest(source),
            "card": _digest(json.dumps([model.card.to_dict()[name] for name in DECIDING])),
            "precision": reading.precision,
            "crop_borders": reading.crop_borders,
            **(settings or {}),
        }
        self.partial = Partial(out, width)
        self.left = self._begin()
        self.shown = 0

    def _begin(self) -> list[int]:
        """The images that are to be done. All processes must agree on them before the first row is written."""
        images, note = _digest("\n".join(self.keys)), self.partial.folder / "images"
        if self.processes.is_main_process:
            self.partial.begin(self.settings)
            write_whole(note, images.encode())
        self.processes.wait_for_everyone()
        if note.read_text() != images:
            raise RunError(f"{self.out}: the images changed while the processes started; start them again")
        there = self.partial.places()
        self.processes.wait_for_everyone()
        if there and self.processes.is_main_process:
            print(f"{self.partial.folder}: goes on after {len(there):,} of {len(self.keys):,} images")
        return [i for i, key in enumerate(self.keys) if key not in there]

    def _mine(self, batch: int) -> list[list[sampling.Sample]]:
        """This process's share of what is left, in batches."""
        cut = [self.left[start : start + batch] for start in range(0, len(self.left), batch)]
        own = cut[self.processes.process_index :: self.processes.num_processes]
        return [[sampling.Sample(0, index) for index in indices] for indices in own]

    def run(
        self, fill: Callable[[list[Row], np.ndarray], object], compute: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Compute this process's images batch by batch; `fill` writes into the rows what the values say."""
        batches, reading = self._mine(self.reading.batch), self.reading
        with Progress(self.what, sum(map(len, batches))) as progress, named_failures(reading):
            for done in predict.compute_over(
                self.model, self.records, compute, iter(batches), reading.workers, reading.precision,
                reading.crop_borders,
            ):  # fmt: skip
                rows = [self._row(i) for i in done.index_B]
                fill(rows, done.values)
                self._add(done, rows)
                progress.add(len(done.index_B) + len(done.skipped))

    def _add(self, done: Computed, rows: list[Row]) -> None:
        """Append a batch's rows, those without an image last; the table puts them in order."""
        by_index = dict(zip(done.index_B.tolist(), rows, strict=True))
        by_index |= {s.index: {**self._row(s.index), "error": s.reason} for s in done.skipped}
        for warned in done.warned:
            by_index[warned.index]["warning"] = warned.reason
        self._show([f"left out {s.reason}" for s in done.skipped] + [w.reason for w in done.warned])
        values = None
        if self.width:
            values = np.full((len(by_index), self.width), np.nan, np.float32)
            values[: len(rows)] = done.values.reshape(len(rows), self.width)
        self.partial.add(self.processes.process_index, [(self.keys[i], row) for i, row in by_index.items()], values)

    def run_singly(self, make: Callable[[int], Row]) -> None:
        """Make this process's rows image by image; an ImageError is the row's error."""
        indices = [sample.index for batch in self._mine(1) for sample in batch]
        with Progress(self.what, len(indices)) as progress:
            for index in progress.over(indices):
                row = self._single_row(index, make)
                messages = [f"left out {row['error']}"] if "error" in row else [row["warning"] or ""]
                self._show([message for message in messages if message])
                self.partial.add(self.processes.process_index, [(self.keys[index], row)])

    def _single_row(self, index: int, make: Callable[[int], Row]) -> Row:
        """The row that `make` gives of an image, with its warnings; or the reason why it cannot be made."""
        row = self._row(index)
        with warnings.catch_warnings(record=True) as caught, named_failures(self.reading):
            warnings.simplefilter("always")
            try:
                row |= make(index)
            except (ImageError, OSError, MemoryError) as error:
                row["error"] = str(error) or "not enough memory"
        row["warning"] = "; ".join(dict.fromkeys(str(w.message) for w in caught)) or None
        return row

    def _row(self, index: int) -> Row:
        record = self.records[index]
        return {"path": record.name, "patient_id": record.patient or None, "study_id": record.study or None}

    def _show(self, messages: Sequence[str]) -> None:
        for message in messages:
            self.shown += 1
            if self.shown <= SHOWN:
                warnings.warn(message, stacklevel=4)
            elif self.shown == SHOWN + 1:
                warnings.warn("further warnings stand in the table alone, columns warning and error", stacklevel=4)

    def finish(self, write: Callable[[Callable[[], Iterator[Row]]], object]) -> Written:
        """Wait for the other processes, write the table, and remove the unfinished one.

        `write` gets a function that goes through all rows. Raises RunError where not one image could be read; the
        table is there then, too.
        """
        self.partial.close(self.processes.process_index)
        if not self.processes.is_main_process:
            return Written(self.out, len(self.keys), 0)
        while not self.partial.whole(self.processes.num_processes):
            time.sleep(0.2)
        write(lambda: self.partial.rows(self.keys))
        errors = [row["error"] for row in self.partial.rows(self.keys) if row.get("error")]
        self.partial.remove()
        if len(errors) == len(self.keys):
            raise RunError(f"none of the {len(errors)} images could be read; first error: {errors[0]}")
        return Written(self.out, len(self.keys), len(errors))

    def with_features(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows with their values in the column feature; none where the image could not be read."""
        for row, values in zip(rows, self.partial.values(self.keys), strict=True):
            yield row if row.get("error") else {**row, "feature": values}

    def facts(self) -> dict[str, Any]:
        """What is to be known of a table: by which model and how it was made."""
        kept = {k: v for k, v in self.settings.items() if k != "card"}
        return {**kept, "model_kind": model_folder.kind_of(self.model), "mrm": mrm.__version__}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
