"""Samples that follow from (seed, epoch, index), an order that is one integer, batches that hide nothing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mrm.data import images
from mrm.data.config import CropConfig, ReportConfig
from mrm.data.eval_view import EvalView
from mrm.data.records import Records
from mrm.data.reports import CLS, MASK, NO_WORD, PAD, Tokenizer, Units
from mrm.data.samples import LabelData, PretrainData
from tests.support.samples import (
    LENGTH,
    everything,
    png,
    pretrain_data,
    record,
    report_tokenizer,
    same,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return report_tokenizer()


# Samples ----------------------------------------------------------------------------------------------


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone(records):
    first, second = pretrain_data(records, seed=1), pretrain_data(records, seed=1)
    expected = [first.sample(2, i) for i in range(7)]
    np.random.default_rng(0).random()
    np.random.seed(5)  # noqa: NPY002  nobody reads the global generators
    torch.manual_seed(5)
    for i in (3, 6, 0, 3):
        assert same(second.sample(2, i), expected[i])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 3}, {"index": 4}])
def test_another_seed_epoch_or_index_is_another_draw(tokenizer, other):
    """All records alike, so that only the draws can differ."""
    alike = Records([record(1, image=png(0))] * 7)
    at = {"seed": 1, "epoch": 2, "index": 3}

    def draw(seed, epoch, index):
        return pretrain_data(alike, seed=seed).sample(epoch, index)

    a, b = draw(**at), draw(**{**at, **other})
    for part in ("image", "kept", "masked", "key"):
        assert not np.array_equal(a[part], b[part]), part


def test_a_record_keeps_its_sample_when_records_are_added(records):
    longer = Records([*records, record(9)])
    assert same(pretrain_data(records).sample(0, 3), pretrain_data(longer).sample(0, 3))


def test_kept_and_hidden_patches_are_all_patches_once(records):
    data = pretrain_data(records)
    for i in range(7):
        sample = data.sample(0, i)
        assert len(sample["kept"]) == 4
        assert sorted([*sample["kept"], *sample["hidden"]]) == list(range(16))
    assert len({tuple(data.sample(e, 0)["kept"]) for e in range(20)}) > 10


def test_every_patch_is_kept_equally_often(records):
    data = pretrain_data(records, size=8)
    counts = sum(np.bincount(data.sample(e, 3)["kept"], minlength=16) for e in range(1500))
    assert np.abs(counts - 375).max() < 5 * np.sqrt(375 * 0.75)  # five deviations of a fair draw


def test_half_the_images_are_flipped_and_none_if_told_so():
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (40, 1))  # bright on the right
    alike = Records([record(0, image=images.encode_png(ramp))])

    def flipped(**crop):
        data = pretrain_data(alike, crop=CropConfig(**crop))
        crops = [data.sample(e, 0)["image"].astype(float) for e in range(200)]
        return sum(p[:, 0].mean() > p[:, -1].mean() for p in crops)

    assert 65 < flipped() < 135
    assert flipped(flip=0.0) == 0
    assert flipped(flip=1.0) == 200


def test_a_crop_of_the_whole_image_is_the_image(records):
    data = pretrain_data(records, crop=CropConfig(area=(1.0, 1.0), aspect=(40 / 48, 40 / 48), flip=0.0))
    expected = images.resize(images.read(records[0].image), 32, 32)
    np.testing.assert_array_equal(data.sample(0, 0)["image"], expected)


def test_only_the_sections_asked_for_are_read(tokenizer):
    text = "INDICATION: Fall. FINDINGS: No effusion. IMPRESSION: Cardiomegaly."
    data = pretrain_data(Records([record(0, report=text)]), report=ReportConfig(sections=("findings",)))
    assert tokenizer.decode(data.ids(0)) == "no effusion ."


# Pre-training batches ---------------------------------------------------------------------------------


def asked(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions asked for and their words, without those that only fill up the batch."""
    real = batch.targets_W != NO_WORD
    assert len(real) % 64 == 0  # few sizes
    assert real.tolist() == sorted(real.tolist(), reverse=True)
    return batch.words_W[real], batch.targets_W[real]


def test_a_batch_is_trimmed_to_its_longest_report_in_steps_of_sixteen(records, tokenizer):
    data = pretrain_data(records)
    data.length = 40  # tokens were cut at LENGTH, so every report is shorter than sixteen
    lengths = [len(data.ids(i)) for i in range(7)]
    assert lengths[2] == 1
    assert max(lengths) == LENGTH  # the long one is cut
    short = data.collate([data.sample(0, i) for i in (0, 2, 3)], [])
    assert short.tokens_BT.shape == (3, 16)
    assert short.attention_BT.sum(1).tolist() == [lengths[i] for i in (0, 2, 3)]
    assert (short.tokens_BT[1, 1:] == PAD).all()


def test_masked_words_are_asked_for_and_unmasked_ones_are_shown(records):
    data = pretrain_data(records)
    samples = [data.sample(0, i) for i in range(7)]
    batch = data.collate(samples, [])
    flat = batch.tokens_BT.flatten()
    words, targets = asked(batch)
    assert words.tolist() == (flat == MASK).nonzero().squeeze(1).tolist()
    restored = flat.scatter(0, words, targets).view_as(batch.tokens_BT)
    for row, sample in zip(restored, samples, strict=True):
        assert row[: len(sample["ids"])].tolist() == sample["ids"].tolist()
    assert len(words) > 5


def test_a_record_without_a_report_asks_for_no_word(records):
    data = pretrain_data(records)
    for epoch in range(5):
        batch = data.collate([data.sample(epoch, i) for i in (2, 5)], [])
        assert len(asked(batch)[0]) == 0
        assert batch.tokens_BT.tolist() == [[CLS, *[PAD] * (LENGTH - 1)]] * 2
        assert batch.attention_BT.sum(1).tolist() == [1, 1]


def test_the_published_loss_asks_for_every_position_padding_too(records):
    data = pretrain_data(records, report=ReportConfig(loss="all"))
    batch = data.collate([data.sample(0, i) for i in (0, 2, 3)], [])
    assert batch.tokens_BT.shape == (3, LENGTH)
    words, targets = asked(batch)
    assert words.tolist() == [*range(LENGTH), *range(2 * LENGTH, 3 * LENGTH)]  # not the empty report's
    ids = data.ids(0).tolist()
    assert targets[:LENGTH].tolist() == ids + [PAD] * (LENGTH - len(ids))


def test_the_share_of_words_masked_is_a_setting(records):
    none, most = (pretrain_data(records, report=ReportConfig(mask=p)) for p in (0.0, 1.0))
    assert (
        none.collate([none.sample(0, i) for i in range(7)], []).words_W.numel() == 0
    )  # no word at all needs no filling up
    sample = most.sample(0, 4)
    assert sample["masked"][1 : min(len(sample["ids"]), LENGTH - 1)].all()


def test_a_batch_of_one_is_the_sample(records):
    data = pretrain_data(records)
    sample = data.sample(0, 1)
    batch = everything(data, 1)[1]
    np.testing.assert_array_equal(batch.image_BHW[0], sample["image"])
    np.testing.assert_array_equal(batch.kept_BK[0], sample["kept"])
    assert batch.keys_B.tolist() == [sample["key"]]


def test_a_sample_is_the_same_in_any_batch(records):
    data = pretrain_data(records)
    alone = [data.collate([data.sample(0, i)], []) for i in range(7)]
    together = data.collate([data.sample(0, i) for i in range(7)], [])
    for i, one in enumerate(alone):
        assert torch.equal(together.image_BHW[i], one.image_BHW[0])
        assert torch.equal(together.hidden_BM[i], one.hidden_BM[0])
        assert together.keys_B[i] == one.keys_B[0]
        assert torch.equal(together.tokens_BT[i, : one.tokens_BT.shape[1]], one.tokens_BT[0])


def test_moving_a_batch_moves_every_tensor_and_keeps_the_list_of_skipped(records):
    batch = everything(pretrain_data(records), 3)[0]
    batch.skipped.append("this")
    moved = batch.to(torch.device("meta"))
    assert all(v.device.type == "meta" for v in vars(moved).values() if isinstance(v, torch.Tensor))
    assert moved.skipped == ["this"]
    assert same(batch.to(torch.device("cpu")), batch)


def test_a_vocabulary_beyond_16_bits_keeps_its_numbers(records):
    class Large:
        size = 70_000

        def units(self, unit):
            return Units(np.zeros(self.size, dtype=bool))

        def encode(self, reports, length):
            return [np.array([CLS, 69_999], dtype=np.int32) for _ in reports]

    data = PretrainData(records, Large(), 32, 16, 4, LENGTH)
    assert data.ids(3).tolist() == [CLS, 69_999]


# Labelled batches -------------------------------------------------------------------------------------


def test_labels_not_stated_stay_not_a_number(labelled):
    first, last = everything(LabelData(labelled, EvalView(32)), 3)
    np.testing.assert_array_equal(torch.cat([first.labels_BC, last.labels_BC]), labelled.labels_NC)
    assert first.labels_BC.dtype == torch.float32
    assert torch.cat([first.index_B, last.index_B]).tolist() == [0, 1, 2, 3, 4]


def test_images_for_testing_do_not_change_with_epoch_or_seed(labelled):
    data, other = LabelData(labelled, EvalView(32), seed=0), LabelData(labelled, EvalView(32), seed=1)
    np.testing.assert_array_equal(data.sample(0, 1)["image"], other.sample(7, 1)["image"])
    np.testing.assert_array_equal(data.sample(0, 1)["image"], images.eval_image(labelled[1].image, 32))


def test_images_for_training_change_with_epoch_and_seed(labelled):
    crop = CropConfig()
    data, other = LabelData(labelled, EvalView(32), crop, seed=0), LabelData(labelled, EvalView(32), crop, seed=1)
    assert not np.array_equal(data.sample(0, 1)["image"], data.sample(1, 1)["image"])
    assert not np.array_equal(data.sample(0, 1)["image"], other.sample(0, 1)["image"])
    assert same(data.sample(0, 1), LabelData(labelled, EvalView(32), crop, seed=0).sample(0, 1))


@pytest.mark.parametrize("view", ["whole", "centre"])
def test_a_test_image_by_the_published_filter_is_what_pillow_makes_of_the_whole_file(view):
    radiograph = np.random.default_rng(0).integers(0, 256, (900, 1200), dtype=np.uint8)
    jpeg = images.encode_jpeg(radiograph)  # large enough to be decoded at half its size without the filter
    full = Image.open(io.BytesIO(jpeg))
    if view == "centre":
        full = full.crop((150, 0, 1050, 900))
    expected = np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images.eval_image(jpeg, 64, view, method="bilinear"), expected)
    assert not np.array_equal(images.eval_image(jpeg, 64, view), expected)


def test_training_samples_are_resized_as_configured(labelled):
    crop = CropConfig(area=(0.08, 1.0), flip=0.0)
    data = LabelData(labelled, EvalView(32, resize="bilinear"), crop, seed=0)
    expected = images.read_crop(labelled[1].image, np.random.default_rng([0, 3, 1]), 32, crop.area, method="bilinear")
    np.testing.assert_array_equal(data.sample(3, 1)["image"], expected)
    assert not np.array_equal(LabelData(labelled, EvalView(32), crop, seed=0).sample(3, 1)["image"], expected)


def test_the_whole_view_sees_the_sides_of_a_wide_radiograph_and_the_centre_view_cuts_them():
    radiograph = np.zeros((40, 80), np.uint8)
    radiograph[:, :10] = 255  # a finding at the very side
    wide = images.encode_png(radiograph)
    assert (images.eval_image(wide, 40, "whole")[:, :4] > 200).all()
    assert images.eval_image(wide, 40, "centre").max() == 0
