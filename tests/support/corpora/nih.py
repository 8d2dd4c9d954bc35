"""NIH ChestX-ray14's download, made up."""

from pathlib import Path

from tests.support.image_files import write_image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
PATIENTS = 40


def row(patient: int, visit: int = 0) -> str:
    findings = {0: "No Finding", 1: "Effusion|Hernia", 2: "Pneumonia"}[patient % 3]
    view = "AP" if visit else "PA"
    return f"{patient:08}_{visit:03}.png,{findings},{visit},{patient},058Y,M,{view},2682,2749,0.143,0.143"


def write_tree(root: Path) -> Path:
    """40 patients with two images each, in two of the twelve folders, with the official lists."""
    names = [(p, v) for p in range(PATIENTS) for v in (0, 1)]
    for patient, visit in names:
        folder = f"images_{1 + patient % 2:03}/images"
        write_image(root / folder / f"{patient:08}_{visit:03}.png", patient * 2 + visit)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *(row(*n) for n in names)]) + "\n")
    files = [f"{p:08}_{v:03}.png" for p, v in names]
    (root / "train_val_list.txt").write_text("\n".join(files[:64]))
    (root / "test_list.txt").write_text("\n".join(files[64:]))
    return root
