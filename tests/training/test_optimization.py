"""What decays, and with which rate each parameter learns."""

from mrm.training.config import TrainConfig
from tests.support.configs import MICRO


def test_biases_norms_do_not_decay():
    from mrm.models.mrm import MRM
    from mrm.training.optimization import parameter_groups

    model = MRM(MICRO)
    groups = parameter_groups(model, TrainConfig())
    undecayed = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert (id(p) in undecayed) == (p.ndim <= 1), name


def test_layer_decay_lowers_the_rate_block_by_block():
    from mrm.models.classifier import Classifier, ClassifierConfig
    from mrm.training.optimization import build_optimizer

    shape = ClassifierConfig(("a",), "vit_tiny_patch16_224", {"depth": 3}, image_size=64)
    model = Classifier(shape)
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5))
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    rates = {name: scale[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert rates["encoder.head.weight"] == rates["encoder.fc_norm.bias"] == 1.0
    assert [rates[f"encoder.blocks.{i}.attn.qkv.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert rates["encoder.patch_embed.proj.weight"] == 0.0625
