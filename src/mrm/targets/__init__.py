"""What a classifier predicts: findings, one of several classes, numbers, or levels.

    multilabel   findings that may be present each for itself      sigmoid of every logit, binary cross-entropy
    multiclass   exactly one of the classes                        softmax, cross-entropy
    regression   numbers, such as an age or a score                the logit in units of the training labels, squared error
    ordinal      levels 0 to K of one column                       K findings "score >= k", each a sigmoid

Everything that differs between them is a method of `Target`: how labels are read and checked, what the network has as outputs,
the error of an output, what its logits mean, and the measures of a test. Nothing else asks which target a model has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrm.targets.multiclass import Multiclass
from mrm.targets.ordinal import Ordinal
from mrm.targets.regression import Regression
from mrm.targets.target import Multilabel, Target

TARGETS: dict[str, type[Target]] = {
    "multilabel": Multilabel,
    "multiclass": Multiclass,
    "regression": Regression,
    "ordinal": Ordinal,
}


def target_of(architecture: Mapping[str, Any]) -> Target:
    """The target of a model, by the configuration in its card; that of a card without one is multilabel."""
    kind = TARGETS[architecture.get("target", "multilabel")]
    classes = tuple(architecture.get("classes", ()))
    return kind(classes, tuple(architecture.get("centre", ())), tuple(architecture.get("spread", ())))
