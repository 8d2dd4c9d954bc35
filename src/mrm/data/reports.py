"""Reports: WordPiece tokens and whole-word masking. `mrm.data.sections` splits reports into sections.

A report reaches the model as at most 100 token ids, `[CLS]` first. Words are masked whole: a continuation
piece (`##`) is masked with the piece before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from mrm.data.chunks import ChunkPieces, are_independent, chunks_of, published_pipeline, texts_of, word_counts
from mrm.system.errors import ReportError
from mrm.system.files import read_json

PAD, UNK, CLS, MASK = 0, 1, 2, 3
ENDS = {"sentence": ".!?", "phrase": ".!?,;:()[]"}
PUNCTUATION = frozenset(ENDS["phrase"])
NO_WORD = -100  # the target of a position that only pads the batch
MOST_PIECES = 1_000_000  # of a vocabulary; published ones have about 30,000
PARTS = (  # of a tokenizer file that are accepted: none of them takes a pattern
    *("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip", "BertNormalizer"),
    *("Whitespace", "WhitespaceSplit", "Digits", "Punctuation", "BertPreTokenizer"),
    "WordPiece",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")


class Units(NamedTuple):
    """What tells where units of a text begin: words, or phrases and sentences, which punctuation ends. (V,) bool each."""

    continues_V: np.ndarray  # True for a piece that continues a word
    ends_V: np.ndarray | None = None  # for a piece that ends a unit; None where units are words
    digits_V: np.ndarray | None = None  # for a piece of digits, likewise

    def starts(self, ids_T: np.ndarray) -> np.ndarray:
        """(T,) True where a unit begins. A point or comma between digits (2.5) ends nothing."""
        begins_T = ~self.continues_V[ids_T]
        if self.ends_V is not None and self.digits_V is not None:
            ends_T, digits_T = self.ends_V[ids_T], self.digits_V[ids_T]
            ends_T[1:-1] &= ~(digits_T[:-2] & digits_T[2:])
            begins_T[2:] &= ends_T[1:-1] & ~ends_T[2:]  # the first begins after [CLS]
        begins_T[:1] = True
        return begins_T


class Fit(NamedTuple):
    """How a vocabulary fits some reports: pieces for each word on average, and the share of words that it does not know."""

    pieces: float
    unknown: float


class Tokenizer:
    """WordPiece over lower-case, accent-free words, punctuation runs and digit runs.

    A thin wrapper around a `tokenizers` file, so that the published tokenizer loads unchanged.
    """

    def __init__(self, inner: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        for token, expected in zip(SPECIAL, range(4), strict=True):
            if inner.token_to_id(token) != expected:
                raise ReportError(f"{source}: {token} has id {inner.token_to_id(token)}, expected {expected}")
        inner.no_padding()  # a file may set either; `encode` does not pad, and truncates at its own length
        inner.no_truncation()
        if inner.model.token_to_id(inner.model.unk_token) is None:
            raise ReportError(
                f"{source}: its vocabulary has no {inner.model.unk_token!r}, the piece for what is unknown"
            )
        self.inner = inner
        vocabulary = inner.get_vocab()
        self.size = max(vocabulary.values()) + 1
        if self.size > MOST_PIECES:
            raise ReportError(
                f"{source}: a piece has the number {self.size - 1:,}; at most {MOST_PIECES:,} are possible"
            )
        self.continues = np.zeros(self.size, dtype=bool)  # (V,) True for a piece that continues a word
        self.continues[[i for word, i in vocabulary.items() if word.startswith("##")]] = True
        self._chunks = ChunkPieces(inner) if are_independent(inner) else None

    @classmethod
    def train(cls, reports: Iterable[str], size: int = 30_000) -> Tokenizer:
        """Learn a vocabulary of at most `size` pieces from `reports`. The same reports give the same vocabulary.

        Only the words of the reports are kept in memory, and the library is given each as often as it occurs. The library
        numbers continuation letters in the order of a hash map and breaks ties by number, so two trainings would differ. Here
        the letters are numbered beforehand.
        """
        words = word_counts(published_pipeline(models.WordPiece(unk_token="[UNK]")), reports)
        letters = sorted({f"##{letter}" for word in words for letter in word[1:]})
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*SPECIAL, *letters], show_progress=False)
        inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        inner.train_from_iterator(texts_of(words), trainer)
        learned = published_pipeline(models.WordPiece(inner.get_vocab(), unk_token="[UNK]"))
        learned.add_special_tokens(list(SPECIAL))
        return cls(learned)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a `tokenizers` JSON file. Raises ReportError if it is not one."""
        path = Path(path)
        if not path.is_file():
            raise ReportError(
                f"{path}: no such tokenizer file; train one with `mrm tokenizer RECORDS.csv --out {path}`"
            )
        try:
            content = read_json(path)
        except (ValueError, OSError) as error:
            raise ReportError(f"{path}: not a tokenizer file ({error})") from error
        _check_parts(content, path)
        try:
            return cls(tokenizers.Tokenizer.from_str(json.dumps(content)), str(path))
        except (ReportError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side raises bare Exception, and BaseException where it panics
            raise ReportError(f"{path}: not a tokenizer file ({error})") from error

    def units(self, unit: str) -> Units:
        """Where units of the text begin, for `mask_words`: words, phrases or sentences."""
        if unit == "word":
            return Units(self.continues)
        ends_V, digits_V = np.zeros((2, self.size), dtype=bool)
        for piece, i in self.inner.get_vocab().items():
            ends_V[i], digits_V[i] = _ends(piece, unit), piece.removeprefix("##").isdigit()
        return Units(self.continues, ends_V, digits_V)

    def to_json(self) -> str:
        """The `tokenizers` JSON, from which `load` reads the same tokenizer."""
        return json.dumps(json.loads(self.inner.to_str()), ensure_ascii=False)

    def fit(self, reports: Iterable[str]) -> Fit:
        """How finely the vocabulary splits the words of reports, and how many it does not know."""
        words = pieces = unknown = 0
        normalize, split = self.inner.normalizer, self.inner.pre_tokenizer
        for report in reports:
            text = normalize.normalize_str(report) if normalize else report
            words += len(split.pre_tokenize_str(text)) if split else len(text.split())
            ids = self.inner.encode(report, add_special_tokens=False).ids
            pieces += len(ids)
            unknown += ids.count(UNK)
        return Fit(pieces / max(1, words), unknown / max(1, words))

    def encode(self, reports: Sequence[str], length: int = 100) -> list[np.ndarray]:
        """Ids of each report, `[CLS]` first, truncated at `length`, not padded. An empty report is `[CLS]` alone."""
        if self._chunks:
            texts = [chunks_of(report) for report in reports]
            pieces = self._chunks.of(texts)
            rows: Iterable[Iterable[int]] = (
                chain((CLS,), chain.from_iterable(map(pieces.__getitem__, chunks))) for chunks in texts
            )
        else:
            encoded = self.inner.encode_batch([f"[CLS] {r}" for r in reports], add_special_tokens=False)
            rows = (e.ids for e in encoded)
        return [np.array(list(islice(ids, length)), dtype=np.int32) for ids in rows]

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text: continuation pieces joined, `[PAD]` and `[CLS]` left out."""
        text = ""
        for i in ids:
            piece = self.piece(int(i))
            if piece not in ("[PAD]", "[CLS]"):
                text += piece[2:] if piece.startswith("##") else f" {piece}"
        return text.strip()

    def piece(self, index: int) -> str:
        """The piece with this id."""
        return self.inner.id_to_token(index) or "[UNK]"


def _ends(piece: str, unit: str) -> bool:
    """Whether a piece of the vocabulary is punctuation that ends the unit. Hyphens, slashes and quotes end none."""
    return bool(piece) and all(letter in PUNCTUATION for letter in piece) and not set(piece).isdisjoint(ENDS[unit])


def mask_words(ids_T: np.ndarray, draws_T: np.ndarray, units: Units, probability: float, length: int) -> np.ndarray:
    """Which positions to mask, (T,) bool. `draws_T` are uniform in [0, 1), one for each position.

    A unit, by default a word with its continuation pieces, is masked if the draw of its first piece is below
    `probability`. `[CLS]`, padding and the last of `length` positions are never masked, as published.
    """
    position = np.arange(len(ids_T))
    first = np.maximum.accumulate(np.where(units.starts(ids_T), position, 0))  # where this position's unit begins
    eligible = (position > 0) & (position < length - 1) & (np.cumsum(ids_T == PAD) == 0)
    return (draws_T < probability)[first] & eligible & (first > 0)


def _check_parts(content: Any, path: Path) -> None:
    """Raises ReportError for a tokenizer that is not WordPiece, or has parts other than PARTS.

    Patterns and rules of other parts may take any time or memory, or end the library without an error.
    """
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ReportError(f"{path}: not a tokenizer file (it has no model)")
    if content["model"].get("type", "WordPiece") != "WordPiece":
        raise ReportError(f"{path}: not a WordPiece tokenizer; train one with `mrm tokenizer`")
    for place in ("normalizer", "pre_tokenizer", "decoder"):
        for kind in _kinds(content.get(place)):
            if kind not in PARTS:
                raise ReportError(
                    f"{path}: its {place} is {str(kind)[:40]!r}, which is not accepted; choose from {', '.join(PARTS)}"
                )


def _kinds(part: Any) -> list[Any]:
    """The type of a part of a tokenizer, or those of the parts in a sequence; none where there is no part."""
    if not isinstance(part, dict):
        return [] if part is None else [type(part).__name__]
    if part.get("type") != "Sequence":
        return [part.get("type")]
    lists = [part.get(key) for key in ("normalizers", "pretokenizers", "decoders")]
    return [kind for inner in lists if isinstance(inner, list) for item in inner for kind in _kinds(item)]
