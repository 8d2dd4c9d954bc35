"""The phantom part: draw once, pre-train each arm, probe and fine-tune each encoder on the same label subsets."""

# Shapes: N records, C classes, D label subsets (draws), F features
from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import arms
import numpy as np
import torch
from measuring import CELLS, Task, encoder_folder, finetune_unit, pairs_unit, probe_unit, without_texts
from units import Study, Unit, require_finished

from mrm import runs
from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import loader, sampling
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.sections import select_sections
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.recipes import PretrainConfig
from mrm.runs.pretraining import pretrain_data
from mrm.system.files import write_whole
from mrm.training.tasks import PretrainTask

ROLL = 8  # images on, another patient: a patient has at most three studies


def units(study: Study) -> list[Unit]:
    """Every arm pre-trained, probed and asked whose report is whose, run by run; and two floors."""
    size, task, drawn = study.size, labelled(study), ("pretrain", "test", "train")
    plan = [Unit(f"draw/{name}", partial(draw, name=name), seconds=0.015 * size.phantoms[name]) for name in drawn]
    plan.append(Unit("tokenizer", learn_words, ("draw/pretrain",), 5))
    for run in range(study.pretrainings):
        plan += [unit for arm in arms.MAIN if arm in study.arms for unit in encoder_units(study, arm, run)]
        if run == 0:
            plan += [probe_unit(study, task, floor, ()) for floor in ("pixels", "hog")]
        if run < arms.ABLATION_RUNS:
            plan += [unit for arm in arms.ABLATIONS if arm in study.arms for unit in encoder_units(study, arm, run)]
    return plan


def finetune_units(study: Study) -> list[Unit]:
    """A few arms fine-tuned, and styles of fine-tuning at equal steps."""
    size, task = study.size, labelled(study)
    plan = [*units(study), Unit("draw/val", partial(draw, name="val"), seconds=0.015 * size.phantoms["val"])]
    for number in range(size.finetune_draws):
        for run in range(study.pretrainings):
            for fraction in size.fractions:
                plan += [
                    finetune_unit(
                        study, task, f"{arm}-{run}", style, fraction, number, (f"pretrain/{arm}-{run}", "draw/val")
                    )
                    for arm in arms.FINETUNED
                    if arm in study.arms
                    for style in (arms.STYLES if run == 0 and arm != "image" else ("tiny",))
                ]
    return plan


def labelled(study: Study) -> Task:
    """The phantoms with labels."""
    train, val, test = (study.size.phantoms[s] for s in arms.SETS[1:])
    return Task("phantoms", FINDINGS, records_file, ("draw/train", "draw/test"), (train, val, test))


def encoder_units(study: Study, arm: str, run: int) -> list[Unit]:
    """An encoder, its probes, and its report decoder on held-out pairs."""
    task, name, common = labelled(study), f"{arm}-{run}", study.size.phantom
    seconds = 5.0 if arm == "none" else common.steps * common.batch / 190
    make = partial(pretrain, arm=arm, run=run)
    first = Unit(f"pretrain/{name}", make, ("draw/pretrain", "draw/test", "tokenizer"), seconds)
    train, test = records_file(study, "pretrain"), records_file(study, "test")
    return [
        first,
        pairs_unit(study, task, name, train, test, (first.name,)),
        *(
            probe_unit(study, task, name, (first.name,), kind)
            for kind in CELLS
            if kind == "probe" or arm in arms.PLACED
        ),
    ]


# Data ---------------------------------------------------------------------------------------------------


def records_file(study: Study, name: str) -> Path:
    """A set of phantoms."""
    return study.out / "phantoms" / name / "records.csv"


def draw(study: Study, name: str) -> dict[str, Any]:
    """Draw a set, once; the place in SETS is the seed."""
    folder, count = records_file(study, name).parent, study.size.phantoms[name]
    phantoms = phantom_files.write(folder, count, 1 + arms.SETS.index(name), study.size.image, workers=1)
    if name == "pretrain":
        without_texts(phantoms).to_csv(folder / f"{arms.IMAGES}.csv")
    positives = {c: int(n) for c, n in zip(FINDINGS, np.nansum(phantoms.labels_NC, axis=0), strict=True)}
    patients = phantoms.known_patients.count
    return {"n": count, "patients": patients, "positives": positives, "fingerprint": phantoms.fingerprint()}


def load(study: Study, name: str) -> Records:
    """A set of phantoms with its findings as classes."""
    return Records.load(records_file(study, name), FINDINGS)


def learn_words(study: Study) -> dict[str, Any]:
    """One vocabulary for all arms, from the pre-training reports."""
    records = load(study, "pretrain")
    texts = [select_sections(r.report, study.size.phantom.report.sections) for r in records]
    tokenizer = Tokenizer.train(texts, study.size.phantom.model.vocabulary)
    write_whole(study.out / "tokenizer.json", tokenizer.to_json().encode())
    return {"pieces": tokenizer.size}


# Pre-training -------------------------------------------------------------------------------------------


def pretrain(study: Study, arm: str, run: int) -> dict[str, Any]:
    """Pre-train an arm, or save its random weights; every arm of one run has one seed, data order and first weights."""
    tokenizer = study.out / "tokenizer.json"
    config = arms.pretraining(
        study.size.phantom, records_file(study, "pretrain"), tokenizer, encoder_folder(study, f"{arm}-{run}"), run
    )
    return pretrained(arm, run, config, load(study, "test"))


def pretrained(arm: str, run: int, config: PretrainConfig, test: Records) -> dict[str, Any]:
    """Pre-train an arm, or save its random weights; what it says of held-out reports."""
    change = arms.ARMS[arm]
    if change is None:
        tokenizer = Tokenizer.load(config.tokenizer)
        with noise.seeded(run):
            model = MRM(replace(config.model, vocabulary=tokenizer.size))
        model_folder.save(config.out, model, tokenizer=tokenizer)
        return {"arm": arm, "run": run, "says": "random weights"}
    config = change(config)
    runs.pretrain(config)
    require_finished(config.out, config.training.steps)
    words = report_losses(config, test)
    says = "report loss {right:.3f} with the image, {wrong:.3f} with another's, {unigram:.3f} by frequency".format(
        **words
    )
    return {"arm": arm, "run": run, "curve": read_curve(config.out / "log.csv"), "held_out": words, "says": says}


def report_losses(config: PretrainConfig, test: Records) -> dict[str, float]:
    """Nats a masked word of the test reports: with its image, with another patient's, and by frequency of words alone.

    Half of the words are masked, whatever the arm was trained with, so that arms can be compared.
    """
    model = model_folder.load(config.out)
    config = replace(config, report=replace(config.report, loss="masked", mask=0.5, unit="word"))
    data = pretrain_data(config, test, model, model.tokenizer)
    learnt = pretrain_data(config, Records.load(config.records), model, model.tokenizer).tokens.flat
    frequency_V = np.log(
        (1 + np.bincount(learnt, minlength=model.tokenizer.size)) / (len(learnt) + model.tokenizer.size)
    )
    task, sums, words = PretrainTask(model).eval(), np.zeros(4), 0
    with torch.inference_mode():
        for batch in loader.loader(data, sampling.in_order(len(data) - len(data) % 100 or len(data), 100), 0):
            swapped = replace(batch, image_BHW=batch.image_BHW.roll(ROLL, 0))
            masked_W = batch.targets_W[batch.targets_W >= 0].numpy()
            terms = task(batch)
            image = (terms["image"].sum / batch.hidden_BM.numel()).item() * len(masked_W)
            right, wrong = terms["report"].sum.item(), task(swapped)["report"].sum.item()
            sums += [right, wrong, -frequency_V[masked_W].sum(), image]
            words += len(masked_W)
    return {k: v / words for k, v in zip(("right", "wrong", "unigram", "image"), sums.tolist(), strict=True)} | {
        "words": words
    }


def read_curve(path: Path) -> dict[str, list[float]]:
    """Step and both losses of a run's log."""
    with open(path, newline="") as text:
        rows = [row for row in csv.DictReader(text) if row["image"]]
    return {name: [float(r[name]) for r in rows] for name in ("step", "image", "report")}
