"""The commands as functions: start reading here.

Each says what happens in the order it happens; what a step does is in the module it is called from.
A run is a folder: `config.yaml` (all settings), `log.csv`, `checks.csv`, `checkpoints/`, and the links
`last` and `best` to two of those, each a whole model folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

import mrm
from mrm import checkpoint, corpora, images, metrics, noise, pages, predict, recipes, segmenting
from mrm.audit import Verdict, audit
from mrm.batches import Balanced, LabelData, MaskData, PretrainData, in_order, loader
from mrm.checkpoint import Card
from mrm.classifier import Classifier, ClassifierConfig
from mrm.evaluate import (
    RunError,
    load_classifier,
    note_test,
    overlaps,
    readable,
    summary,
    test_records,
    write_results,
)
from mrm.fingerprints import fingerprint, read_names
from mrm.model import MRM
from mrm.recipes import FinetuneConfig, PretrainConfig, SegmentConfig
from mrm.records import UNCERTAIN, Records, resolve_uncertain, write_whole
from mrm.reports import Tokenizer, select_sections
from mrm.tasks import ClassifyTask, PretrainTask, SegmentTask
from mrm.training import Trainer, processes

# The commands -----------------------------------------------------------------------------------------


def prepare(name: str, source: Path, out: Path, options: corpora.Options | None = None) -> Verdict:
    """Records, label lists and facts of a public corpus, from its download; and an audit of its sets."""
    corpus = corpora.prepare(name, source, out, options)
    verdict = audit_splits(corpus.splits)
    write_whole(Path(out) / "audit.json", verdict.to_json().encode())
    print(verdict.table())
    return verdict


def audit_splits(splits: Mapping[str, Records]) -> Verdict:
    """Audit train, val and test; where a corpus has several tasks (`covid1/train`), within each of them."""
    tasks: dict[str, dict[str, Records]] = {}
    for name, records in splits.items():
        task, _, part = name.rpartition("/")
        if part in corpora.splits.LISTS:  # shares such as train_10 lie within train
            tasks.setdefault(task, {})[name] = records
    verdicts = [audit(sets, progress=show_progress) for sets in tasks.values()]
    covered = {name: coverage for v in verdicts for name, coverage in v.sets.items()}
    return Verdict(tuple(overlap for v in verdicts for overlap in v.overlaps), covered)


def compare_sets(sets: Sequence[Path], json: Path | None, pictures: bool, within: bool, examples: int) -> Verdict:
    """Audit files of records against each other; prints the verdict, and writes it to `json` if given."""
    base = Path(os.path.commonpath([path.absolute().parent for path in sets]))  # short names for the tables
    short = [str(path.absolute().relative_to(base)) for path in sets]
    names = [name if short.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(short, 1)]
    loaded = {name: read_names(path) for name, path in zip(names, sets, strict=True)}
    verdict = audit(loaded, pictures, within, examples=examples, progress=show_progress)
    if json:
        write_whole(json, verdict.to_json().encode())
    print(verdict.table())
    return verdict


def pretrain(config: PretrainConfig) -> Path:
    """Learn from pictures and reports: restore masked patches and masked words. Returns the run's folder."""
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
        check=pretrain_check(config, model, tokenizer, records),
    ).fit()


def finetune(config: FinetuneConfig) -> Path:
    """Learn findings from labels, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    open_run(config)
    train, val = label_records(config)
    policy = uncertain_policy(config, train)
    train, val = resolve_uncertain(train, policy), resolve_uncertain(val, policy)
    require_both_values(val, config.val)
    model = finetune_model(config, train.classes, policy)
    data = LabelData(train, model.config.image_size, config.crop, seed=config.seed, on_error=config.on_error)
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
        check=auroc_check(config, val),
    ).fit()


def segment(config: SegmentConfig) -> Path:
    """Learn outlines from masks, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    open_run(config)
    train, val = segmenting.masked_pictures(config)
    model = segmenting.segmenter(config)
    data = MaskData(train, config.image_size, config.crop, config.seed, config.on_error)
    order = Balanced(train.positive_N, config.negatives)
    records = train.records()
    card = Card("segmenter", asdict(model.config), origin(config, records, config.train))
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
        check=segmenting.dice_check(config, val, thresholds),
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
) -> dict[str, Any]:
    """Test a classifier or a segmenter: `results.json`, one line a picture in a CSV, one page. Returns the results."""
    if checkpoint.kind_at(model) == "segmenter":
        return segmenting.evaluate_masks(model, records, out, best_device(), split, slide, draws, seed, show_progress)
    classifier = load_classifier(model)
    tested = test_records(classifier, records, images)
    scores = predict.classify(classifier.to(best_device()), tested, workers=workers)
    predictions = readable(tested, scores, records)
    report = metrics.classification_report(
        predictions.labels_NC,
        predictions.probabilities_NC,
        predictions.classes,
        groups=predictions.patients,
        draws=draws,
        seed=seed,
    )
    leaks = overlaps(checkpoint.find_model(model) / "seen", tested, "test")
    warn_of(leaks)
    results = summary(model, classifier.card, records, tested, predictions, report, scores.unreadable, leaks)
    write_results(out, results, predictions)
    pages.evaluation(out, results, report, predictions.labels_NC, predictions.probabilities_NC, predictions.classes)
    note_test(model, results)
    return results


def predict_masks(
    model: Path, paths: Sequence[Path], out: Path, slide: bool = False, dicom_seg: bool = True
) -> dict[str, str]:
    """Outline pictures with a segmenter, as PNG and DICOM SEG under `out`. Returns what could not be read, and why."""
    return segmenting.predict_masks(model, paths, out, best_device(), slide, dicom_seg, show_progress)


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


# Opening a run ----------------------------------------------------------------------------------------

FREE = (
    "training.workers",
    "training.micro_batch",
    "training.keep",
    "training.log_every",
    "images",
)  # may change on resume


def open_run(config: Any) -> None:
    """Make the run's folder, or take up the run it holds. Raises RunError if it holds something else."""
    with processes().main_process_first():  # of several processes, one makes it and the others find it made
        _open_run(config)


def _open_run(config: Any) -> None:
    run, file = Path(config.out), Path(config.out) / "config.yaml"
    if file.is_file():
        before = recipes.from_yaml(type(config), file.read_text(), str(file))
        changed = [d for d in recipes.differences(before, config) if d.split(":")[0] not in (*FREE, "out")]
        if changed:
            raise RunError(
                f"{run}: holds another run ({'; '.join(changed[:5])}); choose another --out, or its settings"
            )
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run}: is not empty and holds no run (no config.yaml); choose another --out")
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            write_whole(file, recipes.to_yaml(config).encode())
    except OSError as error:
        raise RunError(f"{run}: cannot be written to ({error}); choose another --out") from error


def origin(config: Any, records: Records, path: Path) -> dict[str, Any]:
    """Where a model comes from, for its card: data, start, seed, versions."""
    import timm

    return {
        "records": Path(path).name,
        "n": len(records),
        "with_report": sum(bool(r.report) for r in records),
        "patients": len(set(records.patients)) if records.patients else None,
        "fingerprint": records.fingerprint(),
        "init": None if getattr(config, "scratch", False) or not config.init else Path(config.init).name,
        "seed": config.seed,
        "versions": {"mrm": mrm.__version__, "torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }  # fmt: skip


def note_seen(config: Any, stage: str, records: Records) -> Path:
    """Fingerprints of the records a model is to see, with those its initial model saw; the folder they are in.

    They go into every model folder of the run, so that a test set can be compared with them later.
    """
    folder = Path(config.out) / "seen"
    with processes().main_process_first():
        if not (folder / f"{stage}.npz").is_file():
            before = Path(config.init) if config.init and not getattr(config, "scratch", False) else None
            if before and before.is_dir() and (checkpoint.find_model(before) / "seen").is_dir():
                shutil.copytree(checkpoint.find_model(before) / "seen", folder, dirs_exist_ok=True)
            folder.mkdir(exist_ok=True)
            show = lambda done, n: show_progress("looking at " + stage, done, n)  # noqa: E731
            fingerprint(records, pictures=config.audit == "pictures", progress=show).save(folder / f"{stage}.npz")
    return folder


def model_writer(
    card: Card, seen: Path, tokenizer: Tokenizer | None = None, thresholds: Mapping[str, float] | None = None
) -> Callable[[Path, nn.Module, int], None]:
    """How the trainer writes a checkpoint's model folder; `thresholds` are those that its checks have last chosen."""

    def write(folder: Path, model: nn.Module, step: int) -> None:
        now = replace(card, origin={**card.origin, "step": step}, thresholds=dict(thresholds or {}))
        checkpoint.write_into(folder, model, now, tokenizer)
        shutil.copytree(seen, folder / "seen")

    return write


def warn_of(found: list[str]) -> None:
    """Say each overlap of records as a warning."""
    for overlap in found:
        warnings.warn(overlap, stacklevel=3)


def show_progress(what: str, done: int, n: int) -> None:
    """A line that counts up in place on a terminal, and nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {n}", end="\n" if done == n else "", file=sys.stderr, flush=True)


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# Pre-training -----------------------------------------------------------------------------------------


def run_tokenizer(config: PretrainConfig, records: Records) -> Tokenizer:
    """The tokenizer named, else that of the initial model, else the run's own, trained on its reports."""
    if config.tokenizer:
        return Tokenizer.load(config.tokenizer)
    if config.init and Path(config.init).is_dir():
        file = checkpoint.find_model(Path(config.init)) / "tokenizer.json"
        if file.is_file():
            return Tokenizer.load(file)
    own = Path(config.out) / "tokenizer.json"
    with processes().main_process_first():
        if not own.is_file():
            texts = [select_sections(r.report, config.report.sections) for r in records if r.report]
            if not texts:
                warnings.warn(
                    f"{config.records}: no record has a report; the image loss alone is trained", stacklevel=2
                )
            write_whole(own, Tokenizer.train(texts, config.model.vocabulary).to_json().encode())
    return Tokenizer.load(own)


def pretrain_model(config: PretrainConfig, tokenizer: Tokenizer) -> MRM:
    """A new MRM from the seed, or from the weights of `--init`."""
    with noise.seeded(config.seed):
        model = MRM(replace(config.model, vocabulary=tokenizer.size))
    model.checkpointing = config.training.checkpointing
    if config.init:
        print(f"{config.init}: {checkpoint.start_from(model, config.init)}")
    return model


def pretrain_data(config: PretrainConfig, records: Records, model: MRM, tokenizer: Tokenizer) -> PretrainData:
    """Records as this model's training samples."""
    return PretrainData(
        records,
        tokenizer,
        size=model.config.target_size,
        patches=model.patches,
        keep=model.config.keep,
        length=model.config.report_length,
        crop=config.crop,
        report=config.report,
        seed=config.seed,
        on_error=config.on_error,
    )


def pretrain_check(config: PretrainConfig, model: MRM, tokenizer: Tokenizer, records: Records):
    """What pre-training checks now and then: pictures restored, and the losses of `--val` if given."""
    val = Records.load(config.val, images=config.images, on_error=config.on_error) if config.val else None
    shown = [images.read(r.image, model.config.target_size) for r in (val or records)[:4]]
    data = pretrain_data(config, val, model, tokenizer) if val else None

    def check(model: Any, step: int, state: Accelerator) -> dict[str, float]:
        if state.is_main_process:
            save_reconstructions(Path(config.out) / "pictures" / f"step-{step:08d}.png", model, shown)
        if data is None:
            return {}
        losses = held_out_losses(config, model, data, state)
        return {**losses, "score": -sum(losses.values())}

    return check


def held_out_losses(config: PretrainConfig, model: MRM, data: PretrainData, state) -> dict[str, float]:
    """Both losses over held-out records, each with the crop and the masks of epoch 0."""
    task = PretrainTask(model, config.image_weight, config.report_weight).eval()
    share = config.training.micro_batch or max(1, config.training.global_batch // state.num_processes)
    mine = (b for i, b in enumerate(in_order(len(data), share)) if i % state.num_processes == state.process_index)
    totals = torch.zeros(2, 2, dtype=torch.float64, device=state.device)
    for batch in loader(data, mine, config.training.workers):
        terms = task(batch.to(state.device))
        totals += torch.tensor([[terms[k].sum, terms[k].count] for k in ("image", "report")], device=state.device)
    sums = state.reduce(totals, "sum")
    return {f"val_{k}": (s / c.clamp(min=1)).item() for k, (s, c) in zip(("image", "report"), sums, strict=True)}


def save_reconstructions(path: Path, model: MRM, pictures: list[np.ndarray]) -> None:
    """One row a picture: masked, restored, original."""
    rows = []
    for seed, picture in enumerate(pictures):
        shown = predict.reconstruct(model, picture, seed)
        rows.append(np.hstack([shown.masked, shown.restored, shown.original]))
    write_whole(path, images.encode_png(np.vstack(rows)))


# Fine-tuning ------------------------------------------------------------------------------------------


def label_records(config: FinetuneConfig) -> tuple[Records, Records]:
    """Training and validation records with the same classes."""
    load = lambda path, classes: Records.load(path, classes, config.images, config.on_error)  # noqa: E731
    train = load(config.train, config.classes or None)
    val = load(config.val, train.classes)
    return train, val


def uncertain_policy(config: FinetuneConfig, records: Records) -> dict[str, str]:
    """What uncertain labels become, for each class. Raises RunError for a policy of no class, if it could matter."""
    unknown = set(config.uncertain_by_class) - set(records.classes)
    if unknown and (records.labels_NC == UNCERTAIN).any():
        raise RunError(
            f"{config.train}: --uncertain-by-class names {', '.join(sorted(unknown))}; "
            f"the classes are {', '.join(records.classes)}"
        )
    return {c: config.uncertain_by_class.get(c, config.uncertain) for c in records.classes}


def require_both_values(val: Records, path: Path) -> None:
    """AUROC chooses the best checkpoint, so some class of the validation set needs both label values."""
    labels_NC = val.labels_NC
    both = [(labels_NC[:, c] == 0).any() and (labels_NC[:, c] == 1).any() for c in range(len(val.classes))]
    if not any(both):
        counts = ", ".join(
            f"{c}: {int((labels_NC[:, i] == 1).sum())} positive and {int((labels_NC[:, i] == 0).sum())} negative"
            for i, c in enumerate(val.classes)
        )
        raise RunError(f"{path}: AUROC is undefined for every class ({counts}); validate on records of both kinds")
    if lacking := [c for c, ok in zip(val.classes, both, strict=True) if not ok]:
        warnings.warn(f"{path}: AUROC is undefined for {', '.join(lacking)}; the others choose the best", stacklevel=2)


def finetune_model(config: FinetuneConfig, classes: tuple[str, ...], policy: dict[str, str]) -> Classifier:
    """A classifier on the encoder of `--init`, with its weights unless `--scratch`."""
    source = checkpoint.architecture(config.init)
    shape = ClassifierConfig(
        classes=classes,
        encoder=source.encoder,
        encoder_options=source.encoder_options,
        image_size=source.image_size,
        mean=source.mean,
        std=source.std,
        drop_path=config.drop_path,
        view=config.view,
        uncertain=policy,
    )
    with noise.seeded(config.seed):
        model = Classifier(shape)
    if not config.scratch:
        print(f"{config.init}: {checkpoint.start_from(model, config.init)}")
    return model


def auroc_check(config: FinetuneConfig, val: Records):
    """Mean AUROC over the classes of the validation set, which chooses the best checkpoint."""

    def check(model: Any, step: int, state: Accelerator) -> dict[str, float]:
        scores = predict.classify(
            model,
            val,
            workers=config.training.workers,
            rank=state.process_index,
            world=state.num_processes,
            precision=config.training.precision,
        )
        if scores.unreadable and config.on_error == "stop":
            name, reason = next(iter(scores.unreadable.items()))
            raise RunError(f"{config.val}: {len(scores.unreadable)} pictures cannot be read, first {name}: {reason}")
        logits = state.reduce(torch.from_numpy(scores.logits_NC).to(state.device), "sum").cpu().numpy()
        read = ~np.isnan(logits).any(axis=1)
        per_class = [metrics.auroc(y, s) for y, s in zip(val.labels_NC[read].T, logits[read].T, strict=True)]
        mean = float(np.nanmean(per_class))
        return {"val_auroc": mean, "score": mean}

    return check
