"""Do heat maps fall on the finding? A small classifier of phantoms, whose findings are known to the pixel.

    python benchmarks/heat_maps.py --out heat-maps

Trains `mrm finetune tiny` on phantoms (or takes `--model`), from an encoder that was first trained on outlines of the
findings (`phantom_encoder.py`, `--teach`): from random weights a classifier learns too little in minutes (AUROC 0.57) to
have maps worth looking at. The head is first fitted to labels alone, then everything is fine-tuned with labels alone.
Then the benchmark makes a map of each finding of each test phantom that has it. The share of the map's mass inside the
finding is compared with the finding's share of the image, which a meaningless map would give; so is the share of maps
whose peak lies inside. The same is done with random weights. Prints a table with 95 % intervals over patients, and writes
`heat_maps.json`; `--methods` also takes the other ways of making a map that were tried.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import phantom_encoder
import torch
from torch import nn

from mrm import recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import FINDINGS, Phantom, phantom
from mrm.data.records import Records
from mrm.inference import heat_maps, predict
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.statistics import ranking
from mrm.statistics.dice import mean_over
from mrm.statistics.intervals import Bootstrap, Estimate
from mrm.system.files import write_json

PLACED = ("atelectasis", "cardiomegaly", "consolidation", "effusion", "nodule", "pneumothorax")


def main() -> None:
    """Train, map, compare; write `heat_maps.json` and print a table."""
    options = arguments()
    report = benchmark(options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "heat_maps.json", with_plain_estimates(report))
    print(table(report))


def benchmark(options: argparse.Namespace) -> dict:
    """Train, make maps with the trained and with random weights, and locate them."""
    began = time.perf_counter()
    model = model_folder.load(options.model or train(options))
    trained = time.perf_counter() - began
    test = [phantom(2, i, options.image) for i in range(options.test)]
    networks = {"trained": model, "randomised": randomised(model, options.seed)}
    return {
        "auroc": aurocs(model, options),
        "methods": {
            method: {name: located(network, test, METHODS[method]) for name, network in networks.items()}
            for method in options.methods
        },
        "settings": {name: str(value) for name, value in vars(options).items()},
        "seconds": {"training": round(trained)},
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for phantoms, the run and heat_maps.json")
    parser.add_argument("--model", type=Path, help="a classifier of phantoms; else one is trained")
    parser.add_argument("--init", type=Path, help="an encoder to start the training from, instead of --teach")
    parser.add_argument("--teach", type=int, default=2000, help="steps that teach the encoder first; 0: random weights")
    parser.add_argument("--count", type=int, default=3000, help="phantoms to train on")
    parser.add_argument("--test", type=int, default=300, help="phantoms to test on")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning with labels")
    parser.add_argument("--size", type=int, default=96, help="pixels a side of the classifier's input")
    parser.add_argument("--image", type=int, default=256, help="pixels a side of a phantom")
    parser.add_argument("--methods", nargs="+", default=["gradcam", "rollout"], choices=METHODS)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def train(options: argparse.Namespace) -> Path:
    """A classifier of phantoms."""
    for seed, (name, count) in enumerate({"train": options.count, "val": 200}.items()):
        if not (options.out / name / "records.csv").is_file():
            phantom_files.write(options.out / name, count, seed=seed, size=options.image, workers=1)
    start = options.init
    if start is None and options.teach:
        start = phantom_encoder.teach(
            options.out / "encoder", options.count, options.teach, options.size, seed=options.seed
        )
    if start is None:
        shape = ClassifierConfig(("unused",), "vit_tiny_patch16_224", {"depth": 6}, image_size=options.size)
        with noise.seeded(options.seed):
            start = model_folder.save(options.out / "random-encoder", Classifier(shape))
    files = [options.out / name / "records.csv" for name in ("train", "val")]
    recipe = recipes.tiny_finetune(*files, start, options.out / "run", seed=options.seed)
    training = replace(
        recipe.training, steps=options.steps, warmup_steps=max(1, options.steps // 10), lr=3e-4, workers=0,
        validate_every=max(1, options.steps // 4), save_every=max(1, options.steps // 4),
    )  # fmt: skip
    return runs.finetune(replace(recipe, training=training, audit="names", classes=FINDINGS, probe_first=True))


def randomised(model: Classifier, seed: int) -> Classifier:
    """The same model with every weight drawn anew, at the spread of the trained one (arXiv:1810.03292)."""
    blind = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (p for p in blind.parameters() if p.dim() > 1):
            value.copy_(torch.randn(value.shape, generator=rng) * value.std() + value.mean())
    return blind


def aurocs(model: Classifier, options: argparse.Namespace) -> dict[str, Estimate]:
    """How well the classifier ranks the findings of its validation phantoms."""
    if not (options.out / "val" / "records.csv").is_file():
        return {}
    records = Records.load(options.out / "val" / "records.csv", FINDINGS)
    scores_NC = predict.classify(model, records, workers=0).logits_NC
    report = ranking.classification_report(records.labels_NC, scores_NC, FINDINGS, groups=records.patients)
    return {name: each["auroc"] for name, each in report.items()}


# Maps ---------------------------------------------------------------------------------------------------

Map = Callable[[Classifier, np.ndarray, int], np.ndarray]


def of_layer(pick: Callable[[Classifier], nn.Module], weigh: str) -> Map:
    """Maps from the activations (tokens, channels) and gradients at one layer."""

    def make(model: Classifier, image_HW: np.ndarray, class_index: int) -> np.ndarray:
        from captum.attr import LayerGradientXActivation, LayerIntegratedGradients

        image, box = heat_maps.evaluation_view(model, image_HW)
        layer, image = pick(model), image.clone()
        with torch.enable_grad():
            if weigh == "integrated":
                grey = torch.zeros_like(image)
                attribution = LayerIntegratedGradients(model, layer).attribute(image, grey, class_index, n_steps=16)
                each = attribution.sum(-1)[0]
            elif weigh == "product":
                each = LayerGradientXActivation(model, layer).attribute(image, target=class_index).sum(-1)[0]
            else:
                each = grad_cam(model, layer, image, class_index)
        tokens = each.detach() if len(each) > model.encoder.patch_embed.num_patches else pad(model, each.detach())
        return heat_maps.spread(heat_maps._grid(model, tokens).clip(0), image_HW.shape, box)

    return make


def pad(model: Classifier, patches: torch.Tensor) -> torch.Tensor:
    """Zeros where the prefix tokens are."""
    return torch.cat([patches.new_zeros(model.encoder.num_prefix_tokens), patches])


def grad_cam(model: Classifier, layer: nn.Module, image: torch.Tensor, class_index: int) -> torch.Tensor:
    """Channels weighed with the mean of their gradients over patches: Grad-CAM to the letter."""
    outputs = {}
    hook = layer.register_forward_hook(lambda module, inputs, out: outputs.update(out=out))
    logit = model(image.requires_grad_())[0, class_index]
    hook.remove()
    (gradient,) = torch.autograd.grad(logit, outputs["out"])
    prefix = model.encoder.num_prefix_tokens
    return (outputs["out"] * gradient[:, prefix:].mean(1, keepdim=True)).sum(-1)[0]


METHODS: dict[str, Map] = {
    "gradcam": lambda model, image, index: heat_maps.heat_map(model, image, index, "gradcam"),
    "rollout": lambda model, image, index: heat_maps.heat_map(model, image, index, "rollout"),
    "product-last": of_layer(lambda m: m.encoder.blocks[-1].norm1, "product"),
    "product-before-last": of_layer(lambda m: m.encoder.blocks[-2].norm1, "product"),
    "product-end": of_layer(lambda m: m.encoder.norm, "product"),
    "product-last-mlp": of_layer(lambda m: m.encoder.blocks[-1].norm2, "product"),
    "weights-last": of_layer(lambda m: m.encoder.blocks[-1].norm1, "weights"),
    "weights-before-last": of_layer(lambda m: m.encoder.blocks[-2].norm1, "weights"),
    "weights-end": of_layer(lambda m: m.encoder.norm, "weights"),
    "product-patches": of_layer(lambda m: m.encoder.patch_embed, "product"),
    "integrated-patches": of_layer(lambda m: m.encoder.patch_embed, "integrated"),
    "integrated-last": of_layer(lambda m: m.encoder.blocks[-1].norm1, "integrated"),
    "integrated-middle": of_layer(lambda m: m.encoder.blocks[len(m.encoder.blocks) // 2], "integrated"),
}


def located(model: Classifier, test: list[Phantom], make: Map) -> dict[str, dict[str, Estimate]]:
    """Mass and peak inside the finding, against its area, for each finding and over all."""
    rows = []
    for p in test:
        for name in PLACED:
            region_HW = p.regions.get(name)
            if region_HW is None or not region_HW.any():
                continue
            heat_HW = make(model, p.image, model.config.classes.index(name))
            if heat_HW.any():
                inside = float(heat_HW[region_HW].sum() / heat_HW.sum())
                peak = bool(region_HW[np.unravel_index(heat_HW.argmax(), heat_HW.shape)])
            else:  # no patch speaks for the finding: no better than chance
                inside, peak = float(region_HW.mean()), bool(region_HW.mean() > 0.5)
            rows.append((name, p.patient, inside, float(region_HW.mean()), peak))
    return {name: shares([r for r in rows if name in ("all", r[0])]) for name in ("all", *PLACED)}


def shares(rows: list[tuple[str, str, float, float, bool]]) -> dict[str, Estimate]:
    """Means over maps, drawn by patient."""
    if not rows:
        return {}
    _, patients, inside, area, peak = zip(*rows, strict=True)
    every, bootstrap = np.ones(len(rows), dtype=bool), Bootstrap.from_groups(patients, len(rows))

    def mean(values: Sequence[float]) -> Estimate:
        return mean_over(np.asarray(values, float), every, every, bootstrap)

    return {
        "mass": mean(inside),
        "area": mean(area),
        "mass - area": mean(np.subtract(inside, area)),
        "peak": mean(peak),
    }


# Results ------------------------------------------------------------------------------------------------


def with_plain_estimates(report: Any) -> Any:
    """The report with dictionaries in place of estimates, for JSON."""
    if isinstance(report, Estimate):
        return report.to_dict()
    return {key: with_plain_estimates(value) for key, value in report.items()} if isinstance(report, dict) else report


def table(report: dict) -> str:
    """A line for each method, model and finding."""
    lines = [f"AUROC {name:15} {e}" for name, e in report["auroc"].items()]
    for method, each in report["methods"].items():
        for name, findings in each.items():
            lines.append(f"{method}, {name}")
            lines += [
                f"  {finding:15}" + "".join(f"{k} {short(e):22}" for k, e in s.items())
                for finding, s in findings.items()
            ]
    return "\n".join([*lines, f"training {report['seconds']['training']} s"])


def short(e: Estimate) -> str:
    """'0.412 (0.380-0.440)'"""
    return f"{e.value:.3f} ({e.low:.3f}-{e.high:.3f})"


if __name__ == "__main__":
    main()
