"""Outlines: the names, shapes and types of a network, and nothing of its values."""

import pytest
import torch
from torch import nn

from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.shapes_alone import FILLS, shapes_alone, weights_to_come
from tests.support.models import classifier_of, mrm_model, segmenter_of

NETWORKS = {
    "mrm": mrm_model,
    "classifier": classifier_of,
    "segmenter": lambda: segmenter_of(("a",)),
    "upernet": lambda: segmenter_of(("a",), "upernet"),
    "convnext": lambda: Classifier(ClassifierConfig(("a",), "convnext_atto", {}, 64)),
}
TINY_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_outline_has_the_names_shapes_and_types_of_the_network(name):
    whole = NETWORKS[name]().state_dict()
    with shapes_alone():
        outline = NETWORKS[name]().state_dict()
    assert list(outline) == list(whole)
    assert {k: (v.shape, v.dtype) for k, v in outline.items()} == {k: (v.shape, v.dtype) for k, v in whole.items()}
    assert all(value.is_meta for value in outline.values())


def test_within_nothing_is_filled_and_afterwards_everything_is():
    with shapes_alone():
        outside = torch.ones(2, device="cpu")
        assert nn.init.uniform_(outside) is outside is outside.mul_(7) is nn.init.constant_(outside, 3.0)
    assert outside.tolist() == [1, 1]
    assert nn.init.constant_(outside, 3.0).tolist() == [3, 3]


def test_every_fill_is_asked_for_by_its_tensor():
    """PyTorch passes the tensor of `nn.init` by name, and that of a method by place."""
    for fill in FILLS & {nn.init.constant_, nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_}:
        with shapes_alone():
            tensor = torch.ones(2, 2, device="cpu")
            assert (fill(tensor, 2.0) if fill is nn.init.constant_ else fill(tensor)) is tensor
        assert (tensor == 1).all()


@pytest.mark.parametrize("name", [*NETWORKS, "swin"])
def test_a_network_whose_weights_are_loaded_is_the_network(name):
    """What no file holds, such as the windows of Swin, is as in a network with its initial weights; no number is drawn."""
    make = {
        **NETWORKS,
        "swin": lambda: Classifier(ClassifierConfig(("a",), "swin_tiny_patch4_window7_224", TINY_SWIN, 64)),
    }[name]
    whole, state = make().eval(), torch.get_rng_state()
    with weights_to_come():
        loaded = make().eval()
    assert torch.equal(torch.get_rng_state(), state)
    loaded.load_state_dict(whole.state_dict())
    kept = dict(whole.named_buffers())
    assert kept.keys() == dict(loaded.named_buffers()).keys()
    assert all(torch.equal(value, kept[name]) for name, value in loaded.named_buffers())


def test_initial_weights_are_left_out_and_running_statistics_are_not():
    with weights_to_come():
        weight = nn.Parameter(torch.full((3,), 7.0))
        assert nn.init.constant_(weight, 3.0) is weight is nn.init.trunc_normal_(weight)
        norm = nn.BatchNorm1d(3)
    assert weight.tolist() == [7, 7, 7]
    assert norm.running_var.tolist() == [1, 1, 1]
    assert nn.init.constant_(weight, 3.0).tolist() == [3, 3, 3]
