"""Commands that train, and the recipes they train by: demo, recipes, pretrain, finetune, ensemble, segment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mrm.cli.command import commands
from mrm.cli.output import say
from mrm.cli.recipe_options import places
from mrm.models import known_weights
from mrm.recipes import FINETUNE, PRETRAIN, SEGMENT, FinetuneConfig, PretrainConfig, Recipe, SegmentConfig
from mrm.system.errors import ConfigError
from mrm.system.text_table import text_table

RECIPES = {
    "pretrain": (PretrainConfig, PRETRAIN),
    "finetune": (FinetuneConfig, FINETUNE),
    "segment": (SegmentConfig, SEGMENT),
}


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Draw phantoms, pre-train on them, and show what that has taught on one page.

    This takes minutes on a CPU and needs no data. It prints restored words with the true image and another one, a search with
    texts, and findings from few labels beside a random encoder and features without a network.

    Example:
        mrm demo --out demo

    Demo:
        out: the folder to write; open its index.html at the end.
        seed: of the phantoms and the training.
    """
    from mrm import runs

    print(f"open {runs.demo(out, seed)}")


def recipes(name: str = "", /) -> None:
    """List the recipes, or print one in full.

    Example:
        mrm recipes nih-1

    Recipe:
        name: one of the recipes of the list.
    """
    chosen = {
        command: {label: recipe for label, recipe in table.items() if name in ("", label)}
        for command, (_, table) in RECIPES.items()
    }
    if not any(chosen.values()):
        names = dict.fromkeys(label for _, table in RECIPES.values() for label in table)
        raise ConfigError(f"unknown recipe {name!r}; choose from {', '.join(names)}")
    tables = []
    for command, table in chosen.items():
        if rows := [[label, recipe.about, recipe.expect] for label, recipe in table.items()]:
            tables.append(text_table((f"mrm {command}", "training", "published result"), rows, text_columns=3))
    print("\n\n".join(tables))
    if name:
        for command, table in chosen.items():
            for label, recipe in table.items():
                print(f"\n# mrm {command} {label}\n{_settings(RECIPES[command][0], recipe)}", end="")


def _settings(kind: type, recipe: Recipe) -> str:
    """All settings of a recipe as YAML."""
    from mrm.recipes import to_yaml

    return to_yaml(recipe.make(**places(kind)))


def weights(action: Literal["list", "get"] = "list", name: str = "", /, out: Path | None = None) -> None:
    """List published encoders that --init takes, or get one from the hub.

    Nothing is fetched unless you `get` it. What is not known of weights is said to be unknown.

    Example:
        mrm weights
        mrm weights get rad-dino

    Weights:
        action: list them, or get one.
        name: the weights to get, or the only ones to list.
        out: the folder to fetch into; by default the cache of the Hugging Face hub.
    """
    if action == "list":
        chosen = [known_weights.find(name)] if name else known_weights.KNOWN.values()
        print("\n\n".join(map(_weights_text, chosen)))
        return
    known = known_weights.find(name)
    from mrm import runs

    path = runs.fetch_weights(name, out)
    print(f"{name}: {path}\nlicence: {known.licence or 'unknown'}; {known.address}\nnext: --init {path}")


def _weights_text(known: known_weights.KnownWeights) -> str:
    """What is known of weights, as text to print."""
    got = f"; mrm weights get {known.name}" if known.repository else ""
    lines = {
        "trained on": ", ".join(known.trained_on),
        "note": known.note,
        "licence": known.licence or "unknown",
        "where": f"{known.address}{got}",
        "SHA-256": ", ".join(f"{file} {digest}" for file, digest in known.sha256.items()) or "unknown",
        "load": "--init FOLDER" if known.is_folder else f"--init {known.files[0]}",
    }
    return "\n".join([f"{known.name}: {known.about}", *(f"  {label}: {text}" for label, text in lines.items() if text)])


def pretrain(config: PretrainConfig) -> None:
    """Learn from images and reports: restore masked patches and masked words.

    The recipe comes first, the settings of --config FILE override it, and options override both; RECIPE and --config
    may each be left out and come in either order. Run the same command again to resume a run that was stopped.

    Example:
        mrm pretrain tiny --records phantoms/records.csv --out runs/tiny
        mrm pretrain --config runs/tiny/config.yaml --out runs/again --seed 1
    """
    from mrm import runs

    run = runs.pretrain(config)
    say(f"run {run}", f"next: mrm finetune RECIPE --train TRAIN.csv --val VAL.csv --init {run} --out RUN")


def finetune(config: FinetuneConfig) -> None:
    """Learn findings, classes, numbers or levels, starting from a pre-trained encoder.

    The recipe comes first, the settings of --config FILE override it, and options override both; RECIPE and --config
    may each be left out and come in either order. Run the same command again to resume a run that was stopped. The
    best checkpoint is the one with the highest validation AUROC, of a regression with the highest R2.

    Example:
        mrm finetune nih-1 --train train_1.csv --val val.csv --init runs/mimic --out runs/nih-1
        mrm finetune nih-1 --config settings.yaml --training.lr 1e-2
    """
    from mrm import runs
    from mrm.targets import TARGETS

    run = runs.finetune(config)
    say(
        f"run {run}",
        *([f"next: mrm calibrate {run} --val {config.val}"] if TARGETS[config.target].independent else []),
        f"next: mrm evaluate {run} --records TEST.csv --out {run}/test",
    )


def segment(config: SegmentConfig) -> None:
    """Learn outlines from masks, starting from a pre-trained encoder.

    The recipe comes first, the settings of --config FILE override it, and options override both; RECIPE and --config
    may each be left out and come in either order. Run the same command again to resume a run that was stopped. The
    best checkpoint is the one with the highest validation Dice.

    Example:
        mrm segment siim-10 --train siim --val siim --init runs/mimic --out runs/siim-10
    """
    from mrm import runs

    run = runs.segment(config)
    say(f"run {run}", f"next: mrm evaluate {run} --records {config.val} --out {run}/test")


def ensemble(models: tuple[Path, ...], /, out: Path) -> None:
    """Average classifiers: write several as one model.

    The logits of each are divided by its temperatures and averaged. The result is a model folder that `mrm predict`,
    `evaluate`, `calibrate` and `serve` take; calibrate it as a whole. The models have the same classes, size and
    preprocessing.

    Example:
        mrm ensemble runs/a runs/b runs/c --out runs/ensemble

    Models:
        models: two or more classifiers: model folders or runs.
        out: the model folder to write.
    """
    from mrm import runs

    folder = runs.ensemble(models, out)
    print(f"wrote {folder}: {len(models)} models", f"next: mrm calibrate {folder} --val VAL.csv", sep="\n")


COMMANDS = {
    **commands(demo, recipes, weights),
    **commands(pretrain, recipes=PRETRAIN),
    **commands(finetune, recipes=FINETUNE),
    **commands(ensemble),
    **commands(segment, recipes=SEGMENT),
}
