"""Fine-tune an encoder of mrm with the Trainer of Hugging Face transformers (`pip install transformers`).

mrm pretrain tiny --records prepared/train.csv --out runs/pretrained
python examples/transformers_trainer.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Trainer, TrainingArguments

import mrm

train_file, val_file = Path("prepared/train.csv"), Path("prepared/val.csv")
start = Path("runs/pretrained")  # what `mrm.load_encoder` takes: a run, a model folder, MRM.pth, weights of MAE or timm


class WithLoss(nn.Module):
    """The classifier in the form that the Trainer expects: it returns its loss, and its logits."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, stated = self.encoder(pixel_values), ~labels.isnan()  # what is not stated is left out of the loss
        return {"loss": F.binary_cross_entropy_with_logits(logits[stated], labels[stated]), "logits": logits}


def collate(samples: list) -> dict[str, torch.Tensor]:
    """A batch under the names of the arguments of `WithLoss.forward`."""
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


def main() -> None:
    """Train for three epochs, and print the loss of the validation records."""
    transforms = mrm.transforms(start)
    train = mrm.Dataset(train_file, transforms.train)
    val = mrm.Dataset(val_file, transforms.test, classes=train.classes)
    model = WithLoss(mrm.load_encoder(start, num_classes=len(train.classes), drop_path_rate=0.1))
    arguments = TrainingArguments(
        output_dir="runs/trainer",
        num_train_epochs=3,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        weight_decay=0.05,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,  # the items of an mrm.Dataset are no table
        dataloader_num_workers=2,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=train, eval_dataset=val)
    trainer.train()
    print(f"validation loss {trainer.evaluate()['eval_loss']:.3f}")
    torch.save(model.encoder.state_dict(), "own.pth")  # a plain timm Vision Transformer


if __name__ == "__main__":  # worker processes import this file where they are not forked
    main()
