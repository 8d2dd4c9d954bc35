"""Blanks filled in and sentences scored, by a small network that has learnt which word goes with which image."""

import math
import time

import numpy as np
import pytest
import torch

from mrm.data.reports import MASK
from mrm.inference import masked_words, report_filling
from mrm.models import noise
from mrm.models.mrm import MRM
from mrm.system.errors import ReportError
from tests.support.bright_and_dark import BLANKED, TEXTS, bright_or_dark, other_images
from tests.support.configs import MICRO


@pytest.fixture(scope="module")
def model(bright_and_dark_model):
    return bright_and_dark_model


@pytest.fixture(scope="module")
def others():
    return other_images()


# Blanks ----------------------------------------------------------------------------------------------


def test_a_blank_gets_the_word_of_its_image_and_without_image_either(model, others):
    for bright, word in ((True, "bright"), (False, "dark")):
        blank = report_filling.fill_in(model, bright_or_dark(bright, 50), BLANKED, others=others)[0]
        assert BLANKED[blank.start : blank.end] == "____"
        assert blank.with_image[0][0] == word
        assert blank.with_image[0][1] > 0.7
        without = dict(blank.without_image)
        assert without.get(word, 0) < blank.with_image[0][1] - 0.15


def test_a_word_of_several_pieces_is_found_whole(model, others):
    pieces = model.tokenizer.encode(["cardiomegaly"])[0][1:]
    assert 2 <= len(pieces) <= report_filling.MAX_PIECES, "the vocabulary of this test must cut the word"
    blank = report_filling.fill_in(model, bright_or_dark(True, 50), BLANKED, others=others)[1]
    assert BLANKED[blank.start : blank.end] == "[MASK]"
    assert "cardiomegaly" in dict(blank.with_image)


def test_the_probability_of_a_whole_word_is_that_of_its_pieces_one_after_the_other(model):
    """Worked out by hand for a word of one piece: the share of such words times the softmax at the only mask."""
    text = "Findings: the chest is ____"
    image = bright_or_dark(True, 50)
    blank = report_filling.fill_in(model, image, text)[0]
    ids = [*model.tokenizer.encode(["Findings: the chest is"])[0].tolist(), MASK]
    p_V = masked_words.word_probabilities(model, masked_words.context_of(model, [image]), np.array(ids))[0]
    share = report_filling.piece_shares(model.tokenizer, ids[1:-1])[0]
    (bright,) = model.tokenizer.encode(["bright"])[0][1:]
    assert dict(blank.with_image)["bright"] == pytest.approx(share * p_V[bright], rel=1e-4)


def test_words_are_words_sorted_and_no_more_likely_than_one(model):
    for blank in report_filling.fill_in(model, bright_or_dark(True, 50), BLANKED, top=20):
        for words in (blank.with_image, blank.without_image):
            assert 0 < len(words) <= 20
            values = [p for _, p in words]
            assert values == sorted(values, reverse=True)
            assert sum(values) <= 1 + 1e-6
            assert all(any(c.isalnum() for c in word) and "#" not in word and "[" not in word for word, _ in words)


def test_the_share_of_words_by_pieces_counts_words_and_not_punctuation(model):
    ids = model.tokenizer.encode(["the chest is: cardiomegaly."])[0][1:].tolist()
    pieces = len(model.tokenizer.encode(["cardiomegaly"])[0]) - 1
    expected = np.array([3 + 1, 1, 1], float)
    expected[pieces - 1] += 1
    np.testing.assert_allclose(report_filling.piece_shares(model.tokenizer, ids), expected / expected.sum())


@pytest.mark.parametrize("text", ["____", "____ [MASK]", "____. ____!"])
def test_a_text_of_nothing_but_blanks_is_filled_in(model, text):
    assert report_filling.piece_shares(model.tokenizer, [MASK]) == [1 / 3, 1 / 3, 1 / 3]
    blanks = report_filling.fill_in(model, bright_or_dark(True, 50), text)
    assert [text[b.start : b.end] for b in blanks] == report_filling.BLANK.findall(text)
    assert all(len(b.with_image) == 5 for b in blanks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("No blank here.", "0 blanks"),
        ("____ " * 65, "65 blanks"),
        ("", "0 blanks"),
        ("__ two are no blank", "0 blanks"),
    ],
)
def test_no_blank_and_too_many_are_refused(model, text, message):
    with pytest.raises(ReportError, match=message):
        report_filling.fill_in(model, bright_or_dark(True, 0), text)


def test_ten_thousand_blanks_are_refused_at_once(model):
    start = time.process_time()
    with pytest.raises(ReportError, match="10,000 blanks"):
        report_filling.fill_in(model, bright_or_dark(True, 0), "there is ____ " * 10_000)
    assert time.process_time() - start < 1


def test_a_long_report_is_read_around_its_blank(model):
    near = "the chest is dark. " * 40 + "Findings: the chest is ____. " + "There is nothing. " * 40
    one, other = (
        report_filling.fill_in(model, bright_or_dark(True, 50), far + near + far)[0].with_image
        for far in ("There is nothing. " * 100, "Findings is nothing. " * 100)
    )
    assert one == other
    ids, at = report_filling._window(model, [10] * 500, [MASK], [11] * 500)
    assert len(ids) == model.config.report_length
    assert ids[at] == MASK
    assert ids.count(10) == 49
    ids, at = report_filling._window(model, [10] * 500, [MASK], [11] * 5)  # what is not needed after goes to before
    assert (len(ids), ids.count(11), ids[at]) == (model.config.report_length, 5, MASK)


def test_other_bad_input_is_named(model):
    for top in (0, 101):  # a beam as wide as the vocabulary would not end
        with pytest.raises(ReportError, match=f"top must be from 1 to 100, not {top}"):
            report_filling.fill_in(model, bright_or_dark(True, 0), "a ____", top=top)
    bare = MRM(MICRO)
    with pytest.raises(ReportError, match="no tokenizer"):
        report_filling.fill_in(bare, bright_or_dark(True, 0), "a ____")


def test_without_image_is_the_mean_of_what_is_seen_of_others_and_does_not_hold_the_own(model, others):
    contexts_CR = torch.cat([masked_words.context_of(model, [o]) for o in others])
    torch.testing.assert_close(report_filling.reference(model, others), contexts_CR.mean(0, keepdim=True))
    a, b = (
        report_filling.fill_in(model, bright_or_dark(bright, 50), BLANKED, others=others)[0] for bright in (True, False)
    )
    assert a.without_image == b.without_image
    assert a.with_image != b.with_image
    assert report_filling.fill_in(model, bright_or_dark(True, 50), BLANKED)[0].without_image  # phantoms stand in


def test_what_is_kept_of_the_stand_ins_is_forgotten_when_the_weights_change(model):
    with noise.seeded(1):
        other = MRM(model.config).eval()
    before = report_filling.reference(other)
    assert report_filling.reference(other) is before
    with torch.no_grad():
        other.report_decoder.from_image.bias += 1
    torch.testing.assert_close(report_filling.reference(other), before + 1)


# Surprise --------------------------------------------------------------------------------------------


def test_a_report_of_another_image_surprises_and_the_own_does_not(model, others):
    for bright in (True, False):
        own, wrong = (TEXTS[1 - bright], TEXTS[bright])
        for score in report_filling.surprise(model, bright_or_dark(bright, 60), wrong, others)[:1]:
            assert score.surprise > 0.1
            assert score.better >= 0.5  # half of the others are of the other kind
        for score in report_filling.surprise(model, bright_or_dark(bright, 60), own, others)[:1]:
            assert score.surprise < -0.1
            assert score.better <= 0.5


def test_scores_are_means_over_words_and_differences_of_each_other(model, others):
    text = TEXTS[0]
    contexts_CR = report_filling.contexts(model, bright_or_dark(True, 60), others)
    reading = report_filling.read_words(model, contexts_CR, text)
    scores = [report_filling.score_of(reading, text, *span) for span in report_filling.sentences(text)]
    whole = report_filling.whole(reading, text)
    assert [s.sentence for s in scores] == ["Findings: the chest is bright.", "There is cardiomegaly."]
    assert [s.words for s in scores] == [5, 3]
    assert whole.with_image == pytest.approx(np.average([s.with_image for s in scores], weights=[5, 3]))
    for s in (whole, *scores):
        assert s.surprise == pytest.approx(s.others - s.with_image)
        assert s.with_image < 0


def test_scores_follow_from_the_seed_and_not_from_the_number_at_a_time(model, others, monkeypatch):
    score = lambda seed: report_filling.surprise(model, bright_or_dark(True, 60), TEXTS[0], others, seed=seed)  # noqa: E731
    first = score(0)
    assert first == score(0)
    assert first != score(1)
    monkeypatch.setattr(report_filling, "CELLS", 1)
    for a, b in zip(first, score(0), strict=True):
        assert a.with_image == pytest.approx(b.with_image, abs=1e-5)


def test_each_word_is_scored_as_often_as_the_others_and_alone_with_many_parts(model):
    for count, parts in ((7, 2), (5, 5), (3, 8), (4, 1)):
        dealt = report_filling.deal(count, parts, 3, np.random.default_rng(0))
        assert (dealt.sum(axis=0) == 3).all()
        assert dealt.sum(axis=1).max() == -(-count // min(parts, count))


def test_hidden_in_turn_a_word_scores_what_the_network_says_of_it(model):
    """One word at a time, compared with the softmax at its mask."""
    text, image = "the chest is bright", bright_or_dark(True, 60)
    context_1R = masked_words.context_of(model, [image])
    reading = report_filling.read_words(model, context_1R, text, parts=100, rounds=1)
    ids = model.tokenizer.encode([text])[0]
    assert len(ids) == 5, "one piece a word in this test"
    for i in range(4):
        hidden = ids.copy()
        hidden[i + 1] = MASK
        p_V = masked_words.word_probabilities(model, context_1R, hidden)[0]
        assert reading.scores_CW[0, i] == pytest.approx(math.log(p_V[ids[i + 1]]), abs=1e-4)


def test_a_long_report_is_scored_in_parts_that_end_with_sentences(model):
    text = "Findings: the chest is bright. There is cardiomegaly. " * 20
    scores = report_filling.surprise(model, bright_or_dark(True, 60), text)
    assert len(scores) == 40
    assert all(s.words and math.isfinite(s.with_image) for s in scores)
    encoded = model.tokenizer.inner.encode(text, add_special_tokens=False)
    words = report_filling.words_of(model.tokenizer, encoded.ids, encoded.offsets)
    cuts = report_filling.windows(words, report_filling.sentences(text), 99)
    assert [a for a, _ in cuts[1:]] == [b for _, b in cuts[:-1]]
    assert (cuts[0][0], cuts[-1][1]) == (0, len(words))
    assert all(sum(len(w.ids) for w in words[a:b]) <= 99 for a, b in cuts)
    assert all(words[b - 1].ids == words[-1].ids for _, b in cuts)  # the full stop


def test_a_sentence_longer_than_the_network_reads_is_still_scored(model):
    text = "the chest is bright " * 100
    (score,) = report_filling.surprise(model, bright_or_dark(True, 60), text)
    assert score.words == 400
    assert math.isfinite(score.surprise)


def test_a_sentence_without_known_words_has_no_score_and_a_text_of_none_is_refused(model):
    scores = report_filling.surprise(
        model, bright_or_dark(True, 60), "The chest is bright. ... 漢字. There is nothing."
    )
    assert [s.words for s in scores if "漢" in s.sentence] == [0]
    assert math.isnan(next(s for s in scores if "漢" in s.sentence).surprise)
    for text in ("", "漢字.", "..."):
        with pytest.raises(ReportError, match="no word"):
            report_filling.surprise(model, bright_or_dark(True, 60), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. Heart normal", ["No effusion.", "Heart normal"]),
        ("IMPRESSION: 1. Small effusion. 2. Nodule, 3.5 mm.", ["IMPRESSION: 1. Small effusion.", "2. Nodule, 3.5 mm."]),
        ("Lines\nwrapped here. Told to Dr. Who at 5.\n\nNEW PART", ["Lines\nwrapped here.", "Told to Dr. Who at 5.", "NEW PART"]),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences_are_cut_where_reports_end_them(text, expected):
    assert [text[a:b] for a, b in report_filling.sentences(text)] == expected
