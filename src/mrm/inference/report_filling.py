"""Reports read beside their image: blanks filled in, and sentences that do not seem to belong to it.

`fill_in` gives the best words for the blanks of a report, with its image and without. `surprise` hides each word
of a report in turn and compares how well it is named with its own image, without an image, and with others.

"Without an image" needs a definition, since the network never saw a report without one. It is the mean of what the
report decoder sees of other images (`reference`). Where no other images are given, phantoms drawn from a fixed seed
stand in; for a model of real radiographs, real ones are better.
"""

# Shapes: C contexts (images as the report decoder sees them), I rows of each, R their width, M masked copies of a text, T tokens,
# A positions asked for, V vocabulary
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from mrm.corpora.phantoms.phantom import phantom
from mrm.data.reports import CLS, MASK, SPECIAL, UNK, Tokenizer
from mrm.inference.masked_words import context_of
from mrm.models.mrm import MRM
from mrm.system.errors import ReportError

BLANK = re.compile(r"_{3,}|\[MASK\]")
MAX_BLANKS = 64
MAX_TOP = 100  # words for a blank; a beam is as wide
MAX_PIECES = 3  # of a word that is filled in
STAND_INS = 16  # phantoms, where no other images are given
CELLS = 2**25  # logits at a time: 128 MiB


@dataclass(frozen=True)
class Blank:
    """A blank of a text and the words for it, the best first, each with its probability."""

    start: int  # in characters of the text; the blank is text[start:end]
    end: int
    with_image: list[tuple[str, float]]
    without_image: list[tuple[str, float]]


@dataclass(frozen=True)
class SentenceScore:
    """How well the words of a sentence are named: means over its words of ln p (nats, 0 at best); NaN without words.

    `surprise` is `others - with_image` (`without_image - with_image` where there are no others): above 0, other
    images explain the sentence better than its own. `better` is the share of the others that do.
    """

    sentence: str
    start: int  # in characters of the text
    end: int
    words: int
    with_image: float
    without_image: float
    others: float
    surprise: float
    better: float


# Blanks -------------------------------------------------------------------------------------------------


def fill_in(
    model: MRM, image_HW: np.ndarray, text: str, top: int = 5, others: Sequence[np.ndarray] = ()
) -> list[Blank]:
    """The `top` best words for each blank (`___` or longer, or `[MASK]`) of a text, with its image and without.

    Each blank is one word; the other blanks stay blank meanwhile. A word of several pieces is found by a beam of
    `top`, up to three pieces, and its probability is the product of theirs. The number of masks tells the network how
    many pieces a word has, so words of k pieces are weighted by the share of such words in the text itself, (n_k + 1)
    / (n + 3). Punctuation is not a word and keeps its probability: the words of a blank need not add up to 1.
    Raises ReportError for no blank, more than 64, `top` outside 1 to 100, or a model without tokenizer.
    """
    spans = [match.span() for match in BLANK.finditer(text)]
    if not spans or len(spans) > MAX_BLANKS:
        raise ReportError(
            f"the text has {len(spans):,} blanks, but 1 to {MAX_BLANKS} can be filled in; mark each missing word by "
            "____ or [MASK]"
        )
    if not 1 <= top <= MAX_TOP:
        raise ReportError(f"top must be from 1 to {MAX_TOP}, not {top:,}")
    tokenizer = tokenizer_of(model)
    ids, places = _with_blanks(tokenizer, text, spans)
    shares = piece_shares(tokenizer, ids)
    own_1IR, none_1IR = context_of(model, [image_HW]), reference(model, others)
    blanks = []
    for (start, end), place in zip(spans, places, strict=True):
        before, after = ids[:place], ids[place + 1 :]
        words = [_best_words(model, context_1IR, before, after, shares, top) for context_1IR in (own_1IR, none_1IR)]
        blanks.append(Blank(start, end, *words))
    return blanks


def tokenizer_of(model: MRM) -> Tokenizer:
    """The model's tokenizer. Raises ReportError where it has none, or one of another size."""
    if model.tokenizer is None:
        raise ReportError(
            "the model has no tokenizer (a published .pth does not hold one); give the one that it was trained with by "
            "--tokenizer, or put it into a model folder"
        )
    if model.tokenizer.size != model.config.vocabulary:
        raise ReportError(
            f"the tokenizer has {model.tokenizer.size:,} pieces, but the model knows {model.config.vocabulary:,}; "
            "give the tokenizer that it was trained with"
        )
    return model.tokenizer


def piece_shares(tokenizer: Tokenizer, ids: Sequence[int]) -> list[float]:
    """The share of words of 1, 2 and 3 (or more) pieces in a text, each counted once more than it occurs."""
    starts = [i for i, token in enumerate(ids) if token != MASK and not tokenizer.continues[token]]
    ends = [*starts, len(ids)][1:]
    counts = np.ones(MAX_PIECES)
    for start, end in zip(starts, ends, strict=True):
        pieces = 1 + sum(bool(tokenizer.continues[token]) for token in ids[start + 1 : end])
        counts[min(pieces, MAX_PIECES) - 1] += _is_word(tokenizer.piece(ids[start]))
    return (counts / counts.sum()).tolist()


def _with_blanks(tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The ids of a text, one `[MASK]` for each blank, and where those are."""
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    between = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    encoded = tokenizer.inner.encode_batch(between, add_special_tokens=False)
    ids, places = list(encoded[0].ids), []
    for part in encoded[1:]:
        places.append(len(ids))
        ids += [MASK, *part.ids]
    return ids, places


def _best_words(
    model: MRM, context_1IR: Tensor, before: list[int], after: list[int], shares: Sequence[float], top: int
) -> list[tuple[str, float]]:
    """The best words between `before` and `after`, from one piece to three."""
    tokenizer = tokenizer_of(model)
    words: dict[str, float] = {}
    for count, share in enumerate(shares, 1):
        beam: list[tuple[tuple[int, ...], float]] = [((), share)]
        for filled in range(count):
            lowest = sorted(words.values(), reverse=True)[top - 1] if len(words) >= top else 0.0
            beam = [(pieces, p) for pieces, p in beam if p > lowest]  # more pieces only make it less likely
            if not beam:
                break
            windows = [_window(model, before, [*pieces, *[MASK] * (count - filled)], after) for pieces, _ in beam]
            tokens_MT = np.array([tokens for tokens, _ in windows])
            p_MV = _probabilities(model, context_1IR, tokens_MT, [at + filled for _, at in windows])
            p_MV = p_MV * _allowed(tokenizer, filled == 0)
            extended = [
                ((*pieces, int(v)), p * float(p_V[v]))
                for (pieces, p), p_V in zip(beam, p_MV, strict=True)
                for v in np.argsort(-p_V, kind="stable")[:top]
            ]
            beam = sorted(extended, key=lambda one: -one[1])[:top]
        for pieces, p in beam:
            word = tokenizer.decode(pieces)
            # If the tokenizer cuts the word otherwise, these pieces never occurred in training.
            if p > 0 and tokenizer.inner.encode(word, add_special_tokens=False).ids == list(pieces):
                words[word] = p
    return sorted(words.items(), key=lambda one: -one[1])[:top]


def _window(model: MRM, before: list[int], middle: list[int], after: list[int]) -> tuple[list[int], int]:
    """As much of a text around its middle as the model reads, `[CLS]` first; and where the middle begins."""
    room = model.config.report_length - 1 - len(middle)
    left = min(len(before), max(room // 2, room - len(after)))
    right = min(len(after), room - left)
    return [CLS, *before[len(before) - left :], *middle, *after[:right]], 1 + left


def _is_word(piece: str) -> bool:
    return piece not in SPECIAL and any(letter.isalnum() for letter in piece)


@lru_cache(maxsize=8)
def _word_pieces(tokenizer: Tokenizer) -> np.ndarray:
    return np.array([_is_word(tokenizer.piece(i)) for i in range(tokenizer.size)])


def _allowed(tokenizer: Tokenizer, first: bool) -> np.ndarray:
    """Which pieces (V,) may begin a word, or continue it."""
    return _word_pieces(tokenizer) & (~tokenizer.continues if first else tokenizer.continues)


@torch.inference_mode()
def _probabilities(model: MRM, context_1IR: Tensor, tokens_MT: np.ndarray, positions: Sequence[int]) -> np.ndarray:
    """Probabilities (M, V) at one position of each text."""
    tokens = torch.from_numpy(tokens_MT.astype(np.int64)).to(context_1IR.device)
    rows, length = tokens.shape
    words = torch.arange(rows, device=tokens.device) * length + torch.tensor(positions, device=tokens.device)
    logits = model.name_words(context_1IR.expand(rows, -1, -1), tokens, torch.ones_like(tokens), words)
    return logits.float().softmax(-1).cpu().numpy()


# No image ---------------------------------------------------------------------------------------------


def reference(model: MRM, others: Sequence[np.ndarray] = ()) -> Tensor:
    """The context (1, I, R) of no image: the mean of those of others, of phantoms where none are given.

    That of phantoms is cached until the weights change, to save sixteen passes of the encoder for each blank.
    """
    if others:
        return torch.cat([context_of(model, [image]) for image in others]).mean(0, keepdim=True)
    state = sum(p._version for p in model.parameters()), next(model.parameters()).device
    cached = _cache.get(model)
    if cached is None or cached[0] != state:
        context_1IR = torch.cat([context_of(model, [image]) for image in stand_ins()]).mean(0, keepdim=True)
        cached = _cache[model] = (state, context_1IR)
    return cached[1]


_cache: WeakKeyDictionary[MRM, tuple[tuple[int, torch.device], Tensor]] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def stand_ins() -> tuple[np.ndarray, ...]:
    """Phantoms of different patients."""
    return tuple(phantom(0, 6 * i, size=256).image for i in range(STAND_INS))


# Surprise -----------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """The words of a text that are scored, and how well each is named in each context."""

    spans: list[tuple[int, int]]  # in characters of the text, ascending
    scores_CW: np.ndarray  # ln p; the first context is the image's own, the second no image, the rest others


def surprise(
    model: MRM,
    image_HW: np.ndarray,
    text: str,
    others: Sequence[np.ndarray] = (),
    parts: int = 2,
    rounds: int = 4,
    seed: int = 0,
) -> list[SentenceScore]:
    """Score each sentence of a report: is it better explained by its own image than by others?

    See `read_words` for `parts`, `rounds` and `seed`; its result also gives the score of the `whole` report.
    Raises ReportError for a text without words that the model knows, and for a model without tokenizer.
    """
    reading = read_words(model, contexts(model, image_HW, others), text, parts, rounds, seed)
    return [score_of(reading, text, start, end) for start, end in sentences(text)]


def whole(reading: Reading, text: str) -> SentenceScore:
    """The score of a text as one sentence."""
    return score_of(reading, text, 0, len(text))


def contexts(model: MRM, image_HW: np.ndarray, others: Sequence[np.ndarray] = ()) -> Tensor:
    """The contexts (C, I, R) of an image, of no image, and of each other."""
    each_CIR = [context_of(model, [other]) for other in others]
    none_1IR = torch.cat(each_CIR).mean(0, keepdim=True) if each_CIR else reference(model)
    return torch.cat([context_of(model, [image_HW]), none_1IR, *each_CIR])


def score_of(reading: Reading, text: str, start: int, end: int) -> SentenceScore:
    """The score of the words in `text[start:end]`."""
    inside = [i for i, (a, b) in enumerate(reading.spans) if start <= a and b <= end]
    if not inside:
        return SentenceScore(text[start:end], start, end, 0, *[math.nan] * 5)
    with_image, without_image, *others = reading.scores_CW[:, inside].mean(axis=1).tolist()
    mean = float(np.mean(others)) if others else math.nan
    better = float(np.mean([other > with_image for other in others])) if others else math.nan
    baseline = mean if others else without_image
    return SentenceScore(
        text[start:end],
        start,
        end,
        len(inside),
        with_image,
        without_image,
        mean,
        baseline - with_image,
        better,
    )


def read_words(model: MRM, contexts_CIR: Tensor, text: str, parts: int = 2, rounds: int = 4, seed: int = 0) -> Reading:
    """ln p of each word of a text in each context, its pieces summed.

    The words are divided at random into `parts` (2: half of them, as in training; 1: all at once, so that the image
    alone counts), and each part is hidden in turn; this is done `rounds` times from `seed`, and averaged. So each word
    is scored equally often. Pieces of a word are hidden together. Punctuation and
    words unknown to the tokenizer are hidden too, but not scored. A text longer than the model reads is cut at ends
    of sentences where that is possible. Raises ReportError.
    """
    if parts < 1 or rounds < 1:
        raise ReportError(f"parts and rounds must be at least 1, not {parts} and {rounds}")
    tokenizer = tokenizer_of(model)
    encoded = tokenizer.inner.encode(text, add_special_tokens=False)
    words = words_of(tokenizer, encoded.ids, encoded.offsets)
    scored = [
        MASK not in word.ids and UNK not in word.ids and any(c.isalnum() for c in text[word.start : word.end])
        for word in words
    ]
    if not any(scored):
        raise ReportError("the text has no word that the model knows, so nothing can be scored")
    sums_CW = np.zeros((len(contexts_CIR), len(words)))
    for number, (first, last) in enumerate(windows(words, sentences(text), model.config.report_length - 1)):
        rng = np.random.default_rng([seed, number])
        hidden_MW = deal(last - first, parts, rounds, rng)
        sums_CW[:, first:last] = _named(model, contexts_CIR, words[first:last], hidden_MW) / rounds
    numbers = [i for i, counts in enumerate(scored) if counts]
    return Reading([(words[i].start, words[i].end) for i in numbers], sums_CW[:, numbers])


class TextWord(NamedTuple):
    """A word of a text: its pieces, and where it stands in characters."""

    ids: tuple[int, ...]
    start: int
    end: int


def words_of(tokenizer: Tokenizer, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[TextWord]:
    """Pieces gathered into words."""
    words: list[TextWord] = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        if words and tokenizer.continues[token]:
            words[-1] = TextWord((*words[-1].ids, token), words[-1].start, end)
        else:
            words.append(TextWord((token,), start, end))
    return words


def windows(words: Sequence[TextWord], spans: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Ranges of words of at most `room` pieces each, which end at the end of a sentence (one of `spans`) if possible.

    A word of more pieces than that is a window of its own, and is cut when it is read.
    """
    ends = {end for _, end in spans}
    cuts, first, size, sentence = [], 0, 0, 0  # `sentence`: the last place after which a sentence ends
    for i, word in enumerate(words):
        if size + len(word.ids) > room and i > first:
            cut = sentence if sentence > first else i
            cuts.append((first, cut))
            first, size = cut, sum(len(w.ids) for w in words[cut:i])
        size += len(word.ids)
        if word.end in ends:
            sentence = i + 1
    return [*cuts, (first, len(words))]


def deal(count: int, parts: int, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Which of `count` words are hidden in each of rounds x parts copies, bool: each word once a round."""
    parts = min(parts, count)
    part_RW = np.stack([rng.permutation(count) % parts for _ in range(rounds)])
    return (part_RW[:, None] == np.arange(parts)[:, None]).reshape(-1, count)


@torch.inference_mode()
def _named(model: MRM, contexts_CIR: Tensor, words: Sequence[TextWord], hidden_MW: np.ndarray) -> np.ndarray:
    """The sum (C, W) of ln p of each word over the copies in which it is hidden."""
    room = model.config.report_length - 1
    ids = np.array([token for word in words for token in word.ids][:room])
    owner_T = np.repeat(np.arange(len(words)), [len(word.ids) for word in words])[:room]
    masked_MT = hidden_MW[:, owner_T]
    tokens_MT = np.concatenate([np.full((len(masked_MT), 1), CLS), np.where(masked_MT, MASK, ids)], axis=1)
    sums_CW = np.zeros((len(contexts_CIR), len(words)))
    device = contexts_CIR.device
    step = max(1, CELLS // (model.config.vocabulary * max(1, int(masked_MT.sum(axis=1).max()))))
    pairs = [(c, m) for c in range(len(contexts_CIR)) for m in range(len(masked_MT))]
    for start in range(0, len(pairs), step):
        c_P, m_P = np.array(pairs[start : start + step]).T
        row_A, place_A = np.nonzero(masked_MT[m_P])
        tokens = torch.from_numpy(tokens_MT[m_P]).to(device)
        positions = torch.from_numpy(row_A * tokens.shape[1] + place_A + 1).to(device)
        logits = model.name_words(contexts_CIR[c_P], tokens, torch.ones_like(tokens), positions).float()
        true = torch.from_numpy(ids[place_A]).to(device)
        scores_A = -torch.nn.functional.cross_entropy(logits, true, reduction="none")
        np.add.at(sums_CW, (c_P[row_A], owner_T[place_A]), scores_A.double().cpu().numpy())
    return sums_CW


# Sentences ----------------------------------------------------------------------------------------------

_STOP = re.compile(r"[.!?]+[\"')\]]*(?=\s)|\n[ \t]*\n")
_NUMBER = re.compile(r"\s*(?:[A-Za-z]+:\s*)?\d{1,2}\.")
_SHORT = re.compile(r"(?:^|\s)(?:dr|mr|mrs|ms|vs|e\.g|i\.e|approx)\.$", re.IGNORECASE)


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a report are, without the space around them.

    One ends at a full stop, question or exclamation mark before a space, and at an empty line; not after a number that
    opens it (`1. Small effusion.`), nor after a few abbreviations.
    """
    pieces, start = [], 0
    for stop in _STOP.finditer(text):
        sentence = text[start : stop.end()]
        if _NUMBER.fullmatch(sentence) or _SHORT.search(sentence):
            continue
        pieces.append((start, stop.end()))
        start = stop.end()
    pieces.append((start, len(text)))
    spans = []
    for start, end in pieces:
        sentence = text[start:end]
        if sentence.strip():
            spans.append((start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())))
    return spans
