"""Findings as a DICOM Structured Report (TID 1500, Enhanced SR), which archives keep and viewers show. Extra `seg`.

A report has a group for each finding: its probability as "Certainty of Finding" in percent, whether it is present at the
model's threshold, and the threshold, temperature and model that this depends on. It is neither final nor verified, and says
that it is not for clinical use. Nothing of it is a diagnosis.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mrm
from mrm.inference import dicom_objects
from mrm.inference.decisions import DecisionRules
from mrm.inference.dicom_objects import LONG_STRING, MANUFACTURER, NOTICE, Origin

if TYPE_CHECKING:
    import pydicom

WHAT = "DICOM report"
SERIES = 1001
# SNOMED CT codes of findings, by their names without blanks and capitals; others get a private code of their own
FINDINGS = {
    "atelectasis": ("46621007", "Atelectasis"),
    "cardiomegaly": ("8186001", "Cardiomegaly"),
    "consolidation": ("95436008", "Lung consolidation"),
    "edema": ("19242006", "Pulmonary edema"),
    "oedema": ("19242006", "Pulmonary edema"),
    "effusion": ("60046008", "Pleural effusion"),
    "pleuraleffusion": ("60046008", "Pleural effusion"),
    "emphysema": ("87433001", "Pulmonary emphysema"),
    "fibrosis": ("51615001", "Fibrosis of lung"),
    "fracture": ("125605004", "Fracture of bone"),
    "mass": ("4147007", "Mass"),
    "nodule": ("27925004", "Nodule"),
    "pneumonia": ("233604007", "Pneumonia"),
    "pneumothorax": ("36118008", "Pneumothorax"),
}
CODE_LENGTH = 16  # characters of the value representation SH
PRIVATE = "99MRM"  # coding scheme of findings without a code above
PRESENT, ABSENT = ("52101004", "SCT", "Present"), ("272519000", "SCT", "Absent")
EXISTENCE = ("705057003", "SCT", "Presence")
CERTAINTY = ("111012", "DCM", "Certainty of Finding")
CHEST_RADIOGRAPHY = ("399208008", "SCT", "Plain chest X-ray")


def report(
    sources: Sequence[pydicom.Dataset], rules: DecisionRules, row: Mapping[str, Any], origin: Origin, settings: str = ""
) -> pydicom.Dataset:
    """The report of what is said in a row (`mrm.inference.prediction_table.finding_row`) of one radiograph, or of a study.

    `sources` are the radiographs of one study that the row is about, without need of their pixels; `settings` say how the
    answer was computed, beyond the model. Raises MaskError for radiographs that no report can refer to.
    """
    dicom_objects.require_highdicom("leave out the reports")
    import highdicom as hd

    name = str(sources[0].get("SOPInstanceUID", ""))
    used = [dicom_objects.source_of(source, str(source.get("SOPInstanceUID", "")), WHAT) for source in sources]
    study = str(used[0].StudyInstanceUID)
    with dicom_objects.named_failures(name, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patient names, which are passed on unchanged
        (content,) = hd.sr.MeasurementReport(
            observation_context=_observer(origin),
            procedure_reported=_concept(CHEST_RADIOGRAPHY),
            imaging_measurements=[_group(used, rules, row, origin, settings, finding) for finding in rules.classes],
            title=_concept(("126000", "DCM", "Imaging Measurement Report")),
        )
        for text in _remarks(origin, row, len(used)):  # before the findings, so that they are read first
            content.ContentSequence.insert(len(content.ContentSequence) - 1, _comment(text))
        _separate(content)
        made = hd.sr.EnhancedSR(
            evidence=used,
            content=content,
            series_instance_uid=origin.uid("report series", study),
            series_number=SERIES,
            sop_instance_uid=identifier(origin, settings, used),
            instance_number=1,
            is_complete=True,
            specific_character_set="ISO_IR 192",  # names of models and findings may be in any script
            **origin.equipment("classifier"),
        )
    return dicom_objects.finish(made, "mrm findings")


def identifier(origin: Origin, settings: str, sources: Sequence[pydicom.Dataset]) -> str:
    """The identifier of the report of these radiographs, in any order."""
    return origin.uid("report", settings, *sorted(str(source.get("SOPInstanceUID", "")) for source in sources))


def finding_code(name: str) -> tuple[str, str, str]:
    """The code of a finding: value, scheme and meaning. The meaning is that of the scheme; a private one has our name."""
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    if plain in FINDINGS:
        value, meaning = FINDINGS[plain]
        return value, "SCT", meaning
    short = plain if plain.isascii() and len(plain) <= CODE_LENGTH else ""
    return short or hashlib.blake2b(plain.encode(), digest_size=8).hexdigest(), PRIVATE, name[:LONG_STRING]


def _group(
    sources: Sequence[pydicom.Dataset],
    rules: DecisionRules,
    row: Mapping[str, Any],
    origin: Origin,
    settings: str,
    finding: str,
) -> Any:
    """What is said of one finding (TID 1501)."""
    import highdicom as hd

    images = sorted(str(source.SOPInstanceUID) for source in sources)
    certainty = hd.sr.Measurement(
        name=_concept(CERTAINTY), value=round(100 * float(row[finding]), 4), unit=_concept(("%", "UCUM", "Percent"))
    )
    evaluations = []
    if (decision := row.get(f"{finding} decision")) is not None:
        evaluations = [hd.sr.QualitativeEvaluation(_concept(EXISTENCE), _concept(PRESENT if decision else ABSENT))]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=origin.uid("tracking", finding, settings, *images), identifier=finding
        ),
        finding_type=_concept(finding_code(finding)),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=origin.model,
            version=origin.version,
            parameters=list(_parameters(rules, row, origin, settings, finding)),
            family=_concept(("123109", "DCM", "Artificial Intelligence")),
            manufacturer=MANUFACTURER,
        ),
        measurements=[certainty],
        qualitative_evaluations=evaluations,
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID) for source in sources
        ],
    )


def _parameters(
    rules: DecisionRules, row: Mapping[str, Any], origin: Origin, settings: str, finding: str
) -> Iterator[str]:
    """What the answer to a finding depends on, in words."""
    threshold = rules.thresholds.get(finding)
    yield "no threshold, so no decision" if threshold is None else f"threshold {100 * threshold:.4g} %"
    calibrated = finding in origin.temperatures
    yield f"calibrated, temperature {rules.temperatures[finding]:.4g}" if calibrated else "not calibrated"
    if said := row.get(f"{finding} set"):
        yield f"not ruled out: {said}"
    if settings:
        yield settings


def _remarks(origin: Origin, row: Mapping[str, Any], images: int) -> Iterator[str]:
    """What a reader must know of the whole report."""
    yield f"{NOTICE}. Computed by a program and not verified by anyone; do not use it to guide patient care."
    yield f"Model {origin.model} ({origin.version}), {images} {'image' if images == 1 else 'images'}."
    yield f"Calibrated on {origin.calibrated_on}." if origin.calibrated_on else "The model was not calibrated."
    if row.get("abstain"):
        yield "Unlike the images that this model knows, so the model abstains; do not rely on the percentages."
    if row.get("warning"):
        yield "Warning: " + str(row["warning"]).replace(f"{row.get('path')}: ", "")  # not where the file is kept


def _observer(origin: Origin) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=origin.uid("device"),
        name=origin.model,
        manufacturer_name=MANUFACTURER,
        model_name=f"mrm {mrm.__version__}",
        serial_number=origin.digest,
    )
    return hd.sr.ObservationContext(hd.sr.ObserverContext(codes.DCM.Device, device))


def _comment(text: str) -> Any:
    import highdicom as hd

    name = _concept(("121106", "DCM", "Comment"))
    return hd.sr.TextContentItem(name, text, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)


def _separate(item: pydicom.Dataset) -> None:
    """Show the content of containers as items with their names, and not as running text."""
    if "ContinuityOfContent" in item:
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence") or ():
        _separate(child)


def _concept(code: tuple[str, str, str]) -> Any:
    import highdicom as hd

    value, scheme, meaning = code
    return hd.sr.CodedConcept(value, scheme, meaning)
