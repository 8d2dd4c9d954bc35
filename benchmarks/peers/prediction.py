"""Lines `predict`, `network` and `network-int8`: findings of radiographs in JPEG, and the network alone.

`predict` is everything from 8 files of 2544 x 3056 to probabilities: `mrm.Predictor`, the loop that timm's documentation shows,
and that of TorchXRayVision's, with its reader and its resizing by skimage (its default) or OpenCV. The network is the same in
all and loaded before, a ViT-B/16 with 14 findings and random weights; TorchXRayVision's own are DenseNets, with a sixth of its
multiplications. All see the whole image (TorchXRayVision's central crop is left out); each has a worker that reads. `mrm
predict` is the command, which also opens the model, checks its digest, and writes a journal and a table.

`network` is the forward pass of 8 images alone: by `mrm predict`, by timm, compiled, and in ONNX Runtime from `mrm export --format
onnx`, all in fp32. `network-int8` is the same with weights and activations in 8 bits, by one thread: by `mrm predict --precision int8`,
and in ONNX Runtime after its dynamic quantisation, beside our fp32.
"""

# Shapes: B images, C classes, H W pixels
from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import predict as timm_benchmark
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.fine_tuning import CLASSES, images_and_labels, network
from benchmarks.peers.loading import files
from benchmarks.peers.turns import OURS, Gate, Line, Setting, Way, absolute
from mrm.inference.predict import values_of
from mrm.inference.predictor import Predictor
from mrm.interop import XRVModel
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.mrm import normalise
from mrm.runs import predicting
from mrm.runs.reading_options import Reading
from mrm.system.hardware import Precision, keep_freed_memory

ENCODER = "vit_base_patch16_224"
BATCH, WORKERS = 4, 1
IMAGES = 8  # of the network alone


def classifier(setting: Setting) -> Classifier:
    """The network of all ways, ready to predict."""
    return network(ENCODER, setting).eval()


def ours(gate: Gate, setting: Setting) -> None:
    """`mrm.Predictor` on paths."""
    predictor = Predictor(classifier(setting), batch=BATCH, workers=WORKERS)
    listed = files(setting.folder / "originals")
    gate.repeat(lambda: predictor(listed).probabilities_NC)


def command(gate: Gate, setting: Setting) -> None:
    """`mrm predict`, from its arguments to its table."""
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder.save(Path(folder) / "model", classifier(setting))
        reading = Reading(batch=BATCH, workers=WORKERS, precision="fp32")

        def run() -> list[list[float]]:
            out = Path(folder) / "predictions.jsonl"
            predicting.predict_table(model, files(setting.folder / "originals"), out, reading)
            rows = [json.loads(row) for row in out.read_text().splitlines()]
            return [[row[name] for name in CLASSES] for row in rows]

        gate.repeat(run)


def timm_loop(gate: Gate, setting: Setting) -> None:
    """The plain loop of `benchmarks/predict.py`."""
    model, options = classifier(setting), argparse.Namespace(batch=BATCH, workers=WORKERS)
    listed = files(setting.folder / "originals")
    gate.repeat(lambda: timm_benchmark.plain_loop(model.encoder, model.config, listed, "fp32", options))


class XrvFiles(Dataset):
    """JPEG files as TorchXRayVision reads and resizes them, (1, H, W) from -1024 to 1024."""

    def __init__(self, listed: list[Path], side: int, engine: str) -> None:
        import torchxrayvision as xrv

        self.files, self.load = listed, xrv.utils.load_image
        self.resize = xrv.datasets.XRayResizer(side, engine)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.resize(self.load(str(self.files[index]))))


def torchxrayvision(engine: str) -> Way:
    """A loop over TorchXRayVision's images, with our classifier in the form of its models."""

    def way(gate: Gate, setting: Setting) -> None:
        model = classifier(setting)
        data = XrvFiles(files(setting.folder / "originals"), model.config.image_size, engine)
        findings = XRVModel(model, apply_sigmoid=True)

        @torch.inference_mode()
        def run() -> np.ndarray:
            batches = DataLoader(data, batch_size=BATCH, num_workers=WORKERS)
            return np.concatenate([findings(image_B1HW).numpy() for image_B1HW in batches])

        gate.repeat(run)

    return way


# The network alone ------------------------------------------------------------------------------------


def noise_images(model: Classifier) -> np.ndarray:
    """What is computed, (B, H, W) uint8."""
    return images_and_labels(model, IMAGES)[0]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    return 1 / (1 + np.exp(-logits))


def our_network(precision: Precision) -> Way:
    """What `mrm predict` computes of a batch."""

    def way(gate: Gate, setting: Setting) -> None:
        keep_freed_memory(torch.device("cpu"))
        model = classifier(setting)
        image_BHW = torch.from_numpy(noise_images(model))
        gate.repeat(lambda: sigmoid(values_of(model, image_BHW, model, precision)))

    return way


def by_pytorch(compiled: bool) -> Way:
    """timm's model in PyTorch, compiled or not."""

    def way(gate: Gate, setting: Setting) -> None:
        model = classifier(setting)
        image_BCHW = normalise(torch.from_numpy(noise_images(model)), model.config.mean, model.config.std).contiguous()
        net: Callable[[Tensor], Tensor] = torch.compile(model.encoder, dynamic=False) if compiled else model.encoder

        @torch.inference_mode()
        def run() -> np.ndarray:
            return net(image_BCHW).sigmoid().numpy()

        gate.repeat(run)

    return way


def write_onnx(setting: Setting) -> None:
    """The classifier as ONNX, and with 8 bits, unless they are there."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from mrm.interop.onnx_export import export_onnx

    whole, small = (setting.folder / f"{name}.onnx" for name in ("fp32", "int8"))
    if not whole.exists():
        export_onnx(classifier(setting), whole)
    if not small.exists():
        quantize_dynamic(
            whole, small, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
        )


def onnx(name: str) -> Way:
    """ONNX Runtime, with as many threads as the others."""

    def way(gate: Gate, setting: Setting) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session: Any = onnxruntime.InferenceSession(
            str(setting.folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        image_BHW = noise_images(classifier(setting))
        gate.repeat(lambda: session.run(["probabilities"], {"image": image_BHW})[0])

    return way


LINES = {
    "predict": Line(
        "probabilities of 14 findings for 8 radiographs of 2544 x 3056 in JPEG, ViT-B/16 at 224, fp32, a worker reads",
        "seconds for 8 images",
        {
            OURS: ours,
            "mrm predict": command,
            "timm": timm_loop,
            "torchxrayvision, OpenCV": torchxrayvision("cv2"),
            "torchxrayvision, skimage": torchxrayvision("skimage"),
        },
        absolute,
        0.06,
        repeats=5,
    ),
    "network": Line(
        f"the forward pass of {IMAGES} images, ViT-B/16 at 224",
        f"seconds for {IMAGES} images",
        {
            OURS: our_network("fp32"),
            "timm": by_pytorch(compiled=False),
            "torch.compile": by_pytorch(compiled=True),
            "ONNX Runtime, fp32": onnx("fp32"),
        },
        absolute,
        0.05,
    ),
    "network-int8": Line(
        f"the forward pass of {IMAGES} images in 8 bits, ViT-B/16 at 224",
        f"seconds for {IMAGES} images",
        {OURS: our_network("int8"), "mrm, fp32": our_network("fp32"), "ONNX Runtime, int8": onnx("int8")},
        absolute,
        0.05,
        repeats=7,
        threads=1,
    ),
}
