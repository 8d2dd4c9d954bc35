"""Commands that put a model to use: predict, embed, similar, explain, reconstruct, fill-in, export, serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mrm.cli.command import commands
from mrm.serve.limits import Limits
from mrm.system.errors import ConfigError


def predict(
    model: Path,
    paths: tuple[str, ...],
    /,
    out: Path,
    images: Path | None = None,
    batch: int = 64,
    workers: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "auto",
    crop_borders: bool = False,
    slide: bool = False,
    dicom_seg: bool = True,
) -> None:
    """Findings of images by a classifier, as a table; or their outlines by a segmenter, as masks.

    A table has a row for each image: its path, a probability for each finding, the threshold and the decision where
    the model carries thresholds, and an error where it could not be read. The same command goes on where it was
    stopped. `torchrun --nproc-per-node 4 -m mrm predict ...` shares the images among several GPUs.

    Args:
        model: a model folder or a run.
        paths: images, folders, globs, lists (.txt), tables of records (.csv, .parquet) and shard folders.
        out: a table (.csv, .parquet, .json, .jsonl); for a segmenter a folder, for NAME.png (class numbers, in
            colours), NAME.seg.dcm and masks.csv.
        images: where relative names in lists and tables are; else beside them.
        batch: images computed at once; a segmenter takes one at a time.
        workers: processes that read images; by default what this machine has.
        precision: bf16 is faster where the hardware has it, and less exact.
        device: auto, cpu, cuda, cuda:1, ...
        crop_borders: remove burned-in black and white borders first.
        slide: outline by sliding windows, finer and slower than the whole image at once.
        dicom_seg: write DICOM Segmentations for DICOM input; needs the extra `seg`.
    """
    from mrm import runs

    reading = runs.Reading(images, batch, workers, precision, device, crop_borders)
    written = runs.predict(model, paths, out, reading, slide, dicom_seg)
    _say(f"wrote {written}")


def embed(
    model: Path,
    paths: tuple[str, ...],
    /,
    out: Path,
    kind: Literal["pooled", "patches"] = "pooled",
    images: Path | None = None,
    batch: int = 64,
    workers: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "auto",
    crop_borders: bool = False,
) -> None:
    """Features of images by a pre-trained model or a classifier, to search in (`mrm similar`) or to learn from.

    Args:
        model: a model folder, a run or MRM.pth.
        paths: images, folders, globs, lists (.txt), tables of records (.csv, .parquet) and shard folders.
        out: .npy (with the names in a .csv and the facts in a .json beside it), or .parquet.
        kind: pooled, one row of numbers an image; or patches, one for each patch.
        images: where relative names in lists and tables are; else beside them.
        batch: images computed at once.
        workers: processes that read images; by default what this machine has.
        precision: bf16 is faster where the hardware has it, and less exact.
        device: auto, cpu, cuda, cuda:1, ...
        crop_borders: remove burned-in black and white borders first.
    """
    from mrm import runs

    reading = runs.Reading(images, batch, workers, precision, device, crop_borders)
    _say(f"wrote {runs.embed(model, paths, out, kind, reading)}")


def similar(
    queries: tuple[str, ...],
    /,
    index: Path,
    model: Path | None = None,
    top: int = 5,
    out: Path | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "auto",
    crop_borders: bool = False,
) -> None:
    """The images of an index that are nearest to others, by the cosine of their pooled features.

    Args:
        queries: images (or folders, globs, lists of them), or rows of the index by their path there.
        index: what `mrm embed` wrote, .parquet or .npy.
        model: that made the index; needed for images that are not in it.
        top: neighbours of each query.
        out: a table to write (.csv, .parquet, .json, .jsonl) instead of printing.
        precision: as the index was made.
        device: auto, cpu, cuda, cuda:1, ...
        crop_borders: as the index was made.
    """
    from mrm import runs
    from mrm.runs import searching
    from mrm.system import table_files

    reading = runs.Reading(precision=precision, device=device, crop_borders=crop_borders)
    answers = runs.similar(queries, index, model, top, reading)
    if out:
        print(f"wrote {table_files.write_table(out, searching.SIMILAR, answers)}: {len(answers):,} neighbours")
        return
    for answer in answers:
        if answer["rank"] == 1:
            print(answer["query"])
        print(f"  {answer['rank']:3}  {answer['cosine']:.4f}  {answer['path']}  {answer['patient_id'] or ''}".rstrip())


def _say(what: str) -> None:
    """Print, but once, whichever processes there are."""
    from mrm.training.trainer import processes

    if processes().is_main_process:
        print(what)


def export(model: Path, /, out: Path, format: Literal["mrm", "onnx", "hub"] = "mrm", push: str | None = None) -> None:
    """Write a model for others: the published MRM.pth, ONNX, or a folder for the Hugging Face hub.

    An ONNX file is compared with PyTorch before it is kept. A hub folder has a model card, README.md, written from
    what the model folder knows; read it, and choose a licence, before you publish.

    Args:
        model: a model folder or a run.
        out: the file to write; for hub a folder.
        format: mrm, the published layout of a pre-trained model, which loads into timm; onnx; hub.
        push: with hub: upload the folder to this repository, USER/NAME; a new one is private.
    """
    from mrm.inference import hub_folder, onnx_export
    from mrm.models import model_folder

    if push and format != "hub":
        raise ConfigError(f"--push goes with --format hub, not with {format}")
    if format == "mrm":
        print(f"wrote {model_folder.export_published(model_folder.load(model), out)}")
    elif format == "onnx":
        difference = onnx_export.export_onnx(model_folder.load(model), out)
        print(f"wrote {out}: within {difference:.1g} of PyTorch (share of the largest value of an output, or of 1)")
    else:
        print(f"wrote {hub_folder.write_hub_folder(model, out)}; read its README.md before you publish it")
        if push:
            print(f"uploaded to {hub_folder.push(out, push)}")


def explain(
    model: Path,
    paths: tuple[Path, ...],
    /,
    out: Path,
    finding: tuple[str, ...] = (),
    method: Literal["gradcam", "rollout"] = "gradcam",
    opacity: float = 0.5,
    images: Path | None = None,
) -> None:
    """Show where a classifier looks: a heat map for each finding, as overlay and as array, at the image's size.

    Args:
        model: a model folder or a run.
        paths: images, folders, patterns, lists or tables of records.
        out: folder for NAME.FINDING.png, NAME.FINDING.npy, NAME.sheet.png and maps.csv.
        finding: findings to show; else all of the model's.
        method: gradcam (by gradient, each finding its own; needs the extra `explain`) or rollout (attention, the same
            for all findings).
        opacity: of the hottest places, from 0 to 1.
        images: where relative names of lists and tables are.
    """
    from mrm import runs

    table = runs.explain(model, paths, out, finding, method, opacity, images)
    print(f"{table}: a line for each map; look at {out}/*.sheet.png")


def reconstruct(
    model: Path,
    paths: tuple[Path, ...],
    /,
    out: Path,
    seed: int = 0,
    keep: int | None = None,
    images: Path | None = None,
) -> None:
    """Show what a pre-trained model restores: masked, restored, original and residual side by side.

    Args:
        model: a run of `mrm pretrain`, its model folder, or MRM.pth.
        paths: images, folders, patterns, lists or tables of records.
        out: folder for NAME.png and errors.csv.
        seed: of the mask, which is the same for every image.
        keep: visible patches; else as many as in training (49 of 196 in the published model).
        images: where relative names of lists and tables are.
    """
    from mrm import runs

    print(f"{runs.reconstruct(model, paths, out, seed, keep, images)}: a line for each image, drawn beside it")


def fill_in(
    model: Path,
    image: Path,
    report: str,
    /,
    top: int = 5,
    surprise: bool = False,
    others: tuple[Path, ...] = (),
    seed: int = 0,
    tokenizer: Path | None = None,
    json: Path | None = None,
) -> None:
    """Fill in the blanks of a report, with its image and without; or find sentences that do not fit the image.

    Args:
        model: a run of `mrm pretrain`, its model folder, or MRM.pth.
        image: the radiograph.
        report: a text file, or the text itself; blanks are ____ (three or more) or [MASK].
        top: words for each blank, up to 100.
        surprise: score each sentence instead: is it better explained by other images than by this one?
        others: images of other patients, of the kind the model was trained on, to compare with (files, folders,
            lists; 64 are taken at the most); else phantoms stand in for "no image".
        seed: of the words hidden to score sentences.
        tokenizer: for MRM.pth, which holds none.
        json: also write what was found to this file.
    """
    from mrm import runs

    if surprise:
        runs.surprise(model, image, report, others, seed, tokenizer, json)
    else:
        runs.fill_in(model, image, report, top, others, tokenizer, json)


def serve(
    model: Path,
    /,
    mrm: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    without_token: bool = False,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> None:
    """Serve a model on this machine: a page for people, and an interface for programs. Not for clinical use.

    Open the address it prints. Programs find what can be asked at /openapi.json. Nothing is stored, and nothing of a
    image or a report is logged.

    Args:
        model: a classifier, a segmenter or a pre-trained MRM: a model folder or a run.
        mrm: the pre-trained model that fills in reports and restores images.
        host: where to listen. By default this machine alone can ask; any other address needs a token.
        port: of the address; 0 takes a free one and prints it.
        token: who asks must say it (Authorization: Bearer TOKEN); else the environment variable MRM_TOKEN.
        without_token: listen on an address that others reach without one, where something else keeps strangers out.
        limits: how much the service takes on; what is more is refused with a reason.
    """
    from mrm.serve import server

    server.serve(model, mrm, host, port, token or os.environ.get("MRM_TOKEN"), without_token, limits)


COMMANDS = commands(predict, embed, similar, export, explain, reconstruct, fill_in, serve)
