"""What all training runs share: the run folder, the origin of a model, the records it saw, how it is written."""

from __future__ import annotations

import csv
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import mrm
from mrm import recipes
from mrm.audit import site_key
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import KeptHashes
from mrm.audit.overlaps import AuditReport
from mrm.data import masks
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.models import model_folder, noise
from mrm.models.card import Card, OutlineThreshold
from mrm.models.init_paths import init_path
from mrm.recipes import FinetuneConfig, SegmentConfig
from mrm.runs.encoder_facts import init_trained_on
from mrm.runs.first_rank import first_rank_first
from mrm.runs.run_records import FOLDER
from mrm.system import hardware
from mrm.system.errors import RunError
from mrm.system.files import write_by, write_whole
from mrm.system.output_folder import Settings, open_folder, require_own, writing
from mrm.system.progress import Progress
from mrm.system.text_table import text_table
from mrm.training.checkpoints import Checkpoints
from mrm.training.trainer import processes

Model = TypeVar("Model", bound=nn.Module)
TunedConfig = TypeVar("TunedConfig", FinetuneConfig, SegmentConfig)
FREE = (
    "training.workers",
    "training.micro_batch",
    "training.keep",
    "training.log_every",
    "training.compile",
    "training.sharding",
    "images",
    "floors",
)  # settings that may change when a run is resumed
CONFIG = "config.yaml"  # of a run: its settings
LENGTH = (
    *("max_steps", "training.steps", "training.epochs", "training.warmup_steps", "training.warmup_epochs"),
    *("training.validate_every", "training.save_every", "patience", "patience_gain"),
)  # settings that may change when a run is prolonged
UNTIL = "config-until-"  # the settings of a run before it was prolonged: config-until-step-00000006.yaml
ADVICE = (
    "choose another --out, or repeat the command with the settings of this folder. To prolong the run, repeat it with more "
    "steps or epochs and --extend"
)


def require_same_data(config: Any, data: Collection[str]) -> None:
    """Raises OutputError for an output folder that holds something else, or a run whose settings named in `data` are others.

    So that nothing is converted for a run that `open_run` will not open.
    """
    if processes().is_main_process:  # by now the others may find what it has begun
        require_own(Path(config.out), _settings(replace(config, extend=False), data.__contains__))


def open_run(config: Any) -> Any:
    """Make the run's folder, or resume the run that it holds; with `config.extend` it may have become longer.

    Returns the settings with the precision that the run computes in, as the folder records them. Raises ConfigError for a
    precision that the machine does not have, OutputError if the folder holds something else, and RunError if there is no
    run to prolong.
    """
    config = _with_precision(config)
    out, settled = Path(config.out), replace(config, extend=False)
    may_change = {*FREE, "out", *(LENGTH if config.extend else ())}
    with processes().main_process_first():  # rank 0 makes the folder, the other ranks then find it
        if processes().is_main_process:
            Checkpoints(out, config.training.keep).relink_last()
        if config.extend and not (out / "last").exists():
            raise RunError(f"{out}: holds no run with a checkpoint, so there is nothing to prolong; leave out --extend")
        open_folder(out, _settings(settled, lambda name: name not in may_change))
        if config.extend and processes().is_main_process:
            _settle(out, settled)
    return config


def _settings(config: Any, matters: Callable[[str], bool]) -> Settings:
    """By what the folder of a run is known: its settings, of which those that matter must be the same."""

    def changes(earlier: str) -> list[str]:
        before = recipes.from_yaml(type(config), earlier, str(Path(config.out) / CONFIG))
        return [line for line in recipes.differences(before, config) if matters(line.split(":")[0])]

    return Settings("run", CONFIG, recipes.to_yaml(config), changes, advice=ADVICE, beside=(FOLDER,))


def _with_precision(config: Any) -> Any:
    """The settings with a precision in place of "auto"; a line says which where that is not bf16."""
    device, asked = processes().device, config.training.precision
    precision = hardware.settled(asked, device)
    if asked == "auto" and (line := hardware.without_bf16(device, precision)) and processes().is_main_process:
        print(line)
    return replace(config, training=replace(config.training, precision=precision))


def _settle(out: Path, config: Any) -> None:
    """Write the settings of a run that is prolonged, and keep those that it had up to its last checkpoint beside them.

    Raises RunError if the run would not be longer.
    """
    file, text = out / CONFIG, recipes.to_yaml(config)
    earlier = file.read_text(encoding="utf-8")
    if earlier != text:
        step = (out / "last").resolve().name  # step-00000006
        done, planned = int(step.rpartition("-")[2]), config.training.shortened(config.max_steps)
        before = recipes.from_yaml(type(config), earlier, str(file)).training
        if planned.steps is None and before.steps is None and (planned.epochs or 0) < (before.epochs or 0):
            raise RunError(
                f"{out}: was to take {before.epochs:g} epochs, and {planned.epochs:g} are not more; ask for more"
            )
        if planned.steps is not None and planned.steps < done:
            raise RunError(f"{out}: the run has done {done} steps, and {planned.steps} are not more; ask for more")
        kept = out / f"{UNTIL}{step}.yaml"
        if not kept.exists():  # else it was prolonged twice without a step in between
            write_whole(kept, earlier.encode())
        write_whole(file, text.encode())


def _prolonged_at(out: Path) -> list[int]:
    """The steps at which a run was prolonged."""
    return [int(file.stem.rpartition("-")[2]) for file in sorted(out.glob(f"{UNTIL}step-*.yaml"))]


def origin(config: Any, records: Records, path: Path) -> dict[str, Any]:
    """The origin of a model, for its card: data, initial weights, seed, versions, command."""
    import timm

    init = None if getattr(config, "scratch", False) or not config.init else config.init
    return {
        "records": Path(path).name,
        "n": len(records),
        "with_report": records.with_report,
        "patients": records.patient_count,
        "fingerprint": records.fingerprint(),
        "audit": audit_beside(Path(path)),
        "init": init_path(init).path.name if init else None,
        "init_trained_on": init_trained_on(init) if init else None,
        "seed": config.seed,
        "prolonged_at": _prolonged_at(Path(config.out)),
        "versions": {"mrm": mrm.__version__, "torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()},
        "command": shlex.join([_program(), *sys.argv[1:]]),
    }  # fmt: skip


def _program() -> str:
    """The name of the program, as a user types it."""
    name = Path(sys.argv[0]).name
    return "mrm" if name == "__main__.py" else name


def audit_beside(path: Path) -> dict[str, Any] | None:
    """What the `audit.json` beside the records says about this set, or about all sets if it does not name this one.

    None if there is no audit. Raises RecordError for a damaged one.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "audit.json").is_file():
            report = AuditReport.load(folder / "audit.json")
            name = path.absolute().relative_to(folder.absolute()).as_posix().removesuffix(path.suffix)
            overlaps = [o for o in report.overlaps if name not in report.sets or name in (o.first, o.second)]
            return {"clean": all(o.series for o in overlaps), "overlaps": [str(o) for o in overlaps]}
    return None


def learning_alike(config: TunedConfig) -> TunedConfig:
    """The settings of a run; without layer decay where all weights start as random ones (`--scratch`, or no `--init`).

    Layer decay lets the first blocks keep what they have learnt in pre-training: random ones have learnt nothing.
    """
    decay = config.training.layer_decay
    if decay is None or (config.init and not config.scratch):
        return config
    if processes().is_main_process:
        print(
            f"all weights start as random ones, so every block has the full learning rate (layer decay {decay:g} left out)"
        )
    return replace(config, training=replace(config.training, layer_decay=None))


def on_encoder(kind: type[Model], shape: Any, config: FinetuneConfig | SegmentConfig) -> Model:
    """A model initialised from the run's seed; its encoder's weights are those of `--init`, if given without `--scratch`."""
    with noise.seeded(config.seed):
        model = kind(shape)
    model.get_submodule("encoder").set_grad_checkpointing(config.training.checkpointing)  # type: ignore[operator]
    if config.init and not config.scratch:
        print(f"{config.init}: {model_folder.start_from(model, config.init)}")
    return model


def note_seen(config: Any, stage: str, records: Records, hashes: HashKeeper | None = None) -> Path:
    """Write fingerprints of the records that the model will see, beside those that its initial model saw.

    `hashes` are by default those of `run_hashes`. Returns their folder. It is copied into every model folder of the run, so that test sets can be compared with it.
    """
    folder = Path(config.out) / "seen"
    with first_rank_first(config.out):
        if not (folder / f"{stage}.npz").is_file():
            site_key.load_or_make()  # a problem with it must show before images are read
            before = config.init if config.init and not getattr(config, "scratch", False) else None
            if before and (seen := model_folder.seen_at(before)):
                copy_seen(seen, folder)
            complete = config.on_error == "stop"
            prints = prints_of(config, records, f"the {stage} records", hashes or run_hashes(config), complete)
            prints.save(folder / f"{stage}.npz")
            KeptHashes(config.out).forget()
    return folder


def run_hashes(config: Any) -> HashKeeper:
    """The hashes of the images of a run, kept beside its records, so that nothing reads these images again.

    Where that is impossible the run keeps them until they are forgotten, so that a start that is interrupted resumes.
    """
    return HashKeeper(KeptHashes(config.out))


def prints_of(config: Any, records: Records, what: str, hashes: HashKeeper, kept: bool = False) -> Fingerprints:
    """The fingerprints of the records of a run, as the `fingerprint` of `mrm.audit` takes them."""
    with writing(Path(config.out)), Progress(f"fingerprinting {what}") as progress:
        return fingerprint(records, config.audit == "images", progress=progress, hashes=hashes, kept=kept)


def copy_seen(seen: Path, folder: Path) -> None:
    """Copy the fingerprints in one folder to another, without the permissions that they had there."""
    for file in sorted(seen.glob("*.npz")):
        write_by(folder / file.name, partial(shutil.copyfile, file))


def model_writer(
    card: Card, seen: Path, tokenizer: Tokenizer | None = None, thresholds: Mapping[str, OutlineThreshold] | None = None
) -> Callable[[Path, nn.Module, int], None]:
    """How the trainer writes a checkpoint's model folder; `thresholds` are those that the last validation chose."""

    def write(folder: Path, model: nn.Module, step: int) -> None:
        assert isinstance(model, model_folder.Model)
        now = replace(card, origin={**card.origin, "step": step}, outline_thresholds=dict(thresholds or {}))
        model_folder.write_into(folder, model, now, tokenizer)
        copy_seen(seen, folder / "seen")

    return write


def print_best(run: Path, n: int, positives: int | None) -> None:
    """Print how the best checkpoint does on the `n` validation records; `positives` are the positive labels in them, if any."""
    file = run / "validation.csv"
    if not (processes().is_main_process and file.is_file()):
        return
    step = str(model_folder.read_card(model_folder.find_model(run)).origin["step"])
    with open(file, newline="") as text:
        best = next((row for row in csv.DictReader(text) if row["step"] == step), {})
    metrics = [(name, value) for name, value in best.items() if name.startswith("val_")]
    rows = [
        [name, step, f"{float(value):.3f}", f"{n:,}", "" if positives is None else f"{positives:,}"]
        for name, value in metrics
    ]
    print(text_table(("best checkpoint", "step", "value", "n", "positives"), rows))
    print("It was chosen on these records, so these numbers have no interval; `mrm evaluate` tests on others.")


def warn_of(messages: Sequence[str]) -> None:
    """Warn of each overlap of records, or of each image that was left out."""
    for message in messages:
        warnings.warn(message, stacklevel=3)


def spare_inputs(paths: Sequence[Path | str], records: Records, written: Sequence[Path]) -> None:
    """Raises RunError if a file that will be written is an image, list or table that is read."""
    existing = {file.resolve(): file for file in written if file.exists()}
    if not existing:
        return
    for source in (*paths, *(r.image for r in records)):
        if isinstance(source, Path | str) and Path(source).resolve() in existing:
            file = existing[Path(source).resolve()]
            raise RunError(f"{file}: is an input, and would be overwritten; choose another --out")


def output_names(names: Sequence[str]) -> list[str]:
    """A different name for the results of each image: that of its file without suffix, numbered if it is taken."""
    taken: set[str] = set()
    different = []
    for path in names:
        stem = plain(masks.stem(Path(path).name)) or "image"
        name, number = stem, 1
        while name.lower() in taken:  # some file systems do not distinguish capitals from small letters
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        different.append(name)
    return different


def plain(name: str) -> str:
    """The name with only those characters that every file system accepts."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._")[:120]
