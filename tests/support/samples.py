"""Records in memory with small images and short reports, and the data made of them."""

import numpy as np
import torch

from mrm.data import images
from mrm.data.loader import loader
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.data.samples import PretrainData
from mrm.data.sampling import in_order

NAN = float("nan")
LENGTH = 12  # tokens of a report
REPORTS = [
    "No effusion.",
    "Small left pleural effusion, unchanged. " * 5,
    "",
    "Cardiomegaly",
    "No pneumothorax. Heart size is normal.",
    "",
    "Mild oedema; no focal consolidation.",
]


def png(seed: int, height: int = 48, width: int = 40) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def record(i: int, **changes) -> Record:
    return Record(**{"image": png(i), "report": REPORTS[i % len(REPORTS)], "name": f"study-{i}", **changes})


def report_records() -> Records:
    """Seven records, two of them without a report."""
    return Records([record(i) for i in range(7)])


def report_tokenizer() -> Tokenizer:
    return Tokenizer.train(REPORTS, 200)


def pretrain_data(records: Records, **changes) -> PretrainData:
    """Small pre-training data: crops of 32, 4 of 16 patches kept."""
    usual = {"tokenizer": report_tokenizer(), "size": 32, "patches": 16, "keep": 4, "length": LENGTH}
    return PretrainData(records, **{**usual, **changes})


def labelled_records() -> Records:
    labels = [(1, 0), (0, NAN), (NAN, NAN), (1, 1), (0, 0)]
    rows = [Record(png(i), labels=values, name=f"study-{i}") for i, values in enumerate(labels)]
    return Records(rows, ("effusion", "mass"))


def same(a, b) -> bool:
    """Whether two samples or batches hold the same values throughout."""
    a, b = ({**(x if isinstance(x, dict) else vars(x))} for x in (a, b))
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[k]).nan_to_num(), torch.as_tensor(b[k]).nan_to_num())
        if isinstance(a[k], (torch.Tensor, np.ndarray, float, int))
        else a[k] == b[k]
        for k in a
    )


def everything(data, batch: int, **how) -> list:
    return list(loader(data, in_order(len(data), batch), workers=0, **how))
