"""Samples that follow from (seed, epoch, index), an order that is one integer, batches that hide nothing."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import reductions

from mrm.data import images
from mrm.data.config import CropConfig, ReportConfig
from mrm.data.loader import loader
from mrm.data.records import Record, Records
from mrm.data.reports import CLS, MASK, NO_WORD, PAD, Tokenizer
from mrm.data.samples import LabelData, PretrainData, eval_image
from mrm.data.sampling import Sample, in_order, micro_batches, shuffled
from mrm.system.errors import ImageError

LENGTH = 12  # tokens of a report
REPORTS = [
    "No effusion.",
    "Small left pleural effusion, unchanged. " * 5,
    "",
    "Cardiomegaly",
    "No pneumothorax. Heart size is normal.",
    "",
    "Mild oedema; no focal consolidation.",
]


def png(seed: int, height: int = 48, width: int = 40) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def record(i: int, **changes) -> Record:
    return Record(**{"image": png(i), "report": REPORTS[i % len(REPORTS)], "name": f"study-{i}", **changes})


@pytest.fixture(scope="module")
def records() -> Records:
    return Records([record(i) for i in range(7)])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(REPORTS, 200)


@pytest.fixture
def pretrain(tokenizer):
    """A maker of small pre-training data: crops of 32, 4 of 16 patches kept."""

    def make(records, **changes) -> PretrainData:
        return PretrainData(records, tokenizer, **{"size": 32, "patches": 16, "keep": 4, "length": LENGTH, **changes})

    return make


def same(a, b) -> bool:
    """Whether two samples or batches hold the same values throughout."""
    a, b = ({**(x if isinstance(x, dict) else vars(x))} for x in (a, b))
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[k]).nan_to_num(), torch.as_tensor(b[k]).nan_to_num())
        if not isinstance(a[k], list)
        else a[k] == b[k]
        for k in a
    )


def everything(data, batch: int, **how) -> list:
    return list(loader(data, in_order(len(data), batch), workers=0, **how))


# Samples ----------------------------------------------------------------------------------------------


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone(pretrain, records):
    first, second = pretrain(records, seed=1), pretrain(records, seed=1)
    expected = [first.sample(2, i) for i in range(7)]
    np.random.default_rng(0).random()
    np.random.seed(5)  # noqa: NPY002  nobody reads the global generators
    torch.manual_seed(5)
    for i in (3, 6, 0, 3):
        assert same(second.sample(2, i), expected[i])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 3}, {"index": 4}])
def test_another_seed_epoch_or_index_is_another_draw(pretrain, tokenizer, other):
    """All records alike, so that only the draws can differ."""
    alike = Records([record(1, image=png(0))] * 7)
    at = {"seed": 1, "epoch": 2, "index": 3}

    def draw(seed, epoch, index):
        return pretrain(alike, seed=seed).sample(epoch, index)

    a, b = draw(**at), draw(**{**at, **other})
    for part in ("image", "kept", "masked", "key"):
        assert not np.array_equal(a[part], b[part]), part


def test_a_record_keeps_its_sample_when_records_are_added(pretrain, records):
    longer = Records([*records, record(9)])
    assert same(pretrain(records).sample(0, 3), pretrain(longer).sample(0, 3))


def test_kept_and_hidden_patches_are_all_patches_once(pretrain, records):
    data = pretrain(records)
    for i in range(7):
        sample = data.sample(0, i)
        assert len(sample["kept"]) == 4
        assert sorted([*sample["kept"], *sample["hidden"]]) == list(range(16))
    assert len({tuple(data.sample(e, 0)["kept"]) for e in range(20)}) > 10


def test_every_patch_is_kept_equally_often(pretrain, records):
    data = pretrain(records, size=8)
    counts = sum(np.bincount(data.sample(e, 3)["kept"], minlength=16) for e in range(1500))
    assert np.abs(counts - 375).max() < 5 * np.sqrt(375 * 0.75)  # five deviations of a fair draw


def test_half_the_images_are_flipped_and_none_if_told_so(pretrain):
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (40, 1))  # bright on the right
    alike = Records([record(0, image=images.encode_png(ramp))])

    def flipped(**crop):
        data = pretrain(alike, crop=CropConfig(**crop))
        crops = [data.sample(e, 0)["image"].astype(float) for e in range(200)]
        return sum(p[:, 0].mean() > p[:, -1].mean() for p in crops)

    assert 65 < flipped() < 135
    assert flipped(flip=0.0) == 0
    assert flipped(flip=1.0) == 200


def test_a_crop_of_the_whole_image_is_the_image(pretrain, records):
    data = pretrain(records, crop=CropConfig(area=(1.0, 1.0), aspect=(40 / 48, 40 / 48), flip=0.0))
    expected = images.resize(images.read(records[0].image), 32, 32)
    np.testing.assert_array_equal(data.sample(0, 0)["image"], expected)


def test_only_the_sections_asked_for_are_read(pretrain, tokenizer):
    text = "INDICATION: Fall. FINDINGS: No effusion. IMPRESSION: Cardiomegaly."
    data = pretrain(Records([record(0, report=text)]), report=ReportConfig(sections=("findings",)))
    assert tokenizer.decode(data.ids(0)) == "no effusion ."


# Pre-training batches ---------------------------------------------------------------------------------


def asked(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions asked for and their words, without those that only fill up the batch."""
    real = batch.targets_W != NO_WORD
    assert len(real) % 64 == 0  # few sizes
    assert real.tolist() == sorted(real.tolist(), reverse=True)
    return batch.words_W[real], batch.targets_W[real]


def test_a_batch_is_trimmed_to_its_longest_report_in_steps_of_sixteen(pretrain, records, tokenizer):
    data = pretrain(records)
    data.length = 40  # tokens were cut at LENGTH, so every report is shorter than sixteen
    lengths = [len(data.ids(i)) for i in range(7)]
    assert lengths[2] == 1
    assert max(lengths) == LENGTH  # the long one is cut
    short = data.collate([data.sample(0, i) for i in (0, 2, 3)], [])
    assert short.tokens_BT.shape == (3, 16)
    assert short.attention_BT.sum(1).tolist() == [lengths[i] for i in (0, 2, 3)]
    assert (short.tokens_BT[1, 1:] == PAD).all()


def test_masked_words_are_asked_for_and_unmasked_ones_are_shown(pretrain, records):
    data = pretrain(records)
    samples = [data.sample(0, i) for i in range(7)]
    batch = data.collate(samples, [])
    flat = batch.tokens_BT.flatten()
    words, targets = asked(batch)
    assert words.tolist() == (flat == MASK).nonzero().squeeze(1).tolist()
    restored = flat.scatter(0, words, targets).view_as(batch.tokens_BT)
    for row, sample in zip(restored, samples, strict=True):
        assert row[: len(sample["ids"])].tolist() == sample["ids"].tolist()
    assert len(words) > 5


def test_a_record_without_a_report_asks_for_no_word(pretrain, records):
    data = pretrain(records)
    for epoch in range(5):
        batch = data.collate([data.sample(epoch, i) for i in (2, 5)], [])
        assert len(asked(batch)[0]) == 0
        assert batch.tokens_BT.tolist() == [[CLS, *[PAD] * (LENGTH - 1)]] * 2
        assert batch.attention_BT.sum(1).tolist() == [1, 1]


def test_the_published_loss_asks_for_every_position_padding_too(pretrain, records):
    data = pretrain(records, report=ReportConfig(loss="all"))
    batch = data.collate([data.sample(0, i) for i in (0, 2, 3)], [])
    assert batch.tokens_BT.shape == (3, LENGTH)
    words, targets = asked(batch)
    assert words.tolist() == [*range(LENGTH), *range(2 * LENGTH, 3 * LENGTH)]  # not the empty report's
    ids = data.ids(0).tolist()
    assert targets[:LENGTH].tolist() == ids + [PAD] * (LENGTH - len(ids))


def test_the_share_of_words_masked_is_a_setting(pretrain, records):
    none, most = (pretrain(records, report=ReportConfig(mask=p)) for p in (0.0, 1.0))
    assert (
        none.collate([none.sample(0, i) for i in range(7)], []).words_W.numel() == 0
    )  # no word at all needs no filling up
    sample = most.sample(0, 4)
    assert sample["masked"][1 : min(len(sample["ids"]), LENGTH - 1)].all()


def test_a_batch_of_one_is_the_sample(pretrain, records):
    data = pretrain(records)
    sample = data.sample(0, 1)
    batch = everything(data, 1)[1]
    np.testing.assert_array_equal(batch.image_BHW[0], sample["image"])
    np.testing.assert_array_equal(batch.kept_BK[0], sample["kept"])
    assert batch.keys_B.tolist() == [sample["key"]]


def test_a_sample_is_the_same_in_any_batch(pretrain, records):
    data = pretrain(records)
    alone = [data.collate([data.sample(0, i)], []) for i in range(7)]
    together = data.collate([data.sample(0, i) for i in range(7)], [])
    for i, one in enumerate(alone):
        assert torch.equal(together.image_BHW[i], one.image_BHW[0])
        assert torch.equal(together.hidden_BM[i], one.hidden_BM[0])
        assert together.keys_B[i] == one.keys_B[0]
        assert torch.equal(together.tokens_BT[i, : one.tokens_BT.shape[1]], one.tokens_BT[0])


def test_moving_a_batch_moves_every_tensor_and_keeps_the_list_of_skipped(pretrain, records):
    batch = everything(pretrain(records), 3)[0]
    batch.skipped.append("this")
    moved = batch.to(torch.device("meta"))
    assert all(v.device.type == "meta" for v in vars(moved).values() if isinstance(v, torch.Tensor))
    assert moved.skipped == ["this"]
    assert same(batch.to(torch.device("cpu")), batch)


def test_a_vocabulary_beyond_16_bits_keeps_its_numbers(records):
    class Large:
        size, continues = 70_000, np.zeros(70_000, dtype=bool)

        def encode(self, reports, length):
            return [np.array([CLS, 69_999], dtype=np.int32) for _ in reports]

    data = PretrainData(records, Large(), 32, 16, 4, LENGTH)
    assert data.ids(3).tolist() == [CLS, 69_999]


# Labelled batches -------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.fixture(scope="module")
def labelled() -> Records:
    labels = [(1, 0), (0, NAN), (NAN, NAN), (1, 1), (0, 0)]
    rows = [Record(png(i), labels=values, name=f"study-{i}") for i, values in enumerate(labels)]
    return Records(rows, ("effusion", "mass"))


def test_labels_not_stated_stay_not_a_number(labelled):
    first, last = everything(LabelData(labelled, 32), 3)
    np.testing.assert_array_equal(torch.cat([first.labels_BC, last.labels_BC]), labelled.labels_NC)
    assert first.labels_BC.dtype == torch.float32
    assert torch.cat([first.index_B, last.index_B]).tolist() == [0, 1, 2, 3, 4]


def test_images_for_testing_do_not_change_with_epoch_or_seed(labelled):
    data, other = LabelData(labelled, 32, seed=0), LabelData(labelled, 32, seed=1)
    np.testing.assert_array_equal(data.sample(0, 1)["image"], other.sample(7, 1)["image"])
    np.testing.assert_array_equal(data.sample(0, 1)["image"], eval_image(labelled[1], 32))


def test_images_for_training_change_with_epoch_and_seed(labelled):
    crop = CropConfig()
    data, other = LabelData(labelled, 32, crop, seed=0), LabelData(labelled, 32, crop, seed=1)
    assert not np.array_equal(data.sample(0, 1)["image"], data.sample(1, 1)["image"])
    assert not np.array_equal(data.sample(0, 1)["image"], other.sample(0, 1)["image"])
    assert same(data.sample(0, 1), LabelData(labelled, 32, crop, seed=0).sample(0, 1))


def test_the_whole_view_sees_the_sides_of_a_wide_radiograph_and_the_centre_view_cuts_them():
    radiograph = np.zeros((40, 80), np.uint8)
    radiograph[:, :10] = 255  # a finding at the very side
    wide = Record(images.encode_png(radiograph))
    assert (eval_image(wide, 40, "whole")[:, :4] > 200).all()
    assert eval_image(wide, 40, "centre").max() == 0


# Order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_every_record_comes_once_an_epoch_and_in_another_order_each(n):
    order = list(itertools.islice(shuffled(3, n, 0), 3 * n))
    epochs = [order[e * n : (e + 1) * n] for e in range(3)]
    for e, samples in enumerate(epochs):
        assert {s.epoch for s in samples} == {e}
        assert sorted(s.index for s in samples) == list(range(n))
    if n == 50:
        assert len({tuple(s.index for s in samples) for samples in epochs}) == 3


@pytest.mark.parametrize("seen", [0, 1, 6, 7, 8, 20, 701])
def test_the_order_can_be_taken_up_anywhere(seen):
    whole = list(itertools.islice(shuffled(3, 7, 0), seen + 15))
    assert list(itertools.islice(shuffled(3, 7, seen), 15)) == whole[seen:]


def test_another_seed_is_another_order():
    a, b = (list(itertools.islice(shuffled(s, 50, 0), 50)) for s in (0, 1))
    assert a != b


@pytest.mark.parametrize(
    ("world", "accumulate", "micro"), [(1, 1, 8), (1, 4, 2), (2, 1, 4), (2, 2, 2), (4, 1, 2), (8, 1, 1)]
)
def test_ranks_and_micro_batches_share_out_the_same_global_batches(world, accumulate, micro):
    """8 x 1, 2 x 4 and two processes see the same samples in every step."""
    steps = 5
    expected = list(itertools.islice(shuffled(0, 13, 0), steps * 8))
    shares = [list(micro_batches(shuffled(0, 13, 0), steps, accumulate, micro, rank, world)) for rank in range(world)]
    for share in shares:
        assert [len(m) for m in share] == [micro] * (accumulate * steps)
    for step in range(steps):
        mine = [s for share in shares for m in share[step * accumulate : (step + 1) * accumulate] for s in m]
        assert sorted(mine) == sorted(expected[step * 8 : (step + 1) * 8])
        assert len(mine) == 8


def test_evaluation_takes_every_record_once_in_order():
    assert [[s.index for s in batch] for batch in in_order(5, 2)] == [[0, 1], [2, 3], [4]]
    assert list(in_order(0, 2)) == []


# Loading ----------------------------------------------------------------------------------------------


def test_batches_are_the_same_whatever_the_number_of_workers(pretrain, records):
    data = pretrain(records)

    def run(workers):
        return list(loader(data, micro_batches(shuffled(0, 7, 3), 6, 1, 4, 0, 1), workers=workers))

    expected = run(0)
    assert len(expected) == 6
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(run(workers), expected, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generators_alone(pretrain, records, workers):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.random(3)  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    list(loader(pretrain(records), in_order(7, 2), workers=workers))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])  # noqa: NPY002


def test_batches_are_not_made_before_they_are_asked_for(pretrain, records):
    """An order is endless; a loader that read ahead without bound would never begin."""
    stream = loader(pretrain(records), ([s] for s in shuffled(0, 7, 0)), workers=1)
    assert next(stream).keys_B.shape == (1,)


def test_nothing_is_kept_of_batches_that_are_gone(pretrain, records):
    """What is kept lies between the activations in memory, which then grows by megabytes a batch."""
    stream = loader(pretrain(records), in_order(7, 1), workers=1)
    tensors, known = 0, []
    for batch in stream:
        tensors = sum(isinstance(value, torch.Tensor) for value in vars(batch).values())
        known.append(len(reductions.shared_cache))
    assert len(known) == 7
    assert tensors <= max(known) <= 2 * tensors  # this batch's and the last one's


# Images that cannot be read -------------------------------------------------------------------------

BROKEN = {
    "missing": Path("/no/such/image.jpg"),
    "empty": b"",
    "no image": b"%PDF-1.7",
    "truncated": png(3)[:-40],
}


def with_broken(*at: int, image=b"") -> Records:
    return Records([record(i, **({"image": image} if i in at else {})) for i in range(7)])


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_with_its_record_and_what_to_do(pretrain, kind, workers):
    data = pretrain(with_broken(3, image=BROKEN[kind]))
    with pytest.raises(ImageError, match=r"record study-3: .*--on-error skip"):
        list(loader(data, in_order(7, 7), workers=workers))


@pytest.mark.parametrize("kind", BROKEN)
def test_asked_to_skip_the_next_record_stands_in_and_the_skipped_is_listed(pretrain, kind):
    data = pretrain(with_broken(3, image=BROKEN[kind]), on_error="skip")
    [batch] = everything(data, 7)
    [skipped] = batch.skipped
    assert (skipped.index, skipped.name) == (3, "study-3")
    assert skipped.reason
    assert torch.equal(batch.image_BHW[3], batch.image_BHW[4])
    assert torch.equal(batch.tokens_BT[3], batch.tokens_BT[4])
    assert torch.equal(batch.image_BHW[5], torch.from_numpy(pretrain(with_broken()).sample(0, 5)["image"]))


def test_a_row_of_unreadable_images_is_stepped_over_round_the_end(pretrain):
    data = pretrain(with_broken(5, 6, 0), on_error="skip")
    [batch] = list(loader(data, iter([[Sample(2, 5)]]), workers=0))
    assert [s.name for s in batch.skipped] == ["study-5", "study-6", "study-0"]
    np.testing.assert_array_equal(batch.image_BHW[0], data.sample(2, 1)["image"])


def test_a_stand_in_brings_its_own_labels(labelled):
    rows = list(labelled)
    rows[1] = Record(b"", labels=rows[1].labels, name="study-1")
    [batch] = everything(LabelData(Records(rows, labelled.classes), 32, on_error="skip"), 5)
    assert batch.index_B.tolist() == [0, 2, 2, 3, 4]
    np.testing.assert_array_equal(batch.labels_BC[1], labelled.labels_NC[2])


def test_when_no_image_can_be_read_there_is_no_batch(pretrain):
    data = pretrain(with_broken(*range(7)), on_error="skip")
    with pytest.raises(ImageError, match=r"not one of 7 images could be read; the first, study-2: "):
        list(loader(data, iter([[Sample(0, 2)]]), workers=0))
