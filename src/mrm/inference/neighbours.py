"""The images of an index nearest to others, by the cosine of their features: exact, block by block.

An index is what `mrm embed` writes: features (N, D) as NPY, with the names in a CSV and the facts in a JSON beside it,
or all of it as Parquet.
"""

# Shapes: N rows of an index, Q queries, D features, T nearest
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from mrm.system.errors import MRMError, RecordError
from mrm.system.files import parse_json, read_json
from mrm.system.partial_results import Row
from mrm.system.tables import open_parquet, read_csv_rows

NAMED = ("path", "patient_id", "study_id", "accession", "date")  # columns that identify each row
BLOCK = 16_384  # rows of an index that are compared at a time


@dataclass(frozen=True)
class Index:
    """Features (N, D) on disk, with the names of the images and the facts of the model that computed them."""

    path: Path
    rows: list[Row]
    facts: dict[str, Any]

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """The features, some rows at a time, float32; NaN where the image could not be read. Raises RecordError."""
        try:
            yield from self._blocks(size)
        except (LookupError, OSError, TypeError, ValueError, pyarrow.ArrowException) as error:
            raise RecordError(f"{self.path}: its features cannot be read ({error}); run `mrm embed` again") from error

    def _blocks(self, size: int) -> Iterator[np.ndarray]:
        if self.path.suffix == ".npy":
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            for start in range(0, len(array), size):
                yield np.array(array[start : start + size])
            return
        for chunk in pyarrow.parquet.ParquetFile(self.path).iter_batches(size, columns=["feature"]):
            column = chunk.column("feature")
            block = np.full((len(column), self.facts["shape"][-1]), np.nan, np.float32)
            read = np.asarray(column.is_valid())
            block[read] = column.drop_null().flatten().to_numpy().reshape(read.sum(), -1)
            yield block


def take(index: Index, rows: Sequence[int]) -> np.ndarray:
    """The features of some rows. Raises RecordError where one could not be read."""
    taken = np.zeros((len(rows), index.facts["shape"][-1]), np.float32)
    start = 0
    for block in index.blocks():
        for place, number in enumerate(rows):
            if start <= number < start + len(block):
                taken[place] = block[number - start]
        start += len(block)
    for place, number in enumerate(rows):
        if np.isnan(taken[place]).any():
            raise RecordError(
                f"{index.path}: {index.rows[number]['path']} has no features, since its image could not be read"
            )
    return taken


def nearest(
    queries_QD: np.ndarray, blocks: Iterator[np.ndarray], top: int, own_Q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (Q, top) and row numbers (Q, top) of the nearest rows, best first; row -1 where there are no more.

    Rows with NaN are left out, and of each query the row `own_Q` (-1 = none). Equal cosines keep the order of rows.
    """
    queries_QD = _unit(queries_QD)
    best_QT = np.full((len(queries_QD), top), -np.inf, np.float32)
    row_QT = np.full((len(queries_QD), top), -1)
    start = 0
    for block_ND in blocks:
        cosine_QN = queries_QD @ _unit(block_ND).T
        cosine_QN[:, np.isnan(block_ND).any(axis=1)] = -np.inf
        inside = (own_Q >= start) & (own_Q < start + len(block_ND))
        cosine_QN[inside, own_Q[inside] - start] = -np.inf
        both = np.concatenate([best_QT, cosine_QN], axis=1)
        numbers = np.concatenate([row_QT, np.broadcast_to(np.arange(start, start + len(block_ND)), cosine_QN.shape)], 1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :top]
        best_QT, row_QT = np.take_along_axis(both, order, 1), np.take_along_axis(numbers, order, 1)
        start += len(block_ND)
    return best_QT, np.where(np.isneginf(best_QT), -1, row_QT)


def _unit(features_ND: np.ndarray) -> np.ndarray:
    length_N = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return np.nan_to_num(features_ND / np.where(length_N > 0, length_N, 1))


def _check_feature(kind: Any, shape: Sequence[int]) -> None:
    """Raises ValueError unless a feature is a list of as many numbers as the facts of the index say."""
    if not pyarrow.types.is_fixed_size_list(kind) or [kind.list_size] != list(shape)[-1:]:
        raise ValueError(f"features of type {kind}, but of shape {shape} by its facts")


def read_index(path: Path) -> Index:
    """An index that `embed` wrote. Raises RecordError for another file, or for features of patches."""
    try:
        if path.suffix == ".parquet":
            file = open_parquet(path, path.stat().st_size, lists=["feature"])
            facts = parse_json((file.schema_arrow.metadata or {})[b"mrm"])
            _check_feature(file.schema_arrow.field("feature").type, facts["shape"])
            rows = file.read(columns=list(NAMED)).to_pylist()
        elif path.suffix == ".npy":
            facts = read_json(path.with_suffix(".json"))
            header, lines = read_csv_rows(path.with_suffix(".csv"))
            rows = [dict(zip(header, fields, strict=True)) for _, fields in lines]
            if len(rows) != len(np.load(path, mmap_mode="r", allow_pickle=False)):
                raise RecordError(f"{path}: {path.with_suffix('.csv')} does not have one row for each of its features")
        else:
            raise RecordError(f"{path}: an index ends in .parquet or .npy; make one with `mrm embed`")
        shape = facts["shape"]
        if not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"shape {shape}")
    except MRMError:
        raise
    except Exception as error:  # damaged files make NumPy and pyarrow raise a dozen kinds
        raise RecordError(f"{path}: not an index written by `mrm embed` ({error})") from error
    if len(shape) != 1:
        raise RecordError(f"{path}: has features of patches; make an index with `mrm embed --kind pooled`")
    return Index(path, rows, facts)
