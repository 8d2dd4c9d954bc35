"""Structured reports as dcmtk, dicom3tools and highdicom read them: what is said of whose radiograph, and by what."""

import re
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from mrm.inference import dicom_sr
from mrm.inference.decisions import DecisionRules
from mrm.inference.dicom_objects import Origin
from mrm.system.errors import MaskError
from mrm.targets.target import Target
from tests.support.dicom_files import dataset
from tests.support.dicom_tools import faults, output_of, shown

hd = pytest.importorskip("highdicom")

CLASSES = ("Effusion", "Ödem, links", "oedema")
RULES = DecisionRules(CLASSES, np.array([1.5, 1, 1]), np.array([0.4, np.nan, 0.5]), Target(CLASSES))
ROW = {"Effusion": 0.7312345678, "Effusion decision": 1, "Ödem, links": 0.1, "oedema": 3e-7, "oedema decision": 0}
ORIGIN = Origin("nih-1", "0123456789abcdef", "val.csv", ("Effusion",))


def radiograph(instance: str = "1.2.3.4.5", **tags) -> pydicom.Dataset:
    known = {"PatientID": "p1", "PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100", "StudyID": "7"}
    known |= {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "StudyDate": "20200101", "StudyTime": "10"}
    return dataset(np.zeros((24, 20), np.uint8), SOPInstanceUID=instance, **(known | tags))


@pytest.fixture
def written(tmp_path):
    made = dicom_sr.report([radiograph()], RULES, ROW | {"path": "/x/a.dcm", "warning": "/x/a.dcm: odd"}, ORIGIN)
    made.save_as(tmp_path / "a.sr.dcm")
    return tmp_path / "a.sr.dcm"


def test_dcmtk_reads_each_finding_with_certainty_decision_threshold_and_calibration(written):
    said = shown(written)
    assert "Research software, not for clinical use" in said
    assert re.search(
        r"Pleural effusion.*threshold 40 %.*calibrated, temperature 1.5.*73.1235 % .*Presence: .*Present", said
    )
    assert re.search(
        r"&Ouml;dem, links.*no threshold, so no decision.*not calibrated.*10.0 %", said.replace("Ö", "&Ouml;")
    )
    assert re.search(r"Pulmonary edema.*threshold 50 %.*0.0 % .*Presence: .*Absent", said)
    assert "Model nih-1 (0123456789abcdef, mrm" in said
    assert "Calibrated on val.csv" in said
    assert "Warning: odd" in said, "without the path of the file"
    assert "UNVERIFIED" in output_of("dsrdump", written)
    assert re.search(r"M(ü|&uuml;)ller", said)


def test_the_standard_is_kept(written):
    assert faults(written) == []


def test_highdicom_reads_the_measurements_and_references_back(written):
    made = hd.sr.srread(written)
    groups = made.content.get_image_measurement_groups()
    assert [g.get_measurements()[0].value for g in groups] == [73.1235, 10.0, 0.0]
    assert groups[0].finding_type == codes.SCT.PleuralEffusion
    assert groups[0].source_images[0].referenced_sop_instance_uid == "1.2.3.4.5"
    assert (made.PatientID, made.StudyInstanceUID, str(made.PatientName)) == ("p1", "1.2.3", "Müller^Jürgen")
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert (made.PreliminaryFlag, made.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")


def test_one_report_of_the_images_of_a_study_does_not_depend_on_their_order(tmp_path):
    sources = [radiograph("1.2.3.4.5"), radiograph("1.2.3.4.6")]
    made, turned = (dicom_sr.report(s, RULES, ROW, ORIGIN, "pooled by study: mean") for s in (sources, sources[::-1]))
    alone = dicom_sr.report(sources[:1], RULES, ROW, ORIGIN, "pooled by study: mean")
    assert made.SOPInstanceUID == turned.SOPInstanceUID != alone.SOPInstanceUID
    assert made.SeriesInstanceUID == alone.SeriesInstanceUID
    made.save_as(tmp_path / "a.dcm")
    assert faults(tmp_path / "a.dcm") == []
    text = output_of("dsrdump", tmp_path / "a.dcm")
    assert text.count("Source of Measurement") == 2 * len(RULES.classes)


def test_another_model_or_calibration_makes_another_report():
    uids = {dicom_sr.report([radiograph()], RULES, ROW, replace(ORIGIN, digest=d)).SOPInstanceUID for d in "aab"}
    assert len(uids) == 2
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in uids), "a UUID as PS3.5 B.2 wants it"


def test_codes_are_those_of_snomed_as_pydicom_lists_them():
    known = {"effusion": codes.SCT.PleuralEffusion, "pneumothorax": codes.SCT.Pneumothorax}
    known |= {"edema": codes.SCT.PulmonaryEdema, "mass": codes.SCT.Mass, "nodule": codes.SCT.Nodule}
    for name, code in known.items():
        assert dicom_sr.finding_code(name) == (code.value, code.scheme_designator, code.meaning)
    assert dicom_sr.finding_code("Pleural Effusion") == dicom_sr.finding_code("effusion")
    value, scheme, meaning = dicom_sr.finding_code(
        "a name that is far longer than sixty-four characters, as such names may be"
    )
    assert (len(value), scheme, len(meaning)) == (16, "99MRM", 64)


def test_an_abstention_is_said_and_no_decision_made(tmp_path):
    row = {name: value for name, value in ROW.items() if "decision" not in name}
    made = dicom_sr.report([radiograph()], RULES, row | {"abstain": 1, "outlier": 9.0}, ORIGIN)
    made.save_as(tmp_path / "a.dcm")
    comments = [item.TextValue for item in made.ContentSequence if item.ValueType == "TEXT"]
    assert any("the model abstains" in text for text in comments)
    assert "Presence" not in output_of("dsrdump", tmp_path / "a.dcm")


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_radiograph_without_identifiers_is_refused(missing):
    source = radiograph()
    delattr(source, missing)
    with pytest.raises(MaskError, match=f"no DICOM report can refer to it, because it has no {missing}"):
        dicom_sr.report([source], RULES, ROW, ORIGIN)
