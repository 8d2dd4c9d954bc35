"""Commands that use a model: predict, embed, similar, select, export, explain, reconstruct, fill-in, zero-shot."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mrm.cli.command import commands
from mrm.cli.output import end, end_with, say
from mrm.cli.parsing import require_file
from mrm.cli.shared_options import (
    Batch,
    ByStudy,
    CropBorders,
    Device,
    Flip,
    Images,
    ImageSize,
    Precision,
    SharedWork,
    ViewClassifier,
    Views,
    Workers,
)
from mrm.interop.publication import Publication
from mrm.system.shares import share_of
from mrm.system.table_files import FEATURE_SUFFIXES, check_suffix


def predict(
    model: Path,
    paths: tuple[str, ...],
    /,
    out: Path,
    images: Images = None,
    crop_borders: CropBorders = False,
    by_study: ByStudy = None,
    views: Views = "all",
    view_classifier: ViewClassifier = None,
    flip: Flip = False,
    slide: bool = False,
    dicom_seg: bool = True,
    dicom_sr: Path | None = None,
    store: bool = False,
    deidentified: bool = False,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    share: SharedWork = None,
) -> None:
    """Predict findings of images with a classifier, or outlines with a segmenter.

    A classifier writes a table, a segmenter masks. The table has a row for each image: its path, a probability for
    each finding, the threshold and the decision where the model has thresholds, and an error where the image could
    not be read; the exit status is then 3. Run the same command again to resume it after an interruption, or to try
    images again that could not be reached. `torchrun --nproc-per-node 4 -m mrm predict ...` uses several GPUs.

    Example:
        mrm predict runs/nih-1 images/ --out predictions.csv
        mrm predict runs/nih-1 "dicomweb://pacs/dicom-web?StudyDate=20240101-" --out p.csv --store

    Data:
        model: a model folder or a run.
        paths: images, folders, patterns, lists (.txt), tables of records (.csv, .parquet), packed folders, and addresses of
            archives (dicomweb://HOST/PATH?FILTERS).
        out: a table (.csv, .parquet, .json, .jsonl); for a segmenter a folder, which gets NAME.png (class numbers, in
            colours), NAME.seg.dcm and masks.csv.

    Archives:
        store: store the DICOM reports or Segmentations in the images' archive, unless it has them; extras `archive`, `seg`.
        deidentified: write and store no DICOM object of an image that may name a person, in its tags or in text in its
            corners; the table says why.

    Segmenters:
        slide: outline with sliding windows, finer and slower than the whole image at once.
        dicom_seg: write DICOM Segmentations for DICOM images; needs the extra `seg`.

    Classifiers:
        dicom_sr: a folder for a DICOM structured report of each DICOM image, or of each study with --by-study; needs the
            extra `seg`.
    """
    from mrm import runs

    require_inputs(paths)
    seen = crop_borders, by_study, views, flip, view_classifier
    reading = runs.Reading(images, batch, workers, precision, device, *seen, share=share_of(share))
    written = runs.predict(model, paths, out, reading, slide, dicom_seg, dicom_sr, store, deidentified)
    end_with(written)


def embed(
    model: Path,
    paths: tuple[str, ...],
    /,
    out: Path,
    kind: Literal["pooled", "patches"] = "pooled",
    images: Images = None,
    image_size: ImageSize = None,
    crop_borders: CropBorders = False,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    share: SharedWork = None,
) -> None:
    """Compute features of images, to search in or to learn from.

    Example:
        mrm embed runs/mimic images/ --out index.parquet

    Data:
        model: a pre-trained model or a classifier: a model folder, a run or MRM.pth.
        paths: images, folders, patterns, lists (.txt), tables of records (.csv, .parquet) and packed folders.
        out: .npy (with the names in a .csv and the settings in a .json beside it), or .parquet.
        kind: pooled, one vector for an image; or patches, one for each patch.
    """
    require_inputs(paths)
    check_suffix(out, FEATURE_SUFFIXES)
    from mrm import runs

    reading = runs.Reading(images, batch, workers, precision, device, crop_borders, share=share_of(share))
    written = runs.embed(model, paths, out, kind, reading, image_size)
    end_with(written, f"next: mrm similar IMAGE --index {out} --model {model}")


def similar(
    queries: tuple[str, ...] = (),
    /,
    *,
    index: Path,
    text: tuple[str, ...] = (),
    model: Path | None = None,
    top: int = 5,
    out: Path | None = None,
    crop_borders: CropBorders = False,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Find the images of an index that are nearest to others, or to a text.

    Nearness is the cosine of the pooled features. Give --precision and --crop-borders as they were when the index was
    made. A text is compared by the vectors that contrast trains, so it needs a model pre-trained with --contrast-weight.

    Example:
        mrm similar new/chest.png --index index.parquet --model runs/mimic
        mrm similar --text "left pleural effusion" --index index.parquet --model runs/contrast

    Data:
        queries: images (or folders, patterns, lists of them), or rows of the index by their path in it.
        index: what `mrm embed` wrote, .parquet or .npy.
        text: texts to search for instead of images, in the language of the reports.
        model: the model that made the index; needed for images that are not in it, and for texts.
        top: neighbours of each query.
        out: a table to write (.csv, .parquet, .json, .jsonl) instead of printing.
    """
    if out:
        check_suffix(out)
    from mrm import runs
    from mrm.runs import output_lock, searching
    from mrm.system import table_files

    reading = runs.Reading(precision=precision, device=device, crop_borders=crop_borders)
    answers = runs.similar(queries, index, model, top, reading, text)
    if out:
        with output_lock.held_files([out]):
            print(f"wrote {table_files.write_table(out, searching.SIMILAR, answers)}: {len(answers):,} neighbours")
        return
    for answer in answers:
        if answer["rank"] == 1:
            print(answer["query"])
        print(f"  {answer['rank']:3}  {answer['cosine']:.4f}  {answer['path']}  {answer['patient_id'] or ''}".rstrip())


def select(
    model: Path,
    pool: tuple[str, ...],
    /,
    out: Path,
    n: int = 50,
    images: Images = None,
    crop_borders: CropBorders = False,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Choose what to label next: images that a model doubts and that differ.

    A classifier doubts an image whose probabilities are near 0.5; a pre-trained model chooses by features alone. Of each
    patient one image is chosen. The same pool gives the same choice.

    Example:
        mrm select runs/classifier pool/ --n 50 --out next.csv

    Data:
        model: a classifier or a pre-trained model: a model folder or a run.
        pool: images without labels: images, folders, patterns, lists and tables of records.
        out: a table to write (.csv, .parquet, .json, .jsonl), best first.
        n: images to choose.
    """
    from mrm import runs

    require_inputs(pool)
    reading = runs.Reading(images, batch, workers, precision, device, crop_borders)
    written = runs.select(model, pool, out, n, reading)
    say(f"chose {n:,} of the images of {written}" if written.written else str(written))
    end(written.unreadable)


def export(
    model: Path,
    /,
    out: Path,
    format: Literal["mrm", "onnx", "hub", "monai"] = "mrm",
    *,
    hub: Publication = Publication(),
) -> None:
    """Write a model as MRM.pth, ONNX, a Hugging Face hub folder or a MONAI bundle.

    An ONNX file is compared with PyTorch before it is kept, a hub folder and the network of a bundle with what timm makes
    of them. timm, transformers and mrm open a hub folder. The model card,
    README.md, is written from what the model folder knows: read it before you publish it. None of these holds the
    fingerprints of training records: share an export, never a run folder.

    Example:
        mrm export runs/nih-1 --format hub --out chest-findings --license cc-by-nc-4.0

    Data:
        model: a model folder or a run.
        out: the file to write; for hub and monai a folder.
        format: mrm, the published layout of a pre-trained model, which loads into timm; onnx; hub; or monai.
    """
    from mrm.interop import hub_folder, monai_bundle, onnx_export
    from mrm.models import model_folder
    from mrm.runs.output_lock import held_files

    hub.check_goes_with(format)
    with held_files([out]):
        if format == "mrm":
            print(f"wrote {model_folder.export_published(model_folder.load_as(model, *model_folder.TRAINED), out)}")
        elif format == "onnx":
            difference = onnx_export.export_onnx(model_folder.load_as(model, *model_folder.TRAINED), out)
            print(f"wrote {out}: within {difference:.1g} of PyTorch (share of the largest value of an output, or of 1)")
        else:
            write = hub_folder.write_hub_folder if format == "hub" else monai_bundle.write_bundle
            print(f"wrote {write(model, out, hub)}, without the fingerprints of training records")
            print("read its README.md, and the words in tokenizer.json if there is one, before you publish it")
            if not hub.license:
                print("it has no licence yet: say which one with --license before you publish it")
            if hub.push:
                print(f"uploaded to {hub_folder.push(out, hub.push)}")


def explain(
    model: Path,
    paths: tuple[Path, ...],
    /,
    out: Path,
    images: Images = None,
    finding: tuple[str, ...] = (),
    method: Literal["gradcam", "rollout", "attention"] = "gradcam",
    opacity: float = 0.5,
    dicom: bool = False,
    store: bool = False,
    deidentified: bool = False,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Show where a classifier looks: a heat map for each finding.

    Maps are written as overlays and as arrays, at the size of the image.

    Example:
        mrm explain runs/nih-1 chest.png --finding Effusion --out heat

    Data:
        model: a model folder or a run.
        paths: images, folders, patterns, lists or tables of records.
        out: the folder to write: NAME.FINDING.png, NAME.FINDING.npy, NAME.sheet.png and maps.csv.

    Heat maps:
        finding: findings to show; by default all of the model's.
        method: gradcam (by gradient, different for each finding; needs the extra `explain`), rollout (attention of all
            blocks, the same for all findings) or attention (of the head, where it was trained with --pooling class).
        opacity: of the hottest regions, from 0 to 1.
        dicom: also write NAME.FINDING.dcm for DICOM images, a Secondary Capture; needs the extra `seg`.
        store: store these in the archive that the images come from (dicomweb://HOST/PATH), unless it has them.
        deidentified: write and store none of an image that may name a person, in its tags or in text in its corners.
    """
    from mrm import runs

    written = runs.explain(
        model, paths, out, finding, method, opacity, images, device, workers, dicom, store, deidentified
    )
    print(f"wrote {written}; look at {out}/*.sheet.png")
    end(written.unreadable)


def reconstruct(
    model: Path,
    paths: tuple[Path, ...],
    /,
    out: Path,
    images: Images = None,
    keep: int | None = None,
    seed: int = 0,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Show what a pre-trained model restores of masked images.

    Masked, restored, original and residual image stand side by side.

    Example:
        mrm reconstruct runs/mimic chest.png --out restored

    Data:
        model: a run of `mrm pretrain`, its model folder, or MRM.pth.
        paths: images, folders, patterns, lists or tables of records.
        out: the folder to write: NAME.png and errors.csv.

    Mask:
        keep: visible patches; by default as many as in training (49 of 196 in the published model).
        seed: of the mask, which is the same for every image.
    """
    from mrm import runs

    written = runs.reconstruct(model, paths, out, seed, keep, images, device, workers)
    print(f"wrote {written}; the images are beside it")
    end(written.unreadable)


def fill_in(
    model: Path,
    image: Path,
    report: str,
    /,
    others: tuple[Path, ...] = (),
    tokenizer: Path | None = None,
    json: Path | None = None,
    top: int = 5,
    surprise: bool = False,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Fill in the blanks of a report, or find sentences that do not fit the image.

    Blanks are filled in with the image and without it, for comparison.

    Example:
        mrm fill-in runs/mimic chest.png "The heart is ____. No pleural ____."
        mrm fill-in runs/mimic chest.png report.txt --surprise

    Data:
        model: a run of `mrm pretrain`, its model folder, or MRM.pth.
        image: the radiograph.
        report: a text file, or the text itself; blanks are ____ (three or more) or [MASK].
        others: images of other patients, similar to those that the model was trained on, to compare with (files, folders,
            lists; at most 64 are used); without them, phantoms stand for "no image".
        tokenizer: for MRM.pth, which has none.
        json: also write the results to this file.

    What is shown:
        top: words for each blank, up to 100.
        surprise: score each sentence instead: do other images explain it better than this one?
        seed: of the words that are hidden to score sentences.
    """
    from mrm import runs

    if surprise:
        runs.surprise(model, image, report, others, seed, tokenizer, json, device)
    else:
        runs.fill_in(model, image, report, top, others, tokenizer, json, device)


def zero_shot(
    model: Path,
    paths: tuple[str, ...],
    /,
    findings: str,
    out: Path,
    test: Path | None = None,
    others: tuple[Path, ...] = (),
    tokenizer: Path | None = None,
    images: Images = None,
    crop_borders: CropBorders = False,
    seed: int = 0,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Score findings without labels, by how likely sentences about them are.

    Each finding has sentences that state it and sentences that deny it. Its score is what the image adds to the likelihood
    of the former, less what it adds to that of the latter, in nats a word: an order of the images, not a probability. With
    --test, a finding whose AUROC there may be chance gets no scores.

    Example:
        mrm zero-shot runs/mimic images/ --findings findings.yaml --test labelled.csv --out scores.csv

    Data:
        model: a run of `mrm pretrain`, its model folder, or MRM.pth.
        paths: images, folders, patterns, lists (.txt), tables of records (.csv, .parquet) and packed folders.
        findings: a finding file with sentences for each finding, or english or german (docs/label.md).
        out: a table (.csv, .parquet, .json, .jsonl).
        test: labelled records, whose columns are named as the findings.
        others: images that scores are relative to, without a test; by default the scored images themselves.
        tokenizer: for MRM.pth, which has none.

    Scores:
        seed: of the words that are hidden to score sentences.
    """
    from mrm import runs

    require_inputs(paths)
    reading = runs.Reading(images, batch, workers, precision, device, crop_borders)
    written = runs.zero_shot(model, paths, findings, out, test, others, seed, tokenizer, reading)
    end_with(written)


def require_inputs(paths: tuple[str, ...]) -> None:
    """Raises ConfigError for the first path that does not exist, before anything heavy is imported."""
    for path in paths:
        require_file(path, "PATHS")


COMMANDS = commands(predict, embed, similar, select, export, explain, reconstruct, fill_in, zero_shot)
