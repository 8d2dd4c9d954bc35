"""CheXpert's download, made up."""

from pathlib import Path

from mrm.corpora import description
from tests.support.image_files import write_image

OBSERVATIONS = description.load("chexpert").labels.classes
HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS])
CELLS = {"Cardiomegaly": "1.0", "Atelectasis": "-1.0", "Consolidation": "-1.0", "Edema": "0.0", "Fracture": "-1.0"}


def row(prefix: str, patient: int, view: str = "frontal", split: str = "train") -> str:
    path = f"{prefix}/{split}/patient{patient:05}/study1/view1_{view}.jpg"
    projection = "AP" if view == "frontal" else ""
    stated = {**CELLS, **({"Pleural Effusion": "1.0"} if view == "lateral" else {})}
    labels = [stated.get(c, "") for c in OBSERVATIONS]
    return ",".join([path, "Female", "68", view.capitalize(), projection, *labels])


def write_tree(root: Path, prefix: str = "CheXpert-v1.0") -> Path:
    """30 training patients with two views, 4 of the publisher's validation set."""
    rows = [row(prefix, p, v) for p in range(1, 31) for v in ("frontal", "lateral")]
    valid = [row(prefix, p, split="valid") for p in range(64541, 64545)]
    for i, line in enumerate([*rows, *valid]):
        write_image(root / line.split(",")[0].removeprefix(f"{prefix}/"), i)
    (root / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (root / "valid.csv").write_text("\n".join([HEADER, *valid]) + "\n")
    return root
