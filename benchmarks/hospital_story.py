"""From a hospital's export to an evaluation page by the documented commands alone: how long it takes, and what comes out.

    python benchmarks/hospital_story.py --data tuberculosis --work FOLDER

DATA is the Shenzhen set of chest radiographs (`records.csv` with image_path, report_content, patient_id, sex, age and
tuberculosis; `images/`). Its images become DICOM files without suffix in PatientID/StudyUID/SeriesUID folders, its records a
table with semicolons in Windows-1252 with ja and nein (`mrm.corpora.phantoms.hospital_export`); accession numbers, dates and
the column CRP are made up. Then `mrm` prepares, pre-trains, fine-tunes, calibrates, evaluates and predicts, each in a process of
its own. The joined records are compared with the known ones cell by cell. Writes `benchmarks/results/hospital_story.json`.
Started again, it resumes.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mrm.corpora.phantoms.hospital_export import FIRST_DAY, Study, write_dicom, write_table
from mrm.data import images
from mrm.data.records import Records
from mrm.system import hardware
from mrm.system.files import read_json, write_json

CLASS, TIMES = "TB", "seconds.json"
SEXES = {"male": "M", "female": "F"}


def export(data: Path, out: Path, limit: int | None) -> list[Study]:
    """Write the export of a data set's records, spread evenly over the set with `limit`. Returns the studies."""
    records = Records.load(data / "records.csv", ("tuberculosis",))
    step = 1 if limit is None else max(1, len(records) // limit)
    studies = []
    for number, record in enumerate(records[::step]):
        study = Study(
            patient=record.patient,
            accession=f"00{4_711_000 + number}",
            day=FIRST_DAY + timedelta(days=number),
            view="PA",
            sex=SEXES.get(record.extra.get("sex", "").lower(), "O"),
            age=int(record.extra.get("age", "")) if record.extra.get("age", "").isdigit() else 0,
            report=record.report,
            finding=record.labels[0],
        )
        write_dicom(out / "DICOM", number, study, images.read(record.image))
        studies.append(study)
    write_table(out, studies, CLASS)
    return studies


def mrm(times: dict[str, float], work: Path, *arguments: str | Path) -> None:
    """Run a command of `mrm` in a process of its own, and keep its seconds; one that an earlier start has done is left out."""
    words = list(map(str, arguments))
    name = "preview" if "--preview" in words else words[0]
    if name in times:
        return
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "mrm", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"mrm {' '.join(words)}\n{done.stderr}")
    times[name] = round(time.perf_counter() - start, 1)
    write_json(work / TIMES, times)
    print(f"{name}: {times[name]} s", flush=True)


def differing(studies: list[Study], records: Path) -> list[str]:
    """The cells of the prepared records that are not those of the studies."""
    known = {s.accession: s for s in studies}
    with open(records, newline="") as text:
        rows = {row["accession"]: row for row in csv.DictReader(text)}
    wrong = sorted(set(known) ^ set(rows))
    for accession in known.keys() & rows.keys():
        study, row = known[accession], rows[accession]
        expected = {
            "patient_id": study.patient,
            "date": str(study.day),
            "view": study.view,
            CLASS: f"{study.finding:g}",
        }
        wrong += [f"{accession}: {name}" for name, value in expected.items() if row[name] != value]
        if " ".join(study.report.split()) not in " ".join(row["report_content"].split()):
            wrong.append(f"{accession}: report")
    return wrong


def story(data: Path, work: Path, limit: int | None, steps: int | None) -> dict[str, Any]:
    """Everything from the export to the page; the seconds of each command, and what came out."""
    source, out, runs = work / "export", work / "prepared", work / "runs"
    load = [round(value, 2) for value in os.getloadavg()]
    studies = export(data, source, limit)
    times: dict[str, float] = read_json(work / TIMES) if (work / TIMES).is_file() else {}
    classifier, test = runs / "classifier", runs / "classifier" / "test"
    sets = {name: out / f"{name}.csv" for name in ("train", "val", "test")}
    run = partial(mrm, times, work)
    prepared = ("--source", source, "--classes", CLASS)
    run("prepare", "custom", *prepared, "--preview")
    run("prepare", "custom", *prepared, "--out", out)
    run("pretrain", "tiny", "--records", sets["train"], "--out", runs / "pretrained")
    tuning = ("--train", sets["train"], "--val", sets["val"], "--init", runs / "pretrained", "--classes", CLASS)
    run("finetune", "tiny", *tuning, "--out", classifier, *(("--max-steps", str(steps)) if steps else ()))
    run("calibrate", classifier, "--val", sets["val"], "--sensitivity", "0.9")
    run("evaluate", classifier, "--records", sets["test"], "--by", "sex", "--out", test)
    run("predict", classifier, source / "DICOM", "--out", work / "predictions.csv")
    results, facts = read_json(test / "results.json"), read_json(out / "corpus.json")
    with open(work / "predictions.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    named = {s.accession: (s.patient, str(s.day)) for s in studies}
    return {
        "device": hardware.device_name(torch.device("cpu")),
        "cores": hardware.cores(),
        "load_beforehand": load,
        "studies": len(studies),
        "positive": sum(s.finding == 1 for s in studies),
        "fine_tuning_steps": steps or "those of the recipe tiny",
        "seconds": times,
        "seconds_from_export_to_page": round(sum(times.values()) - times["predict"], 1),
        "cells_that_differ": differing(studies, out / "records.csv"),
        "sets": {name: facts["splits"][name]["images"] for name in sets},
        "auroc": results["classes"][CLASS]["auroc"],
        "operating_point": results["operating_points"][CLASS],
        "uncertain_thresholds": results["uncertain_thresholds"],
        "page": (test / "index.html").is_file(),
        "predicted": len(rows),
        "predictions_with_patient_and_date": sum(
            named.get(row["accession"]) == (row["patient_id"], row["date"]) for row in rows
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder for export, records and runs; the same command resumes there"
    )
    parser.add_argument("--limit", type=int, help="use about so many studies only")
    parser.add_argument("--steps", type=int, help="fine-tune for so many steps only, in place of the recipe's")
    default = Path(__file__).parent / "results" / "hospital_story.json"
    parser.add_argument("--out", type=Path, default=default, help="the file to write")
    options = parser.parse_args()
    results = story(options.data, options.work, options.limit, options.steps)
    print(f"wrote {write_json(options.out, results)}: {results['seconds_from_export_to_page']} s from export to page")


if __name__ == "__main__":
    main()
