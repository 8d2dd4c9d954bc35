"""Tasks: how their losses are weighted, what they count before a pass, and what they remember."""

import pytest
import torch

from mrm.data.samples import LabelBatch
from mrm.models import noise
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.training.tasks import ClassifyTask, PretrainTask, Task
from tests.support.configs import ENCODER, MICRO


@pytest.fixture(scope="module")
def network() -> MRM:
    with noise.seeded(0):
        return MRM(MICRO)


def test_image_and_report_count_alike_and_what_is_off_has_no_loss(network):
    assert PretrainTask(network).weights == {"image": 1.0, "report": 1.0}
    assert PretrainTask(network).report_to_encoder == 1.0  # the words teach the encoder in full
    weighted = PretrainTask(network, 0.5, 2.0, contrast_weight=0.25, feature_weight=3.0)
    assert weighted.weights == {"image": 0.5, "report": 2.0, "contrast": 0.25, "features": 3.0}


def test_the_labels_that_are_stated_are_counted():
    with noise.seeded(0):
        task = ClassifyTask(Classifier(ENCODER))
    assert task.weights == {"labels": 1.0}
    labels = torch.tensor([[1.0], [float("nan")], [0.0]])
    nothing = torch.zeros(3, dtype=torch.int64)
    batch = LabelBatch([], torch.zeros(3, 64, 64, dtype=torch.uint8), labels, nothing, nothing)
    assert task.counts(batch) == {"labels": 2}
    assert task.eval()(batch)["labels"].count == 2


def test_a_task_remembers_its_own_buffers_and_not_those_of_its_model():
    def counting(count: float) -> Task:
        task = Task()
        task.model = torch.nn.BatchNorm1d(2)
        task.register_buffer("count", torch.tensor(count))
        return task

    task, other = counting(3.0), counting(0.0)
    assert {name: value.item() for name, value in task.memory().items()} == {"count": 3.0}
    other.remember(task.memory())
    assert other.count.item() == 3.0
