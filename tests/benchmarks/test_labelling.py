"""The benchmarks of labels and of text in corners: how headings become findings, by hand, and both on a few records."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrm.data.finding_rules import read_rules
from mrm.data.report_labels import ReportLabeller
from tests.support.paths import BENCHMARKS


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def labelling():
    return benchmark("labelling")


@pytest.mark.parametrize(
    ("mesh", "findings"),
    [
        ("normal", set()),
        ("Cardiac Shadow/enlarged/mild", {"Cardiomegaly"}),
        ("Opacity/lung/base/left;Pulmonary Atelectasis/base/left", {"Lung Opacity", "Atelectasis"}),
        ("Density/lung/upper lobe/right/round", {"Lung Opacity", "Lung Lesion"}),
        ("Hydropneumothorax/apex/right", {"Pneumothorax", "Pleural Effusion"}),
        ("Mediastinum/lymph nodes/enlarged; Catheters, Indwelling/right", {"Support Devices"}),
        ("Thickening/pleura/apex/bilateral;Fractures, Bone/ribs", {"Pleural Other", "Fracture"}),
    ],
)
def test_headings_are_read_as_findings(labelling, mesh, findings):
    assert {finding for finding in labelling.MESH if labelling.truth_of({"mesh": mesh}, finding)} == findings


def test_reports_are_compared_with_their_headings(labelling):
    rows = [
        {"uid": "1", "findings": "Small pleural effusion.", "impression": "", "mesh": "Pleural Effusion/small"},
        {"uid": "2", "findings": "No pleural effusion.", "impression": "", "mesh": "normal"},
        {"uid": "3", "findings": "Lungs are clear.", "impression": "", "mesh": "Pleural Effusion"},
        {"uid": "4", "findings": "Possible effusion.", "impression": "", "mesh": "Pleural Effusion"},
    ]
    rows = [{"comparison": "", "indication": "", **row} for row in rows]
    result = labelling.measured(ReportLabeller(read_rules("english")), rows)
    assert result["uncertain"]["Pleural Effusion"] == 1
    sensitivity = [result[how]["Pleural Effusion"]["sensitivity"]["value"] for how in ("ignore", "zeros")]
    assert sensitivity == pytest.approx([1 / 2, 1 / 3])


def test_names_are_drawn_and_found(tmp_path):
    corner_text = benchmark("corner_text")
    folder = Path(tmp_path / "set" / "images")
    folder.mkdir(parents=True)
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((600, 500), 20 + number, np.uint8))
    result = corner_text.measured(folder, 6, 0)
    assert (result["refused"]["value"], result["found"]["n"]) == (0, 6)
    assert result["found"]["value"] >= 0.8
