"""Use the encoder without mrm: export it once, then load it into a plain timm Vision Transformer.

mrm export runs/mimic --out MRM.pth
python examples/load_in_timm.py
"""

import timm
import torch

model = timm.create_model("vit_base_patch16_224", num_classes=14, global_pool="avg", drop_path_rate=0.1)
weights = torch.load("MRM.pth", map_location="cpu", weights_only=True)["model"]
loaded = model.load_state_dict(weights, strict=False)
print("untrained:", loaded.missing_keys)  # head.* and fc_norm.*; the decoders of the file are not used
