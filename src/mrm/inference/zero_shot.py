"""Findings without labels: how much likelier a model finds sentences that state a finding than those that deny it.

A sentence is scored as in `mrm.inference.report_filling`: its words are hidden in turn and named with the image. What is
likely with any image says nothing of this one, so the mean over reference images is taken off. The score of a finding is the
mean over the sentences that state it, less the mean over those that deny it, in nats a word: above 0 where this image speaks
for the finding more than the reference images do.
"""

# Shapes: B images, F findings, S sentences, V values of a batch
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrm.data.finding_rules import Finding, read_finding_file
from mrm.inference.report_filling import read_words
from mrm.models.mrm import MRM
from mrm.statistics.intervals import Estimate
from mrm.system.errors import ConfigError, ReportError

MOST_SENTENCES = 1_000  # of a file of findings
PARTS, ROUNDS = 2, 4  # half of the words are hidden at once, as in training; each word four times


@dataclass(frozen=True)
class Findings:
    """Findings by name, with the sentences that state and deny each."""

    findings: Mapping[str, Finding]

    def __post_init__(self) -> None:
        for name, wording in self.findings.items():
            if not wording.present or not wording.absent:
                raise ConfigError(f"{name}: a finding needs at least one sentence each under present and under absent")
        if len(self.sentences) > MOST_SENTENCES:
            raise ConfigError(f"{len(self.sentences):,} sentences, but at most {MOST_SENTENCES:,} are read")

    @property
    def sentences(self) -> list[str]:
        """All sentences, in order, each once."""
        each = (s for wording in self.findings.values() for s in (*wording.present, *wording.absent))
        return list(dict.fromkeys(each))

    def scores(self, likelihoods_BS: np.ndarray, reference_S: np.ndarray) -> np.ndarray:
        """Scores (B, F) from the mean ln p a word of each sentence, with the images and with reference images."""
        place = {sentence: i for i, sentence in enumerate(self.sentences)}
        gain_BS = likelihoods_BS - reference_S
        columns = [
            gain_BS[:, [place[s] for s in w.present]].mean(1) - gain_BS[:, [place[s] for s in w.absent]].mean(1)
            for w in self.findings.values()
        ]
        return np.stack(columns, axis=1)


def read_findings(file: Path | str) -> Findings:
    """Findings in a finding file (`mrm.data.finding_rules`). Raises ConfigError for one that has none, and names the
    setting that is wrong."""
    findings = read_finding_file(file).findings
    try:
        return Findings(findings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def sentence_function(model: MRM, sentences: Sequence[str], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Normalised images (B, 3, H, W) to the mean ln p a word of each sentence, (B, S).

    Raises ReportError, when it is first called, for a sentence without a word that the model knows.
    """

    def compute(image_BCHW: Tensor) -> Tensor:
        contexts_BIR = model.context(model.encode(image_BCHW))
        columns = [_likelihood(model, contexts_BIR, sentence, seed) for sentence in sentences]
        return torch.from_numpy(np.stack(columns, axis=1)).float()

    return compute


def _likelihood(model: MRM, contexts_BIR: Tensor, sentence: str, seed: int) -> np.ndarray:
    """The mean ln p (B,) of the words of a sentence with each image."""
    try:
        return read_words(model, contexts_BIR, sentence, PARTS, ROUNDS, seed).scores_CW.mean(axis=1)
    except ReportError as error:
        raise ReportError(f"{sentence!r}: {error}; reword it") from error


def can_be_told(auroc: Estimate) -> bool:
    """Whether an AUROC lies above chance: its whole interval, or a perfect order that chance seldom gives.

    A perfect order has no interval by resampling. Chance gives it in one of the n choose positives orders: less than 2.5 %.
    """
    if math.isfinite(auroc.low):
        return auroc.low > 0.5
    return auroc.value == 1.0 and math.comb(auroc.n, auroc.positives or 0) > 40
