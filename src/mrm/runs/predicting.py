"""A model put to use on the files that a hospital has: predictions, features, the nearest of them, masks.

Every command here reads what `mrm.data.finding_files` finds, keeps a row for each image as it goes (`mrm.system.partial_results.Partial`), and
writes its table when all are there. The same command again goes on where it was stopped; `torchrun -m mrm predict`
gives each process its share. An image that cannot be read is a row with an error.
"""

# Shapes: N images, B images of a batch, C classes, D features, Q queries, H W pixels
from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

import mrm
from mrm.data import images, masks, sampling
from mrm.data.display import class_colour
from mrm.data.finding_files import record_keys, records_at
from mrm.data.headers import kind_of, load
from mrm.data.records import Record, Records
from mrm.evaluation.classifier_test import load_classifier
from mrm.inference import dicom_seg, neighbours, outlines, predict
from mrm.inference.decisions import DecisionRules
from mrm.inference.predict import Computed, Encoding, Kind
from mrm.models import model_folder
from mrm.models.segmenter import Segmenter, probabilities
from mrm.models.weights import first_line
from mrm.runs.run_folder import results_folder, spare_inputs
from mrm.system.errors import ImageError, MaskError, RunError
from mrm.system.hardware import best_device
from mrm.system.partial_results import Partial, Row, check_suffix, write_by, write_table
from mrm.system.progress import duration
from mrm.system.tables import write_whole
from mrm.training.trainer import processes

KNOWN: dict[str, type] = dict.fromkeys(neighbours.NAMED, str)  # the first columns of every table
NOTES: dict[str, type] = {"warning": str, "error": str}  # the last ones
BESIDE = {".npy": (".csv", ".json"), ".parquet": ()}  # what features are written as, and what is written with them
SHOWN = 5  # warnings of images that are printed; the table has them all


@dataclass(frozen=True)
class Reading:
    """How images are found, read and computed with; the same for every command."""

    images: Path | None = None  # where relative names of lists and tables are
    batch: int = 64
    workers: int | None = None  # processes that read; None: by what this machine has
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    crop_borders: bool = False  # remove burned-in black and white borders first


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


def predict_files(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    reading: Reading = Reading(),
    slide: bool = False,
    dicom_seg: bool = True,
) -> Written:
    """What a model says of images: a classifier's table of findings, or a segmenter's folder of masks."""
    if model_folder.kind_at(model) == "segmenter":
        return predict_masks(model, paths, out, slide, dicom_seg, reading)
    if slide:
        raise RunError(f"{model}: a classifier sees the whole image at once; --slide is for segmenters, leave it out")
    return predict_table(model, paths, out, reading)


# Findings -----------------------------------------------------------------------------------------------


def predict_table(model: Path, paths: Sequence[Path | str], out: Path, reading: Reading = Reading()) -> Written:
    """Probabilities, thresholds and decisions of images, a row each, as CSV, JSON, JSON lines or Parquet.

    Raises RunError for another kind of model or where no image can be read, RecordError for paths and tables that
    cannot be used.
    """
    check_suffix(Path(out))
    network = load_classifier(model).to(device_of(reading))
    rules = DecisionRules.of(network.card, network.config.classes)
    columns = {**KNOWN, **finding_columns(rules), **NOTES}
    if len(columns) < len(KNOWN) + len(finding_columns(rules)) + len(NOTES):
        raise RunError(f"{model}: a class of it has the name of another column; the columns are {', '.join(columns)}")
    records = records_at(paths, reading.images)
    spare_inputs(paths, records, [Path(out)])
    work = Work("predicting", network, model, records, Path(out), reading)
    work.run(partial(add_findings, rules), rules.needed_from(network))
    return work.finish(lambda rows: write_table(Path(out), columns, rows(), work.facts()))


def finding_columns(rules: DecisionRules) -> dict[str, type]:
    """The columns of a classifier's findings: probability; threshold and decision where it has a threshold."""
    columns: dict[str, type] = {}
    for name in rules.classes:
        columns[name] = float
        if name in rules.thresholds:
            columns |= {f"{name} threshold": float, f"{name} decision": int}
    if rules.outliers:
        columns |= {"outlier": float, "abstain": int}
    return columns


def add_findings(rules: DecisionRules, rows: Sequence[Row], values_BK: np.ndarray) -> None:
    """Write into the rows what is decided by the values that `rules.needed_from` computes of each image."""
    decisions = rules.decide(values_BK)
    for number, row in enumerate(rows):
        row |= dict(zip(rules.classes, decisions.probability_BC[number].tolist(), strict=True))
        if decisions.outlier_B is not None and decisions.abstain_B is not None:
            row |= {"outlier": float(decisions.outlier_B[number]), "abstain": int(decisions.abstain_B[number])}
        for name, decision in zip(rules.classes, decisions.decision_BC[number].tolist(), strict=True):
            if name in rules.thresholds:
                row[f"{name} threshold"] = rules.thresholds[name]
            if not math.isnan(decision):
                row[f"{name} decision"] = int(decision)


# Features -----------------------------------------------------------------------------------------------


def embed(
    model: Path, paths: Sequence[Path | str], out: Path, kind: Kind = "pooled", reading: Reading = Reading()
) -> Written:
    """Features of images as NPY, with their names in a CSV and the facts in a JSON beside it, or as Parquet.

    Row i of the array is row i of the CSV; an image that could not be read is NaN (null in Parquet). Raises as
    `predict_table` does.
    """
    suffix = check_suffix(Path(out), list(BESIDE))
    if suffix not in BESIDE:
        raise RunError(f"{out}: features are written as .npy or .parquet; choose another name for --out")
    network = load_encoding(model).to(device_of(reading))
    shape = predict.feature_shape(network, kind)
    compute = predict.feature_function(network, kind)
    settings = {"kind": kind, "shape": list(shape)}
    records = records_at(paths, reading.images)
    spare_inputs(paths, records, [Path(out).with_suffix(s) for s in {suffix, *BESIDE[suffix]}])
    work = Work("embedding", network, model, records, Path(out), reading, settings, int(np.prod(shape)))
    work.run(lambda rows, values: None, compute)
    columns: dict[str, Any] = {**KNOWN, **NOTES}
    if suffix == ".parquet":
        wide = columns | {"feature": work.width}
        return work.finish(lambda rows: write_table(Path(out), wide, work.with_features(rows()), work.facts()))
    return work.finish(lambda rows: _write_npy(work, shape, columns, rows()))


def _write_npy(work: Work, shape: Sequence[int], columns: Mapping[str, type], rows: Iterator[Row]) -> None:
    """The names and facts first, the array last: where it is, the others are."""
    write_table(work.out.with_suffix(".csv"), columns, rows)
    write_whole(work.out.with_suffix(".json"), (json.dumps(work.facts(), indent=2) + "\n").encode())

    def write(temporary: Path) -> None:
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(work.keys), *shape))
        for number, values in enumerate(work.partial.values(work.keys)):
            array[number] = values.reshape(shape)
        array.flush()

    write_by(work.out, write)


def load_encoding(path: Path) -> Encoding:
    """The MRM or classifier at `path`. Raises RunError for another kind of model."""
    model = model_folder.load(path)
    if isinstance(model, Segmenter):
        raise RunError(f"{path}: a segmenter has no features of its own; give the model that it was made from")
    return model


# Neighbours ---------------------------------------------------------------------------------------------


def similar(
    queries: Sequence[Path | str], index: Path, model: Path | None = None, top: int = 5, reading: Reading = Reading()
) -> list[Row]:
    """The images of an index nearest to each query by the cosine of their pooled features, exactly, best first.

    A query is a row of the index, by its path there, or an image (then `model` must be the one that made the index).
    Rows have `query, rank, cosine, path, patient_id, study_id`; a row of the index does not find itself. Raises RunError for
    another model, an index that is none, or a query that cannot be read.
    """
    if top < 1:
        raise RunError(f"--top must be at least 1, not {top}")
    found = neighbours.read_index(Path(index))
    at = {row["path"]: number for number, row in reversed(list(enumerate(found.rows)))}
    own = [at.get(str(query)) for query in queries]
    images = [query for query, number in zip(queries, own, strict=True) if number is None]
    features_QD, names, own_Q = _query_features(found, own, queries, images, model, reading)
    cosine_QT, row_QT = neighbours.nearest(features_QD, found.blocks(), top, own_Q)
    answers = []
    for name, cosine_T, row_T in zip(names, cosine_QT, row_QT, strict=True):
        for rank, (cosine, number) in enumerate(zip(cosine_T, row_T, strict=True), 1):
            if number >= 0:
                known = {k: found.rows[number][k] for k in KNOWN}
                answers.append({"query": name, "rank": rank, "cosine": round(float(cosine), 6), **known})
    return answers


SIMILAR: dict[str, type] = {"query": str, "rank": int, "cosine": float, **KNOWN}


def _query_features(
    index: neighbours.Index,
    own: Sequence[int | None],
    queries: Sequence[Path | str],
    images: Sequence[Path | str],
    model: Path | None,
    reading: Reading,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Features (Q, D) of the queries, how each is called, and its row of the index or -1."""
    names = [str(query) for query, number in zip(queries, own, strict=True) if number is not None]
    rows = [number for number in own if number is not None]
    features = neighbours.take(index, rows)
    if images:
        if model is None:
            raise RunError(f"{images[0]}: no row of {index.path}; to look for an image, give its --model too")
        network = load_encoding(model)
        if weights_of(model) != index.facts["model"]:
            raise RunError(
                f"{index.path}: made by another model than {model}; features of two models cannot be compared"
            )
        records = records_at(images, reading.images)
        for key, now in (("precision", reading.precision), ("crop_borders", reading.crop_borders)):
            if index.facts[key] != now:
                raise RunError(f"{index.path}: made with {key} {index.facts[key]!r}, so give the same, not {now!r}")
        new_QD, unreadable = predict.features(
            network.to(device_of(reading)), records, "pooled", reading.batch, 0 if len(records) < 8 else reading.workers,
            reading.precision, reading.crop_borders,
        )  # fmt: skip
        if unreadable:
            raise RunError(next(iter(unreadable.values())))
        features = np.concatenate([features, new_QD.astype(np.float32)])
        names += [r.name for r in records]
    own_Q = np.array([*rows, *[-1] * (len(names) - len(rows))])
    return features, names, own_Q


# Masks --------------------------------------------------------------------------------------------------


def predict_masks(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    slide: bool = False,
    dicom: bool = True,
    reading: Reading = Reading(),
) -> Written:
    """Write NAME.png for each image: class numbers at its own size, in colours; for DICOM also NAME.seg.dcm.

    `masks.csv` in the same folder has a row for each image, with the share of it that each class covers. Raises
    RunError for another kind of model, names that collide, or where no image could be outlined; MaskError where
    DICOM Segmentations are wanted but highdicom is not there.
    """
    if reading.crop_borders:
        raise RunError("a mask is of the whole image, so --crop-borders is for classifiers; leave it out")
    records = records_at(paths, reading.images, Path(out))
    names = mask_names(records)
    spare_inputs(paths, records, [Path(out) / f"{n}{end}" for n in names for end in (".png", ".seg.dcm")])
    if dicom and any(is_dicom(r) for r in records):
        dicom_seg.require_highdicom()
    network = outlines.load_segmenter(model).to(device_of(reading))
    classes = network.config.classes
    thresholds = outlines.read_thresholds(network.card, classes)
    work = Work(
        "outlining", network, model, records, results_folder(Path(out)), reading, {"slide": slide, "dicom_seg": dicom}
    )

    def outline(record: Record, name: str) -> Row:
        image_HW = images.read(record.image)
        with autocast(network, reading):
            mask_HW = outlines.outline(probabilities(network, image_HW, slide), thresholds)
        write_by(work.out / f"{name}.png", partial(write_mask, mask_HW))
        if dicom and isinstance(record.image, Path) and is_dicom(record):
            version = str(network.card.origin.get("versions", {}).get("mrm", "unknown"))
            try:
                dicom_seg.write(work.out / f"{name}.seg.dcm", record.image, mask_HW, classes, version)
            except MaskError as error:  # the mask is there, and is worth keeping
                warnings.warn(str(error), stacklevel=1)
        areas = {f"{c} area": float((mask_HW == k).mean()) for k, c in enumerate(classes, 1)}
        return {"mask": f"{name}.png", **areas}

    work.run_singly(lambda index: outline(records[index], names[index]))
    columns = {**KNOWN, "mask": str, **{f"{c} area": float for c in classes}, **NOTES}
    return work.finish(lambda rows: write_table(work.out / "masks.csv", columns, rows()))


def mask_names(records: Records) -> list[str]:
    """How each image's mask is called: its file's name without ending. Raises RunError where two have one."""
    found: dict[str, str] = {}
    for record in records:
        name = masks.stem(Path(record.name).name)
        if name in found:
            raise RunError(
                f"{record.name} and {found[name]} would both be written as {name}.png; predict them one by one"
            )
        found[name] = record.name
    return list(found)


def is_dicom(record: Record) -> bool:
    """Whether a record's image is a DICOM file, by its first bytes."""
    try:
        return isinstance(record.image, Path) and kind_of(load(record.image, 1024), record.name) == "dicom"
    except ImageError:
        return False


def write_mask(mask_HW: np.ndarray, path: Path) -> None:
    """Class numbers as a PNG with a palette, so that a viewer shows colours and `mrm.data.masks` reads the numbers."""
    image = Image.fromarray(mask_HW, mode="P")
    colours = [(0, 0, 0), *(class_colour(number) for number in range(1, 256))]
    image.putpalette([value for colour in colours for value in colour])
    image.save(path, format="PNG")


# What they share ----------------------------------------------------------------------------------------


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
            "model": weights_of(source),
            "card": _digest(json.dumps([model.card.thresholds, model.card.temperatures, model.card.embedding])),
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
        wanted, reading = self._mine(self.reading.batch), self.reading
        progress = Progress(self.what, sum(map(len, wanted)))
        with named_failures(reading):
            for done in predict.compute_over(
                self.model, self.records, compute, iter(wanted), reading.workers, reading.precision,
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
        wanted = [sample.index for batch in self._mine(1) for sample in batch]
        progress = Progress(self.what, len(wanted))
        for index in wanted:
            row = self._row(index)
            with warnings.catch_warnings(record=True) as caught, named_failures(self.reading):
                warnings.simplefilter("always")
                try:
                    row |= make(index)
                except (ImageError, OSError, MemoryError) as error:
                    row["error"] = str(error) or "not enough memory"
            row["warning"] = "; ".join(dict.fromkeys(str(w.message) for w in caught)) or None
            self._show([f"left out {row['error']}"] if "error" in row else [row["warning"]] if row["warning"] else [])
            self.partial.add(self.processes.process_index, [(self.keys[index], row)])
            progress.add(1)

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
            raise RunError(f"not one of {len(errors)} images could be read; the first: {errors[0]}")
        return Written(self.out, len(self.keys), len(errors))

    def with_features(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows with their values in the column feature; none where the image could not be read."""
        for row, values in zip(rows, self.partial.values(self.keys), strict=True):
            yield row if row.get("error") else {**row, "feature": values}

    def facts(self) -> dict[str, Any]:
        """What is to be known of a table: by which model and how it was made."""
        kept = {k: v for k, v in self.settings.items() if k != "card"}
        return {**kept, "model_kind": model_folder.kind_of(self.model), "mrm": mrm.__version__}


class Progress:
    """Images done, their rate and the time left: in place on a terminal, a line a minute elsewhere."""

    def __init__(self, what: str, n: int) -> None:
        self.what, self.n, self.done = what, n, 0
        self.start = self.last = time.perf_counter()

    def add(self, count: int) -> None:
        """Count images as done, and say so now and then."""
        self.done += count
        now, terminal = time.perf_counter(), sys.stderr.isatty()
        if not (terminal and self.done == self.n) and now - self.last < (0.5 if terminal else 60):
            return
        self.last = now
        rate = self.done / (now - self.start)
        text = f"{self.what}: {self.done:,} of {self.n:,}, {rate:.1f} images/s, {duration((self.n - self.done) / rate)} left"
        end = "\n" if self.done == self.n or not terminal else ""
        print(f"\r{text}  " if terminal else text, end=end, file=sys.stderr, flush=True)


def device_of(reading: Reading) -> torch.device:
    """The device asked for; of several processes each has its own. Raises RunError for one that is not there."""
    if reading.batch < 1 or (reading.workers or 0) < 0:
        raise RunError(f"--batch must be at least 1 and --workers 0 or more, not {reading.batch}, {reading.workers}")
    if reading.device == "auto":
        return processes().device if processes().num_processes > 1 else best_device()
    try:
        device = torch.device(reading.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"--device {reading.device} is not there ({first_line(error)}); cpu always is") from error
    return device


def autocast(model: torch.nn.Module, reading: Reading) -> torch.autocast:
    """The precision asked for, on the model's device."""
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16, enabled=reading.precision == "bf16")


@contextmanager
def named_failures(reading: Reading) -> Iterator[None]:
    """What a machine is too small for, as a RunError that says what to do; the rows so far are kept."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"no memory on the device for {reading.batch} images at once; give a smaller --batch") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a process that reads images died ({first_line(error)}); with --workers 0 and --batch 1 the last "
            "row written shows before which image; the same command goes on from there"
        ) from error


def weights_of(path: Path) -> str:
    """Sixteen hex digits that change with any weight of the model at `path`."""
    file = Path(path) if Path(path).is_file() else model_folder.find_model(Path(path)) / "model.safetensors"
    digest = hashlib.blake2b(digest_size=8)
    with open(file, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
