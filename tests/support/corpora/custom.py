"""A hospital's export, made up."""

from pathlib import Path

import cv2
import numpy as np

COLUMNS = {"image_path": "Path", "report_content": "Text", "patient_id": "MRN", "study_id": "Accession"}


def write_image(file: Path, value: int = 9) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((20, 22), value, np.uint8))


def write_tree(root: Path) -> Path:
    """Forty images of twenty patients in dated folders; the table names them by their file name."""
    lines = ["Path,Text,MRN,Accession,Effusion,Nodule"]
    for n in range(40):
        write_image(root / "images" / f"2024-{n % 3:02}" / f"scan {n}.png", n)
        lines.append(
            f'scan {n}.png,"FINDINGS: clear, {n}.\nIMPRESSION: normal.",{n // 2},A{n},{n % 2},{"" if n % 5 else 1}'
        )
    (root / "export.csv").write_text("\n".join(lines), encoding="utf-8")
    return root
