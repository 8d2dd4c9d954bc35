"""`mrm demo`: the whole path on phantoms, and a page that shows it.

Draw phantoms, pre-train on their images and reports, fine-tune with few labels from the pre-trained and
from a random encoder with the same budget, test both, and show what the model has learnt.
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
from mrm.corpora.phantoms import phantom_files
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
from mrm.runs.pretraining import pretrain
from mrm.statistics import comparison, intervals, ranking

SIZE = 256  # pixels of a phantom
COUNTS = {"pretrain": 1200, "train": 300, "val": 150, "test": 500}
EPOCHS = 12
STEPS = 50  # of fine-tuning, from either encoder


def demo(out: Path, seed: int = 0) -> Path:
    """Run it all under `out` and write `index.html`; a second call goes on where the first was left."""
    start, out = time.perf_counter(), Path(out)
    again = " now; an earlier run made some of it" if (out / "phantoms").exists() else ""
    sets = draw_phantoms(out / "phantoms", seed)
    drawn = time.perf_counter()
    recipe = recipes.tiny(sets["pretrain"], out / "pretrained", seed=seed)
    # Words are learned in many steps more than in large batches: a quarter of the recipe's batch for four times the steps.
    training = replace(recipe.training, epochs=float(EPOCHS), global_batch=16, log_every=25)
    run = pretrain(replace(recipe, training=training))
    trained = time.perf_counter()
    contenders = [
        fine_tuned(out, sets, run, seed, "pre-trained encoder", scratch=False),
        fine_tuned(out, sets, run, seed, "random encoder", scratch=True),
    ]
    model, test = model_folder.load(run), Records.load(sets["test"])
    assert isinstance(model, MRM)
    shown_HW = [images.read(r.image) for r in test[:24]]
    story = Story(
        losses=read_losses(run / "log.csv"),
        reconstructions=[reconstruction.reconstruct(model, p, seed=i) for i, p in enumerate(shown_HW[:4])],
        reports=[filled(model, test, shown_HW, i, seed) for i in range(4)],
        contenders=contenders,
        classes=FINDINGS,
        difference=difference(contenders, Records.load(sets["test"]).patients),
        samples=[(p, r.report) for p, r in zip(shown_HW[:4], test, strict=False)],
        facts={
            "Phantoms": f"{COUNTS['pretrain']:,} with reports for pre-training; {COUNTS['train']} with labels for "
            f"fine-tuning, {COUNTS['val']} to choose the checkpoint, {COUNTS['test']} to test; no patient in two sets",
            "Drawing": _seconds(drawn - start) + again,
            "Pre-training": f"{EPOCHS} epochs of {COUNTS['pretrain']:,}, {_seconds(trained - drawn)}{again}",
            "Fine-tuning": f"{STEPS} steps from each encoder, the same data, order and settings",
            "Time in all": _seconds(time.perf_counter() - start) + again,
            "Peak memory": f"{peak_memory_gib():.1f} GiB",
            "Seed": str(seed),
        },
    )
    return write_demo_page(out, story)


def draw_phantoms(out: Path, seed: int) -> dict[str, Path]:
    """One record file a set; each set has a seed, and so patients, of its own."""
    files = {}
    for number, (name, count) in enumerate(COUNTS.items()):
        files[name] = out / name / "records.csv"
        if not files[name].is_file():
            print(f"drawing {count} phantoms: {name}", flush=True)
            phantom_files.write(out / name, count, seed=1000 * seed + number, size=SIZE)
    return files


def fine_tuned(out: Path, sets: dict[str, Path], init: Path, seed: int, name: str, scratch: bool) -> Contender:
    """Fine-tune to the phantoms' findings and test; both encoders go through here."""
    folder = out / ("scratch" if scratch else "finetuned")
    recipe = recipes.tiny_finetune(sets["train"], sets["val"], init, folder, scratch=scratch, seed=seed)
    training = replace(recipe.training, lr=3e-4, validate_every=10, save_every=10)
    finetune(replace(recipe, max_steps=STEPS, training=training, probe_first=True))
    evaluate(folder, sets["test"], folder / "test")
    p = read_predictions(folder / "test" / "predictions.csv")
    report = ranking.classification_report(p.labels_NC, p.probabilities_NC, p.classes, groups=p.patients)
    return Contender(name, p.labels_NC, p.probabilities_NC, report)


def difference(contenders: list[Contender], patients: list[str] | None) -> intervals.Estimate:
    """Mean AUROC of the first contender less that of the second, on the same resampled patients."""
    first, second = contenders
    compared = comparison.compare(
        first.labels_NC, first.probabilities_NC, second.probabilities_NC, FINDINGS, groups=patients
    )
    return compared["mean"].difference


def filled(model: MRM, test: Records, images: list[np.ndarray], index: int, seed: int) -> FilledReport:
    """A report with half of its words masked, filled in with its image and without.

    "Without" is the mean context of the other images: what the model says when it does not know which.
    """
    tokenizer = tokenizer_of(model)
    ids = tokenizer.encode([test[index].report], model.config.report_length)[0].astype(np.int64)
    rng = np.random.default_rng([seed, index])
    masked = mask_words(ids, rng.random(len(ids)), tokenizer.continues, 0.5, model.config.report_length)
    contexts = masked_words.context_of(model, images)
    others = torch.cat([contexts[:index], contexts[index + 1 :]]).mean(0, keepdim=True)
    blanked = np.where(masked, MASK, ids)
    answers = [masked_words.word_probabilities(model, c, blanked) for c in (contexts[index : index + 1], others)]
    return FilledReport(images[index], _words(tokenizer, ids, masked, *answers))


def _words(
    tokenizer: Tokenizer, ids_T: np.ndarray, masked_T: np.ndarray, with_image: np.ndarray, without: np.ndarray
) -> list[Word]:
    """Pieces joined into words; a masked word shows the likeliest piece at each of its places."""
    blank = np.cumsum(masked_T) - 1  # the row of a masked position in the answers
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
    """The likeliest piece at each place of a word, joined, and the product of their probabilities."""
    pieces = probabilities_PV.argmax(axis=1)
    text = "".join(tokenizer.piece(int(i)).removeprefix("##") for i in pieces)
    return text, float(probabilities_PV.max(axis=1).prod())


def read_losses(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run's log."""
    with open(path, newline="") as text:
        rows = list(csv.DictReader(text))
    return {name: [(int(r["step"]), float(r[name])) for r in rows] for name in ("image", "report")}


def peak_memory_gib() -> float:
    """The most memory this process has held, as the system counts it (children not included)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _seconds(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
