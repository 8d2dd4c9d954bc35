"""The part of a model card that says how each library loads the model, and in what its images then differ."""

from __future__ import annotations

from mrm.data.eval_view import EvalView
from mrm.models.classifier import Classifier
from mrm.models.hub_layout import FILTERS, is_native, timm_config
from mrm.models.model_folder import Model
from mrm.models.mrm import MRM
from mrm.models.segmenter import Segmenter

OTHERS = {  # what timm and transformers make of the encoder
    "mrm": "The encoder alone; its output is the mean of the patch features, as `mrm embed` has it",
    "classifier": "The whole classifier, with logits as its output",
    "segmenter": "The encoder alone, up to the last block that the decoder reads, and without a last norm",
}
TIMM = 'import timm\n\nencoder = timm.create_model("local-dir:.", pretrained=True).eval()'
NOT_NATIVE = (
    "timm and transformers cannot open this folder, since timm does not have this model as it is: with relative positions, a "
    "head that pools for each class, or an encoder cut after the last block that the decoder reads. timm refuses its "
    "weights, and transformers warns that some do not fit. Do not use what it then has."
)
VIEWS = {
    "squash": "the whole image, its shape not kept",
    "center": "the largest central square",
    "border": "the image fitted with its shape kept; mrm fills the rest with black, timm with the mean grey",
}


def snippets(model: Model) -> str:
    """How to load the model: with mrm, and what of it timm and transformers have."""
    code = 'import mrm\n\nmodel = mrm.load(".")  # this folder, as huggingface_hub.snapshot_download gives it'
    text = f"With `pip install mrm-radiograph`:\n\n```python\n{code}\n```"
    if isinstance(model, Classifier):
        text += "\n\n```\nmrm predict . IMAGES --out predictions.csv\n```"
    if isinstance(model, Segmenter):
        text += "\n\n```\nmrm predict . IMAGES --out masks\n```"
    if not is_native(model):
        return f"{text}\n\n{NOT_NATIVE}"
    return f"{text}\n\n{OTHERS[model.card.kind]}, with `pip install timm`:\n\n```python\n{TIMM}\n```\n\n{_transformers(model)}"


def _transformers(model: Model) -> str:
    if not isinstance(model, Classifier):
        code = 'from transformers import AutoModel\n\nfeatures = AutoModel.from_pretrained(".")'
        return f"With `pip install transformers timm`; `features(image).pooler_output` is the same:\n\n```python\n{code}\n```"
    code = 'from transformers import pipeline\n\nclassify = pipeline("image-classification", ".")'
    text = f"With `pip install transformers timm`:\n\n```python\n{code}\n```\n\nIts scores are sigmoids of the logits"
    if any(temperature != 1 for temperature in model.card.temperatures.values()):
        text += ", before the temperatures that `mrm predict` divides them by: calibrated probabilities are those of mrm alone"
    if model.card.thresholds:
        text += ". The thresholds in `mrm.json` are applied by mrm alone"
    return f"{text}."


def images(model: Model) -> str:
    """How images are prepared, and where timm's transform differs from what mrm does."""
    prepared = timm_config(model)["pretrained_cfg"]
    height, width = prepared["input_size"][1:]
    resize = getattr(model.config, "resize", "area")
    lines = [
        f"The model takes grey images of {height} x {width} as three equal channels, (value / 255 - {model.config.mean}) / "
        f"{model.config.std}. It sees {VIEWS[prepared['crop_mode']]}. timm and transformers prepare images by `config.json`:",
    ]
    if resize == "area":
        lines.append(
            f"- mrm averages by area where an image shrinks; timm has no such filter, and takes the nearest, {FILTERS['area']}. "
            "Logits then differ slightly."
        )
    else:
        lines.append(f"- They resize by the same filter, {resize}.")
    if changes := "" if isinstance(model, Segmenter) else EvalView.of(model.config).changes:
        lines.append(f"- mrm gives the model each image with {changes}; they do not, so do it before.")
    if isinstance(model, MRM):
        lines.append("- Pre-training showed the encoder crops of radiographs, not whole ones.")
    lines += [
        "- mrm makes one grey channel of a colour image; they keep the colours, which this model has never seen. Give grey ones.",
        "- DICOM, 16-bit images, inverted ones and burned-in borders are for mrm to read; give the others images of 8 bits, bone "
        "bright.",
    ]
    return "\n".join([lines[0], "", *lines[1:]])
