"""`mrm demo`: the whole path on phantoms, and a page that shows it.

It draws phantoms, pre-trains on their images and reports, and measures what that has taught: masked words with the own image
and with another one, a search with texts, and findings from few labels, by probes and by fine-tuning, against a random
encoder with the same budget and against features without a network.
"""

from __future__ import annotations

import csv
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrm import recipes
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.config import CropConfig, ReportConfig
from mrm.data.records import Records
from mrm.evaluation.predictions import read_predictions
from mrm.inference import reconstruction
from mrm.models import model_folder
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM
from mrm.pages.demo import Contender, Few, Story, headlines, write_demo_page
from mrm.recipes import PretrainConfig
from mrm.runs import demo_measures
from mrm.runs.evaluating import evaluate
from mrm.runs.finetuning import finetune
from mrm.runs.output_lock import alone_in
from mrm.runs.phantom_sets import draw_sets
from mrm.runs.pretraining import pretrain
from mrm.statistics import comparison, ranking
from mrm.statistics.intervals import Estimate
from mrm.system import hardware
from mrm.training.config import TrainConfig

SIZE = 128  # pixels of a phantom: what the 2x target needs
COUNTS = {"test": 500, "labelled": 400, "choosing": 250, "pretrain": 3000}
FIRST_SEED = 900  # of the phantoms, so that these are not the patients of the manual's examples
LABELS = (25, 50, 100, 400)  # of the probes
FEW = 100  # labels to fine-tune on; those of "choosing" choose the checkpoint
STEPS, TUNING_STEPS = 1000, 60
SECTIONS = ("impression",)  # of a report: a fifth of its words, which say side, size and place
WHOLE = CropConfig(area=(0.8, 1.0), flip=0.0)  # a mirrored image would contradict its report
MODEL = ModelConfig(
    encoder="vit_tiny_patch16_224",
    encoder_options={"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4},
    image_size=64,
    keep=32,
    decoder_width=64,
    decoder_depth=1,
    decoder_heads=4,
    vocabulary=800,
    report_length=48,
    report_width=64,
    report_depth=2,
    report_heads=4,
    report_mlp=256,
    report_dropout=0.0,  # its noise drowns what little of the image a small encoder tells at first
    tied_words=True,
    start="normal",
    contrast_width=64,
)


@alone_in("out")
def demo(out: Path, seed: int = 0) -> Path:
    """Run the whole path under `out` and write `index.html`. Returns its path. The same call resumes a stopped demo."""
    started, out = time.perf_counter(), Path(out)
    resumed = (out / "phantoms").exists()
    sets = draw_sets(out / "phantoms", COUNTS, first_seed=FIRST_SEED + 1000 * seed, size=SIZE)
    drawn = time.perf_counter()
    run = pretrain(pretraining(out, sets, seed))
    trained = time.perf_counter()
    labelled, test = (Records.load(sets[name], FINDINGS) for name in ("labelled", "test"))
    contenders = [
        fine_tuned(out, sets, labelled, run, seed, "pre-trained encoder", scratch=False),
        fine_tuned(out, sets, labelled, run, seed, "random encoder", scratch=True),
    ]
    story = story_of(run, labelled, test, contenders, seed)
    times = {"Drawing": drawn - started, "Pre-training": trained - drawn, "Total": time.perf_counter() - started}
    page = write_demo_page(out, replace(story, facts=facts(times, resumed, seed)))
    print("\n".join(headlines(story)))
    return page


def pretraining(out: Path, sets: Mapping[str, Path], seed: int) -> PretrainConfig:
    """The pre-training: small images, the impressions of the reports, and contrast of images and reports."""
    training = TrainConfig(
        epochs=None, steps=STEPS, warmup_steps=2 * STEPS // 25, global_batch=32, lr=2e-3, lr_batch=None, clip=1.0,
        precision="fp32", log_every=25, validate_every=10 * STEPS, save_every=200,
        threads=min(2, hardware.cores()), workers=0,
    )  # fmt: skip
    return PretrainConfig(
        sets["pretrain"],
        out / "pretrained",
        contrast_weight=1.0,
        model=MODEL,
        crop=WHOLE,
        report=ReportConfig(sections=SECTIONS),
        seed=seed,
        training=training,
    )


def fine_tuned(
    out: Path, sets: Mapping[str, Path], labelled: Records, init: Path, seed: int, name: str, scratch: bool
) -> Contender:
    """Fine-tune one of the two encoders to the findings with FEW labels, and test it."""
    folder = out / ("scratch" if scratch else "finetuned")
    few = sets["labelled"].with_name("few.csv")
    if not few.is_file():
        labelled.select(np.arange(FEW)).to_csv(few)
    recipe = recipes.tiny_finetune(few, sets["choosing"], init, folder, scratch=scratch, seed=seed)
    training = replace(recipe.training, lr=3e-4, validate_every=TUNING_STEPS // 2, save_every=TUNING_STEPS)
    finetune(
        replace(
            recipe, max_steps=TUNING_STEPS, training=training, crop=WHOLE, probe_first=True, floors=False,
            classes=FINDINGS,
        )
    )  # fmt: skip
    evaluate(folder, sets["test"], folder / "test")
    p = read_predictions(folder / "test" / "predictions.csv")
    report = ranking.classification_report(p.labels_NC, p.probabilities_NC, p.classes, groups=p.patients)
    return Contender(name, p.labels_NC, p.probabilities_NC, report)


def story_of(run: Path, labelled: Records, test: Records, contenders: list[Contender], seed: int) -> Story:
    """What the page shows: losses, restored images and words, a search, and findings from few labels."""
    model = model_folder.load_as(run, MRM)
    shown = [images.read(record.image) for record in test[:4]]
    reports = demo_measures.filled_reports(model, test, SECTIONS, seed)
    features = demo_measures.features_by_start(model, labelled, test, seed)
    scores = demo_measures.probe_scores(features, labelled, test, LABELS)
    return Story(
        losses=read_losses(run / "log.csv"),
        reconstructions=[reconstruction.reconstruct(model, image, seed=i) for i, image in enumerate(shown)],
        reports=reports[:4],
        words=demo_measures.word_counts(reports, test.patients),
        searched=demo_measures.searched(model, test, features["pre-trained encoder"][1], SECTIONS),
        few=Few(demo_measures.curves_of(scores, test), probe_difference(scores, test), FEW),
        contenders=contenders,
        classes=FINDINGS,
        difference=difference(contenders, test),
        samples=[(image, record.report) for image, record in zip(shown, test, strict=False)],
    )


def probe_difference(scores: Mapping[str, Mapping[int, np.ndarray]], test: Records) -> Estimate:
    """Mean AUROC of the probe of the pre-trained encoder less that of the random one, with FEW labels."""
    first, second = (scores[name][FEW] for name in ("pre-trained encoder", "random encoder"))
    return comparison.compare(test.labels_NC, first, second, test.classes, groups=test.patients)["mean"].difference


def difference(contenders: Sequence[Contender], test: Records) -> Estimate:
    """Mean AUROC of the first contender less that of the second, on the same resampled patients."""
    first, second = contenders
    compared = comparison.compare(
        first.labels_NC, first.probabilities_NC, second.probabilities_NC, test.classes, groups=test.patients
    )
    return compared["mean"].difference


def facts(times: dict[str, float], resumed: bool, seed: int) -> dict[str, str]:
    """Numbers about the demo itself, as its page lists them."""
    note = " in this call; an earlier one did a part" if resumed else ""
    took = {name: duration_in_words(seconds) + note for name, seconds in times.items()}
    return {
        "Phantoms": f"{COUNTS['pretrain']:,} with reports for pre-training, {COUNTS['labelled']} with labels, {COUNTS['choosing']} to "
        f"choose the checkpoint, {COUNTS['test']} to test; no patient is in two sets, at {SIZE} pixels",
        "Drawing": took["Drawing"],
        "Pre-training": f"{STEPS:,} steps of 32 at {MODEL.image_size} pixels, {took['Pre-training']}",
        "Fine-tuning": f"{TUNING_STEPS} steps of either encoder, same data, order and settings",
        "Total time": took["Total"],
        "Processor time": duration_in_words(processor_seconds()) + note,
        "Peak memory": f"{peak_memory_gib():.1f} GiB",
        "Seed": str(seed),
    }


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The losses by step, from a run's log."""
    with open(path, newline="") as text:
        rows = list(csv.DictReader(text))
    names = ("image", "report", "contrast")
    return {name: [(int(r["step"]), float(r[name])) for r in rows if r.get(name)] for name in names}


def processor_seconds() -> float:
    """Processor time of this process and of the child processes that have ended."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def peak_memory_gib() -> float:
    """Peak memory of this process as the system counts it, without child processes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def duration_in_words(seconds: float) -> str:
    """Seconds, or minutes from one and a half on."""
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
