"""What the demo measures of its pre-trained model: masked words, a search with texts, and probes of few labels."""

# Shapes: N records, C classes, I rows of a context, R report width, T tokens, V vocabulary, D features
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mrm.data import images
from mrm.data.records import Records
from mrm.data.reports import MASK, Tokenizer, mask_words
from mrm.data.sections import select_sections
from mrm.evaluation import floors, label_curve
from mrm.evaluation.probes import Labelled
from mrm.inference import masked_words, predict, text_search
from mrm.inference.report_filling import tokenizer_of
from mrm.models import noise
from mrm.models.mrm import MRM
from mrm.pages.demo import FilledReport, Search, Searched, Word, WordCounts
from mrm.pages.layout import is_right
from mrm.statistics import intervals, ranking
from mrm.statistics.intervals import Bootstrap, Estimate

FLOOR_NAMES = {"pixels": "grey values", "HOG": "HOG features"}
FIRST = 10  # images of a search that are looked at
SHOWN = 5
QUERIES = {  # a text, and the sentences of an impression that mean it
    "left pleural effusion": r"(left|bilateral) pleural effusion",
    "right pleural effusion": r"(right|bilateral) pleural effusion",
    "left pneumothorax": r"left pneumothorax",
    "right pneumothorax": r"right pneumothorax",
    "right upper lobe consolidation": r"(right upper lobe|both upper lobes|bilateral upper lobe) consolidation",
    "left lower lobe consolidation": r"(left lower lobe|both lower lobes|bilateral lower lobe) consolidation",
    "severe cardiomegaly": r"severe cardiomegaly",
    "severe pulmonary edema": r"severe pulmonary edema",
}


# Masked words ------------------------------------------------------------------------------------------


def filled_reports(model: MRM, test: Records, sections: Sequence[str], seed: int) -> list[FilledReport]:
    """The reports of records with half of their words masked, filled in with their own image and with another patient's.

    The other image is that of the next record of another patient.
    """
    tokenizer = tokenizer_of(model)
    texts = [select_sections(record.report, tuple(sections)) for record in test]
    shown = [images.read(record.image) for record in test]
    contexts_BIR = torch.cat([masked_words.context_of(model, shown[i : i + 64]) for i in range(0, len(shown), 64)])
    filled = []
    for index, ids in enumerate(tokenizer.encode(texts, model.config.report_length)):
        ids_T = ids.astype(np.int64)
        draws_T = np.random.default_rng([seed, index]).random(len(ids_T))
        masked_T = mask_words(ids_T, draws_T, tokenizer.units("word"), 0.5, model.config.report_length)
        blanked_T = np.where(masked_T, MASK, ids_T)
        own, other = (
            masked_words.word_probabilities(model, contexts_BIR[i : i + 1], blanked_T)
            for i in (index, next_patient(test.patients, index))
        )
        filled.append(FilledReport(shown[index], words_of(tokenizer, ids_T, masked_T, own, other)))
    return filled


def next_patient(patients: Sequence[str], index: int) -> int:
    """The number of the next record of another patient, from the first on after the last."""
    others = (i % len(patients) for i in range(index + 1, index + len(patients)))
    return next((i for i in others if patients[i] != patients[index]), index)


def words_of(
    tokenizer: Tokenizer, ids_T: np.ndarray, masked_T: np.ndarray, own_PV: np.ndarray, other_PV: np.ndarray
) -> list[Word]:
    """Pieces joined into words; a masked word has the likeliest piece at each of its positions."""
    blank = np.cumsum(masked_T) - 1  # the row of each masked position among the probabilities
    starts = [i for i in range(1, len(ids_T)) if not tokenizer.continues[ids_T[i]]]
    words = []
    for start, end in zip(starts, [*starts[1:], len(ids_T)], strict=True):
        text = tokenizer.decode(ids_T[start:end])
        guesses = [likeliest(tokenizer, p[blank[start:end]]) for p in (own_PV, other_PV)] if masked_T[start] else []
        words.append(Word(text, bool(guesses), *guesses))
    return words


def likeliest(tokenizer: Tokenizer, probabilities_PV: np.ndarray) -> tuple[str, float]:
    """The likeliest pieces of a word, joined, and the product of their probabilities."""
    pieces = probabilities_PV.argmax(axis=1)
    text = "".join(tokenizer.piece(int(i)).removeprefix("##") for i in pieces)
    return text, float(probabilities_PV.max(axis=1).prod())


def word_counts(reports: Sequence[FilledReport], patients: Sequence[str]) -> WordCounts:
    """The shares of masked words that are right with the own image and with another, and their difference, by patient.

    Punctuation is left out: it is every fifth word, and says nothing.
    """
    asked = [
        (patient, word)
        for patient, report in zip(patients, reports, strict=True)
        for word in report.words
        if word.masked and any(c.isalnum() for c in word.text)
    ]
    groups = [patient for patient, _ in asked]
    own_W, other_W = (
        np.array([float(is_right(guess, word.text)) for _, word in asked for guess in (getattr(word, side),)])
        for side in ("with_image", "with_other")
    )
    shares = [intervals.proportion(hits_W, int(hits_W.sum()), groups=groups) for hits_W in (own_W, other_W)]
    return WordCounts(
        shares[0], shares[1], intervals.mean(own_W - other_W, Bootstrap.from_groups(groups, len(asked))), len(reports)
    )


# Search with a text ------------------------------------------------------------------------------------


def searched(model: MRM, test: Records, pooled_ND: np.ndarray, sections: Sequence[str]) -> Searched:
    """What is found for each of QUERIES among the test images, and how much of it is right by their reports."""
    reports = [select_sections(record.report, tuple(sections)).lower() for record in test]
    images_NE = text_search.image_vectors(model, pooled_ND)
    searches, hits, groups = [], [], []
    for text, vector_E in zip(QUERIES, text_search.text_vectors(model, list(QUERIES)), strict=True):
        right_N = np.array([bool(re.search(QUERIES[text], report)) for report in reports])
        first = np.argsort(-(images_NE @ vector_E), kind="stable")[:FIRST]
        shown = [(images.read(test[int(i)].image), bool(right_N[i])) for i in first[:SHOWN]]
        searches.append(Search(text, shown, int(right_N[first].sum()), len(first), float(right_N.mean())))
        hits += right_N[first].tolist()
        groups += [text] * len(first)
    return Searched(searches, intervals.proportion(hits, sum(hits), groups=groups))


# Few labels --------------------------------------------------------------------------------------------


def features_by_start(
    model: MRM, labelled: Records, test: Records, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features of labelled and of test records: of the pre-trained encoder, of a random one, and without a network."""
    with noise.seeded(seed):
        random = MRM(model.config).eval()
    features = {
        name: tuple(predict.features(network, part, workers=0)[0] for part in (labelled, test))
        for name, network in (("pre-trained encoder", model), ("random encoder", random))
    }
    known, asked = (floors.features(part, workers=0)[0] for part in (labelled, test))
    return features | {FLOOR_NAMES[floor]: (known[floor], asked[floor]) for floor in floors.FLOORS}  # type: ignore[return-value]


def probe_scores(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]], labelled: Records, test: Records, counts: Sequence[int]
) -> dict[str, dict[int, np.ndarray]]:
    """Scores (N, C) of the test records by what is probed and the number of labels."""
    return {
        name: label_curve.scores_by_count(
            Labelled(known_TD.astype(np.float64), labelled.labels_NC),
            Labelled(asked_ND.astype(np.float64), test.labels_NC),
            counts,
            labelled.patients,
        )
        for name, (known_TD, asked_ND) in features.items()
    }


def curves_of(scores: Mapping[str, Mapping[int, np.ndarray]], test: Records) -> dict[str, dict[int, Estimate]]:
    """The mean AUROC, with its interval over test patients, by what is probed and the number of labels."""
    return {
        name: {
            count: ranking.classification_report(
                test.labels_NC, scores_NC, test.classes, groups=test.patients, draws=1000
            )["mean"]["auroc"]
            for count, scores_NC in by_count.items()
        }
        for name, by_count in scores.items()
    }
