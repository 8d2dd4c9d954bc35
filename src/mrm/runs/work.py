"""The loop of the commands that make one table of many images: a row for each image, resumable, in shares."""

# Shapes: B images of a batch
from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mrm
from mrm.data import sampling
from mrm.data.finding_files import record_keys
from mrm.data.reach import Reach
from mrm.data.records import Records
from mrm.inference import predict
from mrm.inference.predict import Computed
from mrm.inference.prediction_table import known_row
from mrm.models import model_folder
from mrm.runs.first_rank import wait_for
from mrm.runs.reading_options import Reading, named_failures
from mrm.runs.written import Written
from mrm.system.caught_warnings import caught_warnings
from mrm.system.errors import ImageError, RunError, UnreachableError
from mrm.system.partial_results import AGAIN, Partial, Row
from mrm.system.progress import Progress
from mrm.system.shares import WHOLE
from mrm.training.trainer import processes

VIEW = "view"  # kept with a row, though no column of the table
NO_HEADERS: Mapping[int, Mapping[str, str]] = {}
SHOWN = 5  # warnings about images that are printed; the table has all of them


class Work:
    """The images of a command: those that an earlier run of it has done, and those still to do.

    `settings` are recorded with the rows, so that other settings do not resume them; `width` is the number of values
    that are kept for each image beside its row.
    """

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
        self.width, self.keys, self.ranks = width, record_keys(records), processes()
        self.share = reading.share.among(self.ranks.process_index, self.ranks.num_processes)
        self.settings = {
            "command": what,
            "model": model_folder.weights_digest(source),
            "card": model.card.digest(),
            "precision": reading.precision,
            "crop_borders": reading.crop_borders,
            **(settings or {}),
        }
        self.partial = Partial(out, width, self.share)
        self.left = self._begin()
        self.shown = 0

    def _begin(self) -> set[int]:
        """The indices of the images still to do, of all shares. Raises OutputError as `Partial.begin` does."""
        images, first = _digest("\n".join(self.keys)), self.ranks.is_main_process
        if first:
            self.partial.begin(self.settings, images, other_keys=self.reading.share == WHOLE)
        self.ranks.wait_for_everyone()
        if not first:
            wait_for(self.partial.begun, self.partial.begun)
            self.partial.begin(self.settings, images, other_keys=False)
        done = self.partial.done()
        if done and first:
            print(f"{self.partial.folder}: resuming from image {len(done):,}/{len(self.keys):,}")
        return {i for i, key in enumerate(self.keys) if key not in done}

    def _mine(self, batch: int) -> list[list[sampling.Sample]]:
        """This share's images still to do, in batches.

        Batches are those of the whole list, so that an image is computed beside the same others whoever does it, and its
        values are the same to the last bit.
        """
        starts = range(0, len(self.keys), batch)
        ranges = [
            range(start, min(start + batch, len(self.keys))) for n, start in enumerate(starts) if self.share.has(n)
        ]
        batches = [[sampling.Sample(0, i) for i in indices if i in self.left] for indices in ranges]
        return [samples for samples in batches if samples]

    def run(
        self,
        fill: Callable[[list[Row], np.ndarray], object],
        compute: Callable[[torch.Tensor], torch.Tensor],
        deliver: Callable[[Row, int], str] | None = None,
    ) -> None:
        """Compute this share's images batch by batch; `fill` gets a batch's rows and values, and completes the rows.

        `deliver` gets each row and the number of its image before the row counts as done, and returns a warning or nothing.
        """
        batches, reading = self._mine(self.reading.batch), self.reading
        with Progress(self.what, sum(map(len, batches))) as progress, named_failures(reading):
            options = reading.workers, reading.precision, reading.crop_borders
            for computed in predict.compute_over(self.model, self.records, compute, iter(batches), *options):
                rows = [self._row(i, computed.identities) for i in computed.index_B.tolist()]
                fill(rows, computed.values)
                self._add(computed, rows, deliver)
                progress.add(len(computed.index_B) + len(computed.skipped))

    def _add(self, computed: Computed, rows: list[Row], deliver: Callable[[Row, int], str] | None = None) -> None:
        """Append a batch's rows, those of unreadable images last; the table puts them in order."""
        by_index = dict(zip(computed.index_B.tolist(), rows, strict=True))
        for s in computed.skipped:
            by_index[s.index] = {
                **self._row(s.index, computed.identities),
                "error": s.reason,
                **({AGAIN: True} if s.again else {}),
            }
        for warned in computed.warned:
            by_index[warned.index]["warning"] = warned.reason
        self._show([f"left out {s.reason}" for s in computed.skipped] + [w.reason for w in computed.warned])
        if deliver:
            self._deliver(by_index, computed.identities, deliver)
        values = None
        if self.width:
            values = np.full((len(by_index), self.width), np.nan, np.float32)
            values[: len(rows)] = computed.values.reshape(len(rows), self.width)
        self.partial.add([(self.keys[i], row) for i, row in by_index.items()], values)

    def _deliver(
        self,
        by_index: dict[int, Row],
        identities: Mapping[int, Mapping[str, str]],
        deliver: Callable[[Row, int], str],
    ) -> None:
        """Deliver the rows of images that could be read; what `deliver` returns becomes a warning.

        A row that could not be delivered because something was out of reach is tried again by the same command.
        """
        for index, row in list(by_index.items()):
            if "error" in row:
                continue
            try:
                reason = deliver(row, index)
            except UnreachableError as error:
                by_index[index] = {**self._row(index, identities), "error": str(error), AGAIN: True}
                self._show([str(error)])
                continue
            if reason:
                row["warning"] = "; ".join(filter(None, [row.get("warning"), reason]))
                self._show([reason])

    def run_singly(self, make: Callable[[int], tuple[dict[str, str], Row]]) -> None:
        """Make this share's rows image by image; an ImageError becomes the row's error.

        `make` returns what the header says of patient and study, and the rest of the row.
        """
        indices = [sample.index for batch in self._mine(1) for sample in batch]
        reach = Reach(self.records)
        with Progress(self.what, len(indices)) as progress:
            for index in progress.over(indices):
                row = self._single_row(index, make)
                messages = [f"left out {row['error']}"] if "error" in row else [row["warning"] or ""]
                self._show([message for message in messages if message])
                self.partial.add([(self.keys[index], row)])
                reach.miss(row["error"]) if AGAIN in row else reach.reached()

    def _single_row(self, index: int, make: Callable[[int], tuple[dict[str, str], Row]]) -> Row:
        """The row that `make` returns for an image, with the warnings; or the reason why there is none."""
        row = self._row(index)
        with caught_warnings() as caught, named_failures(self.reading):
            try:
                identity, made = make(index)
                row = {**self._row(index, {index: identity}), **made}
            except (ImageError, OSError, MemoryError) as error:
                row["error"] = str(error) or "not enough memory"
                if isinstance(error, UnreachableError | OSError):
                    row[AGAIN] = True
        row["warning"] = "; ".join(caught) or None
        return row

    def _row(self, index: int, identities: Mapping[int, Mapping[str, str]] = NO_HEADERS) -> Row:
        record, header = self.records[index], identities.get(index, {})
        view = record.view or header.get("view", "")
        return known_row(record.name, record, header) | ({VIEW: view} if view else {})

    def _show(self, messages: Sequence[str]) -> None:
        for message in messages:
            self.shown += 1
            if self.shown <= SHOWN:
                warnings.warn(message, stacklevel=4)
            elif self.shown == SHOWN + 1:
                warnings.warn("further warnings are only in the table, in the columns warning and error", stacklevel=4)

    def finish(self, write: Callable[[Callable[[], Iterator[Row]]], object]) -> Written:
        """If all images are done, by this share or by others, write the table and remove the partial results.

        They stay where images could not be reached, so that the same command tries these alone again. `write` gets a
        function that iterates over all rows. Raises RunError if no image could be read, UnreachableError if none could
        be reached; the table is written then, too.
        """
        with self.partial.merging() as pending:
            if not pending:
                return Written(self.out, len(self.keys), 0, share=self.share, written=False)
            there = self.partial.places()
            if left := sum(key not in there for key in self.keys):
                shares = tuple(self.partial.shares())
                return Written(self.out, len(self.keys), 0, share=self.share, written=False, left=left, shares=shares)
            write(lambda: self.partial.rows(self.keys))
            failed = [row for row in self.partial.rows(self.keys) if row.get("error")]
            again = sum(AGAIN in row for row in failed)
            self.partial.keep() if again else self.partial.remove()
        if len(failed) == len(self.keys):
            kind = UnreachableError if again else RunError
            raise kind(f"none of the {len(failed)} images could be read; first error: {failed[0]['error']}")
        return Written(self.out, len(self.keys), len(failed), again)

    def values(self) -> Iterator[np.ndarray]:
        """The values of every image, NaN for one that could not be read."""
        return self.partial.values(self.keys)

    def with_features(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows with their values in the column feature, which is absent where the image could not be read."""
        for row, values in zip(rows, self.partial.values(self.keys), strict=True):
            yield row if row.get("error") else {**row, "feature": values}

    def facts(self) -> dict[str, Any]:
        """Which model made the table, and with which settings."""
        settings = {k: v for k, v in self.settings.items() if k != "card"}
        return {**settings, "model_kind": model_folder.kind_of(self.model), "mrm": mrm.__version__}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
