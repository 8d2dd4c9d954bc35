"""Lines `fine-tuning` and `fine-tuning-tiny`: a step of a training loop with everything that it does around the network.

The network is timm's for all: the same architecture and weights, 14 findings, binary cross-entropy, AdamW (fused), gradient
norm clipped to 1 (MONAI's trainer has no such setting and leaves it out), the loss logged every 20 steps where the loop
logs. Images are ready in memory, in the form that each loop reads: ours uint8, which it normalises, the others normalised
floats. With a small network the cost of a loop shows; with ViT-B nearly all is the product of matrices that all share.
`floor` is forward and backward pass of the blocks alone.
"""

# Shapes: B images, C classes, H W pixels
from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.turns import OURS, Gate, Line, Setting, Way, relative
from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.data.samples import LabelBatch, LabelData, Skipped
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.system.hardware import keep_freed_memory
from mrm.training.config import TrainConfig
from mrm.training.tasks import ClassifyTask
from mrm.training.trainer import Trainer

CLASSES = tuple(f"finding {number}" for number in range(1, 15))
LR, CLIP, LOG_EVERY = 1e-5, 1.0, 20
SIDE, QUICK_SIDE = 224, 64
STEPS = 100_000  # more than there are turns


def network(encoder: str, setting: Setting) -> Classifier:
    """The same network with the same weights for every way; its head such that the loss depends on the images."""
    options = {"depth": 2} if setting.quick else {}
    side = QUICK_SIDE if setting.quick else SIDE
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(CLASSES, encoder, options, side, drop_path=0.0))
        nn.init.normal_(model.encoder.head.weight, std=0.1)
    return model


def images_and_labels(model: Classifier, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """One batch of noise (B, H, W) uint8 with labels (B, C), which every step sees."""
    rng, side = np.random.default_rng(0), model.config.image_size
    images_BHW = rng.integers(0, 256, (batch, side, side), dtype=np.uint8)
    return images_BHW, rng.integers(0, 2, (batch, len(CLASSES))).astype(np.float32)


def tensors(model: Classifier, batch: int) -> tuple[Tensor, Tensor]:
    """The same as the other loops read it: normalised images (B, 3, H, W) and labels."""
    images_BHW, labels_BC = images_and_labels(model, batch)
    image_BCHW = normalise(torch.from_numpy(images_BHW), model.config.mean, model.config.std).contiguous()
    return image_BCHW, torch.from_numpy(labels_BC)


class Ready(LabelData):
    """Labelled images that are in memory and already cropped."""

    def __init__(self, images_BHW: np.ndarray, labels_BC: np.ndarray) -> None:
        rows = [Record(image, labels=tuple(row)) for image, row in zip(images_BHW, labels_BC, strict=True)]
        records = Records(rows, CLASSES)
        super().__init__(records, EvalView(images_BHW.shape[-1]))
        self.images_BHW, self.labels_NC = images_BHW, labels_BC

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image with its labels."""
        return {"image": self.images_BHW[index], "labels": self.labels_NC[index], "key": index, "index": index}

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> LabelBatch:
        """In the order of the images, whatever that of the epoch: every loop then adds up the same numbers."""
        return super().collate(sorted(samples, key=lambda sample: sample["index"]), skipped)


class GatedTrainer(Trainer):
    """Our training loop, which waits for its turn after each step and writes no checkpoint."""

    gate: Gate

    def _after_step(self) -> None:
        super()._after_step()
        self.gate.done(self.loss.item())

    def _save(self, *_: Any, **__: Any) -> None:
        self.saved = self.step


def ours(encoder: str, batch: int) -> Way:
    """`Trainer` with the task of `mrm finetune`."""

    def way(gate: Gate, setting: Setting) -> None:
        model = network(encoder, setting)
        training = TrainConfig(
            epochs=None, steps=STEPS, warmup_steps=1, global_batch=batch, lr=LR, lr_batch=None, clip=CLIP, betas=(0.9, 0.999),
            precision="fp32", log_every=LOG_EVERY, validate_every=STEPS, save_every=STEPS, workers=0, trackers=(),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as run:
            task = ClassifyTask(model)
            trainer = GatedTrainer(
                task, Ready(*images_and_labels(model, batch)), training, Path(run), lambda *_: None, seed=0
            )
            trainer.gate = gate

            def keep(_: nn.Module, __: Any, terms: dict[str, Any]) -> None:
                trainer.loss = terms["labels"].mean().detach()

            trainer.parallel.register_forward_hook(keep)
            gate.open()
            trainer.fit()

    return way


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, fused, as all have it."""
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)


def timm_loop(encoder: str, batch: int) -> Way:
    """A plain loop over a DataLoader and a timm model."""

    def way(gate: Gate, setting: Setting) -> None:
        model = network(encoder, setting)
        net = model.encoder.train()
        optimizer, loss_of = optimizer_of(net), nn.BCEWithLogitsLoss()
        batches = DataLoader(TensorDataset(*tensors(model, batch)), batch_size=batch)
        gate.open()
        while True:
            for image_BCHW, labels_BC in batches:
                loss = loss_of(net(image_BCHW), labels_BC)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
                optimizer.step()
                gate.done(loss.item())

    return way


class WithLoss(nn.Module):
    """A timm model as transformers' Trainer takes one: it gives its own loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.loss_of = net, nn.BCEWithLogitsLoss()
        self.last = torch.zeros(())

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and logits."""
        logits_BC = self.net(pixel_values)
        loss = self.loss_of(logits_BC, labels)
        self.last = loss.detach()
        return {"loss": loss, "logits": logits_BC}


def huggingface(encoder: str, batch: int) -> Way:
    """`Trainer` of transformers with its defaults: AdamW fused, clipping to 1, a linear schedule."""

    def way(gate: Gate, setting: Setting) -> None:
        from transformers import Trainer as HuggingFaceTrainer
        from transformers import TrainerCallback, TrainingArguments

        model = network(encoder, setting)
        net = WithLoss(model.encoder)
        image_BCHW, labels_BC = tensors(model, batch)
        rows = [{"pixel_values": x, "labels": y} for x, y in zip(image_BCHW, labels_BC, strict=True)]

        class Gated(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                gate.done(net.last.item())

        with tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                out, per_device_train_batch_size=batch, max_steps=STEPS, learning_rate=LR, weight_decay=0.05,
                max_grad_norm=CLIP, logging_steps=LOG_EVERY, save_strategy="no", report_to="none", use_cpu=True,
                disable_tqdm=True, dataloader_pin_memory=False, train_sampling_strategy="sequential",
            )  # fmt: skip
            trainer = HuggingFaceTrainer(net, arguments, train_dataset=rows, callbacks=[Gated()])
            gate.open()
            trainer.train()

    return way


def monai(encoder: str, batch: int) -> Way:
    """`SupervisedTrainer` of MONAI. It does not clip gradients, and logs nothing unless handlers are added."""

    def way(gate: Gate, setting: Setting) -> None:
        from ignite.engine import Events
        from monai.engines import SupervisedTrainer

        model = network(encoder, setting)
        net = model.encoder.train()
        image_BCHW, labels_BC = tensors(model, batch)
        rows = [{"image": x, "label": y} for x, y in zip(image_BCHW, labels_BC, strict=True)]
        trainer = SupervisedTrainer(
            torch.device("cpu"), 1, DataLoader(rows, batch_size=batch), net, optimizer_of(net), nn.BCEWithLogitsLoss(),
            epoch_length=STEPS,
        )  # fmt: skip

        @trainer.on(Events.ITERATION_COMPLETED)
        def wait(engine: Any) -> None:
            gate.done(float(engine.state.output[0]["loss"]))

        gate.open()
        trainer.run()

    return way


def floor(encoder: str, batch: int) -> Way:
    """Forward and backward pass of the blocks, and nothing else."""

    def way(gate: Gate, setting: Setting) -> None:
        keep_freed_memory(torch.device("cpu"))
        net = network(encoder, setting).encoder.train()
        rows_BLD = torch.randn(batch, net.patch_embed.num_patches + 1, net.embed_dim, requires_grad=True)

        def run() -> float:
            net.blocks(rows_BLD).mean().backward()
            net.zero_grad(set_to_none=True)
            return np.nan  # nothing to compare

        gate.repeat(run)

    return way


def line(encoder: str, batch: int, repeats: int) -> Line:
    """A line with this encoder."""
    makers: dict[str, Callable[[str, int], Way]] = {
        OURS: ours, "timm": timm_loop, "transformers": huggingface, "monai": monai, "floor": floor,
    }  # fmt: skip
    return Line(
        f"a step of fine-tuning {encoder} at {SIDE}, 14 findings, batches of {batch}, fp32",
        "seconds a step",
        {name: make(encoder, batch) for name, make in makers.items()},
        relative,
        1e-4,
        repeats=repeats,
        shares=("floor",),
    )


LINES = {
    "fine-tuning": line("vit_base_patch16_224", 4, 9),
    "fine-tuning-tiny": line("vit_tiny_patch16_224", 8, 11),
}
