"""A model as an ONNX file, for any runtime: grey images in, with the normalisation inside.

The file is checked against PyTorch before it gets its name; one that differs is not left behind.
"""

# Shapes: B images, H W pixels, C classes, L patches, D encoder width
from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mrm
from mrm.data.eval_view import EvalView
from mrm.inference.decisions import DecisionRules
from mrm.inference.predict import feature_function
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.model_folder import Model
from mrm.models.mrm import MRM, normalise
from mrm.models.segmenter import Segmenter
from mrm.system.errors import CheckpointError, first_line
from mrm.system.files import write_by

TOLERANCE = 1e-4  # by which ONNX may differ from PyTorch, as a share of the largest value of an output, or of 1
LARGEST = 2_000_000_000  # bytes of weights that one ONNX file can hold


class OnnxEncoder(nn.Module):
    """Grey images (B, H, W) uint8 to pooled features (B, D) and those of the patches (B, L, D)."""

    outputs = ("pooled", "patches")

    def __init__(self, model: MRM) -> None:
        super().__init__()
        self.model = model
        self.patches = feature_function(model, "patches")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        patches_BLD = self.patches(normalise(image, config.mean, config.std))
        return patches_BLD.mean(1), patches_BLD


class OnnxClassifier(nn.Module):
    """Grey images (B, H, W) uint8 to logits and probabilities (B, C), these after the card's temperatures.

    Of a regression the second output is called "values": the numbers.
    """

    temperatures_C: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        rules = DecisionRules.of(model.card, model.config.classes)
        self.target = rules.target
        self.outputs = ("logits", "probabilities" if rules.target.probabilistic else "values")
        self.register_buffer("temperatures_C", torch.from_numpy(rules.temperature_C).float())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        logits_BC = self.model(normalise(image, config.mean, config.std))
        return logits_BC, self.target.activation(logits_BC / self.temperatures_C)


class OnnxSegmenter(nn.Module):
    """Grey images (B, H, W) uint8 to logits and probabilities (B, C, H, W)."""

    outputs = ("logits", "probabilities")

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        logits_BCHW = self.model(normalise(image, config.mean, config.std)).logits_BCHW
        return logits_BCHW, logits_BCHW.sigmoid()


OnnxModel = OnnxEncoder | OnnxClassifier | OnnxSegmenter


def onnx_model(model: Model) -> OnnxModel:
    """What is exported of a model: grey images in, with the normalisation inside."""
    if isinstance(model, MRM):
        return OnnxEncoder(model).eval()
    return OnnxClassifier(model).eval() if isinstance(model, Classifier) else OnnxSegmenter(model).eval()


def export_onnx(model: Model, path: Path) -> float:
    """Write a model as ONNX, for batches of any size. Returns its greatest relative difference from PyTorch.

    Of a pre-trained MRM the encoder alone. The metadata says how to prepare an image (see `preparation`).
    Raises CheckpointError where the extra `onnx` is not installed, the model cannot be exported, or the file
    disagrees with PyTorch by more than TOLERANCE; nothing is left behind then.
    """
    path = Path(path)
    require_onnx(path)
    if (size := sum(p.numel() * p.element_size() for p in model.parameters())) > LARGEST:
        raise CheckpointError(
            f"{path}: the model has {size:,} bytes of weights; an ONNX file holds at most {LARGEST:,}"
        )
    network = onnx_model(model)
    differences = []

    def write(temporary: Path) -> None:
        _write_onnx(network, model, temporary)
        differences.append(onnx_difference(network, temporary))
        if not differences[0] <= TOLERANCE:
            raise CheckpointError(
                f"{path}: the exported model differs from PyTorch by {differences[0]:.2g} of its values, more than "
                f"{TOLERANCE:g}; the file was not kept"
            )

    try:
        write_by(path, write)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
    return differences[0]


def require_onnx(path: Path) -> None:
    """Raises CheckpointError where the ONNX packages are not installed, with how to install them, and for a folder."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(f"ONNX needs {', '.join(missing)}: pip install 'mrm-radiograph[onnx]'")
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; --out must name a file, such as {path / 'model.onnx'}")


def _write_onnx(network: OnnxModel, model: Model, path: Path) -> None:
    import onnx

    example_BHW = _images(model, 2, seed=0)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example_BHW,),
                dynamo=True,
                input_names=["image"],
                output_names=list(network.outputs),
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise CheckpointError(f"{path.name}: PyTorch cannot export this model ({first_line(error)})") from error
    assert program is not None  # as it is with dynamo
    exported = program.model_proto
    onnx.helper.set_model_props(exported, {"mrm": json.dumps(preparation(model)), "format": "mrm"})
    onnx.checker.check_model(exported)
    onnx.save_model(exported, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings of its own internals, which do not help a user."""
    before = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(before)


@torch.inference_mode()
def onnx_difference(network: OnnxModel, path: Path) -> float:
    """The greatest difference of any output from PyTorch's, as a share of its largest value or of 1; NaN if any is NaN.

    Over batches of one and of three, of noise, and of a black, a white and a striped image.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    plain_BHW = _images(network.model, 3, seed=2)
    plain_BHW[0], plain_BHW[1] = 0, 255
    plain_BHW[2] = (torch.arange(plain_BHW.shape[-1]) * 7 % 256).to(torch.uint8)
    worst = 0.0
    for image_BHW in (_images(network.model, 1, seed=1), plain_BHW):
        outputs = session.run(list(network.outputs), {"image": image_BHW.numpy()})
        for output, expected in zip(outputs, network(image_BHW), strict=True):
            target = expected.numpy()
            difference = np.abs(output - target).max() / max(1.0, np.abs(target).max())
            worst = float(np.maximum(worst, difference))  # which keeps a NaN
    return worst


def _images(model: Model, count: int, seed: int) -> Tensor:
    """Noise of the size that the model takes, (B, H, W) uint8."""
    height, width = image_shape(model)
    noise = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    return torch.from_numpy(noise)


def preparation(model: Model) -> dict[str, Any]:
    """What one must know to use a model without mrm: its input, how an image becomes it, and its outputs."""
    facts: dict[str, Any] = {
        "kind": model_folder.kind_of(model),
        "mrm": mrm.__version__,
        "input": _input(model),
        "outputs": list(onnx_model(model).outputs),
    }
    if isinstance(model, Classifier):
        rules = DecisionRules.of(model.card, model.config.classes)
        facts |= {
            "classes": list(rules.classes),
            "target": rules.target.name,
            "thresholds": rules.thresholds,
            "temperatures": rules.temperatures,
        }
    if isinstance(model, Segmenter):
        thresholds = {name: asdict(threshold) for name, threshold in model.card.outline_thresholds.items()}
        facts |= {"classes": list(model.config.classes), "thresholds": thresholds}
    return facts


def _input(model: Model) -> dict[str, Any]:
    """The input of the ONNX file, and how an image is made into it."""
    config = model.config
    height, width = image_shape(model)
    view = getattr(config, "view", "fit" if isinstance(model, Segmenter) else "whole")
    filters = {"area": "a side that shrinks is area-averaged, one that grows is bicubic"}
    resize = getattr(config, "resize", "area")
    about = {
        "whole": f"the whole image resized to {height} x {width}, its shape not kept",
        "centre": f"the largest central square, resized to {height} x {width}",
        "fit": f"scaled until it just fits into {height} x {width}, its shape kept, in the middle of black",
    }
    return {
        "name": "image",
        "type": "uint8",
        "shape": ["batch", height, width],
        "values": "grey, 0 black to 255 white, bone bright; normalisation is inside the model",
        "view": view,
        "resize": f"{about[view]}; {filters.get(resize, f'by the {resize} filter of Pillow, from the full size')}",
        "changes": "" if isinstance(model, Segmenter) else EvalView.of(config).changes,
        "mean": config.mean,
        "std": config.std,
    }


def image_shape(model: Model) -> tuple[int, int]:
    """Height and width of the images that a model takes."""
    size = model.config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])
