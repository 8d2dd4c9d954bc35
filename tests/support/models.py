"""Model folders of tiny networks, written in a moment."""

from dataclasses import replace
from pathlib import Path

import torch

import mrm
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.records import Records
from mrm.inference import linear_head
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.config import Pooling
from mrm.models.mrm import MRM
from mrm.models.segmenter import Segmenter, SegmenterConfig
from tests.support.configs import ENCODER, MICRO

PROBED = ("effusion", "cardiomegaly")


def save_encoder(folder: Path) -> Path:
    """A tiny classifier, fresh, as an encoder to start a segmenter from."""
    with noise.seeded(0):
        return model_folder.save(folder, Classifier(ENCODER))


def probed_classifier(phantoms: Path, folder: Path) -> Path:
    """A model folder: a random encoder of which a linear probe of the phantoms is the head."""
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(PROBED, MICRO.encoder, MICRO.encoder_options, MICRO.image_size)).eval()
    linear_head.fit_head(model, Records.load(phantoms / "records.csv", PROBED), workers=0)
    return model_folder.save(folder, model)


def classifier_of(classes: tuple[str, ...] = FINDINGS, pooling: Pooling = "mean") -> Classifier:
    """A tiny classifier whose random head tells images apart."""
    shape = ClassifierConfig(classes, MICRO.encoder, MICRO.encoder_options, MICRO.image_size, pooling=pooling)
    with noise.seeded(0):
        model = Classifier(shape)
        torch.nn.init.normal_(model.encoder.head.weight)
    return model.eval()


def mrm_model() -> MRM:
    """A tiny MRM, fresh."""
    with noise.seeded(0):
        return MRM(MICRO).eval()


def segmenter_of(classes: tuple[str, ...], head: str = "linear", **changes) -> Segmenter:
    """A tiny segmenter, fresh."""
    shape = {
        "encoder_options": {**MICRO.encoder_options, "depth": 4},
        "image_size": (64, 96),
        "channels": 32,
        "auxiliary": 16,
    }
    with noise.seeded(0):
        model = Segmenter(SegmenterConfig(classes, MICRO.encoder, head=head, **{**shape, **changes}))
    return model.eval().requires_grad_(False)


def with_card(source: Path, folder: Path, **changes) -> Path:
    """The same model with another card."""
    loaded = mrm.load(source)
    return model_folder.save(folder, loaded, replace(loaded.card, **changes))
