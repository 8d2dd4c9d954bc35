"""Blanks filled in and sentences scored, by a small network that has learnt which word goes with which image."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrm.data import images
from mrm.data.config import CropConfig
from mrm.data.records import Record, Records
from mrm.data.reports import MASK, Tokenizer
from mrm.data.samples import PretrainData
from mrm.data.sampling import in_order
from mrm.inference import predict, report_filling
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.system.errors import ReportError
from mrm.training.tasks import PretrainTask
from tests.support.commands import run_cli
from tests.support.configs import MICRO

TEXTS = ("Findings: the chest is bright. There is cardiomegaly.", "Findings: the chest is dark. There is nothing.")
BLANKED = "Findings: the chest is ____. There is [MASK]."


def radiograph(bright: bool, number: int) -> np.ndarray:
    """Noise with a bright or a dark middle: two kinds of image that one can tell apart."""
    image = np.random.default_rng(number).integers(90, 160, (64, 64)).astype(np.uint8)
    image[16:48, 16:48] = 230 if bright else 20
    return image


@pytest.fixture(scope="module")
def model():
    """A micro MRM after some seconds on pairs of image and report."""
    rows = [
        Record(images.encode_png(radiograph(i % 2 == 0, i)), TEXTS[i % 2], patient=str(i), name=str(i))
        for i in range(32)
    ]
    tokenizer = Tokenizer.train(["Findings: the chest is bright. dark. There is nothing."] * 5 + ["cardiomegaly"], 73)
    with noise.seeded(0):
        network = MRM(replace(MICRO, vocabulary=tokenizer.size, target_scale=1, keep=12, report_dropout=0.0))
    config = network.config
    crop = CropConfig(area=(0.8, 1.0), flip=0.5)
    data = PretrainData(
        Records(rows), tokenizer, config.target_size, network.patches, config.keep, config.report_length, crop
    )
    task = PretrainTask(network, image_weight=0.1)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for epoch in range(40):
        for wanted in in_order(len(data), 16):
            batch = data.collate([data.sample(epoch, s.index) for s in wanted], [])
            terms = task(batch)
            loss = sum(task.weights[k] * t.sum / max(1, t.count) for k, t in terms.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.tokenizer = tokenizer
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def others():
    return [radiograph(i % 2 == 0, 100 + i) for i in range(8)]


# Blanks ----------------------------------------------------------------------------------------------


def test_a_blank_gets_the_word_of_its_image_and_without_image_either(model, others):
    for bright, word in ((True, "bright"), (False, "dark")):
        blank = report_filling.fill_in(model, radiograph(bright, 50), BLANKED, others=others)[0]
        assert BLANKED[blank.start : blank.end] == "____"
        assert blank.with_image[0][0] == word
        assert blank.with_image[0][1] > 0.7
        without = dict(blank.without_image)
        assert without.get(word, 0) < blank.with_image[0][1] - 0.15


def test_a_word_of_several_pieces_is_found_whole(model, others):
    pieces = model.tokenizer.encode(["cardiomegaly"])[0][1:]
    assert 2 <= len(pieces) <= report_filling.MAX_PIECES, "the vocabulary of this test must cut the word"
    blank = report_filling.fill_in(model, radiograph(True, 50), BLANKED, others=others)[1]
    assert BLANKED[blank.start : blank.end] == "[MASK]"
    assert "cardiomegaly" in dict(blank.with_image)


def test_the_probability_of_a_whole_word_is_that_of_its_pieces_one_after_the_other(model):
    """Worked out by hand for a word of one piece: the share of such words times the softmax at the only mask."""
    text = "Findings: the chest is ____"
    image = radiograph(True, 50)
    blank = report_filling.fill_in(model, image, text)[0]
    ids = [*model.tokenizer.encode(["Findings: the chest is"])[0].tolist(), MASK]
    p_V = predict.word_probabilities(model, predict.context_of(model, [image]), np.array(ids))[0]
    share = report_filling.piece_shares(model.tokenizer, ids[1:-1])[0]
    (bright,) = model.tokenizer.encode(["bright"])[0][1:]
    assert dict(blank.with_image)["bright"] == pytest.approx(share * p_V[bright], rel=1e-4)


def test_words_are_words_sorted_and_no_more_likely_than_one(model):
    for blank in report_filling.fill_in(model, radiograph(True, 50), BLANKED, top=20):
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
    blanks = report_filling.fill_in(model, radiograph(True, 50), text)
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
        report_filling.fill_in(model, radiograph(True, 0), text)


def test_ten_thousand_blanks_are_refused_at_once(model):
    start = time.process_time()
    with pytest.raises(ReportError, match="10,000 blanks"):
        report_filling.fill_in(model, radiograph(True, 0), "there is ____ " * 10_000)
    assert time.process_time() - start < 0.5


def test_a_long_report_is_read_around_its_blank(model):
    near = "the chest is dark. " * 40 + "Findings: the chest is ____. " + "There is nothing. " * 40
    one, other = (
        report_filling.fill_in(model, radiograph(True, 50), far + near + far)[0].with_image
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
            report_filling.fill_in(model, radiograph(True, 0), "a ____", top=top)
    bare = MRM(MICRO)
    with pytest.raises(ReportError, match="no tokenizer"):
        report_filling.fill_in(bare, radiograph(True, 0), "a ____")


def test_without_image_is_the_mean_of_what_is_seen_of_others_and_does_not_hold_the_own(model, others):
    contexts_CR = torch.cat([predict.context_of(model, [o]) for o in others])
    torch.testing.assert_close(report_filling.reference(model, others), contexts_CR.mean(0, keepdim=True))
    a, b = (
        report_filling.fill_in(model, radiograph(bright, 50), BLANKED, others=others)[0] for bright in (True, False)
    )
    assert a.without_image == b.without_image
    assert a.with_image != b.with_image
    assert report_filling.fill_in(model, radiograph(True, 50), BLANKED)[0].without_image  # phantoms stand in


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
        for score in report_filling.surprise(model, radiograph(bright, 60), wrong, others)[:1]:
            assert score.surprise > 0.1
            assert score.better >= 0.5  # half of the others are of the other kind
        for score in report_filling.surprise(model, radiograph(bright, 60), own, others)[:1]:
            assert score.surprise < -0.1
            assert score.better <= 0.5


def test_scores_are_means_over_words_and_differences_of_each_other(model, others):
    text = TEXTS[0]
    contexts_CR = report_filling.contexts(model, radiograph(True, 60), others)
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
    score = lambda seed: report_filling.surprise(model, radiograph(True, 60), TEXTS[0], others, seed=seed)  # noqa: E731
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
    text, image = "the chest is bright", radiograph(True, 60)
    context_1R = predict.context_of(model, [image])
    reading = report_filling.read_words(model, context_1R, text, parts=100, rounds=1)
    ids = model.tokenizer.encode([text])[0]
    assert len(ids) == 5, "one piece a word in this test"
    for i in range(4):
        hidden = ids.copy()
        hidden[i + 1] = MASK
        p_V = predict.word_probabilities(model, context_1R, hidden)[0]
        assert reading.scores_CW[0, i] == pytest.approx(math.log(p_V[ids[i + 1]]), abs=1e-4)


def test_a_long_report_is_scored_in_parts_that_end_with_sentences(model):
    text = "Findings: the chest is bright. There is cardiomegaly. " * 20
    scores = report_filling.surprise(model, radiograph(True, 60), text)
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
    (score,) = report_filling.surprise(model, radiograph(True, 60), text)
    assert score.words == 400
    assert math.isfinite(score.surprise)


def test_a_sentence_without_known_words_has_no_score_and_a_text_of_none_is_refused(model):
    scores = report_filling.surprise(model, radiograph(True, 60), "The chest is bright. ... 漢字. There is nothing.")
    assert [s.words for s in scores if "漢" in s.sentence] == [0]
    assert math.isnan(next(s for s in scores if "漢" in s.sentence).surprise)
    for text in ("", "漢字.", "..."):
        with pytest.raises(ReportError, match="no word"):
            report_filling.surprise(model, radiograph(True, 60), text)


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


# The command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model, others, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    model_folder.save(out / "model", model)
    (out / "others").mkdir()
    for i, other in enumerate(others):
        (out / "others" / f"{i}.png").write_bytes(images.encode_png(other))
    (out / "radiograph.png").write_bytes(images.encode_png(radiograph(True, 50)))
    (out / "report.txt").write_text(BLANKED)
    return out


def test_the_command_fills_in_a_text_or_a_file(capsys, folder, tmp_path):
    common = ["fill-in", str(folder / "model"), str(folder / "radiograph.png")]
    code, out, err = run_cli(capsys, *common, str(folder / "report.txt"), "--others", str(folder / "others"))
    assert code == 0, err
    assert "bright" in out
    code, again, err = run_cli(
        capsys, *common, BLANKED, "--others", str(folder / "others"), "--json", str(tmp_path / "a.json")
    )
    assert (code, again) == (0, out), err
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["blanks"][0]["with_image"][0][0] == "bright"


def test_the_command_orders_sentences_by_surprise(capsys, folder, tmp_path):
    text = "Findings: the chest is dark. There is cardiomegaly."
    code, out, err = run_cli(
        capsys, "fill-in", str(folder / "model"), str(folder / "radiograph.png"), text, "--surprise",
        "--others", str(folder / "others"), "--json", str(tmp_path / "a.json"),
    )  # fmt: skip
    assert code == 0, err
    assert "the chest is dark" in out.splitlines()[1]
    found = json.loads((tmp_path / "a.json").read_text())
    assert [s["sentence"] for s in found["sentences"]] == ["Findings: the chest is dark.", "There is cardiomegaly."]
    assert found["report"]["words"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report": "nothing blank"}, "0 blanks"),
        ({"report": "____ " * 10_000}, "10,000 blanks"),
        ({"report": "reprot.txt"}, "reprot.txt: no such file"),
        ({"report": "{f}/empty.txt"}, "0 blanks"),
        ({"report": "{f}/huge.txt"}, "no report"),
        ({"report": "{f}/radiograph.png"}, "not a text file"),
        ({"radiograph": "gone.png"}, "gone.png"),
        ({"radiograph": "empty.png"}, "empty.png"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_the_command_names_bad_input_in_one_line(capsys, folder, changes, message):
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "huge.txt").write_bytes(b"____ " * 300_000)
    asked = {"model": "model", "radiograph": "radiograph.png", "report": BLANKED, **changes}
    report = asked["report"].replace("{f}", str(folder))
    code, _, err = run_cli(capsys, "fill-in", str(folder / asked["model"]), str(folder / asked["radiograph"]), report)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_tokenizer_of_another_size_is_refused(capsys, folder, tmp_path):
    (tmp_path / "t.json").write_text(Tokenizer.train(["one two three"], 40).to_json())
    code, _, err = run_cli(
        capsys,
        "fill-in",
        str(folder / "model"),
        str(folder / "radiograph.png"),
        BLANKED,
        "--tokenizer",
        str(tmp_path / "t.json"),
    )
    assert code == 2
    assert "the tokenizer has" in err
    assert "trained with" in err


def test_reconstruct_writes_a_sheet_an_image_and_their_errors(capsys, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    paths = [str(folder / "radiograph.png"), str(folder / "others" / "1.png"), str(folder / "broken.png")]
    with pytest.warns(UserWarning, match=r"left out .*broken"):
        code, _, err = run_cli(
            capsys, "reconstruct", str(folder / "model"), *paths, "--out", str(tmp_path), "--keep", "5"
        )
    assert code == 0, err
    lines = (tmp_path / "errors.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[1].split(",")[3:6] == ["5", "0", "radiograph.png"]
    sheet = images.read(tmp_path / "radiograph.png")
    assert sheet.shape[1] > 3 * sheet.shape[0]
    error = predict.reconstruct(model_folder.load(folder / "model"), radiograph(True, 50), 0, 5).error
    assert float(lines[1].split(",")[1]) == pytest.approx(error, abs=1e-5)
    code, _, err = run_cli(
        capsys, "reconstruct", str(folder / "model"), *paths[:1], "--out", str(tmp_path), "--keep", "99"
    )
    assert code == 2
    assert "--keep must be from 1 to 15" in err
    code, _, err = run_cli(capsys, "reconstruct", str(folder / "model"), *paths[:1], "--out", str(folder))
    assert code == 2
    assert "radiograph.png: is read, and would be overwritten" in err


def test_reconstruct_takes_the_published_file_and_refuses_what_it_cannot_use(capsys, folder, tmp_path):
    model_folder.export_published(model_folder.load(folder / "model"), tmp_path / "MRM.pth")
    common = [str(tmp_path / "MRM.pth"), str(folder / "radiograph.png")]
    code, _, err = run_cli(capsys, "reconstruct", *common, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert (tmp_path / "out" / "radiograph.png").is_file()
    code, _, err = run_cli(capsys, "fill-in", *common, BLANKED)
    assert code == 2
    assert "--tokenizer" in err
    (tmp_path / "t.json").write_text((folder / "model" / "tokenizer.json").read_text())
    code, out, err = run_cli(capsys, "fill-in", *common, BLANKED, "--tokenizer", str(tmp_path / "t.json"))
    assert code == 0, err
    assert "bright" in out
