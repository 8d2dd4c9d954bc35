"""The corpora that `mrm prepare` knows. Nothing heavy is imported, so that a command answers at once."""

from mrm.system.errors import RecordError

CORPORA = {  # name -> what it is
    "nih": "NIH ChestX-ray14",
    "chexpert": "CheXpert v1.0, full size or small",
    "rsna": "RSNA Pneumonia Detection Challenge, stage 2",
    "siim": "SIIM-ACR Pneumothorax Segmentation",
    "mimic": "MIMIC-CXR-JPG 2.0.0 with the reports of MIMIC-CXR",
    "openi": "Open-i, Indiana University chest X-rays",
    "covid": "COVID-19 Image Data Collection",
    "chexpert-test": "CheXpert, the test set of 500 studies",
    "chexpert-plus": "CheXpert Plus",
    "padchest": "PadChest",
    "rexgradient": "ReXGradient-160K",
    "brax": "BRAX",
    "rocov2": "ROCOv2, its chest radiographs",
    "vindr": "VinDr-CXR",
    "vinbigdata": "VinBigData Chest X-ray Abnormalities Detection",
    "chestx-det": "ChestX-Det",
    "object-cxr": "Object-CXR",
    "ranzcr": "RANZCR CLiP",
    "candid-ptx": "CANDID-PTX",
    "ms-cxr": "MS-CXR phrases on MIMIC-CXR",
    "covidx-cxr4": "COVIDx CXR-4",
    "covidx-cxr3": "COVIDx CXR-3",
    "tbx11k": "TBX11K",
    "shenzhen": "Shenzhen tuberculosis set",
    "montgomery": "Montgomery County tuberculosis set",
    "jsrt": "JSRT",
    "custom": "your own images and reports, by a table or a folder",
}
DESCRIPTIONS = (".yaml", ".yml")  # suffixes of files that describe a corpus or an export


def require_corpus(name: str) -> None:
    """Raises RecordError unless this is the name of a corpus, or that of a YAML file."""
    if name not in CORPORA and not name.endswith(DESCRIPTIONS):
        raise RecordError(
            f"unknown corpus {name!r}; choose from {', '.join(CORPORA)}, or give a description (FILE.yaml)"
        )
