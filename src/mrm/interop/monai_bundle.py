"""A model as a MONAI bundle: weights, how to run them on images, and what they were made of.

| file | what it holds |
| --- | --- |
| `configs/metadata.json` | what the network takes and gives, for MONAI's programs and for people |
| `configs/inference.json` | from a folder of images to a table of predictions, by MONAI's own classes |
| `models/model.pt` | the weights, of a classifier or an encoder under timm's names |
| `docs/README.md` | the model card |

A classifier and an encoder run without mrm, since timm has their networks. A segmenter's decoder is mrm's own, so it needs mrm.
MONAI itself is not needed to write a bundle. Specification: https://docs.monai.io/en/stable/mb_specification.html
"""

# Shapes: B images, H W pixels, C classes
from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import mrm
from mrm.data.eval_view import EvalView
from mrm.interop.export_folder import Files, require_same, write_folder
from mrm.interop.model_card import ABOUT, USE, WRITTEN, sections
from mrm.interop.publication import Publication
from mrm.models import hub_layout, model_folder
from mrm.models.card import Card
from mrm.models.classifier import Classifier
from mrm.models.model_folder import Model
from mrm.models.segmenter import Segmenter
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import as_json, parse_json, write_by, write_json, write_whole
from mrm.targets import target_of

METADATA, INFERENCE = "configs/metadata.json", "configs/inference.json"
WEIGHTS, README = "models/model.pt", "docs/README.md"
FILES = Files("MONAI bundle", frozenset((METADATA, INFERENCE, WEIGHTS, README)))
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MONAI = "1.6.1"  # the version whose verification and inference the tests run
IGNITE = "0.5.5"
RESIZED = {  # by view, how Pillow gives an image the size of the model
    "squash": "$lambda image: image.convert('L').resize(({width}, {height}), Image.Resampling.{filter})",
    "center": "$lambda image: ImageOps.fit(image.convert('L'), ({width}, {height}), Image.Resampling.{filter})",
    "border": "$lambda image: ImageOps.pad(image.convert('L'), ({width}, {height}), Image.Resampling.{filter})",
}
GIVEN = {"classifier": "predictions", "mrm": "features", "segmenter": "masks"}


def write_bundle(source: Path, out: Path, publication: Publication = Publication()) -> Path:
    """Write the model at `source` as a MONAI bundle, of a pre-trained MRM its encoder. Returns `out`.

    Fingerprints of the training records and the command line are left out. Raises CheckpointError where `out` holds something
    else or cannot be written, and where timm computes something else than the model; nothing is left behind then.
    """

    def write(folder: Path, model: Model, card: Card) -> None:
        target_of(card.architecture).require_independent(f"{source}: a MONAI bundle", CheckpointError)
        if isinstance(model, Classifier) and (changes := EvalView.of(model.config).changes):
            raise CheckpointError(
                f"{source}: takes each image with {changes}, which MONAI has no transform for; export it as onnx, whose "
                "metadata says so"
            )
        try:
            write_by(folder / WEIGHTS, lambda temporary: torch.save(_weights(model), temporary))
        except RuntimeError as error:  # torch reports a full disk so
            raise CheckpointError(f"{out}: cannot be written ({first_line(error)})") from error
        write_json(folder / METADATA, metadata(model, card, out.name, publication))
        write_json(folder / INFERENCE, inference(model))
        write_whole(folder / README, _readme(model, card, out.name, publication).encode())
        if not isinstance(model, Segmenter):
            require_same(model, lambda: _opened(folder, model), out)

    return write_folder(source, out, FILES, write)


def _weights(model: Model) -> dict[str, Tensor]:
    """The weights of the network that `inference` names."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    return weights if isinstance(model, Segmenter) else hub_layout.split(weights)[0]


def _opened(folder: Path, model: Model) -> nn.Module:
    """The network of a bundle with its weights, as MONAI creates it."""
    settings = {name: value for name, value in network(model).items() if name != "_target_"}
    opened = timm.create_model(**settings)
    opened.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True), strict=True)
    return opened


# The network --------------------------------------------------------------------------------------------


class SegmenterLogits(Segmenter):
    """A segmenter that gives its logits (B, C, H, W) alone, as MONAI expects of a network."""

    def forward(self, image_BCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of normalised images, at their size."""
        return super().forward(image_BCHW).logits_BCHW


def segmenter_network(settings: str) -> SegmenterLogits:
    """The network of a bundle's segmenter, by its configuration as JSON; MONAI loads its weights. Raises CheckpointError."""
    return SegmenterLogits(model_folder.read_config("segmenter", parse_json(settings), "network_def"))


def network(model: Model) -> dict[str, Any]:
    """The network as MONAI's configuration has it: what creates it, and with which arguments."""
    if isinstance(model, Segmenter):  # JSON in a text, for MONAI would run a class that begins with "$" as code
        settings = as_json(asdict(model.config))
        return {"_target_": "mrm.interop.monai_bundle.segmenter_network", "settings": settings}
    config = hub_layout.timm_config(model)
    return {
        "_target_": "timm.create_model",
        "model_name": config["architecture"],
        "pretrained": False,
        "num_classes": config["num_classes"],
        **config["model_args"],
    }


# From images to a table ---------------------------------------------------------------------------------


def inference(model: Model) -> dict[str, Any]:
    """MONAI's configuration that runs the model over a folder of images: `python -m monai.bundle run`."""
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import torch",
            "$from PIL import Image",
            "$from PIL import ImageOps",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(f for f in glob.glob(@dataset_dir + '/*') if f.lower().endswith(('.png', '.jpg', '.jpeg')))",
        "network_def": network(model),
        "network": "$@network_def.to(@device)",
        "preprocessing": _compose(_preprocessing(model)),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': file} for file in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 8,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": _compose(_postprocessing(model)),
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{WEIGHTS}'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            },
            *([] if isinstance(model, Segmenter) else [_table(model)]),
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _compose(transforms: list[dict[str, Any]]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": transforms}


def _preprocessing(model: Model) -> list[dict[str, Any]]:
    """A grey image of the model's size, from 0 to 1, normalised, as three equal channels."""
    prepared = hub_layout.timm_config(model)["pretrained_cfg"]
    _, height, width = prepared["input_size"]
    resized = RESIZED[prepared["crop_mode"]]
    return [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "PILReader",
            "converter": resized.format(height=height, width=width, filter=prepared["interpolation"].upper()),
            "reverse_indexing": False,
        },
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1},
        {"_target_": "RepeatChanneld", "keys": "image", "repeats": 3},
        {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "subtrahend": prepared["mean"],
            "divisor": prepared["std"],
            "channel_wise": True,
        },
    ]


def _postprocessing(model: Model) -> list[dict[str, Any]]:
    """Probabilities of a classifier at its temperatures; masks of a segmenter at its thresholds, saved; else nothing."""
    if isinstance(model, Classifier):
        temperatures = [model.card.temperatures.get(name, 1.0) for name in model.config.classes]
        calibrated = f"$lambda logits: logits / torch.tensor({temperatures}, device=logits.device)"
        return [
            {"_target_": "Lambdad", "keys": "pred", "func": calibrated},
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        ]
    if not isinstance(model, Segmenter):
        return [{"_target_": "Identityd", "keys": "pred"}]
    chosen = model.card.outline_thresholds
    thresholds = [chosen[name].probability if name in chosen else 0.5 for name in model.config.classes]
    kept = f"torch.where(p >= torch.tensor({thresholds}, device=p.device)[:, None, None], p, 0.0)"
    outlined = (
        f"$lambda p: torch.cat([torch.full_like(p[:1], 1e-12), {kept}]).argmax(dim=0, keepdim=True)"  # 0: background
    )
    saved = {"output_ext": ".png", "output_postfix": "mask", "output_dtype": "$torch.uint8", "resample": False}
    return [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "Lambdad", "keys": "pred", "func": outlined},
        {"_target_": "Transposed", "keys": "pred", "indices": [0, 2, 1]},  # which the writer of PNG turns back
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False, **saved},
    ]


def _table(model: Model) -> dict[str, Any]:
    """What writes a row for each image: its path, then the numbers."""
    return {
        "_target_": "ClassificationSaver",
        "output_dir": "@output_dir",
        "filename": f"{GIVEN[model.card.kind]}.csv",
        "batch_transform": "$lambda batch: [one['image'].meta for one in batch]",
        "output_transform": "$lambda output: [one['pred'] for one in output]",
    }


# What it says -------------------------------------------------------------------------------------------


def metadata(model: Model, card: Card, name: str, publication: Publication) -> dict[str, Any]:
    """The `metadata.json`: MONAI's required facts, and what the card knows."""
    needed = {"timm": timm.__version__, "pytorch-ignite": IGNITE, "pillow": importlib.metadata.version("pillow")}
    needed |= {"mrm-radiograph": mrm.__version__} if isinstance(model, Segmenter) else {}
    return {
        "schema": SCHEMA,
        "name": name,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by mrm {mrm.__version__}"},
        "monai_version": MONAI,
        "pytorch_version": str(torch.__version__).split("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": needed,
        "task": f"{GIVEN[card.kind].capitalize()} of chest radiographs",
        "description": ABOUT[card.kind],
        "authors": "not stated",
        "copyright": f"licence {publication.license}" if publication.license else "not stated",
        "data_source": f"training records: {card.origin.get('records', 'not stated')}",
        "data_type": "PNG or JPEG of 8 bits, grey, bone bright",
        "eval_metrics": {
            f"{test.records}: {measure}, {of}": estimate["value"]
            for test in card.tested
            for of, measures in test.classes.items()
            for measure, estimate in measures.items()
            if estimate.get("value") is not None
        },
        "intended_use": " ".join(USE.split()),
        "references": [
            "Advancing Radiograph Representation Learning with Masked Record Modeling, ICLR 2023, arXiv:2301.13155"
        ],
        "network_data_format": {"inputs": {"image": _input(model)}, "outputs": {"pred": _output(model)}},
    }


def _input(model: Model) -> dict[str, Any]:
    """What the network takes, after the preprocessing."""
    prepared = hub_layout.timm_config(model)["pretrained_cfg"]
    low = min(-mean / std for mean, std in zip(prepared["mean"], prepared["std"], strict=True))
    high = max((1 - mean) / std for mean, std in zip(prepared["mean"], prepared["std"], strict=True))
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "CR",
        "num_channels": 3,
        "spatial_shape": prepared["input_size"][1:],
        "dtype": "float32",
        "value_range": [round(low, 4), round(high, 4)],
        "is_patch_data": False,
        "channel_def": {str(channel): "grey" for channel in range(3)},
    }


def _output(model: Model) -> dict[str, Any]:
    """What the network gives, before the postprocessing."""
    classes = [] if not isinstance(model, Classifier | Segmenter) else list(model.config.classes)
    facts = {"dtype": "float32", "value_range": [], "is_patch_data": False}
    if not classes:
        width = model.encoder.num_features
        return {
            "type": "tuples",
            "format": "latent",
            "num_channels": width,
            "spatial_shape": [],
            "channel_def": {},
            **facts,
        }
    facts |= {"num_channels": len(classes), "channel_def": {str(i): f"logit of {n}" for i, n in enumerate(classes)}}
    if isinstance(model, Segmenter):
        return {"type": "image", "format": "labels", "spatial_shape": list(model.config.image_size), **facts}
    return {"type": "probabilities", "format": "classes", "spatial_shape": [], **facts}


def _readme(model: Model, card: Card, name: str, publication: Publication) -> str:
    """The model card, with how to run the bundle."""
    given = {
        "classifier": "`eval/predictions.csv` has a row for each image: its path, and the probability of each finding in the order "
        f"of `metadata.json`, at the model's temperatures: {', '.join(getattr(model.config, 'classes', ()))}.",
        "mrm": "`eval/features.csv` has a row for each image: its path, and its features, as `mrm embed` has them.",
        "segmenter": "`eval/NAME_mask.png` has the number of the class in each pixel, 0 where there is none, at the size of the "
        "model. The least area of an outline is left to `mrm predict`.",
    }[card.kind]
    needs = " mrm-radiograph" if isinstance(model, Segmenter) else ""
    run = f"""## How to run it

With `pip install 'monai[fire,ignite]' timm{needs}`, PNG or JPEG images in `images/`, and in the folder of the bundle:

```
python -m monai.bundle run --config_file {INFERENCE} --bundle_root . --dataset_dir images
```

{given}"""
    images = """## Images

Give grey images of 8 bits, bone bright; colours are made grey. DICOM files are for `mrm` to read: MONAI does not undo inverted
grey scales and windows. Where `mrm` averages by area when it shrinks an image, Pillow's nearest filter is used here, so that
results differ slightly."""
    licence = (
        f"Licence: {publication.license}." if publication.license else "Nobody has said under which licence this is."
    )
    return "\n\n".join([*sections(model, card, name), run, images, f"## Licence\n\n{licence}", WRITTEN]) + "\n"
