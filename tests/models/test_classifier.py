"""The classifier and how it pools its patches."""

from dataclasses import replace

import numpy as np
import torch

from mrm import runs
from mrm.data.records import Records
from mrm.inference import heat_maps, predict
from mrm.models import model_folder
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.noise import seeded
from mrm.recipes import (
    FINETUNE,
    find,
)


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
