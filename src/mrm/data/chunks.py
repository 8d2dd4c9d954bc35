"""Texts a chunk at a time: a chunk is a run of signs between blanks, which no word of a report crosses.

The different chunks of many reports are far fewer than their words, so what a tokenizer makes of each of them is kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

MOST_KEPT = 1 << 17  # chunks whose pieces are kept
AT_ONCE = 1 << 10  # copies of a word that are given to the library together
SEPARATORS = "\x1c\x1d\x1e\x1f"  # blanks to Python and not to Unicode, by which the library splits
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")  # of an added token, by which more than the token decides
_CHUNK = re.compile(r"[^\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def published_pipeline(model: Any) -> tokenizers.Tokenizer:
    """The published text pipeline around a vocabulary: lower case, no accents, split at blanks, punctuation and digits."""
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKD(), normalizers.StripAccents()])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)]
    )
    return inner


def chunks_of(text: str) -> list[str]:
    """The chunks of a text, in order."""
    return _CHUNK.findall(text) if any(sign in text for sign in SEPARATORS) else text.split()


def are_independent(inner: tokenizers.Tokenizer) -> bool:
    """Whether the pieces of a text are surely those of its chunks in a row: with the published pipeline they are."""
    published = json.loads(published_pipeline(models.WordPiece()).to_str())
    parts = json.loads(inner.to_str())
    same = all(parts[name] == published[name] for name in ("normalizer", "pre_tokenizer", "post_processor"))
    return same and all(
        chunks_of(token["content"]) == [token["content"]] and not any(token[flag] for flag in FLAGS)
        for token in parts["added_tokens"]
    )


class ChunkPieces:
    """The ids of the pieces of chunks, for a tokenizer to which chunks are independent. Threads may share it."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self.inner = inner
        self._kept: dict[str, list[int]] = {}

    def of(self, texts: Sequence[Sequence[str]]) -> Mapping[str, list[int]]:
        """A mapping that has the ids of all chunks of these texts."""
        wanted, kept = set(chain.from_iterable(texts)), self._kept
        if len(kept) + len(wanted) > MOST_KEPT:
            kept = self._kept = {}  # another thread may still read the former one
        new = list(wanted - kept.keys())
        encoded = self.inner.encode_batch(new, add_special_tokens=False)
        kept.update((chunk, encoding.ids) for chunk, encoding in zip(new, encoded, strict=True))
        return kept


# Counting words ---------------------------------------------------------------------------------------------


def word_counts(inner: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in texts, as the published pipeline `inner` normalises and splits them."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(chunks_of(text))
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(chunk)):
            words[word] += count
    return words


def texts_of(counts: Mapping[str, int]) -> Iterator[str]:
    """Texts in which words without blanks occur as often as they are counted, with one blank after each."""
    for word, count in counts.items():
        while count > 0:
            yield f"{word} " * min(count, AT_ONCE)
            count -= AT_ONCE
