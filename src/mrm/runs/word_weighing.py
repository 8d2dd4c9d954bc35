"""Words that count more in the report loss of a run: the rare ones, or those that the image tells (`--word-weights`)."""

# Shapes: V vocabulary
from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from mrm.data.loader import loader
from mrm.data.reports import CLS, Tokenizer
from mrm.data.samples import PretrainData
from mrm.data.sampling import Sample
from mrm.models.mrm import MRM
from mrm.recipes import PretrainConfig
from mrm.system.files import write_csv
from mrm.training import word_weights
from mrm.training.tasks import PretrainTask

RECORDS = 512  # with reports, by which the gain of each word is measured
BATCH = 32
AT_ONCE = 1 << 20  # tokens, or ends of reports, that are looked at together


def counts_of(data: PretrainData, vocabulary: int) -> Tensor:
    """How often each piece occurs in the reports, (V,), `[CLS]` left out."""
    flat, counts_V = data.tokens.flat, np.zeros(vocabulary, np.int64)
    for start in range(0, len(flat), AT_ONCE):
        counts_V += np.bincount(flat[start : start + AT_ONCE], minlength=vocabulary)
    counts_V[CLS] = 0
    return torch.from_numpy(counts_V.astype(np.float32))


def initial_weights(config: PretrainConfig, data: PretrainData, vocabulary: int) -> Tensor | None:
    """The weights (V,) that a run starts with; None where all words count alike."""
    if config.word_weights == "equal":
        return None
    if config.word_weights == "rarity":
        return word_weights.by_rarity(counts_of(data, vocabulary))
    return torch.ones(vocabulary)


def spread(ends_N: np.ndarray) -> list[int]:
    """Up to RECORDS of those records that have a report, spread evenly over all; a report is more than `[CLS]`."""

    def parts() -> Iterator[np.ndarray]:
        """The numbers of the records with a report, some at a time."""
        for at in range(0, len(ends_N), AT_ONCE):
            lengths = np.diff(ends_N[at : at + AT_ONCE], prepend=ends_N[at - 1] if at else 0)
            yield at + np.flatnonzero(lengths > 1)

    step = max(1, sum(map(len, parts())) // RECORDS)
    numbers = itertools.chain.from_iterable(part.tolist() for part in parts())
    return list(itertools.islice(numbers, 0, RECORDS * step, step))


def refresh(
    task: PretrainTask, model: MRM, data: PretrainData, tokenizer: Tokenizer, state: Accelerator, run: Path
) -> None:
    """Weigh the words by what the image tells the model now; `word_weights.csv` in the run shows them."""
    vocabulary = model.config.vocabulary
    totals = torch.zeros(2, vocabulary, dtype=torch.float64, device=state.device)
    chosen = spread(data.tokens.ends)
    batches = [[Sample(0, i) for i in chosen[at : at + BATCH]] for at in range(0, len(chosen), BATCH)]
    for batch in loader(data, itertools.islice(iter(batches), state.process_index, None, state.num_processes), 0):
        totals += torch.stack(word_weights.image_gain(model, batch.to(state.device)))
    nats_V, words_V = state.reduce(totals, "sum") if state.num_processes > 1 else totals
    counts_V = counts_of(data, vocabulary).to(state.device)
    weights_V = word_weights.by_gain(nats_V, words_V, counts_V)
    assert task.word_weights_V is not None
    task.word_weights_V.copy_(weights_V)
    if state.is_main_process:
        known = (words_V > 0).nonzero()[:, 0].tolist()
        rows = [
            {"piece": tokenizer.piece(i), "words": int(words_V[i]), "nats": float(nats_V[i] / words_V[i]), "weight": float(weights_V[i])}
            for i in sorted(known, key=lambda i: -float(weights_V[i]))
        ]  # fmt: skip
        write_csv(Path(run) / "word_weights.csv", ("piece", "words", "nats", "weight"), rows)
