"""Reports: sections, WordPiece tokens, whole-word masking.

A report reaches the model as at most 100 token ids, `[CLS]` first. Words are masked whole: a
continuation piece (`##`) shares the fate of the piece before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

PAD, UNK, CLS, MASK = 0, 1, 2, 3
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")

# Section titles as they stand in MIMIC-CXR and Open-i reports, by the name we give the section.
TITLES = {
    "findings": ("findings", "finding", "report", "findings and impression", "findings/impression"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "summary", "assessment"),
    "indication": ("indication", "indications", "clinical indication", "reason for exam", "reason for examination",
                   "reason for the exam", "reason", "clinical information", "clinical history", "history", "patient history"),
    "comparison": ("comparison", "comparisons", "compared to", "prior study", "prior studies"),
    "technique": ("technique", "techniques", "procedure", "views", "view"),
    "examination": ("examination", "exam", "study", "type of examination", "exam type"),
    "notification": ("notification", "notifications", "recommendation", "recommendations", "wet read", "addendum"),
}  # fmt: skip
_NAME_OF = {title: name for name, titles in TITLES.items() for title in titles}
_ALTERNATIVES = "|".join(re.escape(t).replace(r"\ ", r"\s+") for t in sorted(_NAME_OF, key=len, reverse=True))
# A title is in capitals anywhere, or in any case at the start of a line or sentence; a colon ends it.
_TITLE = re.compile(
    rf"(?:(?:^|(?<=[\n.]))\s*(?P<line>(?i:{_ALTERNATIVES}))|\b(?P<capitals>{_ALTERNATIVES.upper().replace(chr(92) + 'S', chr(92) + 's')}))\s*:",
    re.MULTILINE,
)


class ReportError(ValueError):
    """A report or tokenizer that cannot be used. The message says what, where, and what to do."""


def sections(report: str) -> dict[str, str]:
    """The report's parts by section name, in their order; what stands before any title is `preamble`."""
    marks = [(m.start(), m.end(), _NAME_OF[_plain(m["line"] or m["capitals"])]) for m in _TITLE.finditer(report)]
    parts: dict[str, str] = {}
    if preamble := report[: marks[0][0] if marks else None].strip():
        parts["preamble"] = preamble
    ends = [start for start, _, _ in marks[1:]] + [len(report)]
    for (_, begin, name), end in zip(marks, ends, strict=False):  # no title at all leaves `ends` one longer
        text = report[begin:end].strip()
        parts[name] = f"{parts[name]} {text}".strip() if name in parts else text
    return parts


def select_sections(report: str, names: Sequence[str]) -> str:
    """The named sections joined; the whole report if it has none of them (it may have no titles at all)."""
    if not names:
        return report
    if unknown := set(names) - set(TITLES):
        raise ReportError(f"unknown section {sorted(unknown)}; sections are {', '.join(TITLES)}")
    parts = sections(report)
    return " ".join(parts[n] for n in names if parts.get(n)) or report


class Tokenizer:
    """WordPiece over lower-case, accent-free words, punctuation runs and digit runs.

    A thin face on a `tokenizers` file, so that the published tokenizer loads unchanged.
    """

    def __init__(self, inner: tokenizers.Tokenizer, source: str = "tokenizer") -> None:
        for token, expected in zip(SPECIAL, range(4), strict=True):
            if inner.token_to_id(token) != expected:
                raise ReportError(f"{source}: {token} has id {inner.token_to_id(token)}, expected {expected}")
        self.inner = inner
        vocabulary = inner.get_vocab()
        self.size = max(vocabulary.values()) + 1
        self.continues = np.zeros(self.size, dtype=bool)  # (V,) True where a piece continues a word
        self.continues[[i for word, i in vocabulary.items() if word.startswith("##")]] = True

    @classmethod
    def train(cls, reports: Iterable[str], size: int = 30_000) -> Tokenizer:
        """Learn a vocabulary of at most `size` pieces from `reports`."""
        inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.NFKD(), normalizers.StripAccents()]
        )
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)]
        )
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
        inner.train_from_iterator(reports, trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a `tokenizers` JSON file. Raises ReportError if it is none."""
        path = Path(path)
        if not path.is_file():
            raise ReportError(f"{path}: no such tokenizer file; train one with `mrm tokenizer RECORDS.csv --out {path}`")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), str(path))
        except ReportError:
            raise
        except Exception as error:  # the Rust side raises bare Exception
            raise ReportError(f"{path}: not a tokenizer file ({error})") from error

    def to_json(self) -> str:
        """The `tokenizers` JSON, with which `load` gives the same tokenizer back."""
        return json.dumps(json.loads(self.inner.to_str()), ensure_ascii=False)

    def encode(self, reports: Sequence[str], length: int = 100) -> list[np.ndarray]:
        """Ids of each report, `[CLS]` first, cut at `length`, not padded. An empty report is `[CLS]` alone."""
        encoded = self.inner.encode_batch([f"[CLS] {r}" for r in reports], add_special_tokens=False)
        return [np.array(e.ids[:length], dtype=np.int32) for e in encoded]

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


def mask_words(
    ids_T: np.ndarray, draws_T: np.ndarray, continues_V: np.ndarray, probability: float = 0.5, length: int = 100
) -> np.ndarray:
    """Which positions to mask: (T,) bool. `draws_T` are uniform in [0, 1), one a position.

    A word is masked where its first piece's draw is below `probability`, its continuation pieces with
    it. `[CLS]`, padding and the last of `length` positions are never masked, as published.
    """
    position = np.arange(len(ids_T))
    starts = ~continues_V[ids_T]
    starts[:1] = True
    first = np.maximum.accumulate(np.where(starts, position, 0))  # where this position's word begins
    eligible = (position > 0) & (position < length - 1) & (np.cumsum(ids_T == PAD) == 0)
    return (draws_T < probability)[first] & eligible & (first > 0)


def _plain(title: str) -> str:
    return re.sub(r"\s+", " ", title.strip().lower())
