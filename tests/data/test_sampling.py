"""The order of records: a function of seed and place, whoever reads how much of it."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrm.data import sampling
from mrm.data.records import Record, Records
from mrm.data.sampling import InWindows, balanced, by_site, epoch_length, in_order, micro_batches, order_of, shuffled
from mrm.system.errors import ConfigError


@pytest.fixture(params=["drawn", "computed"])
def kind(request, monkeypatch):
    """Both kinds of orders: those of few records, which are drawn, and those of many, which are computed."""
    if request.param == "computed":
        monkeypatch.setattr(sampling, "DRAWN", 0)
        monkeypatch.setattr(sampling, "AT_ONCE", 3)


def test_an_order_of_few_records_is_the_one_that_numpy_draws():
    assert [s.index for s in itertools.islice(shuffled(3, 7, 7), 7)] == np.random.default_rng([3, 1]).permutation(
        7
    ).tolist()


def test_an_order_of_many_records_is_not_held():
    tracemalloc.start()
    samples = list(itertools.islice(shuffled(3, 10**8, 10**8 * 5 + 99_999_990), 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6  # bytes
    assert [s.epoch for s in samples] == [5] * 10 + [6] * 10
    assert len({s.index for s in samples[:10]}) == 10
    assert all(0 <= s.index < 10**8 for s in samples)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_every_record_comes_once_an_epoch_and_in_another_order_each(n):
    order = list(itertools.islice(shuffled(3, n, 0), 3 * n))
    epochs = [order[e * n : (e + 1) * n] for e in range(3)]
    for e, samples in enumerate(epochs):
        assert {s.epoch for s in samples} == {e}
        assert sorted(s.index for s in samples) == list(range(n))
    if n == 50:
        assert len({tuple(s.index for s in samples) for samples in epochs}) == 3


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("seen", [0, 1, 6, 7, 8, 20, 701])
def test_the_order_can_be_taken_up_anywhere(seen):
    whole = list(itertools.islice(shuffled(3, 7, 0), seen + 15))
    assert list(itertools.islice(shuffled(3, 7, seen), 15)) == whole[seen:]


@settings(max_examples=40)
@given(st.integers(0, 9), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 60))
def test_every_order_taken_up_anywhere_is_the_rest_of_itself(seed, files, seen):
    positive = np.array(files) > 0
    for order in (
        shuffled,
        InWindows(np.array(files), window=2),
        *([balanced(positive, 1.0)] if positive.any() else []),
    ):
        n = epoch_length(order, files)
        whole = list(itertools.islice(order(seed, n, 0), seen + 12))
        assert list(itertools.islice(order(seed, n, seen), 12)) == whole[seen:]


@pytest.mark.usefixtures("kind")
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


# Weights of sites ---------------------------------------------------------------------------------------


def of_sites(**counts) -> Records:
    """Records of sites, in turn mixed; those of `none` have no site."""
    sites = [site for site, count in counts.items() for _ in range(count)]
    sites = sites[::2] + sites[1::2]
    return Records(
        [Record(f"{i}.png", extra={} if s == "none" else {"site": s}, name=f"{i}") for i, s in enumerate(sites)]
    )


def taken(order, records, epochs, seen=0, seed=0):
    """The samples of some epochs."""
    return list(
        itertools.islice(order(seed, epoch_length(order, records), seen), epochs * epoch_length(order, records))
    )


@pytest.mark.parametrize(
    ("weights", "expected"),  # samples of nih (10), vindr (4) and those without a site (3) in an epoch, by hand
    [
        ({"nih": 1}, (10, 4, 3)),
        ({"nih": 0.5, "vindr": 3}, (5, 12, 3)),
        ({"nih": 0, "vindr": 2.5}, (0, 10, 3)),
        ({"nih": 0.01}, (1, 4, 3)),
        ({"nih": 1.25}, (12, 4, 3)),  # 12.5, of which Python rounds the half to the even number
    ],
)
def test_an_epoch_takes_the_records_of_a_site_as_often_as_its_weight_says(weights, expected):
    records = of_sites(nih=10, vindr=4, none=3)
    order = order_of(records, weights)
    assert epoch_length(order, records) == len(order) == sum(expected)
    for start in range(3):
        samples = taken(order, records, 1, start * len(order))
        sites = Counter(records[s.index].extra.get("site", "") for s in samples)
        assert (sites["nih"], sites["vindr"], sites[""]) == expected
        for site, count in sites.items():  # every record as often as the others, or once more
            times = Counter(s.index for s in samples if records[s.index].extra.get("site", "") == site)
            size = {"nih": 10, "vindr": 4, "": 3}[site]
            assert set(times.values()) <= {count // size, count // size + 1}
        assert len(set(samples)) == len(samples)  # a record that comes twice is cropped in two ways


def test_what_an_epoch_leaves_out_comes_in_another_one_and_the_order_can_be_taken_up_anywhere():
    records = of_sites(nih=10, vindr=4)
    order = order_of(records, {"nih": 0.3, "vindr": 1.5})
    whole = taken(order, records, 40)
    assert len(order) == 3 + 6
    assert {s.index for s in whole} == set(range(14))
    assert len(set(whole)) == len(whole)
    for seen in (1, 8, 9, 10, 100):
        assert list(itertools.islice(order(0, len(order), seen), 50)) == whole[seen : seen + 50]
    assert taken(order, records, 2, seed=1) != whole[:18]


def test_without_weights_every_record_comes_once():
    records = of_sites(nih=3)
    assert order_of(records) is order_of(records, {}) is shuffled
    assert epoch_length(shuffled, records) == 3
    alike = {index for _, index in taken(by_site(records, {"nih": 1.0}), records, 1)}
    assert alike == {0, 1, 2}


@pytest.mark.parametrize(
    ("sites", "weights", "reason"),
    [
        ({"nih": 2, "vindr": 1}, {"nhi": 2}, "unknown site 'nhi'; choose from nih, vindr"),
        ({"none": 2}, {"nih": 2}, "unknown site 'nih'; no record has a column site, which mrm merge writes"),
        ({"nih": 2}, {"nih": 0}, "every site has the weight 0, so nothing is left to train on"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(sites, weights, reason):
    with pytest.raises(ConfigError, match=f"site_weights: {reason}"):
        order_of(of_sites(**sites), weights)
