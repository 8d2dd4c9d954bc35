"""The search for cycles is left out within a block alone."""

import gc

import pytest

from mrm.system.collection import no_collection


def test_it_is_left_out_within_the_block_and_in_blocks_inside():
    assert gc.isenabled()
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_comes_back_after_an_error():
    with pytest.raises(KeyError), no_collection():
        raise KeyError
    assert gc.isenabled()


def test_it_stays_out_for_those_who_left_it_out():
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
