"""Pre-train MRM on MIMIC-CXR-JPG as published, from MAE's ImageNet weights.

mrm prepare mimic --source physionet.org/files --out mimic
torchrun --nproc-per-node 4 examples/pretrain_mimic.py
"""

from dataclasses import replace
from pathlib import Path

from mrm import recipes, runs

config = recipes.mimic(
    records=Path("mimic/training.csv"),
    out=Path("runs/mimic"),
    init=Path("mae_pretrain_vit_base.pth"),
    tokenizer=Path("mimic_wordpiece.json"),  # leave out to learn one from the reports
    on_error="skip",
)
runs.pretrain(replace(config, training=replace(config.training, micro_batch=64)))
