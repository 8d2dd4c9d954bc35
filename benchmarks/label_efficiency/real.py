"""The part on real images: pre-train on two small public sets together, test on patients held out of both.

Pre-training sees every image of the COVID-19 Image Data Collection (350 with a text, the others without) and the
training patients of the pneumonia set, but none of `iscovid_val` nor of the test patients of the lungs benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import arms
from measuring import Task, encoder_folder, finetune_unit, probe_unit
from units import Study, StudyError, Unit, require_finished

from mrm import runs
from mrm.data.config import CropConfig, ReportConfig
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.system.files import write_whole

LUNGS = Path(__file__).parents[1] / "lungs.py"
LUNG_STEPS = 300
ARMS = ("both", "image", "none")
PREFIX = "real-"  # of the encoders


def units(study: Study) -> list[Unit]:
    """Pre-training, probes and fine-tunings of three tasks, lungs, and two floors."""
    if study.data is None:
        raise StudyError("the part `real` needs --data DIR, with covid-cxr/ and pneumonia-cxr/ in it")
    if absent := [d for d in ("covid-cxr/training.csv", "pneumonia-cxr/labels.csv") if not (study.data / d).is_file()]:
        raise StudyError(f"{study.data}: no {', '.join(absent)} in it")
    size, first = study.size, Unit("real/prepare", prepare, seconds=60)
    plan = [first]
    for arm in ARMS:
        seconds = 5.0 if arm == "none" else size.steps * size.batch / 200
        plan.append(Unit(f"real/pretrain/{arm}-0", partial(pretrain, arm=arm), (first.name,), seconds))
        plan += [probe_unit(study, task, f"{PREFIX}{arm}-0", (f"real/pretrain/{arm}-0",)) for task in tasks()]
    plan += [probe_unit(study, task, floor, (first.name,)) for task in tasks() for floor in ("pixels", "hog")]
    plan += [
        finetune_unit(study, task, f"{PREFIX}{arm}-0", "tiny", fraction, number, (f"real/pretrain/{arm}-0",))
        for number in range(size.finetune_draws)
        for task in tasks()
        for fraction in size.fractions
        for arm in ARMS
        if round(fraction * task.images[0]) >= size.finetune_batch
    ]
    lungs = [Unit(f"lungs/{arm}-0", partial(outline, arm=arm), (f"real/pretrain/{arm}-0",), 900) for arm in ARMS[:2]]
    return plan + lungs


def tasks() -> tuple[Task, ...]:
    """Pneumonia or not, virus or bacteria, COVID-19 or not."""
    return (
        Task("pneumonia", ("pneumonia",), partial(_file, "pneumonia"), (), (3700, 500, 1000), PREFIX),
        Task("virus", ("virus",), partial(_file, "virus"), (), (2700, 400, 780), PREFIX),
        Task("iscovid", ("covid19",), partial(_file, "iscovid"), (), (212, 53, 44), PREFIX),
    )


def _file(task: str, study: Study, name: str) -> Path:
    return study.out / "real" / task / f"{name}.csv"


# Data ---------------------------------------------------------------------------------------------------


def prepare(study: Study) -> dict[str, Any]:
    """Lists of the three tasks, cut by patient, and what to pre-train on."""
    assert study.data
    covid, pneumonia = study.data.absolute() / "covid-cxr", study.data.absolute() / "pneumonia-cxr"
    pneumonia_sets = Records.load(pneumonia / "labels.csv", ("pneumonia",)).split(
        {"train": 0.7, "val": 0.1, "test": 0.2}, 0
    )
    cut = {"pneumonia": pneumonia_sets}
    cut["virus"] = {name: virus_or_bacteria(records) for name, records in pneumonia_sets.items()}
    listed = Records.load(covid / "splits" / "iscovid_train.txt", ("covid19",), images=covid / "images")
    test = Records.load(covid / "splits" / "iscovid_val.txt", ("covid19",), images=covid / "images")
    cut["iscovid"] = {
        **with_patients(listed, covid).split({"train": 0.8, "val": 0.2}, 0),
        "test": with_patients(test, covid),
    }
    counts: dict[str, Any] = {}
    for task, sets in cut.items():
        for name, records in sets.items():
            records.to_csv(_file(task, study, name))
            counts[f"{task} {name}"] = len(records)
    held_out = {r.name.split("/")[-1] for r in test} | lung_test_images(study)
    texts = {Path(r.name).name: r.report for r in Records.load(covid / "training.csv")}
    rows = [
        Record(p, report=texts.get(p.name, ""), name=p.name)
        for p in sorted((covid / "images").iterdir())
        if p.name not in held_out
    ]
    rows += [replace(r, labels=()) for r in pneumonia_sets["train"]]
    Records(rows).to_csv(study.out / "real" / "pretraining.csv")
    counts |= {"pre-training": len(rows), "with a text": sum(bool(r.report) for r in rows)}
    tokenizer = Tokenizer.train([r.report for r in rows if r.report], 2000)
    write_whole(study.out / "real" / "tokenizer.json", tokenizer.to_json().encode())
    return {"counts": counts, "says": str(counts)}


def virus_or_bacteria(records: Records) -> Records:
    """Pneumonia of known cause: 1 virus, 0 bacteria."""
    known = records.where(lambda r: r.extra.get("cause") in ("virus", "bacteria"))
    rows = [replace(r, labels=(float(r.extra["cause"] == "virus"),)) for r in known]
    return replace(known, rows=rows, classes=("virus",))


def with_patients(records: Records, covid: Path) -> Records:
    """The same records with the patients of `metadata.csv`."""
    patients = _lungs().patients_of(covid)
    return replace(
        records, rows=[replace(r, patient=patients.get(Path(r.name).stem, "") or Path(r.name).stem) for r in records]
    )


def lung_test_images(study: Study) -> set[str]:
    """Images of the lungs benchmark's test patients, by file name."""
    assert study.data
    covid, lungs = study.data / "covid-cxr", _lungs()
    test, patients = lungs.split_images(covid, 0)[0]["test"], lungs.patients_of(covid)
    people, names = {r.patient for r in test if r.patient}, {r.name for r in test}
    return {p.name for p in (covid / "images").iterdir() if p.name in names or patients.get(p.stem, "") in people}


def _lungs() -> Any:
    sys.path.insert(0, str(LUNGS.parent))
    import lungs

    return lungs


# Training -----------------------------------------------------------------------------------------------


def pretrain(study: Study, arm: str) -> dict[str, Any]:
    """Pre-train an arm on both sets; texts of cases are long and free, so words are cut at the recipe's length."""
    folder, tokenizer = encoder_folder(study, f"{PREFIX}{arm}-0"), study.out / "real" / "tokenizer.json"
    config = arms.pretraining(study.size, study.out / "real" / "pretraining.csv", tokenizer, folder, 0)
    config = replace(
        config, model=replace(config.model, report_length=100), crop=CropConfig(area=(0.5, 1.0)), report=ReportConfig()
    )
    change = arms.MAIN[arm]
    if change is None:
        with noise.seeded(0):
            model = MRM(replace(config.model, vocabulary=Tokenizer.load(tokenizer).size))
        model_folder.save(folder, model, tokenizer=Tokenizer.load(tokenizer))
        return {"arm": arm, "says": "random weights"}
    runs.pretrain(change(config))
    require_finished(folder, study.size.steps)
    return {"arm": arm, "steps": study.size.steps}


def outline(study: Study, arm: str) -> dict[str, Any]:
    """`benchmarks/lungs.py` from this encoder and from a random one."""
    assert study.data
    out = study.out / "lungs" / arm
    command = [sys.executable, str(LUNGS), "--data", str(study.data / "covid-cxr"), "--out", str(out)]
    command += ["--init", str(encoder_folder(study, f"{PREFIX}{arm}-0")), "--steps", str(LUNG_STEPS), "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    report = json.loads((out / "lungs.json").read_bytes())
    return {
        "arm": arm,
        "results": report["results"],
        "difference": report.get("difference"),
        "table": done.stdout.strip(),
    }
