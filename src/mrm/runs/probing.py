"""What a frozen encoder tells of findings with 1, 10 and 100 % of the labels: the story of `mrm probe`.

All encoders get the same records, draws of labels, settings to choose from and recipe; each sees images as it was trained.

A unit is one encoder, one method, one share of the labels and one seed. Each unit leaves its test scores in a file of its
own, so the same command resumes where it was stopped; table and plot are made once all units are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.overlaps import audit
from mrm.data.records import Records
from mrm.evaluation.repeats import repeats
from mrm.models import model_folder
from mrm.pages.probe import write_probe_page
from mrm.runs.encoder_facts import seen_of_test
from mrm.runs.kept_models import read_arrays, remove_checkpoints, write_arrays
from mrm.runs.output_lock import alone_in
from mrm.runs.probe_plan import FINETUNE, RANDOM, ProbeConfig, check, labelled_records, named_models, planned, subsets
from mrm.runs.probe_results import curves, summarise, table
from mrm.runs.probe_units import features_of, fine_tuned, floors_of, probed, run_of, unit_file
from mrm.runs.run_folder import warn_of
from mrm.system.files import write_json
from mrm.system.output_folder import json_settings, open_folder


@alone_in("config.out")
def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe frozen features of encoders, and fine-tune them if a recipe is named. Returns the results.

    Writes `probe.json`, `index.html`, `label_efficiency.png` and `units/`. Raises RunError for settings or records that
    cannot be probed, ProbeError for labels that nothing can be learned from.
    """
    check(config)
    records = labelled_records(config)
    models = named_models(config)
    open_probe(config, records, models)
    leaks = overlaps_of_test(records, models)
    warn_of(leaks)
    subsets_by_seed = {seed: subsets(records["train"], config.fractions, seed) for seed in range(config.seeds)}
    features = {name: features_of(config, name, path, records) for name, path in models.items()}
    if config.floors:
        features |= floors_of(config, records)
    units = list(planned(config, models))
    for number, unit in enumerate(units, 1):
        file = unit_file(config, unit)
        if not file.is_file():
            chosen = subsets_by_seed[unit.seed][unit.fraction]
            if unit.method == FINETUNE:
                scores = fine_tuned(config, unit, models[unit.model], records, chosen)
            else:
                scores = probed(unit, features[unit.model], records, chosen)
            write_arrays(file, scores)
        remove_checkpoints(run_of(config, unit))
        val_auroc = float(read_arrays(file)["val_auroc"])
        print(f"{number}/{len(units)}: {unit.name}: validation AUROC {val_auroc:.3f}", flush=True)
    results = summarise(config, records, models, subsets_by_seed, units, leaks)
    write_json(Path(config.out) / "probe.json", results)
    write_probe_page(config.out, results, curves(results))
    print(table(results))
    return results


def open_probe(config: ProbeConfig, records: Mapping[str, Records], models: Mapping[str, Path | None]) -> None:
    """Make the folder, or resume the probe that it holds. Raises OutputError if it holds something else."""
    settings = {
        "models": {name: model_folder.weights_digest(path) if path else RANDOM for name, path in models.items()},
        "records": {name: part.fingerprint() for name, part in records.items()},
        "finetune": config.finetune,
        "max_steps": config.max_steps,
        "image_size": config.image_size,
    }
    open_folder(Path(config.out), json_settings("probe", "probing.json", settings))


def overlaps_of_test(records: Mapping[str, Records], models: Mapping[str, Path | None]) -> list[str]:
    """What the test records share with training and validation, with the records the models were trained on, and repeats."""
    report = audit(dict(records), images=False)
    lines = [str(o) for o in report.overlaps if not o.series and o.first != o.second]
    prints = fingerprint(records["test"], hashes=HashKeeper())
    lines += seen_of_test(models, records["test"], prints)
    return [*lines, *repeats(records["test"], prints, "the test set")]
