"""Reports: WordPiece as published, and whole-word masking. Their sections are tested in `test_sections.py`."""

import itertools
import json
import string

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from mrm.data.config import ReportConfig
from mrm.data.reports import (
    CLS,
    MASK,
    PAD,
    SPECIAL,
    UNK,
    Fit,
    Tokenizer,
    Units,
    mask_words,
)
from mrm.system.errors import ReportError
from tests.support.paths import SHARED

TEXTS = [
    "FINDINGS: The heart is normal in size. No pleural effusion or pneumothorax.",
    "IMPRESSION: Small left pleural effusion. Cardiomegaly, unchanged since 2019.",
    "Mild cardiomegaly. No focal consolidation, effusion or oedema.",
]
SCRIPTS = {
    "greek": "Καρδιομεγαλία χωρίς πλευριτική συλλογή.",
    "chinese": "心影增大,未见胸腔积液。",
    "arabic": "تضخم القلب دون انصباب جنبي",
    "emoji": "🫁 👩🏽‍⚕️ clear 🙂",
    "combining": "e\u0301panchement z\u0351\u036b\u0343algo",
    "control": "\x00\x1f\u200b\ufeff\u2028",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture(scope="module")
def published() -> Tokenizer:
    path = SHARED / "golden" / "mimic_wordpiece.json"
    if not path.is_file():
        pytest.skip(f"no golden values at {path.parent}")
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def golden(published) -> dict:
    return json.loads((SHARED / "golden" / "mrm_reference.json").read_text())["inputs"]


# The published tokenizer ------------------------------------------------------------------------------


def test_published_tokenizer_gives_the_published_ids(published, golden):
    for report, expected in zip(golden["reports"], golden["ids"], strict=True):
        ids = published.encode([report], length=100)[0]
        assert [*ids, *[PAD] * (100 - len(ids))] == expected


def test_published_draws_give_the_published_masks(published, golden):
    for ids, masked, draws in zip(golden["ids"], golden["masked_ids"], golden["draws"], strict=True):
        mask = mask_words(np.array(ids), np.array(draws), published.units("word"), 0.5, 100)
        assert np.where(mask, MASK, ids).tolist() == masked


def test_masks_are_the_same_without_the_padding(published, golden):
    """Batches are padded only as far as needed, so a mask must not depend on it."""
    for ids, draws in zip(golden["ids"], golden["draws"], strict=True):
        used = sum(i != PAD for i in ids)
        whole = mask_words(np.array(ids), np.array(draws), published.units("word"), 0.5, 100)
        assert (
            mask_words(np.array(ids[:used]), np.array(draws[:used]), published.units("word"), 0.5, 100).tolist()
            == whole[:used].tolist()
        )


def test_published_tokenizer_is_written_as_it_was_read(published, tmp_path):
    (tmp_path / "t.json").write_text(published.to_json())
    again = Tokenizer.load(tmp_path / "t.json")
    assert published.size == again.size == 30_000
    assert json.loads(again.to_json()) == json.loads((SHARED / "golden" / "mimic_wordpiece.json").read_text())


def test_published_tokenizer_reads_real_reports(published, shared_data):
    """Known words come back as they went in, lower case; hardly any word of real reports is unknown."""
    from mrm.data.records import Records

    reports = [r.report for r in Records.load(shared_data / "covid-cxr" / "training.csv")]
    ids = np.concatenate(published.encode(reports))
    assert (ids == UNK).mean() < 0.01
    text = published.decode(published.encode(["No acute cardiopulmonary abnormality ."])[0])
    assert text == "no acute cardiopulmonary abnormality ."


# Training and loading ---------------------------------------------------------------------------------


def test_training_learns_the_words_of_its_reports(tokenizer):
    ids = tokenizer.encode(["No pleural effusion."])[0]
    assert [tokenizer.piece(i) for i in ids] == ["[CLS]", "no", "pleural", "effusion", "."]
    assert [tokenizer.piece(i) for i in range(4)] == list(SPECIAL) == ["[PAD]", "[UNK]", "[CLS]", "[MASK]"]


def test_how_finely_words_are_split_and_how_many_are_unknown_is_counted():
    tokenizer = Tokenizer.train(["no effusion"] * 9, 200)
    assert tokenizer.fit(["No effusion.", "effusion"]) == Fit(
        1.0, 0.25
    )  # the full stop is a word that it does not know
    pieces = [len(tokenizer.encode([word])[0]) - 1 for word in ("fusion", "nose")]
    assert tokenizer.fit(["fusion nose"]).pieces == sum(pieces) / 2
    assert tokenizer.fit([]) == Fit(0.0, 0.0)


def test_training_twice_gives_the_same_vocabulary():
    assert Tokenizer.train(TEXTS, 120).to_json() == Tokenizer.train(iter(TEXTS), 120).to_json()


def test_words_split_at_punctuation_and_digits_whatever_case_and_accents(tokenizer):
    plain = tokenizer.encode(["oedema , 20 x 19 mm"])[0].tolist()
    assert tokenizer.encode(["ŒDÈMA,20x19mm".replace("Œ", "OE")])[0].tolist() == plain


def test_training_on_few_reports_or_none_gives_a_tokenizer_that_works():
    for texts in ([], [""], ["x"], ["effusion"]):
        tokenizer = Tokenizer.train(texts, 100)
        assert tokenizer.size >= 4
        assert tokenizer.encode(["?"])[0].tolist() == [CLS, UNK]


def test_a_trained_tokenizer_is_loaded_as_it_was_written(tokenizer, tmp_path):
    (tmp_path / "t.json").write_text(tokenizer.to_json(), encoding="utf-8")
    again = Tokenizer.load(tmp_path / "t.json")
    for a, b in zip(again.encode(TEXTS), tokenizer.encode(TEXTS), strict=True):
        assert a.tolist() == b.tolist()
    assert again.continues.tolist() == tokenizer.continues.tolist()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"not json", b'{"version": "1.0"', b"\xff\xfe\x00"])
def test_a_broken_tokenizer_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=r"tokenizer\.json: not a tokenizer file"):
        Tokenizer.load(path)


def test_a_tokenizer_that_is_not_there_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(ReportError, match=r"none\.json: no such tokenizer file; train one with `mrm tokenizer"):
        Tokenizer.load(tmp_path / "none.json")


def test_a_tokenizer_with_other_special_tokens_is_refused(tokenizer, tmp_path):
    path = tmp_path / "bert.json"
    path.write_text(tokenizer.to_json().replace("[CLS]", "[BOS]"))
    with pytest.raises(ReportError, match=r"bert\.json: \[CLS\] has id None, expected 2"):
        Tokenizer.load(path)


def test_settings_for_padding_and_truncation_in_a_file_do_not_change_reports(tokenizer, tmp_path):
    """Files of other projects hold them; `encode` pads nothing and cuts at its own length."""

    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.enable_padding(length=64)
    inner.enable_truncation(3)
    (tmp_path / "t.json").write_text(inner.to_str())
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.encode(TEXTS[:1])[0].tolist() == tokenizer.encode(TEXTS[:1])[0].tolist()


@pytest.mark.parametrize("pipeline", ["the published one", "another"])
def test_a_template_in_a_file_adds_no_token(tokenizer, tmp_path, pipeline):
    """Files of BERT have one, which puts a token before and after each text."""
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    special = [("[CLS]", CLS), ("[MASK]", MASK)]
    inner.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [MASK]", None, special)
    if pipeline == "another":
        inner.normalizer = tokenizers.normalizers.Lowercase()
    (tmp_path / "t.json").write_text(inner.to_str())
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.encode(["Effusion"])[0].tolist() == tokenizer.encode(["effusion"])[0].tolist()
    assert again.fit(["Effusion"]) == tokenizer.fit(["effusion"])


# Encoding and decoding --------------------------------------------------------------------------------


def test_an_empty_report_is_its_first_token_alone(tokenizer):
    assert [ids.tolist() for ids in tokenizer.encode(["", "  \n "])] == [[CLS], [CLS]]


def test_a_report_is_cut_at_the_length_with_its_beginning_kept(tokenizer):
    whole = tokenizer.encode(["effusion " * 300], length=1000)[0]
    cut = tokenizer.encode(["effusion " * 300])[0]
    assert len(whole) == 301
    assert cut.tolist() == whole[:100].tolist()


def test_reports_do_not_depend_on_what_they_are_encoded_with(tokenizer):
    together = tokenizer.encode([*TEXTS, "effusion"])
    for text, ids in zip(TEXTS, together, strict=False):
        assert tokenizer.encode([text])[0].tolist() == ids.tolist()


@pytest.mark.parametrize("script", SCRIPTS)
def test_any_script_becomes_ids_of_the_vocabulary(tokenizer, script):
    ids = tokenizer.encode([SCRIPTS[script] * 40])[0]
    assert ids[0] == CLS
    assert len(ids) <= 100
    assert ids.max() < tokenizer.size
    assert CLS not in ids[1:]


@pytest.mark.parametrize("script", ["greek", "chinese", "arabic", "emoji"])
def test_a_vocabulary_can_be_learned_in_any_script(script):
    tokenizer = Tokenizer.train([SCRIPTS[script]] * 3, 200)
    ids = tokenizer.encode([SCRIPTS[script]])[0]
    assert len(ids) > 2
    assert UNK not in ids


def test_decoding_joins_pieces_and_leaves_padding_out(published):
    ids = published.encode(["Hyperinflatedness noted."])[0]
    pieces = [published.piece(i) for i in ids]
    assert any(p.startswith("##") for p in pieces)  # else the test shows nothing
    assert published.decode([*ids, PAD, PAD]) == "hyperinflatedness noted ."


def test_decoding_shows_masks_and_survives_numbers_outside_the_vocabulary(tokenizer):
    no, effusion = tokenizer.encode(["no effusion"])[0][1:]
    assert tokenizer.decode([CLS, no, MASK, effusion, tokenizer.size + 7]) == "no [MASK] effusion [UNK]"
    assert tokenizer.decode([]) == ""


@settings(max_examples=100)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=3))
def test_any_text_is_encoded_and_decoded_without_a_crash(tokenizer_once, reports):
    for ids in tokenizer_once.encode(reports, 20):
        assert ids[0] == CLS
        assert len(ids) <= 20
        assert not (ids[1:] == PAD).any() or any("[PAD]" in r for r in reports)
        tokenizer_once.decode(ids)


@pytest.fixture(scope="session")
def tokenizer_once() -> Tokenizer:
    """Session-wide, as hypothesis wants it of a fixture."""
    return Tokenizer.train(TEXTS, 300)


# Masking ----------------------------------------------------------------------------------------------

VOCABULARY = 20
CONTINUES = np.arange(VOCABULARY) >= 12  # ids 12..19 continue a word
UNITS = Units(CONTINUES)
WORDS = st.lists(st.tuples(st.integers(4, 11), st.lists(st.integers(12, 19), max_size=3)), max_size=12)


@st.composite
def reports(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids of a report, padded or not, its draws, and the length at which reports are cut."""
    ids = [CLS, *(i for first, rest in draw(WORDS) for i in (first, *rest))]
    length = draw(st.integers(1, 40))
    ids = ids[:length] + [PAD] * draw(st.integers(0, max(0, length - len(ids))))
    draws = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(ids), max_size=len(ids)))
    return np.array(ids), np.array(draws), length


@given(reports(), st.sampled_from([0.0, 0.5, 1.0]))
def test_first_token_padding_and_last_position_are_never_masked(case, probability):
    ids, draws, length = case
    mask = mask_words(ids, draws, UNITS, probability, length)
    assert not mask[0]
    assert not mask[ids == PAD].any()
    assert not mask[length - 1 :].any()
    if probability == 0:
        assert not mask.any()


@given(reports())
def test_with_probability_one_all_words_are_masked(case):
    ids, draws, length = case
    mask = mask_words(ids, draws, UNITS, 1.0, length)
    assert mask[1 : length - 1].tolist() == (ids != PAD)[1 : length - 1].tolist()


@given(reports())
def test_a_word_is_masked_by_the_draw_of_its_first_piece_alone(case):
    ids, draws, length = case
    mask = mask_words(ids, draws, UNITS, 0.5, length)
    fate = False
    for at in range(1, min(len(ids), length - 1)):
        if not CONTINUES[ids[at]]:
            fate = ids[at] != PAD and draws[at] < 0.5
        assert mask[at] == fate
    changed = np.where(CONTINUES[ids], 1 - draws, draws)  # the draws of continuation pieces say nothing
    assert mask_words(ids, changed, UNITS, 0.5, length).tolist() == mask.tolist()


def test_a_report_of_one_word_can_be_masked_and_an_empty_one_cannot():
    assert mask_words(np.array([CLS, 5, 14]), np.array([0.0, 0.2, 0.9]), UNITS, 0.5, 100).tolist() == [
        False,
        True,
        True,
    ]
    assert mask_words(np.array([CLS]), np.array([0.0]), UNITS, 0.5, 100).tolist() == [False]


def test_a_piece_that_continues_the_first_token_is_never_masked_either():
    assert mask_words(np.array([CLS, 14, 5]), np.zeros(3), UNITS, 0.5, 100).tolist() == [False, False, True]


def test_the_share_of_words_masked_is_the_probability():
    ids = np.array([CLS, *[5] * 20_000])
    for probability in (0.15, 0.5):
        mask = mask_words(ids, np.random.default_rng(0).random(len(ids)), UNITS, probability, 30_000)
        assert mask.mean() == pytest.approx(probability, abs=0.015)


def test_letters_of_the_alphabet_are_learned_even_where_words_are_new(tokenizer):
    """A word never seen is spelled from pieces, as long as its letters were seen."""
    seen = set("".join(TEXTS).lower()) & set(string.ascii_lowercase)
    word = "".join(sorted(seen))[:6]
    assert UNK not in tokenizer.encode([word])[0]


PATTERN = {"Regex": "((a+)+"}
FOREIGN_PARTS = {
    "a bad pattern": ("normalizer", {"type": "Replace", "pattern": PATTERN, "content": ""}, "'Replace'"),
    "a pattern in a sequence": (
        "pre_tokenizer",
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Split", "pattern": PATTERN, "behavior": "Isolated", "invert": False}],
        },
        "'Split'",
    ),
    "a pattern in the decoder": ("decoder", {"type": "Replace", "pattern": PATTERN, "content": ""}, "'Replace'"),
    "a part of a wrong type": ("normalizer", 3, "'int'"),
    "a part without a type": ("normalizer", {}, "'None'"),
}


@pytest.mark.parametrize("case", FOREIGN_PARTS)
def test_parts_with_patterns_are_refused(tokenizer, tmp_path, case):
    place, part, named = FOREIGN_PARTS[case]
    content = json.loads(tokenizer.to_json())
    (tmp_path / "t.json").write_text(json.dumps({**content, place: part}))
    with pytest.raises(
        ReportError, match=rf"t\.json: its {place} is {named}, which is not accepted; choose from Lower"
    ):
        Tokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize("change", ["model", "vocabulary", "no model", "deep", "BPE"])
def test_tokenizers_that_cannot_be_right_are_refused(tokenizer, tmp_path, change):
    content = json.loads(tokenizer.to_json())
    if change == "vocabulary":
        content["model"]["vocab"]["effusion"] = 4_000_000_000
    elif change == "BPE":
        content["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    elif change == "model":
        content["model"]["vocab"] = []
    text = "[" * 200_000 if change == "deep" else "{}" if change == "no model" else json.dumps(content)
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ReportError, match=r"t\.json: "):
        Tokenizer.load(tmp_path / "t.json")


TEXT = "Heart is large, 2.5 cm. No effusion (left)! Lungs clear"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (
            "word",
            [
                "heart",
                "is",
                "large",
                ",",
                "2",
                ".",
                "5",
                "cm",
                ".",
                "no",
                "effusion",
                "(",
                "left",
                ")!",
                "lungs",
                "clear",
            ],
        ),
        ("phrase", ["heart is large ,", "2 . 5 cm .", "no effusion (", "left )!", "lungs clear"]),
        ("sentence", ["heart is large , 2 . 5 cm .", "no effusion ( left )!", "lungs clear"]),
    ],
)
def test_units_of_a_text(unit, expected):
    """Written by hand; the point of 2.5 ends nothing, and a run of punctuation belongs to the unit it ends."""
    tokenizer = Tokenizer.train([TEXT] * 3, 200)
    ids = tokenizer.encode([TEXT])[0]
    starts = np.flatnonzero(tokenizer.units(unit).starts(ids)).tolist()
    assert starts[0] == 0  # [CLS], which is never masked
    units = [tokenizer.decode(ids[a:b]) for a, b in zip(starts[1:], [*starts[2:], len(ids)], strict=True)]
    assert units == expected


@pytest.mark.parametrize("unit", ["phrase", "sentence"])
def test_a_unit_is_masked_whole_or_not_at_all_by_the_draw_of_its_first_piece(unit):
    tokenizer = Tokenizer.train([TEXT] * 3, 60)  # words of several pieces
    ids = tokenizer.encode([TEXT])[0]
    assert tokenizer.continues[ids].any()
    units = tokenizer.units(unit)
    starts = np.flatnonzero(units.starts(ids))[1:]
    for drawn in itertools.product((0.2, 0.9), repeat=len(starts)):
        draws = np.full(len(ids), 0.5)
        draws[starts] = drawn
        mask = mask_words(ids, draws, units, 0.5, 100)
        for start, end, draw in zip(starts, [*starts[1:], len(ids)], drawn, strict=True):
            assert mask[start:end].all() == mask[start:end].any() == (draw < 0.5)


def test_all_words_are_masked_at_a_probability_of_one():
    ids = np.array([CLS, *range(4, 12)])
    assert mask_words(ids, np.random.default_rng(0).random(len(ids)), UNITS, 1.0, 100).tolist() == [False] + [True] * 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": 1.1}, "report.mask is a probability from 0 to 1, not 1.1"),
        ({"mask": float("nan")}, "not nan"),
        ({"unit": "page"}, "report.unit must be one of word, phrase, sentence, not 'page'"),
    ],
)
def test_wrong_settings_of_masking_are_refused(settings, message):
    with pytest.raises(ReportError, match=message):
        ReportConfig(**settings)
