"""The classifier and how it pools its patches."""

from dataclasses import replace

import numpy as np
import torch

from mrm import runs
from mrm.data.records import Records
from mrm.inference import heat_maps, predict
from mrm.models import model_folder
from mrm.models.classifier import ClassHead, Classifier, ClassifierConfig, ClassQueries
from mrm.models.noise import seeded
from mrm.recipes import (
    FINETUNE,
    find,
)
from tests.support.configs import finetune_config


def test_each_class_starts_from_the_mean_of_all_patches():
    shape = ClassifierConfig(("a", "b"), "vit_tiny_patch16_224", {"depth": 1, "embed_dim": 24, "num_heads": 1}, 32)
    mean, own = Classifier(shape).eval(), Classifier(replace(shape, pooling="class")).eval()
    torch.nn.init.normal_(mean.encoder.head.weight)
    assert own.load_state_dict(mean.state_dict(), strict=False).missing_keys == ["encoder.attn_pool.query"]
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(image), mean(image))
    with torch.no_grad():
        own.encoder.attn_pool.query[1].normal_(std=9)  # one class looks elsewhere, the other does not
    torch.testing.assert_close(own(image)[:, 0], mean(image)[:, 0])
    assert (own(image)[:, 1] - mean(image)[:, 1]).abs().max() > 1e-3


def test_a_class_pools_the_patches_by_its_softmax_and_weighs_them_by_its_own_row():
    pool, head = ClassQueries(2, 4), ClassHead(4, 2)
    with torch.no_grad():
        pool.query.copy_(torch.tensor([[0.0, 0, 0, 0], [40.0, 0, 0, 0]]))
        head.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 0]]))
        head.bias.copy_(torch.tensor([0.0, 0.5]))
    patches = torch.tensor([[[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 3.0]]])
    # normalised, the first value of a patch is 9/4 over the deviation 27/16 ** 0.5 in the first and -3/4 in the others
    scores = torch.tensor([2.25, -0.75, -0.75]) / (27 / 16) ** 0.5 * 40 / 4**0.5
    torch.testing.assert_close(pool.attention(patches)[0, 1], scores.softmax(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pool.attention(patches)[0, 0], torch.full((3,), 1 / 3))
    features = pool(patches)
    torch.testing.assert_close(features[0, 1], torch.tensor([3.0, 0, 0, 0]))
    torch.testing.assert_close(head(features), torch.tensor([[3.0, 0.5]]))


def test_a_query_for_each_class_is_learnt_saved_loaded_and_put_to_use(tmp_path, phantoms, pretrained_run):
    """Started from a linear probe; its features are one vector an image, as of every classifier."""
    config = finetune_config(phantoms, pretrained_run, tmp_path / "run", pooling="class", probe_first=True, lr=3e-3)
    model = model_folder.load(runs.finetune(config))
    queries = model.encoder.attn_pool.query
    assert (queries.shape, model.config.pooling) == ((len(model.config.classes), 48), "class")
    assert queries.abs().max() > 0
    image = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    first, second = (heat_maps.heat_map(model, image, number, "attention") for number in (0, 1))
    assert first.shape == (40, 50)
    assert not np.allclose(first, second)
    records = Records.load(phantoms / "records.csv")[:3]
    features, unreadable = predict.features(model, records, workers=0)
    assert (features.shape, unreadable) == ((3, 48), {})
    both = predict.scores_and_features(model)(torch.rand(2, 3, 64, 64))
    assert both.shape == (2, len(model.config.classes) + 48)
    encoder = model_folder.load_encoder(tmp_path / "run", num_classes=len(model.config.classes)).eval()
    batch = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder(batch), model(batch))


def test_attention_pooling_is_saved_loaded_and_put_to_use(tmp_path, phantoms):
    """A fine-tuned classifier with `--pooling attention` is a model folder like any other."""
    start = tmp_path / "start"
    options = {"depth": 1, "embed_dim": 24, "num_heads": 1}
    with seeded(0):
        plain = Classifier(ClassifierConfig(("a",), "vit_tiny_patch16_224", options, image_size=32))
    model_folder.save(start, plain)
    records = phantoms / "records.csv"
    config = find(FINETUNE, "tiny-modern").make(records, records, start, tmp_path / "run", pooling="attention")
    short = replace(config.training, steps=2, warmup_steps=0, global_batch=8, validate_every=2, workers=0, trackers=())
    run = runs.finetune(replace(config, training=short, audit="names"))
    model = model_folder.load(run)
    assert model.config.pooling == "attention"
    assert model.encoder.attn_pool is not None
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = model_folder.load_encoder(run, num_classes=len(model.config.classes)).eval()
    assert encoder.attn_pool is not None
    torch.testing.assert_close(encoder(image), model(image))
    swapped = image.flip(-1)
    assert not torch.allclose(model(image), model(swapped))
    heat = heat_maps.heat_map(model, np.full((40, 50), 128, np.uint8), 0)
    assert heat.shape == (40, 50)
    features, unreadable = predict.features(model, Records.load(records)[:3], workers=0)
    assert (features.shape, unreadable) == ((3, 24), {})
