"""COVID-19 Image Data Collection's download, made up."""

from pathlib import Path

import cv2
import numpy as np

HEADER = "patientid,offset,sex,age,finding,view,modality,folder,filename,license,url,clinical_notes,other_notes"
FINDINGS = ("Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial/Streptococcus", "Pneumonia/Viral/SARS", "No Finding")


def row(number: int, **cells: str) -> str:
    values = {
        **{"patientid": str(number // 2), "offset": str(number), "sex": "F", "age": "60", "modality": "X-ray"},
        **{"finding": FINDINGS[number // 2 % 4], "view": "PA", "folder": "images", "filename": f"{number}.jpg"},
        **{"license": "CC BY", "url": "https://example.org", "clinical_notes": f'"Note, of {number}"'},
        **{"other_notes": ""},
    }
    return ",".join({**values, **cells}[name] for name in HEADER.split(","))


def build(root: Path, rows: list[str], images: list[str]) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    for i, name in enumerate(images):
        cv2.imwrite(str(root / "images" / name), np.full((20, 20), i % 250, np.uint8))
    return root


def write_tree(root: Path) -> Path:
    """48 patients with two images each, twelve of each finding."""
    return build(root, [row(n) for n in range(96)], [f"{n}.jpg" for n in range(96)])
