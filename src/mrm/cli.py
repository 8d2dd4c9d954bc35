"""The command `mrm`. Each command is a small function here that calls one in `runs`."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from mrm.checkpoint import CheckpointError
from mrm.corpora.contract import Options
from mrm.evaluate import RunError
from mrm.images import ImageError
from mrm.optimization import TrainingError
from mrm.recipes import (
    FINETUNE,
    PRETRAIN,
    SEGMENT,
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    Recipe,
    SegmentConfig,
    find,
    from_yaml,
    to_yaml,
)
from mrm.records import RecordError
from mrm.reports import ReportError
from mrm.segmenter import SegmenterError

EXPECTED = (
    CheckpointError,
    ImageError,
    ConfigError,
    RecordError,
    ReportError,
    RunError,
    SegmenterError,
    TrainingError,
)


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Phantom records: pre-train, fine-tune with few labels, evaluate, and one page to look at.

    Minutes on a CPU. Open OUT/index.html when it is done.
    """
    from mrm.demo import demo as run

    print(f"open {run(out, seed)}")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    """Make audited records of a public corpus, from the folder it was downloaded to.

    CORPUS is nih, chexpert, rsna, siim, mimic, openi, covid or custom.
    """

    source: Path  # the download; it is only read
    out: Path  # folder for records, label lists, corpus.json and audit.json
    columns: tuple[str, ...] = ()  # type: ignore[assignment]  # custom: ours=theirs, e.g. image_path=File report_content=Text

    def options(self) -> Options:
        """These options as a corpus takes them."""
        pairs = [pair.partition("=") for item in self.columns for pair in item.split(",")]
        if wrong := [ours for ours, equals, theirs in pairs if not (ours and equals and theirs)]:
            raise ConfigError(f"--columns {wrong[0]}: a pair ours=theirs is expected, as image_path=File")
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Options)}
        return Options(**{**values, "columns": {ours: theirs for ours, _, theirs in pairs}})


def run_prepare(argv: list[str]) -> None:
    """`mrm prepare CORPUS --source DIR --out DIR`."""
    from mrm import runs

    corpus, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("CORPUS", argv)
    asked = tyro.cli(PrepareOptions, prog=f"mrm prepare {corpus}", args=rest)
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
    from mrm.corpora import phantom_files

    print(f"{out / 'records.csv'}: {len(phantom_files.write(out, count, seed, size, masks))} phantoms")


def audit(
    sets: tuple[Path, ...], /, json: Path | None = None, pictures: bool = True, within: bool = False, examples: int = 5
) -> None:
    """Look for the same patient, study, file or picture in several sets of records; exit status 1 if any.

    Args:
        sets: CSV, Parquet or label lists.
        json: also write the verdict to this file.
        pictures: also compare what the pictures show.
        within: also look for repeats inside each set.
        examples: pairs named for each overlap.
    """
    from mrm import runs

    if not runs.compare_sets(sets, json, pictures, within, examples).clean:
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


def evaluate(
    model: Path,
    /,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    split: str = "test",
    slide: bool = False,
) -> None:
    """Test a classifier or a segmenter: every metric with its interval, and one page.

    Args:
        model: a model folder or a run.
        records: a label list or CSV with the model's classes; for a segmenter a segmentation folder.
        out: folder for results.json, a CSV with a line for each picture, and index.html.
        images: where relative picture paths are; else beside the records.
        draws: bootstrap resamples, by patient where patients are known.
        seed: of the bootstrap.
        split: of the segmentation folder: training, validation or test.
        slide: outline by sliding windows, finer and slower than the whole picture at once.
    """
    from mrm import runs

    runs.evaluate(model, records, out, images, draws, seed, split=split, slide=slide)
    print(f"open {out / 'index.html'}")


def predict(model: Path, paths: tuple[Path, ...], /, out: Path, slide: bool = False, dicom_seg: bool = True) -> None:
    """Outline pictures with a segmenter: PNG masks at their own size, and DICOM SEG for DICOM.

    Args:
        model: a model folder or a run.
        paths: pictures, or folders of them.
        out: folder for NAME.png (class numbers, in colours) and NAME.seg.dcm.
        slide: outline by sliding windows, finer and slower than the whole picture at once.
        dicom_seg: write DICOM Segmentations for DICOM input; needs the extra `seg`.
    """
    from mrm import runs

    left_out = runs.predict_masks(model, paths, out, slide, dicom_seg)
    print(f"{out}: masks of the pictures" + (f"; {len(left_out)} could not be read" if left_out else ""))


def export(model: Path, /, out: Path, format: str = "mrm") -> None:
    """Write a pre-trained model in the published layout (MRM.pth), which loads into timm.

    Args:
        model: a model folder or a run.
        out: the file to write.
        format: "mrm", the published layout.
    """
    from mrm import checkpoint

    if format != "mrm":
        raise ConfigError(f"no export format {format!r}; there is mrm")
    print(f"wrote {checkpoint.export_published(checkpoint.load(model), out)}")


def recipes(name: str = "", /) -> None:
    """List the recipes, or print one in full."""
    tables: dict[str, tuple[type, dict[str, Recipe]]] = {
        "pretrain": (PretrainConfig, PRETRAIN),
        "finetune": (FinetuneConfig, FINETUNE),
        "segment": (SegmentConfig, SEGMENT),
    }
    shown = [(command, n, r) for command, (_, table) in tables.items() for n, r in table.items() if name in ("", n)]
    if not shown:
        raise ConfigError(f"no recipe {name!r}; `mrm recipes` lists them")
    for command, n, recipe in shown:
        print(f"mrm {command} {n:14} {recipe.about:48} {recipe.expect}")
        if name:
            print(to_yaml(recipe.make(**_places(tables[command][0], "<required>"))))


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "recipes": recipes,
    "phantoms": phantoms,
    "audit": audit,
    "tokenizer": tokenizer,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
}
RECIPE_COMMANDS: dict[str, tuple[type, dict[str, Recipe], str]] = {
    "pretrain": (
        PretrainConfig,
        PRETRAIN,
        "Learn from pictures and reports: restore masked patches and masked words.",
    ),
    "finetune": (FinetuneConfig, FINETUNE, "Learn findings from labels, from a pre-trained encoder."),
    "segment": (SegmentConfig, SEGMENT, "Learn outlines from masks, from a pre-trained encoder."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; expected errors print one line and exit with 2."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = lambda message, *_, **__: f"mrm: warning: {message}\n"
    name = argv[0] if argv else "--help"
    try:
        if name in ("-h", "--help"):
            print(usage())
        elif name in RECIPE_COMMANDS:
            run_recipe(name, argv[1:])
        elif name == "prepare":
            run_prepare(argv[1:])
        elif name in COMMANDS:
            tyro.cli(COMMANDS[name], prog=f"mrm {name}", args=argv[1:])
        else:
            raise ConfigError(f"no command {name!r}; `mrm --help` lists them")
    except EXPECTED as error:
        sys.exit(_failed(error))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stdout = None


def run_recipe(command: str, argv: list[str]) -> None:
    """`mrm pretrain RECIPE ...`, or with `--config FILE.yaml` in the recipe's place."""
    from mrm import runs

    kind, table, about = RECIPE_COMMANDS[command]
    if not argv or argv[0] in ("-h", "--help"):
        print(f"mrm {command} RECIPE [options] | --config FILE.yaml [options]\n{about}\n\nRecipes: {', '.join(table)}")
        print(f"`mrm {command} RECIPE --help` lists the options, `mrm recipes RECIPE` all settings.")
        return
    if argv[0] == "--config":
        if len(argv) < 2 or not Path(argv[1]).is_file():
            raise ConfigError(f"--config needs a YAML file, as a run leaves behind; {' '.join(argv[1:2])} is none")
        default, name, rest = from_yaml(kind, Path(argv[1]).read_text(), argv[1]), argv[1], argv[2:]
    else:
        name, rest = argv[0], argv[1:]
        default = find(table, name).make(**_places(kind, tyro.MISSING))
    config = tyro.cli(kind, default=default, prog=f"mrm {command} {name}", description=about, args=rest)
    print(f"run {getattr(runs, command)(config)}")


def usage() -> str:
    """The list of commands with their first lines."""
    lines = {n: (f.__doc__ or "").splitlines()[0] for n, f in COMMANDS.items()}
    lines["prepare"] = (PrepareOptions.__doc__ or "").splitlines()[0]
    lines |= {n: about for n, (_, _, about) in RECIPE_COMMANDS.items()}
    order = (
        "demo",
        "recipes",
        "prepare",
        "phantoms",
        "audit",
        "tokenizer",
        "pretrain",
        "finetune",
        "segment",
        "evaluate",
        "predict",
        "export",
    )
    table = "\n".join(f"  mrm {n:10} {lines[n]}" for n in order)
    return f"mrm: learn from radiographs and their reports, then classify with few labels\n\n{table}\n\nmrm COMMAND --help explains each."


def _places(kind: type, value: Any) -> dict[str, Any]:
    """A value for each setting that has no default: where the data and the run are."""
    absent = dataclasses.MISSING
    return {f.name: value for f in dataclasses.fields(kind) if f.default is absent and f.default_factory is absent}


def _failed(error: Exception) -> int:
    print(f"mrm: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
