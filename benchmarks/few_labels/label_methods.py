"""The methods of the study: how scores of the test images come from few labels."""

# Shapes: N records, F features
from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mrm import runs
from mrm.data.config import NONE, CropConfig
from mrm.data.records import Records
from mrm.inference import predict
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.recipes import FinetuneConfig
from mrm.recipes.finetune_recipes import published_training, tiny_modern
from mrm.training.config import TrainConfig

STEPS, BATCH, MEMBERS = 40, 16, 3  # of every fine-tuning unless given; members of an ensemble, which share the steps


@dataclass(frozen=True)
class Place:
    """Where a unit works, and how long: the encoder's folder, a folder of its own, which is removed afterwards, and the steps."""

    init: Path
    folder: Path
    steps: int = STEPS
    pretrained: bool = True  # random weights have nothing that a lower rate of the first layers would keep


# Without training an encoder ----------------------------------------------------------------------------


def regression(train_NF: np.ndarray, labels_N: np.ndarray, test_NF: np.ndarray) -> np.ndarray:
    """Logits of the test records by a logistic regression whose strength is chosen within the labels by cross-validation."""
    folds = min(5, int(np.bincount(labels_N.astype(int)).min()))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        {"logisticregression__C": np.logspace(-5, 1, 7)},
        cv=split,
        scoring="neg_log_loss",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(train_NF, labels_N).decision_function(test_NF)


# By training --------------------------------------------------------------------------------------------


def base(train: Path, place: Place, seed: int) -> FinetuneConfig:
    """The recipe `tiny` in the study's steps: full, AdamW, layer decay, average of weights, strong augmentation."""
    steps = place.steps
    config = tiny_modern(train, train, place.init, place.folder / "run", seed=seed, floors=False, audit="names")
    training = replace(
        config.training, steps=steps, warmup_steps=steps // 10, global_batch=BATCH, ema=min(0.98, 1 - 2 / steps),
        validate_every=steps, save_every=steps, trackers=(), workers=0, keep=1,
    )  # fmt: skip
    return replace(config, training=training)


def published(config: FinetuneConfig) -> FinetuneConfig:
    """SGD, no layer decay, no average, crops of 8 to 100 %: the published recipe in the study's steps."""
    ours = config.training
    training: TrainConfig = replace(
        published_training(ours.steps or STEPS, 3e-2, ours.warmup_steps or 0),
        global_batch=ours.global_batch, precision="fp32", validate_every=ours.validate_every,
        save_every=ours.save_every, trackers=(), workers=0, keep=1,
    )  # fmt: skip
    return replace(config, training=training, crop=CropConfig(area=(0.08, 1.0)), augment=NONE, drop_path=0.1)


def lora(config: FinetuneConfig) -> FinetuneConfig:
    """LoRA, at three times the rate."""
    return replace(config, tune="lora", training=replace(config.training, lr=3 * config.training.lr))


TRAINED: dict[str, Callable[[FinetuneConfig], FinetuneConfig]] = {
    "full": lambda config: config,
    "published": published,
    "lora": lora,
    "last-2": lambda config: replace(config, tune="last-2"),
    "class queries": lambda config: replace(config, pooling="class"),
    "probe first": lambda config: replace(config, probe_first=True),
    "weighted": lambda config: replace(config, loss="weighted"),
    "focal": lambda config: replace(config, loss="focal"),
    "asymmetric": lambda config: replace(config, loss="asymmetric"),
}


def trained(method: str, train: Records, test: Records, place: Place, seed: int) -> np.ndarray:
    """Logits (N,) of the test records by a model that is fine-tuned so. The last checkpoint is tested: none is chosen."""
    if method == "ensemble":
        members = [
            _run(lambda c: _shortened(c, place.steps // MEMBERS), train, test, place, seed + 100 * m)
            for m in range(MEMBERS)
        ]
        return np.mean(members, axis=0)
    return _run(TRAINED[method], train, test, place, seed)


def _shortened(config: FinetuneConfig, steps: int) -> FinetuneConfig:
    training = replace(config.training, steps=steps, warmup_steps=steps // 10, validate_every=steps, save_every=steps)
    return replace(config, training=training)


def _run(
    change: Callable[[FinetuneConfig], FinetuneConfig], train: Records, test: Records, place: Place, seed: int
) -> np.ndarray:
    shutil.rmtree(place.folder, ignore_errors=True)
    file = train.to_csv(place.folder / "train.csv")
    config = change(base(file, place, seed))
    if not place.pretrained:
        config = replace(config, training=replace(config.training, layer_decay=None))
    if len(train) < config.training.global_batch:
        config = replace(config, training=replace(config.training, global_batch=len(train)))
    val = train.select(np.random.default_rng(0).permutation(len(train))[:64])  # is asked for, and chooses nothing
    config = replace(config, val=with_both(val, train).to_csv(place.folder / "val.csv"))
    model = model_folder.load_as(runs.finetune(config) / "last", Classifier)
    logits_N = predict.classify(model, test, workers=0).logits_NC[:, 0]
    shutil.rmtree(place.folder, ignore_errors=True)
    return logits_N


def with_both(val: Records, train: Records) -> Records:
    """The records, and one of each label value beside, since a validation needs both."""
    labels_N = train.labels_NC[:, 0]
    more = [train[int(np.flatnonzero(labels_N == value)[0])] for value in (0, 1)]
    return replace(val, rows=[*more, *(r for r in val if r.name not in {m.name for m in more})])
