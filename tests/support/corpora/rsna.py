"""RSNA Pneumonia's download, made up."""

from pathlib import Path

from tests.support.dicom_files import write_dicom

HEADER = "patientId,x,y,width,height,Target"


def write_tree(root: Path) -> Path:
    """20 labelled patients, every fourth with two boxes, and 3 without label."""
    rows, details = [], []
    for number in range(20):
        patient = f"p{number:02}"
        positive = number % 4 == 0
        boxes = ["2.0,3.0,5.0,6.0,1", "9.0,8.0,6.0,12.0,1"] if positive else [",,,,0"]
        rows += [f"{patient},{box}" for box in boxes]
        details += [f"{patient},{'Lung Opacity' if positive else 'Normal'}" for _ in boxes]
        tags = {"PatientID": patient, "ViewPosition": "AP", "PatientSex": "F", "PatientAge": "051Y"}
        write_dicom(root / f"stage_2_train_images/{patient}.dcm", number, **tags)
    for number in range(3):
        write_dicom(root / f"stage_2_test_images/t{number}.dcm", 90 + number, ViewPosition="PA")
    (root / "stage_2_train_labels.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (root / "stage_2_detailed_class_info.csv").write_text("\n".join(["patientId,class", *details]) + "\n")
    return root
