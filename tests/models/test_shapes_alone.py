"""Outlines: the names, shapes and types of a network, and nothing of its values."""

import pytest
import torch
from torch import nn

from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.shapes_alone import FILLS, shapes_alone
from tests.support.models import classifier_of, mrm_model, segmenter_of

NETWORKS = {
    "mrm": mrm_model,
    "classifier": classifier_of,
    "segmenter": lambda: segmenter_of(("a",)),
    "upernet": lambda: segmenter_of(("a",), "upernet"),
    "convnext": lambda: Classifier(ClassifierConfig(("a",), "convnext_atto", {}, 64)),
}


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
