"""A model for others: ONNX for any runtime, and a Hugging Face hub folder with a model card.

The published `MRM.pth` is written by `mrm.models.model_folder.export_published`. An ONNX file is checked against PyTorch before
it gets its name; one that differs is not left behind.
"""

# Shapes: B images, H W pixels, C classes, L patches, D encoder width
from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mrm
from mrm.inference.decisions import DecisionRules
from mrm.inference.predict import feature_function
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.model_folder import Card
from mrm.models.mrm import MRM, normalise
from mrm.models.segmenter import Segmenter
from mrm.models.weights import first_line
from mrm.system.errors import CheckpointError

TOLERANCE = 1e-4  # by which ONNX may differ from PyTorch, as a share of the largest value of an output, or of 1
HUB_FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
LARGEST = 2_000_000_000  # bytes of weights that one ONNX file can hold
Model = MRM | Classifier | Segmenter


# ONNX -------------------------------------------------------------------------------------------------


class Encoded(nn.Module):
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


class Judged(nn.Module):
    """Grey images (B, H, W) uint8 to logits and probabilities (B, C), these after the card's temperatures."""

    outputs = ("logits", "probabilities")
    temperatures_C: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        rules = DecisionRules.of(model.card, model.config.classes)
        self.register_buffer("temperatures_C", torch.from_numpy(rules.temperature_C).float())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        logits_BC = self.model(normalise(image, config.mean, config.std))
        return logits_BC, (logits_BC / self.temperatures_C).sigmoid()


class Outlined(nn.Module):
    """Grey images (B, H, W) uint8 to logits and probabilities (B, C, H, W)."""

    outputs = ("logits", "probabilities")

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        logits_BCHW = self.model(normalise(image, config.mean, config.std)).logits_BCHW
        return logits_BCHW, logits_BCHW.sigmoid()


def wrapped(model: Model) -> Encoded | Judged | Outlined:
    """What is exported of a model: grey images in, with the normalisation inside."""
    kinds: dict[type, Any] = {MRM: Encoded, Classifier: Judged, Segmenter: Outlined}
    return kinds[type(model)](model).eval()


def export_onnx(model: Model, path: Path) -> float:
    """Write a model as ONNX, for batches of any size. Returns its greatest relative difference from PyTorch.

    Of a pre-trained MRM the encoder alone. The metadata says how an image is to be prepared (see `preparation`).
    Raises CheckpointError where the extra `onnx` is not installed, the model cannot be exported, or the file
    disagrees with PyTorch by more than TOLERANCE; nothing is left behind then.
    """
    path = Path(path)
    require_onnx(path)
    if (size := sum(p.numel() * p.element_size() for p in model.parameters())) > LARGEST:
        raise CheckpointError(f"{path}: {size:,} bytes of weights, where an ONNX file holds {LARGEST:,}")
    network = wrapped(model)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_onnx(network, model, temporary)
        difference = onnx_difference(network, temporary)
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{path}: the exported model differs from PyTorch by {difference:.2g} of its values, more than "
                f"{TOLERANCE:g}; it was not kept"
            )
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def require_onnx(path: Path) -> None:
    """Raises CheckpointError, with the way to get them, where the ONNX packages are not installed, and for a folder."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(f"ONNX needs {', '.join(missing)}: pip install 'mrm-radiograph[onnx]'")
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; --out is to be a file, such as {path / 'model.onnx'}")


def _write_onnx(network: Encoded | Judged | Outlined, model: Model, path: Path) -> None:
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
    made = program.model_proto
    onnx.helper.set_model_props(made, {"mrm": json.dumps(preparation(model)), "format": "mrm"})
    onnx.checker.check_model(made)
    onnx.save_model(made, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals, which is nothing to a user."""
    before = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(before)


@torch.inference_mode()
def onnx_difference(network: Encoded | Judged | Outlined, path: Path) -> float:
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
        found = session.run(list(network.outputs), {"image": image_BHW.numpy()})
        for output, expected in zip(found, network(image_BHW), strict=True):
            true = expected.numpy()
            difference = np.abs(output - true).max() / max(1.0, np.abs(true).max())
            worst = float(np.maximum(worst, difference))  # which keeps a NaN
    return worst


def _images(model: Any, count: int, seed: int) -> Tensor:
    """Noise of the size that the model takes, (B, H, W) uint8."""
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    noise = np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)
    return torch.from_numpy(noise)


def preparation(model: Model) -> dict[str, Any]:
    """What must be known to use a model without mrm: its input, how an image becomes it, and its outputs."""
    config, card = model.config, model.card
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    view = getattr(config, "view", "fit" if isinstance(model, Segmenter) else "whole")
    about = {
        "whole": f"the whole image resized to {height} x {width}, its shape not kept",
        "centre": f"the largest central square, resized to {height} x {width}",
        "fit": f"scaled until it just fits into {height} x {width}, its shape kept, in the middle of black",
    }
    facts: dict[str, Any] = {
        "kind": model_folder.kind_of(model),
        "mrm": mrm.__version__,
        "input": {
            "name": "image",
            "type": "uint8",
            "shape": ["batch", height, width],
            "values": "grey, 0 black to 255 white, bone bright; normalisation is inside the model",
            "view": view,
            "resize": f"{about[view]}; a side that shrinks is area-averaged, one that grows is bicubic",
            "mean": config.mean,
            "std": config.std,
        },
        "outputs": list(wrapped(model).outputs),
    }
    if isinstance(model, Classifier):
        rules = DecisionRules.of(card, model.config.classes)
        facts |= {"classes": list(rules.classes), "thresholds": rules.thresholds, "temperatures": rules.temperatures}
    if isinstance(model, Segmenter):
        facts |= {"classes": list(model.config.classes), "thresholds": dict(card.thresholds) if card else {}}
    return facts


# Hugging Face hub -------------------------------------------------------------------------------------


def hub_folder(source: Path, out: Path) -> Path:
    """A folder to put on the Hugging Face hub: the model folder, and a model card written from what it knows.

    Fingerprints of the training records and the command line (which holds paths) are left out. `mrm.load` takes the
    folder as it is. Raises CheckpointError where `out` holds something else, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not _replaceable(out):
        raise CheckpointError(f"{out}: is there and holds more than a hub folder; choose another --out")
    if out.resolve() == (Path(source) if Path(source).is_file() else model_folder.find_model(Path(source))).resolve():
        raise CheckpointError(f"{out}: is the model itself; choose another --out")
    model = model_folder.load(source)
    card = shareable(model.card)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model_folder.write_into(temporary, model, card)
        (temporary / "README.md").write_text(model_card(model, card, out.name), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    return out


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or holds the files of a hub folder and nothing else."""
    if not folder.is_dir():
        return False
    names = {p.name for p in folder.iterdir()}
    return not names or HUB_FILES - {"tokenizer.json"} <= names <= HUB_FILES


def shareable(card: Card) -> Card:
    """A card without what tells of the machine it was made on: the command line, and folders of records."""
    origin = {k: v for k, v in card.origin.items() if k != "command"}
    tested = [{**t, "records": Path(str(t.get("records", ""))).name} for t in card.tested]
    return replace(card, origin=origin, tested=tested)


def push(folder: Path, repository: str) -> str:
    """Upload a hub folder to `repository` (USER/NAME), which is made private if it is new. Returns its address.

    Raises CheckpointError where the hub refuses, or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Model by mrm {mrm.__version__}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{repository}: not uploaded ({first_line(error)}); log in with `hf auth login`, and see that the name is "
            f"USER/NAME; the folder {folder} is complete"
        ) from error
    return str(address)


# The model card ---------------------------------------------------------------------------------------

TASKS = {"mrm": "image-feature-extraction", "classifier": "image-classification", "segmenter": "image-segmentation"}
ABOUT = {
    "mrm": "An encoder of chest radiographs, pre-trained by masked record modelling: it restored masked patches of "
    "radiographs and masked words of their reports.",
    "classifier": "A classifier of chest radiographs, fine-tuned from an encoder that masked record modelling "
    "pre-trains.",
    "segmenter": "A model that outlines findings on chest radiographs, on an encoder that masked record modelling "
    "pre-trains.",
}
USE = """Research on radiographs like those it was trained on. Not for clinical use: it is no medical device, and nobody has
shown that a patient is better off with it."""


def model_card(model: Any, card: Card, name: str) -> str:
    """The README.md of a hub folder, with YAML front matter, from what the model and its card know."""
    parts = [
        front_matter(card),
        f"# {name}\n\n{ABOUT[card.kind]} Method: [arXiv:2301.13155](https://arxiv.org/abs/2301.13155).",
        f"**{_described(model, card)}**",
        f"## Intended use\n\n{USE}",
        f"## Data\n\n{_data(card)}",
        f"## Audit\n\n{_audit(card)}",
        f"## Results\n\n{_results(card)}",
        *([f"## Thresholds\n\n{_thresholds(card)}"] if card.thresholds else []),
        f"## Limits\n\n{_limits(model, card)}",
        f"## How to load it\n\n{_snippets(model, card)}",
        f"Written by mrm {mrm.__version__} from the model folder; numbers that are not here, the folder did not know.",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(card: Card) -> str:
    """The YAML that the hub reads. The licence is the publisher's to choose."""
    tags = ["radiology", "chest-x-ray", "medical", "mrm", "timm"]
    lines = ["---", "library_name: mrm", f"pipeline_tag: {TASKS[card.kind]}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join([*lines, "# license: choose one before you publish; the data's terms may bind you", "---"])


def _described(model: Any, card: Card) -> str:
    size = model.config.image_size
    pixels = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    count = sum(p.numel() for p in model.parameters())
    text = f"Encoder {model.config.encoder}, {pixels} pixels, {count:,} parameters in all."
    return text if card.kind == "mrm" else f"{text} Classes: {', '.join(model.config.classes)}."


def _data(card: Card) -> str:
    origin = card.origin
    if "n" not in origin:
        return "The model folder does not say what it was trained on."
    patients = f"of {origin['patients']:,} patients" if origin.get("patients") else "of an unknown number of patients"
    reports = f", {origin['with_report']:,} with a report" if card.kind == "mrm" else ""
    start = f"Initial weights: {origin['init']}." if origin.get("init") else "Initial weights: random."
    return f"Trained on {origin['n']:,} records {patients} ({origin.get('records')}){reports}. {start}"


def _audit(card: Card) -> str:
    audit = card.origin.get("audit")
    lines = ["Nobody has looked for overlap between the training records and other sets (`mrm audit`)."]
    if audit:
        lines = ["The training records overlap with no other set of their corpus."] if audit["clean"] else []
        lines += [] if audit["clean"] else ["**The training records overlap with other sets of their corpus:**"]
        lines += [f"- {overlap}" for overlap in audit["overlaps"]]
    for test in card.tested:
        for overlap in test.get("overlap", []):
            lines.append(
                f"- **Test on {test.get('records')}: {overlap}.** Its results are too good by an unknown amount."
            )
    return "\n".join(lines)


def _results(card: Card) -> str:
    if not card.tested:
        return "It was not tested (`mrm evaluate`)."
    lines = [
        "95 % intervals in brackets.",
        "",
        "| test set | of | measure | value | n | positive |",
        "| --- " * 6 + "|",
    ]
    for test in card.tested:
        per_class = test.get("classes") or {"mean of classes": test.get("mean", {})}
        for name, measures in per_class.items():
            lines += [_result(test, name, measure, one) for measure, one in measures.items() if isinstance(one, dict)]
    return "\n".join(lines)


def _result(test: dict[str, Any], name: str, measure: str, one: dict[str, Any]) -> str:
    number = lambda v: "not defined" if v is None else f"{v:.3f}"  # noqa: E731
    value = number(one.get("value"))
    if one.get("low") is not None and one.get("high") is not None:
        value += f" ({number(one['low'])} to {number(one['high'])})"
    counts = ["" if one.get(k) is None else f"{one[k]:,}" for k in ("n", "positives")]
    cells = [str(test.get("records")), name, measure.replace("_", " "), value, *counts]
    return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def _thresholds(card: Card) -> str:
    lines = ["Chosen on validation records; on images of another hospital they may be wrong.", ""]
    lines += ["| class | threshold | temperature |", "| --- | --- | --- |"]
    for name, threshold in card.thresholds.items():
        temperature = card.temperatures.get(name)
        lines.append(f"| {name} | {threshold:.4g} | {'' if temperature is None else f'{temperature:.4g}'} |")
    return "\n".join(lines)


def _limits(model: Any, card: Card) -> str:
    lines = [
        "- It answers for any image, also for one that is no chest radiograph.",
        "- It may have learned what goes with a finding instead of the finding: tubes, the machine, the hospital.",
        "- Its numbers are those of the test sets above, and say little about other hospitals, machines and patients.",
    ]
    if card.kind != "mrm":
        lines.append("- What is not among its classes it cannot say; a low probability is no normal radiograph.")
    if not card.embedding and card.kind == "classifier":
        lines.append("- It does not notice images unlike those it knows.")
    if getattr(model, "tokenizer", None) is not None:
        lines.append(
            "- `tokenizer.json` holds words of the training reports; see that no names are among them before you publish."
        )
    return "\n".join(lines)


def _snippets(model: Any, card: Card) -> str:
    config = model.config
    whole = 'import mrm\n\nmodel = mrm.load(".")  # this folder, as huggingface_hub.snapshot_download gives it'
    text = f"With `pip install mrm-radiograph`:\n\n```python\n{whole}\n```"
    if card.kind == "segmenter":  # its encoder is cut to what the head needs
        return f"{text}\n\n```\nmrm predict . IMAGES --out masks\n```"
    if card.kind == "classifier":
        text += "\n\n```\nmrm predict . IMAGES --out predictions.csv\n```"
    classes = len(config.classes) if card.kind == "classifier" else 0
    options = "".join(f", {k}={v!r}" for k, v in config.encoder_options.items())
    pool = '"avg"' if card.kind == "classifier" else '""'
    return (
        text
        + f"""

The encoder alone, with `pip install timm`:

```python
import timm
from safetensors.torch import load_file

weights = {{k.removeprefix("encoder."): v for k, v in load_file("model.safetensors").items() if k.startswith("encoder.")}}
encoder = timm.create_model("{config.encoder}", img_size={config.image_size}, num_classes={classes}, global_pool={pool}{options})
encoder.load_state_dict(weights)
```

It takes grey images as three equal channels, (value / 255 - {config.mean}) / {config.std}."""
    )
