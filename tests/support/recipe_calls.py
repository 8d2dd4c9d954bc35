"""Every recipe for records, called with places that need not exist."""

from pathlib import Path

from mrm.recipes import FINETUNE, PRETRAIN

PLACES = {"records": Path("data/training.csv"), "out": Path("runs/a")}
LISTS = {"train": Path("train.txt"), "val": Path("val.txt"), "init": Path("MRM.pth"), "out": Path("runs/b")}
ALL = [*(("pretrain", name) for name in PRETRAIN), *(("finetune", name) for name in FINETUNE)]


def build(kind: str, name: str, **where):
    """The configuration of a recipe for some places."""
    return PRETRAIN[name].make(**PLACES, **where) if kind == "pretrain" else FINETUNE[name].make(**LISTS, **where)
