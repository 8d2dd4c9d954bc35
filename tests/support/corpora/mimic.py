"""MIMIC-CXR-JPG's download, made up."""

import gzip
import zipfile
from pathlib import Path

import cv2
import numpy as np

from mrm.corpora.mimic import CLASSES

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
STUDIES = [  # patient, study, split, (image, view) ...
    ("10000032", "50414267", "train", ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "PA"), ("174413ec", "LATERAL")),
    ("10000032", "53189527", "train", ("2a2277a9", "PA")),
    ("10000764", "57375967", "validate", ("096052b7", "AP")),
    ("11000183", "51967845", "test", ("c3f4ab7e", "")),
    ("19999987", "58621812", "train", ("7ba273af", "AP")),
]
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with new onset ascites  // eval for infection
 
 FINDINGS: 
 
 There is no focal consolidation, "effusion" or pneumothorax in study {study}.
 
 IMPRESSION: 
 
 No acute process.
"""


def write_tree(root: Path) -> Path:
    """The tree as PhysioNet's download leaves it; 19999987 has no report and no CheXpert row."""
    metadata, split, labels = (
        [METADATA],
        ["dicom_id,study_id,subject_id,split"],
        [f"subject_id,study_id,{','.join(CLASSES)}"],
    )
    for patient, study, part, *images in STUDIES:
        for image, view in images:
            file = root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{image}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.full((20, 24), len(metadata) * 9, np.uint8))
            step = '"CHEST (PA, LAT)"'
            metadata.append(f"{image},{patient},{study},{step},{view},20,24,21800506,213014.531,{step},x,Erect")
            split.append(f"{image},{study},{patient},{part}")
        if patient != "19999987":
            labels.append(f"{patient},{study},1.0,0.0,-1.0" + "," * 11)
    for name, lines in (("metadata", metadata), ("split", split), ("chexpert", labels)):
        (root / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for patient, study, *_ in STUDIES[:-1]:
            archive.writestr(f"files/p{patient[:2]}/p{patient}/s{study}.txt", REPORT.format(study=study))
        archive.writestr("files/p10/p10000032/s59999999.txt", "of a study that is not here")
    return root
