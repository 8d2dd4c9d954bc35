"""Fine-tune an encoder of mrm with a training loop of your own: ten lines of plain PyTorch.

mrm pretrain tiny --records prepared/train.csv --out runs/pretrained
python examples/own_training_loop.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import mrm
from mrm.statistics.ranking import classification_report

train_file, val_file = Path("prepared/train.csv"), Path("prepared/val.csv")
start = Path("runs/pretrained")  # what `mrm.load_encoder` takes: a run, a model folder, MRM.pth, weights of MAE or timm
device = "cuda" if torch.cuda.is_available() else "cpu"

if __name__ == "__main__":  # worker processes import this file where they are not forked
    transforms = mrm.transforms(start)
    train = mrm.Dataset(train_file, transforms.train)
    val = mrm.Dataset(val_file, transforms.test, classes=train.classes)
    model = mrm.load_encoder(start, num_classes=len(train.classes), drop_path_rate=0.1).to(device)

    # The ten lines
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for epoch in range(3):
        train.set_epoch(epoch)  # crops follow from (seed, epoch, index)
        for image, labels in DataLoader(train, batch_size=32, shuffle=True, num_workers=2):
            logits, target = model.train()(image.to(device)), labels.to(device)
            stated = ~target.isnan()  # what is not stated is left out of the loss
            loss = F.binary_cross_entropy_with_logits(logits[stated], target[stated])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")

    with torch.inference_mode():
        batches = [model.eval()(image.to(device)).sigmoid().cpu() for image, _ in DataLoader(val, batch_size=64)]
    report = classification_report(
        val.records.labels_NC, torch.cat(batches).double().numpy(), val.classes, groups=val.records.people
    )
    for name, measures in report.items():
        auroc = measures["auroc"]
        print(f"{name}: AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})")
    torch.save(model.state_dict(), "own.pth")  # a plain timm Vision Transformer
