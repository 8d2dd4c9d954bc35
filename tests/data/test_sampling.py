"""The order of records: a function of seed and place, whoever reads how much of it."""

import itertools

import pytest

from mrm.data.sampling import in_order, micro_batches, shuffled


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
