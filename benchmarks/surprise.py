"""How often a report belongs to its image: the surprise score of true and of shuffled reports, on held-out patients.

    python benchmarks/surprise.py phantoms --out surprise/phantoms
    python benchmarks/surprise.py covid --data covid-cxr --out surprise/covid
    python benchmarks/surprise.py phantoms --init study/encoders/both-0 --sections impression --seed 1 --count 200
        --test 500 --out surprise/study

`phantoms` draws its records; `covid` splits the pairs of the COVID-19 Image Data Collection (`training.csv`,
`metadata.csv`) by patient, a quarter to test. A small model is pre-trained on the training part, as `mrm pretrain` does
(which resumes if the command is repeated), or `--init RUN` is used: make sure that it
never saw the test images. Each test report is then scored (`mrm.inference.report_filling`) with its own image, and with images of
other patients, against the mean of 24 training images. Printed, and written to `surprise.json`, each with its
95 % interval over patients:

* AUROC of true pairs against as many shuffled ones (one a report, of another patient), by surprise, and by the cosine of
  their vectors where the run was trained with contrast;
* the share of other images that explain the report less well than its own image does (paired; chance is 0.5);
* both for pairs that differ in findings (phantoms only): the reports of two normal chests cannot be told apart;
* ln p per word, with the own image, without an image, and with others.

A small model trained from random weights for minutes does not use the image at all: AUROC 0.517 (0.461 to 0.573) after 600 steps of
32 on 3,000 phantoms. Its encoder sees next to nothing yet, its decoder still learns how often words occur, and what it
sees of two images differs by 0.05 to 0.08 per channel, where word vectors have length 1. After 10,000 steps of 16 on
12,000 phantoms, as the label-efficiency study once trained, it does: 0.673 (0.642 to 0.703), the third command. For less time than that, three stages come first,
each of which can be left out:

* `--teach`: the encoder is trained on outlines of findings of phantoms (`phantom_encoder.py`);
* `--context`: the projection of images is scaled once, until they differ by 0.5 a channel;
* `--words`: the report decoder learns on the encoder as it then is, from whole images encoded once, so that a step
  costs a fraction of one of `mrm pretrain`, whose `--steps` follow (0: none).

`--teach 0 --context 0 --words 0 --steps N` is plain pre-training. Flips make "left" and "right" unlearnable, small crops
and few visible patches hide findings: the defaults train without flips, on nearly whole images, most patches visible.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import phantom_encoder
import torch
from torch import Tensor

from mrm import recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.config import CropConfig, ReportConfig
from mrm.data.records import Record, Records
from mrm.data.reports import MASK, PAD, Tokenizer, mask_words
from mrm.data.sections import select_sections
from mrm.inference import masked_words, report_filling, text_search
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM, normalise
from mrm.statistics import ranking
from mrm.statistics.dice import mean_over
from mrm.statistics.intervals import Bootstrap, Estimate
from mrm.system.files import write_json

REFERENCES = 24  # training images that stand for "others"
PARTNERS = 10  # other test images to compare with, a report


def main() -> None:
    """Make the sets, train, score; write `surprise.json` and print it."""
    options = arguments()
    sets = phantom_sets(options) if options.corpus == "phantoms" else covid_sets(options)
    print({name: len(records) for name, records in sets.items()}, flush=True)
    began = time.perf_counter()
    run = options.init or starting_model(options, sets["train"])
    if not options.init and options.steps:
        run = runs.pretrain(replace(configure(options), init=run))
    trained = time.perf_counter() - began
    began = time.perf_counter()
    report = measure(model_folder.load(run), sets["train"], of_sections(sets["test"], options.sections), options)
    report |= {
        "corpus": options.corpus,
        "steps": None
        if options.init
        else {"teach": 0 if options.encoder else options.teach, "words": options.words, "joint": options.steps},
        "images": {name: len(records) for name, records in sets.items()},
        "seconds": {"training": round(trained), "scoring": round(time.perf_counter() - began)},
        "threads": torch.get_num_threads(),
        "settings": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
    }
    write_json(options.out / "surprise.json", report)
    print(table(report))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=("phantoms", "covid"))
    parser.add_argument("--out", type=Path, required=True, help="folder for records, the run and surprise.json")
    parser.add_argument("--data", type=Path, help="folder of the COVID-19 Image Data Collection")
    parser.add_argument("--init", type=Path, help="score this run instead of training one")
    parser.add_argument("--sections", nargs="+", help="of the reports, for a run that was trained on these only")
    parser.add_argument("--count", type=int, default=4000, help="phantoms to train on")
    parser.add_argument("--test", type=int, default=300, help="phantoms to test on")
    parser.add_argument("--steps", type=int, default=0, help="of joint pre-training, as `mrm pretrain` does it")
    parser.add_argument("--words", type=int, default=3000, help="steps of the report decoder on the frozen encoder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--size", type=int, default=96, help="pixels a side of the encoder's input")
    parser.add_argument("--scale", type=int, default=1, help="of the restored image")
    parser.add_argument("--visible", type=float, default=0.75, help="share of patches that training shows")
    parser.add_argument("--mask", type=float, default=0.5, help="share of words that training hides")
    parser.add_argument("--flip", type=float, default=0.0)
    parser.add_argument("--area", type=float, default=0.8, help="least share of the image that a crop has")
    parser.add_argument(
        "--image-weight", type=float, default=0.1, help="of the image loss, against 1 for the report loss"
    )
    parser.add_argument(
        "--teach", type=int, help="steps that teach the encoder on phantoms first (phantoms: 2000, covid: 0)"
    )
    parser.add_argument("--encoder", type=Path, help="a taught encoder, instead of --teach")
    parser.add_argument("--context", type=float, default=0.5, help="spread of images for the decoder; 0: as it comes")
    parser.add_argument("--parts", type=int, default=2, help="of the words, hidden in turn when scoring")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.corpus == "covid" and not options.data:
        parser.error("covid needs --data")
    if options.teach is None:
        options.teach = 2000 if options.corpus == "phantoms" else 0
    return options


# Data ---------------------------------------------------------------------------------------------------


def phantom_sets(options: argparse.Namespace) -> dict[str, Records]:
    """Phantoms of two seeds, and so of different patients."""
    sets = {}
    for seed, (name, count) in enumerate({"train": options.count, "test": options.test}.items()):
        file = options.out / name / "records.csv"
        if not file.is_file():
            phantom_files.write(
                options.out / name, count, seed=1000 * options.seed + seed, size=2 * options.size, workers=1
            )
        sets[name] = Records.load(file, FINDINGS)
    return sets


def of_sections(records: Records, sections: Sequence[str] | None) -> Records:
    """The records with only these sections of their reports; unchanged if none are named."""
    if not sections:
        return records
    return replace(records, rows=[replace(r, report=select_sections(r.report, sections)) for r in records])


def covid_sets(options: argparse.Namespace) -> dict[str, Records]:
    """The pairs whose patient is known, split by patient; a text that occurs on both sides stays in training."""
    with open(options.data / "metadata.csv", newline="", encoding="utf-8", errors="replace") as text:
        patients = {row["filename"]: row["patientid"].strip() for row in csv.DictReader(text)}
    pairs = Records.load(options.data / "training.csv")
    rows = [replace(r, patient=patients.get(Path(r.image).name, "")) for r in pairs if r.report.strip()]
    sets = Records([r for r in rows if r.patient], source=str(options.data)).split(
        {"train": 0.75, "test": 0.25}, options.seed
    )
    training_reports = {r.report.strip() for r in sets["train"]}
    sets["test"] = sets["test"].where(lambda r: r.report.strip() not in training_reports)
    (options.out / "train").mkdir(parents=True, exist_ok=True)
    sets["train"].to_csv(options.out / "train" / "records.csv")
    return sets


def configure(options: argparse.Namespace) -> recipes.PretrainConfig:
    """The tiny recipe, with what the command line asks for."""
    recipe = recipes.tiny(options.out / "train" / "records.csv", options.out / "run", seed=options.seed)
    patches = (options.size // 16) ** 2
    model = replace(
        recipe.model,
        image_size=options.size,
        target_scale=options.scale,
        keep=min(patches - 1, round(options.visible * patches)),
    )
    training = replace(
        recipe.training, epochs=None, steps=max(1, options.steps), warmup_steps=max(1, options.steps // 15), lr=options.lr,
        global_batch=options.batch, workers=options.workers, save_every=max(1, options.steps // 4),
        validate_every=max(1, options.steps // 4), log_every=50, clip=1.0,
    )  # fmt: skip
    return replace(
        recipe,
        model=model,
        training=training,
        audit="names",
        image_weight=options.image_weight,
        crop=CropConfig(area=(options.area, 1.0), flip=options.flip),
        report=ReportConfig(mask=options.mask),
    )


def starting_model(options: argparse.Namespace, train: Records) -> Path:
    """The model that training starts from: a taught encoder, and images that differ enough to be seen."""
    folder = options.out / "start"
    if (folder / "config.json").is_file():
        return folder
    encoder = options.encoder
    if encoder is None and options.teach:
        encoder = phantom_encoder.teach(
            options.out / "encoder", options.count, options.teach, options.size, seed=options.seed
        )
    config = configure(options).model
    tokenizer = Tokenizer.train([r.report for r in train], config.vocabulary)
    with noise.seeded(options.seed):
        model = MRM(replace(config, vocabulary=tokenizer.size)).eval()
    if encoder:
        print(f"{encoder}: {model_folder.start_from(model, encoder)}")
    if options.context:
        print(f"what is seen of images, scaled by {spread_contexts(model, train[:64], options.context):.1f}")
    if options.words:
        learn_words(model, tokenizer, train, options)
    return model_folder.save(folder, model, tokenizer=tokenizer)


def spread_contexts(model: MRM, records: Sequence[Record], spread: float) -> float:
    """Scale the projection of images until they differ by `spread` (standard deviation a channel), with mean 0."""
    contexts_NIR = contexts_of(model, records)
    gain = spread / contexts_NIR.std(0).square().mean().sqrt().item()
    projection = model.report_decoder.from_image
    with torch.no_grad():
        projection.weight *= gain
        projection.bias.copy_((projection.bias - contexts_NIR.mean(0)) * gain)
    return gain


def learn_words(model: MRM, tokenizer: Tokenizer, train: Records, options: argparse.Namespace) -> None:
    """Train the report decoder, and its projection of images, on features of whole images from the frozen encoder."""
    features_ND = torch.cat([features_of(model, record) for record in train]).clone()  # out of inference mode
    length, decoder = model.config.report_length, model.report_decoder.requires_grad_(True)
    ids = [i.astype(np.int64) for i in tokenizer.encode([r.report for r in train], length)]
    optimizer = torch.optim.AdamW(decoder.parameters(), options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, options.words, pct_start=0.1)
    for step, rows in enumerate(phantom_encoder.batches(len(train), options.batch, options.words, options.seed), 1):
        rng = np.random.default_rng([options.seed, step])
        true_BT = np.full((len(rows), max(len(ids[i]) for i in rows)), PAD)
        hidden_BT = np.zeros(true_BT.shape, dtype=bool)
        for row, i in enumerate(rows):
            true_BT[row, : len(ids[i])] = ids[i]
            draws = rng.random(len(ids[i]))
            hidden_BT[row, : len(ids[i])] = mask_words(ids[i], draws, tokenizer.units("word"), options.mask, length)
        tokens_BT = torch.from_numpy(np.where(hidden_BT, MASK, true_BT))
        masked_W = torch.from_numpy(np.flatnonzero(hidden_BT))
        context_BIR = decoder.context(features_ND[rows][:, None])
        logits_WV = model.name_words(context_BIR, tokens_BT, torch.from_numpy(true_BT != PAD), masked_W)
        loss = torch.nn.functional.cross_entropy(logits_WV, torch.from_numpy(true_BT[hidden_BT]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"words: step {step}/{options.words}  report {loss:.3f}", flush=True)


@torch.inference_mode()
def features_of(model: MRM, record: Record) -> Tensor:
    """The mean (1, D) of an image's patch features, all patches visible."""
    size = model.config.target_size
    image = torch.from_numpy(images.resize(images.read(record.image, size), size, size))[None]
    crop = normalise(image, model.config.mean, model.config.std)
    return model.encode(model.shrink(crop))[:, model.prefix :].mean(1)


# Scores -------------------------------------------------------------------------------------------------


class PairScores(NamedTuple):
    """Mean ln p a word of each test report (N), with its own image, the images of P partners, none, and others."""

    own_N: np.ndarray
    other_NP: np.ndarray
    none_N: np.ndarray
    mean_N: np.ndarray  # over training images, which stand for others
    partners_NP: np.ndarray  # which test images the partners are
    own_cosine_N: np.ndarray | None  # of the vectors of report and own image, where the model was trained with contrast
    other_cosine_NP: np.ndarray | None


def score(model: MRM, train: Records, test: Records, parts: int = 2, rounds: int = 2, seed: int = 0) -> PairScores:
    """The test reports, scored with their own and with other images; the pairs follow from the seed."""
    rng = np.random.default_rng([seed, 7])
    references_CIR = contexts_of(model, train.select(rng.permutation(len(train))[:REFERENCES]))
    contexts_NIR = contexts_of(model, test)
    partners_NP = np.stack([partners(test, i, rng) for i in range(len(test))])
    none_1IR = references_CIR.mean(0, keepdim=True)
    own_N, none_N, mean_N = np.zeros(len(test)), np.zeros(len(test)), np.zeros(len(test))
    other_NP = np.zeros(partners_NP.shape)
    for i, record in enumerate(test):
        contexts_CIR = torch.cat([contexts_NIR[[i, *partners_NP[i].tolist()]], none_1IR, references_CIR])
        mean_C = report_filling.read_words(model, contexts_CIR, record.report, parts, rounds, seed).scores_CW.mean(
            axis=1
        )
        own_N[i], other_NP[i], none_N[i] = mean_C[0], mean_C[1 : 1 + PARTNERS], mean_C[1 + PARTNERS]
        mean_N[i] = mean_C[2 + PARTNERS :].mean()
    cosines = (None, None) if model.contrast is None else cosines_of(model, test, partners_NP)
    return PairScores(own_N, other_NP, none_N, mean_N, partners_NP, *cosines)


def cosines_of(model: MRM, test: Records, partners_NP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cosine of each report's vector with that of its own image, (N,), and with those of its partners, (N, P)."""
    pooled_ND = torch.cat([features_of(model, record) for record in test]).numpy()
    image_NE = text_search.image_vectors(model, pooled_ND)
    report_NE = text_search.text_vectors(model, [record.report for record in test])
    return (image_NE * report_NE).sum(1), (image_NE[partners_NP] * report_NE[:, None]).sum(2)


def measure(model: MRM, train: Records, test: Records, options: argparse.Namespace) -> dict:
    """How well test reports are told from those of others, and what the image is worth a word."""
    scores = score(model, train, test, options.parts, options.rounds, options.seed)
    own_N, none_N, mean_N, partners_NP = scores.own_N, scores.none_N, scores.mean_N, scores.partners_NP
    differ_NP = np.array(
        [[test[i].labels != test[j].labels for j in row] for i, row in enumerate(partners_NP)], dtype=bool
    )
    pairs = {"all pairs": compared(test, scores, np.ones_like(differ_NP), options)}
    if test.classes:
        pairs["pairs that differ in findings"] = compared(test, scores, differ_NP, options)
    bootstrap = Bootstrap.from_groups(test.patients, len(test), options.draws)
    words = {"own image": own_N, "no image": none_N, "other images": mean_N, "own - no": own_N - none_N, "own - others": own_N - mean_N}  # fmt: skip
    every = np.ones(len(test), dtype=bool)
    return {
        "pairs": {name: {k: e.to_dict() for k, e in each.items()} for name, each in pairs.items()},
        "ln p a word": {k: mean_over(v, every, every, bootstrap).to_dict() for k, v in words.items()},
    }


def contexts_of(model: MRM, records: Sequence[Record]) -> Tensor:
    """What the report decoder sees of each image, (N, I, R)."""
    size = model.config.target_size
    return torch.cat([masked_words.context_of(model, [images.read(r.image, size)]) for r in records])


def partners(test: Records, index: int, rng: np.random.Generator) -> np.ndarray:
    """Images of other patients, whose reports are other texts."""
    record = test[index]
    others = [i for i, r in enumerate(test) if r.patient != record.patient and r.report != record.report]
    if len(others) < PARTNERS:
        raise ValueError(f"{len(others)} images of other patients, and {PARTNERS} are needed; take a larger test set")
    return rng.permutation(others)[:PARTNERS]


def compared(
    test: Records, scores: PairScores, used_NP: np.ndarray, options: argparse.Namespace
) -> dict[str, Estimate]:
    """AUROC of true against shuffled pairs, and the share of others that the own image beats."""
    n, patients = len(test), test.people
    has_N, first_N = used_NP.any(axis=1), used_NP.argmax(axis=1)
    twice = np.tile(has_N, 2)
    groups = [p for p, has in zip([*patients, *patients], twice, strict=True) if has]

    def auroc(own_N: np.ndarray, other_NP: np.ndarray) -> Estimate:
        values = np.concatenate([own_N, other_NP[np.arange(n), first_N]])[twice]
        labels = np.concatenate([np.ones(n), np.zeros(n)])[twice]
        return ranking.interval(labels, values, groups=groups, draws=options.draws)

    own_N, other_NP, mean_N = scores.own_N, scores.other_NP, scores.mean_N
    won_NP = (own_N[:, None] > other_NP) + 0.5 * (own_N[:, None] == other_NP)
    won_N = np.where(used_NP, won_NP, 0).sum(1) / np.maximum(used_NP.sum(1), 1)
    bootstrap = Bootstrap.from_groups(patients, n, options.draws)
    results = {
        "AUROC by surprise": auroc(own_N - mean_N, other_NP - mean_N[:, None]),
        "AUROC by ln p alone": auroc(own_N, other_NP),
        "own beats other": mean_over(won_N, has_N, np.ones(n, dtype=bool), bootstrap),
    }
    if scores.own_cosine_N is not None and scores.other_cosine_NP is not None:
        results["AUROC by contrast"] = auroc(scores.own_cosine_N, scores.other_cosine_NP)
    return results


def table(report: dict) -> str:
    """The results, a line each."""
    lines = []
    for name, each in [*report["pairs"].items(), ("ln p a word", report["ln p a word"])]:
        lines += [name, *(f"  {k:22} {Estimate(**e)}" for k, e in each.items())]
    seconds = ", ".join(f"{name} {s} s" for name, s in report["seconds"].items())
    return "\n".join([*lines, f"steps: {report['steps']}; {seconds}; {report['threads']} threads"])


if __name__ == "__main__":
    main()
