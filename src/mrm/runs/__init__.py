"""The commands as functions: start reading here.

Each says what happens in the order it happens; what a step does is in the module it is called from.
A run is a folder: `config.yaml` (all settings), `log.csv`, `validation.csv`, `checkpoints/`, and the links
`last` and `best` to two of those, each a whole model folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mrm import corpora
from mrm.audit.fingerprints import read_names
from mrm.audit.overlaps import AuditReport, audit
from mrm.data.records import Records, resolve_uncertain
from mrm.data.reports import Tokenizer
from mrm.data.samples import LabelData, MaskData
from mrm.data.sampling import Balanced, order_of
from mrm.data.sections import select_sections
from mrm.evaluation.classifier_test import overlaps
from mrm.inference import predict
from mrm.models import model_folder
from mrm.models.model_folder import Card
from mrm.recipes import FinetuneConfig, PretrainConfig, SegmentConfig
from mrm.runs import benchmarking, evaluating, probing, segmenting
from mrm.runs.benchmarking import BenchmarkConfig
from mrm.runs.calibrating import calibrate  # noqa: F401
from mrm.runs.comparing import compare_models  # noqa: F401
from mrm.runs.finetuning import auroc_validation, classifier, label_records, require_both_values, uncertain_policy
from mrm.runs.predicting import embed, predict_files, predict_masks, similar  # noqa: F401
from mrm.runs.pretraining import pretrain_data, pretrain_model, pretraining_validation, run_tokenizer
from mrm.runs.probing import ProbeConfig
from mrm.runs.run_folder import model_writer, note_seen, open_run, origin, warn_of
from mrm.system.errors import RunError
from mrm.system.journal import Journal
from mrm.system.progress import Progress
from mrm.system.tables import write_whole
from mrm.training.tasks import ClassifyTask, PretrainTask, SegmentTask
from mrm.training.trainer import Trainer


def prepare(name: str, source: Path, out: Path, options: corpora.Options | None = None) -> AuditReport:
    """Records, label lists and facts of a public corpus, from its download; and an audit of its sets.

    Interrupted, each of the two goes on where it was: `corpus.json` ends the first, `audit.json` the second.
    """
    corpus = corpora.prepare(name, source, out, options)
    with corpora.writing.writing_to(out), Journal(Path(out) / ".audited.jsonl") as journal:
        verdict = audit_splits(corpus.splits, journal)
        if verdict.compared:
            write_whole(Path(out) / corpora.writing.AUDIT, verdict.to_json().encode())
        journal.forget()
    print(verdict.table())
    return verdict


def audit_splits(splits: Mapping[str, Records], journal: Journal | None = None) -> AuditReport:
    """Audit train, val and test; where a corpus has several tasks (`covid1/train`), within each of them."""
    tasks: dict[str, dict[str, Records]] = {}
    for name, records in splits.items():
        task, _, part = name.rpartition("/")
        if part in corpora.splits.LISTS:  # shares such as train_10 lie within train
            tasks.setdefault(task, {})[name] = records
    verdicts = [audit(sets, progress=Progress, journal=journal) for sets in tasks.values()]
    covered = {name: coverage for v in verdicts for name, coverage in v.sets.items()}
    overlaps = tuple(overlap for v in verdicts for overlap in v.overlaps)
    return AuditReport(overlaps, covered, any(v.compared for v in verdicts))


def compare_sets(sets: Sequence[Path], json: Path | None, images: bool, within: bool, examples: int) -> AuditReport:
    """Audit files of records against each other; prints the verdict, and writes it to `json` if given."""
    if len(sets) < 2 and not within:
        raise RunError(
            "an audit compares two sets or more; name another, or look for repeats in this one with --within"
        )
    base = Path(os.path.commonpath([path.absolute().parent for path in sets]))  # short names for the tables
    short = [str(path.absolute().relative_to(base)) for path in sets]
    names = [name if short.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(short, 1)]
    loaded = {name: read_names(path) for name, path in zip(names, sets, strict=True)}
    verdict = audit(loaded, images, within, examples=examples, progress=Progress)
    if json:
        write_whole(json, verdict.to_json().encode())
    print(verdict.table())
    return verdict


def pretrain(config: PretrainConfig) -> Path:
    """Learn from images and reports: restore masked patches and masked words. Returns the run's folder."""
    open_run(config)
    records = Records.load(config.records, images=config.images, on_error=config.on_error)
    tokenizer = run_tokenizer(config, records)
    model = pretrain_model(config, tokenizer)
    data = pretrain_data(config, records, model, tokenizer)
    card = Card("mrm", asdict(model.config), origin(config, records, config.records))
    seen = note_seen(config, "pre-training", records)
    return Trainer(
        PretrainTask(model, config.image_weight, config.report_weight),
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen, tokenizer),
        seed=config.seed,
        validate=pretraining_validation(config, model, tokenizer, records),
        order=order_of(records),
    ).fit()


def finetune(config: FinetuneConfig) -> Path:
    """Learn findings from labels, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    open_run(config)
    train, val = label_records(config)
    policy = uncertain_policy(config, train)
    train, val = resolve_uncertain(train, policy), resolve_uncertain(val, policy)
    require_both_values(val, config.val)
    model = classifier(config, train.classes, policy)
    data = LabelData(
        train, model.config.image_size, config.crop, seed=config.seed, on_error=config.on_error, augment=config.augment
    )
    card = Card("classifier", asdict(model.config), origin(config, train, config.train))
    seen = note_seen(config, "fine-tuning", train)
    warn_of(overlaps(seen, val, "validation"))
    if config.probe_first and not (Path(config.out) / "last").exists():
        predict.fit_head(model.eval(), train, workers=config.training.workers)
    return Trainer(
        ClassifyTask(model),
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen),
        seed=config.seed,
        validate=auroc_validation(config, val),
        order=order_of(train),
    ).fit()


def segment(config: SegmentConfig) -> Path:
    """Learn outlines from masks, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    open_run(config)
    train, val = segmenting.masked_images(config)
    model = segmenting.segmenter(config)
    data = MaskData(train, config.image_size, config.crop, config.seed, config.on_error)
    order = Balanced(train.positive_N, config.negatives)
    records = train.records()
    facts = origin(config, records, config.train) | {"ignores_255": train.ignores_255}
    card = Card("segmenter", asdict(model.config), facts)
    seen = note_seen(config, "segmentation", records)
    warn_of(overlaps(seen, val.records(), "validation"))
    thresholds = segmenting.last_thresholds(config.out)
    return Trainer(
        SegmentTask(model, config.focal_weight, config.dice_weight, config.auxiliary_weight),
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen, thresholds=thresholds),
        seed=config.seed,
        validate=segmenting.dice_validation(config, val, thresholds),
        order=order,
        epoch=len(order),
    ).fit()


def evaluate(
    model: Path,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    workers: int | None = None,
    split: str = "test",
    slide: bool = False,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Test a classifier or a segmenter: `results.json`, one line an image in a CSV, one page. Returns the results."""
    if model_folder.kind_at(model) == "segmenter":
        if by:
            raise RunError(f"{model}: a segmenter; --by groups the records of a classifier's test")
        return segmenting.evaluate_masks(model, records, out, split, slide, draws, seed)
    if slide or split != "test":
        raise RunError(f"{model}: no segmenter; --split and --slide are for the folders of a segmenter's test")
    return evaluating.evaluate_findings(model, records, out, images, draws, seed, workers, by)


def probe(config: ProbeConfig) -> dict[str, Any]:
    """What frozen features know of findings with few labels: a table, a plot, a page. Returns the results."""
    return probing.probe(config, finetune)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run what is left of a suite of fine-tunings and tests, and write the reproduction ledger. Returns it."""
    return benchmarking.benchmark(config, benchmarking.Commands(pretrain, finetune, segment, evaluate))


def train_tokenizer(records: Path, out: Path, size: int = 30_000, sections: tuple[str, ...] = ()) -> Tokenizer:
    """Learn a WordPiece vocabulary from the reports of `records` and write it to `out`."""
    loaded = Records.load(records)
    texts = [select_sections(r.report, sections) for r in loaded if r.report]
    if not texts:
        raise RunError(
            f"{records}: not one of {len(loaded)} records has a report, so there is nothing to learn words from"
        )
    tokenizer = Tokenizer.train(texts, size)
    write_whole(out, tokenizer.to_json().encode())
    return tokenizer
