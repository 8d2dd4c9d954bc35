"""The part on real images: pre-train on all public pairs and images that lie beside, test on what was held out.

| set | in pre-training | tested on |
| --- | --- | --- |
| ROCOv2, chest | pairs of nine tenths of the figures | findings that captions of the held-out tenth name; their pairs |
| COVID-19 Image Data Collection | with a text where there is one; without `iscovid_val` and the test patients of `benchmarks/lungs.py` | |
| pneumonia in children | training and validation patients, images alone | pneumonia; virus or bacteria, of other patients |
| Shenzhen tuberculosis | all images, without labels or texts: the encoder has seen those it is tested on | tuberculosis |
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import arms
import numpy as np
from measuring import Task, encoder_folder, pairs_unit, probe_unit, without_texts
from phantoms import pretrained
from units import Study, StudyError, Unit, beside

from mrm.audit.fingerprints import fingerprint
from mrm.audit.perceptual_hashes import near_pairs
from mrm.data.config import PackConfig
from mrm.data.packing import of_records, pack
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.system.files import write_whole

NEEDED = ("rocov2-cxr/training.csv", "covid-cxr/training.csv", "pneumonia-cxr/labels.csv", "tuberculosis/records.csv")
ARMS = ("both", "image", "half-contrast", "none")
RUNS = 2  # pre-trainings of an arm
PACKED = 160  # pixels of the shorter side of the images to pre-train on
PREFIX = "real-"  # of the encoders
# Findings by the words of a caption. A word does not count in a phrase that begins with a negation or says that it is gone.
CAPTIONED = {
    "effusion": r"effusions?|h(?:a?e?mo|ydro)thorax",
    "pneumothorax": r"pneumothora\w+",
    "opacity": r"opaci\w+|consolidat\w+|infiltrat\w+|ground.glass",
    "cardiomegaly": r"cardiomegaly|enlarge\w+ (?:of the )?(?:heart|cardiac)|(?:heart|cardiac)\w* (?:silhouette )?(?:is )?enlarge\w+",
    "nodule or mass": r"nodul\w+|mass(?:es)?",
    "device": r"tubes?|catheters?|pacemaker\w*|leads?|wires?|stents?|drains?|valves?|electrodes?",
}
ABSENT = re.compile(r"\b(?:no|not|without|absence|resolution|resolved|removal|removed|negative|clear(?:ed|ing)?)\b")


def units(study: Study) -> list[Unit]:
    """Pre-trainings, run by run, with their probes and pairs; and two floors."""
    if study.data is None:
        raise StudyError(f"the part `real` needs --data DIR, with {', '.join(NEEDED)} in it")
    if absent := [name for name in NEEDED if not (study.data / name).is_file()]:
        raise StudyError(f"{study.data}: no {', '.join(absent)} in it")
    first, common = Unit("real/prepare", prepare, seconds=90), study.size.real
    plan = [first]
    plan += [probe_unit(study, task, floor, (first.name,)) for task in tasks() for floor in ("pixels", "hog")]
    for run in range(min(RUNS, study.pretrainings)):
        for arm in (arm for arm in ARMS if arm in study.arms):
            name = f"{PREFIX}{arm}-{run}"
            seconds = 5.0 if arm == "none" else common.steps * common.batch / 130
            trained = Unit(f"real/pretrain/{arm}-{run}", partial(pretrain, arm=arm, run=run), (first.name,), seconds)
            plan += [trained, pairs_unit(study, tasks()[0], name, *_rocov2(study), (trained.name,))]
            plan += [probe_unit(study, task, name, (trained.name,)) for task in tasks()]
    return plan


def tasks() -> tuple[Task, ...]:
    """What the encoders of real images are tested on."""
    return (
        Task("captions", tuple(CAPTIONED), partial(_file, "captions"), (), (3150, 0, 366), PREFIX),
        Task("tuberculosis", ("tuberculosis",), partial(_file, "tuberculosis"), (), (397, 0, 265), PREFIX),
        Task("pneumonia", ("pneumonia",), partial(_file, "pneumonia"), (), (4143, 0, 1073), PREFIX),
        Task("virus", ("virus",), partial(_file, "virus"), (), (3100, 0, 816), PREFIX),
    )


def _file(task: str, study: Study, name: str) -> Path:
    return study.out / "real" / task / f"{name}.csv"


def _rocov2(study: Study) -> tuple[Path, Path]:
    return _file("captions", study, "train"), _file("captions", study, "test")


# Data ---------------------------------------------------------------------------------------------------


def prepare(study: Study) -> dict[str, Any]:
    """Lists of the tasks, cut by patient or figure, and what to pre-train on, packed."""
    assert study.data
    data, folder = study.data.absolute(), study.out / "real"
    pneumonia = thirds(Records.load(data / "pneumonia-cxr" / "labels.csv", ("pneumonia",)))
    rocov2 = Records.load(data / "rocov2-cxr" / "training.csv")
    captions = with_findings(with_figures(rocov2)).split({"train": 0.9, "test": 0.1}, 0)
    tuberculosis = Records.load(data / "tuberculosis" / "records.csv", ("tuberculosis",))
    cut = {"captions": captions, "pneumonia": pneumonia}
    cut["virus"] = {name: virus_or_bacteria(records) for name, records in pneumonia.items()}
    cut["tuberculosis"] = tuberculosis.split({"train": 0.6, "test": 0.4}, 0)
    counts: dict[str, Any] = {}
    for task, sets in cut.items():
        for name, records in sets.items():
            records.to_csv(_file(task, study, name))
            counts[f"{task} {name}"] = len(records)
    silent = [*tuberculosis, *pneumonia["train"]]
    rows = [replace(r, labels=()) for r in captions["train"]] + covid_records(data / "covid-cxr")
    rows += [replace(r, labels=(), report="") for r in silent]
    texts = [r.report for r in rows if r.report]
    rows = rows[: len(captions["train"])] if study.size.captions_only else rows
    records = Records([Record(r.image, report=r.report, name=r.name, patient=r.patient) for r in rows])
    for name, these in (("records", records), (arms.IMAGES, without_texts(records))):
        pack(of_records(these), folder / name, PackConfig(PACKED), workers=1)
    counts |= {"pre-training": len(rows), "with a text": sum(bool(r.report) for r in rows)}
    tokenizer = Tokenizer.train(texts, study.size.real.model.vocabulary)
    write_whole(folder / "tokenizer.json", tokenizer.to_json().encode())
    return {"counts": counts, "says": str(counts)}


def thirds(records: Records) -> dict[str, Records]:
    """Four fifths of the patients to train on, a fifth to test on."""
    cut = records.split({"train": 0.7, "val": 0.1, "test": 0.2}, 0)
    return {"train": replace(records, rows=[*cut["train"], *cut["val"]]), "test": cut["test"]}


def with_figures(records: Records) -> Records:
    """The records with a group in place of the patient, whom ROCOv2 does not name: equal captions, or images that look alike."""
    group = list(range(len(records)))

    def of(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    def join(pairs: Any) -> None:
        for i, j in pairs:
            group[of(i)] = of(j)

    by_text: dict[str, int] = {}
    for i, record in enumerate(records):
        join([(i, by_text.setdefault(" ".join(re.findall(r"\w+", record.report.lower())), i))])
    hashes = fingerprint(records).perceptual.reshape(-1, 4)  # two of each record
    rows = np.flatnonzero(hashes.any(axis=1))
    distinct, first, which = np.unique(hashes[rows], axis=0, return_index=True, return_inverse=True)
    owner = rows[first] // 2
    join(zip(rows // 2, owner[which.reshape(-1)], strict=True))
    join((owner[i], owner[j]) for i, j, _ in near_pairs(distinct, None, workers=1))
    return replace(records, rows=[replace(r, patient=f"group-{of(i)}") for i, r in enumerate(records)])


def with_findings(records: Records) -> Records:
    """The records with what their captions name as classes."""
    rows = [replace(r, labels=tuple(float(named(r.report, words)) for words in CAPTIONED.values())) for r in records]
    return replace(records, rows=rows, classes=tuple(CAPTIONED))


def named(caption: str, words: str) -> bool:
    """Whether a caption names a finding in a phrase that does not deny it."""
    phrases = re.split(r"[.;,:()]|\bbut\b|\bwith\b", caption.lower())
    hits = ((phrase, re.search(rf"\b(?:{words})\b", phrase)) for phrase in phrases)
    return any(hit and not ABSENT.search(phrase[: hit.start()]) for phrase, hit in hits)


def virus_or_bacteria(records: Records) -> Records:
    """Pneumonia of known cause: 1 virus, 0 bacteria."""
    known = records.where(lambda r: r.extra.get("cause") in ("virus", "bacteria"))
    rows = [replace(r, labels=(float(r.extra["cause"] == "virus"),)) for r in known]
    return replace(known, rows=rows, classes=("virus",))


def covid_records(covid: Path) -> list[Record]:
    """Images of the collection, with their texts; without the test patients of other benchmarks."""
    lungs = beside("lungs")
    patients = lungs.patients_of(covid)
    listed = Records.load(covid / "splits" / "iscovid_val.txt", ("covid19",), images=covid / "images")
    names = {Path(r.name).name for r in (*listed, *lungs.split_images(covid, 0)[0]["test"])}
    people = {patients.get(Path(name).stem, "") for name in names} - {""}
    texts = {Path(r.name).name: r.report for r in Records.load(covid / "training.csv")}
    return [
        Record(p, report=texts.get(p.name, ""), name=p.name, patient=f"covid-{patients.get(p.stem) or p.stem}")
        for p in sorted((covid / "images").iterdir())
        if p.name not in names and patients.get(p.stem, "") not in people
    ]


# Training -----------------------------------------------------------------------------------------------


def pretrain(study: Study, arm: str, run: int) -> dict[str, Any]:
    """Pre-train an arm on all sets together; words of captions are cut at the length of the model."""
    folder = study.out / "real"
    config = arms.pretraining(
        study.size.real,
        folder / "records",
        folder / "tokenizer.json",
        encoder_folder(study, f"{PREFIX}{arm}-{run}"),
        run,
    )
    return pretrained(arm, run, config, Records.load(_rocov2(study)[1]))
