"""Texts a chunk at a time: what is made of chunks is what the library makes of whole texts."""

from collections import Counter

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers

from mrm.data import chunks
from mrm.data.chunks import are_independent, chunks_of, published_pipeline, texts_of, word_counts
from mrm.data.reports import CLS, SPECIAL, Tokenizer
from tests.support.samples import REPORTS

# Letters, digits, marks, blanks of several kinds, signs that Python alone takes for blanks, and special tokens in words
SIGNS = st.sampled_from(
    [*"aAbß1.,:-#[]", "é", "e\u0301", "\u00a8", "ﬁ", "心", "\u200b", *" \n\t\x85\xa0\u2028\u3000\x1c\x1f"]
)
TEXT = st.lists(
    st.one_of(SIGNS, st.sampled_from([*SPECIAL, "effusion", "##fusion", "2.5"]), st.text(max_size=3)), max_size=20
)
WHOLE = ["a\x1cb .\x1c. x\x85y", "\u00a8e\u3000f\u2028g", "2.5\u00a0mm\u200bb", "x[MASK]y [CLS][PAD]", "no " * 200, ""]


def library_words(texts: list[str]) -> Counter[str]:
    inner = published_pipeline(models.WordPiece(unk_token="[UNK]"))
    normal = (inner.normalizer.normalize_str(text) for text in texts)
    return Counter(word for text in normal for word, _ in inner.pre_tokenizer.pre_tokenize_str(text))


@pytest.fixture(scope="session")
def report_pieces() -> Tokenizer:
    return Tokenizer.train([*REPORTS, *WHOLE, "abAB 1"], 120)


@given(st.lists(TEXT.map("".join), max_size=4))
@example(WHOLE)
def test_the_words_of_chunks_are_those_of_whole_texts(texts):
    inner = published_pipeline(models.WordPiece(unk_token="[UNK]"))
    assert word_counts(inner, iter(texts)) == library_words(texts)


@given(st.lists(TEXT.map("".join), max_size=4), st.sampled_from([1, 5, 100]))
@example(WHOLE, 100)
def test_the_ids_of_chunks_are_those_of_whole_texts(report_pieces, texts, length):
    whole = report_pieces.inner.encode_batch([f"[CLS] {text}" for text in texts], add_special_tokens=False)
    assert [ids.tolist() for ids in report_pieces.encode(texts, length)] == [e.ids[:length] for e in whole]


def test_a_vocabulary_is_the_one_that_the_library_learns_from_whole_texts():
    texts = [*REPORTS * 3, *WHOLE, "cardiomegaly " * 1100]
    inner = published_pipeline(models.WordPiece(unk_token="[UNK]"))
    letters = sorted({f"##{letter}" for word in library_words(texts) for letter in word[1:]})
    special = [*SPECIAL, *letters]
    inner.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    learned = Tokenizer.train(iter(texts), 120)
    assert learned.inner.get_vocab() == inner.get_vocab()
    assert learned.size == 120


def test_words_are_written_as_often_as_they_are_counted():
    counts = {"oedema": chunks.AT_ONCE, "a": 2 * chunks.AT_ONCE + 1, ".": 1}
    assert Counter(" ".join(texts_of(counts)).split()) == counts
    assert max(len(text.split()) for text in texts_of(counts)) == chunks.AT_ONCE


def test_few_chunks_are_kept_whatever_is_encoded(report_pieces, monkeypatch):
    monkeypatch.setattr(chunks, "MOST_KEPT", 8)
    texts = [f"effusion {number} {number + 1}" for number in range(20)]
    together, alone = report_pieces.encode(texts), [report_pieces.encode([text])[0] for text in texts]
    assert all(np.array_equal(*pair) for pair in zip(together, alone, strict=True))
    assert len(report_pieces._chunks._kept) <= 8


def test_blanks_are_those_of_unicode():
    assert chunks_of(" a\x85b\u3000c\t\n") == ["a", "b", "c"]
    assert chunks_of("a\x1cb c") == ["a\x1cb", "c"]
    assert chunks_of(" \n") == chunks_of("") == []


def bert(inner: tokenizers.Tokenizer) -> None:
    """Clean text: of a control character between blanks nothing is left, and U+0085 is one."""
    inner.normalizer = normalizers.BertNormalizer()


def phrase(inner: tokenizers.Tokenizer) -> None:
    inner.add_tokens([AddedToken("no effusion", normalized=False)])


def alone(inner: tokenizers.Tokenizer) -> None:
    inner.add_tokens([AddedToken("effusion", single_word=True, normalized=False)])


def split(inner: tokenizers.Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


@pytest.mark.parametrize("change", [bert, phrase, alone, split])
def test_texts_are_encoded_whole_by_any_other_pipeline(report_pieces, tmp_path, change):
    assert are_independent(report_pieces.inner)
    inner = tokenizers.Tokenizer.from_str(report_pieces.to_json())
    change(inner)
    assert not are_independent(inner)
    file = tmp_path / "tokenizer.json"
    file.write_text(inner.to_str())
    text = "a\x85b no effusion, effusions"
    whole = inner.encode(f"[CLS] {text}", add_special_tokens=False).ids
    assert Tokenizer.load(file).encode([text])[0].tolist() == whole
    assert whole[0] == CLS
