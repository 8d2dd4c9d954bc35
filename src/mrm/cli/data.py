"""Commands that make data ready: prepare, phantoms, audit, tokenizer, pack."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mrm.cli.command import Command, commands, without_empty_defaults
from mrm.corpora.contract import Options
from mrm.system.errors import ConfigError


@without_empty_defaults
@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Make audited records of a public corpus, from the folder it was downloaded to.

    CORPUS is nih, chexpert, rsna, siim, mimic, openi, covid or custom.
    """

    source: Path  # the download; it is only read
    out: Path  # folder for records, label lists, corpus.json and audit.json
    columns: Annotated[
        tuple[str, ...], tyro.conf.arg(help="custom: ours=theirs, e.g. image_path=File report_content=Text")
    ] = ()  # type: ignore[assignment]

    def options(self) -> Options:
        """These options as a corpus takes them."""
        pairs = [pair.partition("=") for item in self.columns for pair in item.split(",")]
        if wrong := [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]:
            raise ConfigError(f"--columns {wrong[0]}: a pair ours=theirs is expected, as image_path=File")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Options)}
        return Options(**{**values, "columns": {ours: theirs for ours, _, theirs in pairs}})


def prepare(argv: list[str]) -> None:
    """`mrm prepare CORPUS --source DIR --out DIR`."""
    from mrm import runs

    corpus, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("CORPUS", argv)
    asked = tyro.cli(PrepareOptions, prog=f"mrm prepare {corpus}", args=rest, config=(tyro.conf.DisallowNone,))
    runs.prepare(corpus, asked.source, asked.out, asked.options())


def phantoms(out: Path, count: int = 1000, size: int = 512, seed: int = 0, masks: tuple[str, ...] = ()) -> None:
    """Draw phantom radiographs with reports, labels and masks.

    Args:
        out: folder for records.csv, images/ and a folder for each kind of mask.
        count: studies; a patient has one to three.
        size: pixels.
        seed: another seed gives other patients.
        masks: lungs, pneumothorax.
    """
    from mrm.corpora.phantoms import phantom_files

    print(f"{out / 'records.csv'}: {len(phantom_files.write(out, count, seed, size, masks))} phantoms")


def audit(
    sets: tuple[Path, ...], /, json: Path | None = None, images: bool = True, within: bool = False, examples: int = 5
) -> None:
    """Look for the same patient, study, file or image in several sets of records; exit status 1 if any.

    Args:
        sets: CSV, Parquet or label lists.
        json: also write the verdict to this file.
        images: also compare what the images show.
        within: also look for repeats inside each set.
        examples: pairs named for each overlap.
    """
    from mrm import runs

    if not runs.audit(sets, json, images, within, examples).clean:
        sys.exit(1)


def tokenizer(records: Path, /, out: Path, size: int = 30_000, sections: tuple[str, ...] = ()) -> None:
    """Learn a WordPiece vocabulary from the reports of RECORDS (a training.csv).

    Args:
        records: a CSV with the columns image_path, report_content.
        out: the tokenizer file to write.
        size: pieces at the most.
        sections: only these parts of each report (findings, impression, ...).
    """
    from mrm import runs

    learned = runs.train_tokenizer(records, out, size, sections)
    print(f"{out}: {learned.size} pieces")


def pack(
    records: Path | None = None,
    /,
    out: Path | None = None,
    size: int = 512,
    format: Literal["jpeg", "png"] = "jpeg",
    quality: int = 90,
    rows: int | None = None,
    images: Path | None = None,
    classes: tuple[str, ...] = (),
    workers: int | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    check: Path | None = None,
) -> None:
    """Pack RECORDS (or a segmentation folder) into a few large files that train fast.

    Each image is decoded, shrunk, made grey and encoded once. OUT then takes the place of RECORDS in every
    command. Stopped, the same command goes on; what could not be read is listed in OUT/failures.csv.

    Args:
        records: a CSV, Parquet file or label list, or a folder with images/ and annotations/.
        out: the folder to write.
        size: pixels of the shorter side; smaller images stay as they are. At least the size that models train at.
        format: jpeg, or png, which loses nothing and takes about three times the space.
        quality: of jpeg, 1 to 100.
        rows: images a file; 2048 unless given, fewer where a file might grow beyond 1 GB.
        images: where relative image paths are; else beside the records.
        classes: names of the labels of a label list.
        workers: processes; one a core unless given.
        on_error: skip leaves out bad lines of RECORDS.
        check: read this shard folder in place of packing, and compare every checksum; exit status 2 if one differs.
    """
    from mrm.data.config import PackConfig
    from mrm.runs import packing
    from mrm.system.errors import PackError

    if check and not (records or out):
        packing.check_shards(check)
    elif records and out and not check:
        config = PackConfig(size, format, quality, rows)
        packing.pack(records, out, config, images, classes, workers, on_error)
    else:
        raise PackError("give RECORDS and --out DIR to pack, or --check DIR alone")


COMMANDS = {
    "prepare": Command((PrepareOptions.__doc__ or "").splitlines()[0], prepare),
    **commands(phantoms, audit, tokenizer, pack),
}
