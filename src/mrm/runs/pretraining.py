"""Learning from images and reports: restoring masked patches and masked words."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from mrm.data import images
from mrm.data.loader import loader
from mrm.data.records import Record, Records
from mrm.data.report_tokens import ReportTokens, mapped_tokens
from mrm.data.reports import Tokenizer
from mrm.data.samples import PretrainData
from mrm.data.sampling import in_order, order_of
from mrm.inference import reconstruction
from mrm.models import model_folder, noise
from mrm.models.card import Card
from mrm.models.mrm import MRM
from mrm.recipes import PretrainConfig
from mrm.runs import word_weighing
from mrm.runs.first_rank import first_rank_first
from mrm.runs.output_lock import alone_in
from mrm.runs.run_folder import model_writer, note_seen, open_run, origin
from mrm.runs.run_records import FOLDER, mapped_set
from mrm.runs.same_records import require_same_records
from mrm.runs.tokenizing import ReportTexts, advice
from mrm.system.files import write_whole
from mrm.training.tasks import PretrainTask
from mrm.training.trainer import Trainer, processes


@alone_in("config.out")
def pretrain(config: PretrainConfig) -> Path:
    """Learn from images and reports: restore masked patches and masked words. Returns the run's folder."""
    config = open_run(config)
    train, val = report_records(config)
    sets = {"training": (config.records, train)} | ({"validation": (config.val, val)} if config.val and val else {})
    require_same_records(config.out, sets)
    tokenizer = run_tokenizer(config, train)
    model = pretrain_model(config, tokenizer)
    data = mapped_data(config, train, model, tokenizer, "training")
    card = Card("mrm", asdict(model.config), origin(config, train, config.records))
    seen = note_seen(config, "pre-training", train)
    task = pretrain_task(config, model, word_weighing.initial_weights(config, data, model.config.vocabulary))
    return Trainer(
        task,
        data,
        config.training.shortened(config.max_steps),
        config.out,
        write_model=model_writer(card, seen, tokenizer),
        seed=config.seed,
        validate=pretraining_validation(config, task, data, tokenizer, val, train),
        order=order_of(train, config.site_weights),
    ).fit()


def report_records(config: PretrainConfig) -> tuple[Records, Records | None]:
    """Training records, and validation records if `--val` names some."""
    train = mapped_set(config, config.records, "training")
    val = mapped_set(config, config.val, "validation") if config.val else None
    return train, val


def mapped_data(config: PretrainConfig, records: Records, model: MRM, tokenizer: Tokenizer, name: str) -> PretrainData:
    """Records as this model's samples, with their tokens mapped from the folder of the run that keeps them."""
    folder, prepares = Path(config.out) / FOLDER / name, processes().is_main_process
    with first_rank_first(config.out):
        length, sections = model.config.report_length, config.report.sections
        tokens = mapped_tokens(folder, records, tokenizer, length, sections, prepares)
    return pretrain_data(config, records, model, tokenizer, tokens)


def run_tokenizer(config: PretrainConfig, records: Records) -> Tokenizer:
    """The tokenizer of `--tokenizer`, else of the initial model, else one that is trained on the reports of the run."""
    given = Tokenizer.load(config.tokenizer) if config.tokenizer else initial_tokenizer(config)
    if given:
        if processes().is_main_process and (
            doubt := advice(given, records, str(config.tokenizer or config.init), config.report.sections)
        ):
            warnings.warn(doubt, stacklevel=3)
        return given
    file = Path(config.out) / "tokenizer.json"
    with first_rank_first(config.out):
        if not file.is_file():
            texts = ReportTexts(records, config.report.sections)
            if not records.with_report:
                warnings.warn(
                    f"{config.records}: no record has a report, so only the image loss is trained", stacklevel=3
                )
            write_whole(file, Tokenizer.train(texts, config.model.vocabulary).to_json().encode())
    return Tokenizer.load(file)


def initial_tokenizer(config: PretrainConfig) -> Tokenizer | None:
    """The tokenizer of the model folder that `--init` names; None for a file or without `--init`."""
    if config.init and (seen := model_folder.seen_at(config.init)):
        file = seen.with_name("tokenizer.json")
        if file.is_file():
            return Tokenizer.load(file)
    return None


def pretrain_model(config: PretrainConfig, tokenizer: Tokenizer) -> MRM:
    """The model of a run, with the vocabulary of its tokenizer."""
    return new_model(replace(config, model=replace(config.model, vocabulary=tokenizer.size)))


def new_model(config: PretrainConfig) -> MRM:
    """An MRM initialised from the seed, or from the weights of `--init` if there are some."""
    with noise.seeded(config.seed):
        model = MRM(config.model)
    model.checkpointing = config.training.checkpointing
    if config.init:
        print(f"{config.init}: {model_folder.start_from(model, config.init)}")
    return model


def pretrain_task(config: PretrainConfig, model: MRM, word_weights_V: Tensor | None = None) -> PretrainTask:
    """The model with the losses of this run. A report decoder that none of them reads is not trained."""
    task = PretrainTask(
        model,
        config.image_weight,
        config.report_weight,
        config.report_to_encoder,
        config.contrast_weight,
        config.feature_weight,
        word_weights_V,
    )
    if "report" not in task.weights:
        model.report_decoder.requires_grad_(False)
    return task


def pretrain_data(
    config: PretrainConfig,
    records: Sequence[Record],
    model: MRM,
    tokenizer: Tokenizer,
    tokens: ReportTokens | None = None,
) -> PretrainData:
    """Records as this model's training samples; `tokens` are those of their reports, if they are known."""
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
        predicted=model.predicted,
        resize=config.resize,
        tokens=tokens,
    )


def pretraining_validation(
    config: PretrainConfig,
    task: PretrainTask,
    train_data: PretrainData,
    tokenizer: Tokenizer,
    val: Records | None,
    train: Records,
) -> Callable[[Any, int, Accelerator], dict[str, float]]:
    """The validation of pre-training: restored images to look at, and the losses of `val` if there is one.

    Where words count by what the image tells, it weighs them anew.
    """
    shown_HW = [images.read(r.image, task.model.config.target_size) for r in (val or train)[:4]]
    data = mapped_data(config, val, task.model, tokenizer, "validation") if val else None

    def validate(model: Any, step: int, state: Accelerator) -> dict[str, float]:
        if state.is_main_process:
            save_reconstructions(Path(config.out) / "images" / f"step-{step:08d}.png", model, shown_HW)
        if config.word_weights == "image":
            word_weighing.refresh(task, model, train_data, tokenizer, state, Path(config.out))
        if data is None:
            return {}
        losses = validation_losses(config, model, data, state)
        return {**losses, "score": -sum(losses.values())}

    return validate


def validation_losses(config: PretrainConfig, model: MRM, data: PretrainData, state) -> dict[str, float]:
    """The losses of patches and words over validation records, each with the crop and the masks of epoch 0.

    That of words is left out where they are not trained.
    """
    task = PretrainTask(model, report_weight=config.report_weight or config.contrast_weight).eval()
    share = config.training.micro_batch or max(1, config.training.global_batch // state.num_processes)
    batches = itertools.islice(in_order(len(data), share), state.process_index, None, state.num_processes)
    names = [name for name in ("image", "report") if name in task.weights]
    totals = torch.zeros(len(names), 2, dtype=torch.float64, device=state.device)
    for batch in loader(data, batches, config.training.workers):
        terms = task(batch.to(state.device))
        totals += torch.tensor([[terms[k].sum, terms[k].count] for k in names], device=state.device)
    sums = state.reduce(totals, "sum")
    return {f"val_{k}": (s / c.clamp(min=1)).item() for k, (s, c) in zip(names, sums, strict=True)}


def save_reconstructions(path: Path, model: MRM, images_HW: list[np.ndarray]) -> None:
    """Write a sheet with a row for each image: masked, restored, original."""
    rows = []
    for seed, image in enumerate(images_HW):
        result = reconstruction.reconstruct(model, image, seed)
        rows.append(np.hstack([result.masked, result.restored, result.original]))
    write_whole(path, images.encode_png(np.vstack(rows)))
