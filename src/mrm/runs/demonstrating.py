"""`mrm demo`: the whole path on phantoms, and a page that shows it.

It draws phantoms, pre-trains on their images and reports, fine-tunes the pre-trained and a random encoder with few labels
and the same budget, tests both, and shows what the model has learned.
"""

from __future__ import annotations

import csv
import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mrm import recipes
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.records import Records
from mrm.data.reports import MASK, Tokenizer, mask_words
from mrm.evaluation.predictions import read_predictions
from mrm.inference import masked_words, reconstruction
from mrm.inference.report_filling import tokenizer_of
from mrm.models import model_folder
from mrm.models.mrm import MRM
from mrm.pages.demo import Contender, FilledReport, Story, Word, write_demo_page
from mrm.runs.evaluating import evaluate
from mrm.runs.finetuning import finetune
from mrm.runs.output_lock import alone_in
from mrm.runs.phantom_sets import draw_sets
from mrm.runs.pretraining import pretrain
from mrm.statistics import comparison, intervals, ranking

SIZE = 256  # pixels of a phantom
COUNTS = {"pretrain": 1200, "train": 300, "val": 150, "test": 500}
EPOCHS = 12
STEPS = 50  # of fine-tuning, from either encoder


@alone_in("out")
def demo(out: Path, seed: int = 0) -> Path:
    """Run the whole path under `out` and write `index.html`. Returns its path. The same call resumes a stopped demo."""
    started, out = time.perf_counter(), Path(out)
    resumed = (out / "phantoms").exists()
    sets = draw_sets(out / "phantoms", COUNTS, first_seed=1000 * seed, size=SIZE)
    drawn = time.perf_counter()
    run = pre_trained(out, sets, seed)
    trained = time.perf_counter()
    contenders = [
        fine_tuned(out, sets, run, seed, "pre-trained encoder", scratch=False),
        fine_tuned(out, sets, run, seed, "random encoder", scratch=True),
    ]
    times = {"Drawing": drawn - started, "Pre-training": trained - drawn, "Total": time.perf_counter() - started}
    return write_demo_page(
        out, story_of(run, Records.load(sets["test"]), contenders, facts(times, resumed, seed), seed)
    )


def pre_trained(out: Path, sets: dict[str, Path], seed: int) -> Path:
    """Pre-train on phantoms and their reports. Returns the run folder."""
    recipe = recipes.tiny(sets["pretrain"], out / "pretrained", seed=seed)
    # Words need many steps more than large batches: a quarter of the recipe's batch gives four times the steps.
    training = replace(recipe.training, epochs=float(EPOCHS), global_batch=16, log_every=25)
    return pretrain(replace(recipe, training=training))


def story_of(run: Path, test: Records, contenders: list[Contender], facts: dict[str, str], seed: int) -> Story:
    """What the page shows: losses, restored images, filled reports and the test of both encoders."""
    model = model_folder.load_as(run, MRM)
    images_HW = [images.read(r.image) for r in test[:24]]
    return Story(
        losses=read_losses(run / "log.csv"),
        reconstructions=[reconstruction.reconstruct(model, image, seed=i) for i, image in enumerate(images_HW[:4])],
        reports=[filled(model, test, images_HW, i, seed) for i in range(4)],
        contenders=contenders,
        classes=FINDINGS,
        difference=difference(contenders, test.patients),
        samples=[(image, r.report) for image, r in zip(images_HW[:4], test, strict=False)],
        facts=facts,
    )


def facts(times: dict[str, float], resumed: bool, seed: int) -> dict[str, str]:
    """Numbers about the demo itself, as its page lists them."""
    note = " in this call; an earlier one did a part" if resumed else ""
    took = {name: duration_in_words(seconds) + note for name, seconds in times.items()}
    return {
        "Phantoms": f"{COUNTS['pretrain']:,} with reports for pre-training; {COUNTS['train']} with labels for "
        f"fine-tuning, {COUNTS['val']} to choose the checkpoint, {COUNTS['test']} to test; no patient is in two sets",
        "Drawing": took["Drawing"],
        "Pre-training": f"{EPOCHS} epochs of {COUNTS['pretrain']:,}, {took['Pre-training']}",
        "Fine-tuning": f"{STEPS} steps from each encoder with the same data, order and settings",
        "Total time": took["Total"],
        "Peak memory": f"{peak_memory_gib():.1f} GiB",
        "Seed": str(seed),
    }


def fine_tuned(out: Path, sets: dict[str, Path], init: Path, seed: int, name: str, scratch: bool) -> Contender:
    """Fine-tune one of the two encoders to the phantoms' findings, and test it."""
    folder = out / ("scratch" if scratch else "finetuned")
    recipe = recipes.tiny_finetune(sets["train"], sets["val"], init, folder, scratch=scratch, seed=seed)
    training = replace(recipe.training, lr=3e-4, validate_every=10, save_every=10)
    finetune(replace(recipe, max_steps=STEPS, training=training, probe_first=True, floors=False))
    evaluate(folder, sets["test"], folder / "test")
    p = read_predictions(folder / "test" / "predictions.csv")
    report = ranking.classification_report(p.labels_NC, p.probabilities_NC, p.classes, groups=p.patients)
    return Contender(name, p.labels_NC, p.probabilities_NC, report)


def difference(contenders: list[Contender], patients: list[str]) -> intervals.Estimate:
    """Mean AUROC of the first contender less that of the second, on the same resampled patients."""
    first, second = contenders
    compared = comparison.compare(
        first.labels_NC, first.probabilities_NC, second.probabilities_NC, FINDINGS, groups=patients
    )
    return compared["mean"].difference


def filled(model: MRM, test: Records, images: list[np.ndarray], index: int, seed: int) -> FilledReport:
    """A report with half of its words masked, filled in with its image and without.

    "Without" is the mean context of the other images: what the model says when it does not know the image.
    """
    tokenizer = tokenizer_of(model)
    ids = tokenizer.encode([test[index].report], model.config.report_length)[0].astype(np.int64)
    rng = np.random.default_rng([seed, index])
    masked = mask_words(ids, rng.random(len(ids)), tokenizer.units("word"), 0.5, model.config.report_length)
    contexts = masked_words.context_of(model, images)
    others = torch.cat([contexts[:index], contexts[index + 1 :]]).mean(0, keepdim=True)
    blanked = np.where(masked, MASK, ids)
    with_image = masked_words.word_probabilities(model, contexts[index : index + 1], blanked)
    without_image = masked_words.word_probabilities(model, others, blanked)
    return FilledReport(images[index], _words(tokenizer, ids, masked, with_image, without_image))


def _words(
    tokenizer: Tokenizer, ids_T: np.ndarray, masked_T: np.ndarray, with_image: np.ndarray, without: np.ndarray
) -> list[Word]:
    """Pieces joined into words; a masked word has the likeliest piece at each of its positions."""
    blank = np.cumsum(masked_T) - 1  # the row of each masked position among the probabilities
    starts = [i for i in range(1, len(ids_T)) if not tokenizer.continues[ids_T[i]]]
    words = []
    for start, end in zip(starts, [*starts[1:], len(ids_T)], strict=True):
        text = tokenizer.decode(ids_T[start:end])
        if masked_T[start]:
            rows = blank[start:end]
            words.append(
                Word(text, True, _likeliest(tokenizer, with_image[rows]), _likeliest(tokenizer, without[rows]))
            )
        else:
            words.append(Word(text))
    return words


def _likeliest(tokenizer: Tokenizer, probabilities_PV: np.ndarray) -> tuple[str, float]:
    """The likeliest pieces of a word, joined, and the product of their probabilities."""
    pieces = probabilities_PV.argmax(axis=1)
    text = "".join(tokenizer.piece(int(i)).removeprefix("##") for i in pieces)
    return text, float(probabilities_PV.max(axis=1).prod())


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Both losses by step, from a run's log."""
    with open(path, newline="") as text:
        rows = list(csv.DictReader(text))
    return {name: [(int(r["step"]), float(r[name])) for r in rows if r[name]] for name in ("image", "report")}


def peak_memory_gib() -> float:
    """Peak memory of this process as the system counts it, without child processes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def duration_in_words(seconds: float) -> str:
    """Seconds, or minutes from one and a half on."""
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
