"""Published encoders that `--init` takes: what they were trained on, under which licence, and where they are.

What is written here was read in the model cards and the code of their publishers; what these do not say is empty, and is
shown as unknown. Check licence and terms at the source before you use or share weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mrm.models.init_paths import init_path
from mrm.system.errors import ConfigError

MIMIC, CHEXPERT, NIH = "MIMIC-CXR", "CheXpert", "NIH ChestX-ray14"
TRANSFORMERS = ("config.json", "preprocessor_config.json", "model.safetensors")
HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class KnownWeights:
    """One published encoder."""

    name: str
    about: str
    trained_on: tuple[str, ...]  # data sets
    licence: str  # empty: not stated where we looked
    page: str = ""  # where a person gets it; the hub's for what is there
    repository: str = ""  # on the Hugging Face hub
    files: tuple[str, ...] = ()  # there, or the file as it was published
    sha256: dict[str, str] = field(default_factory=dict)  # by file; absent: not known
    note: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return self.page or f"{HUB}{self.repository}"

    @property
    def is_folder(self) -> bool:
        """Whether `--init` takes the folder of its files, not a single one."""
        return "config.json" in self.files


def _eva_x(size: str, patches: str) -> KnownWeights:
    return KnownWeights(
        f"eva-x-{size}",
        f"EVA-X, {patches}/16 with rotary positions at 224 pixels, masked image modelling",
        (NIH, CHEXPERT, MIMIC),
        "MIT",
        repository="MapleF/eva_x",
        files=(f"eva_x_{size}_patch16_merged520k_mim.pt",),
        note="without lateral and test images, and with MGCA, which was trained on MIMIC-CXR, as the tokenizer",
    )


def _dinov2(size: str, patches: str) -> KnownWeights:
    return KnownWeights(
        f"dinov2-{size}",
        f"DINOv2, {patches}/14 at 518 pixels, natural images",
        ("LVD-142M",),
        "Apache-2.0",
        repository=f"facebook/dinov2-{size}",
        files=TRANSFORMERS,
    )


KNOWN = {
    known.name: known
    for known in (
        KnownWeights(
            "rad-dino",
            "RAD-DINO, ViT-B/14 at 518 pixels, DINOv2 continued on chest radiographs",
            ("BRAX", CHEXPERT, MIMIC, NIH, "PadChest"),
            "MIT (earlier MSRLA, for research only): see its page",
            repository="microsoft/rad-dino",
            files=TRANSFORMERS,
        ),
        KnownWeights(
            "mrm",
            "MRM, ViT-B/16 at 224 pixels, the published weights with their decoders",
            (MIMIC,),
            "",
            "https://arxiv.org/abs/2301.13155",
            files=("MRM.pth",),
        ),
        _eva_x("tiny", "ViT-Ti"),
        _eva_x("small", "ViT-S"),
        _eva_x("base", "ViT-B"),
        KnownWeights(
            "medical-mae-small",
            "Medical MAE, ViT-S/16 at 224 pixels, masked autoencoder on 0.3 million chest radiographs",
            (NIH, CHEXPERT),
            "",
            "https://github.com/lambert-x/medical_mae",
            files=("vit-s_CXR_0.3M_mae.pth",),
            note="its code prepares each data set with a mean of its own: 0.5056 (NIH) or those of ImageNet",
        ),
        KnownWeights(
            "medical-mae-base",
            "Medical MAE, ViT-B/16 at 224 pixels, masked autoencoder on 0.5 million chest radiographs",
            (NIH, CHEXPERT, MIMIC),
            "",
            "https://github.com/lambert-x/medical_mae",
            files=("vit-b_CXR_0.5M_mae.pth",),
            note="its code prepares each data set with a mean of its own: 0.5056 (NIH) or those of ImageNet",
        ),
        KnownWeights(
            "mgca-vit-base",
            "MGCA, ViT-B/16 at 224 pixels, radiographs aligned with their reports",
            (MIMIC,),
            "",
            "https://github.com/HKU-MedAI/MGCA",
            files=("vit_base.ckpt",),
            note="a Lightning checkpoint; if it is refused, save its state_dict alone where you trust it",
        ),
        _dinov2("small", "ViT-S"),
        _dinov2("base", "ViT-B"),
        _dinov2("large", "ViT-L"),
        KnownWeights(
            "mae-base",
            "MAE, ViT-B/16 at 224 pixels, masked autoencoder on natural images",
            ("ImageNet-1k",),
            "Apache-2.0",
            repository="facebook/vit-mae-base",
            files=TRANSFORMERS,
        ),
    )
}


def find(name: str) -> KnownWeights:
    """The weights of that name. Raises ConfigError, which lists the names, for an unknown one."""
    if name not in KNOWN:
        raise ConfigError(f"unknown weights {name!r}; choose from {', '.join(KNOWN)}")
    return KNOWN[name]


def identify(path: Path | str) -> KnownWeights | None:
    """The published weights at `path`, told by its names: a cache of the hub, the published file, or a folder so called.

    None where no name says it.
    """
    place = init_path(path).path.absolute()
    for known in KNOWN.values():
        cached = f"models--{known.repository.replace('/', '--')}"
        if known.repository and cached in place.parts and (known.is_folder or place.name in known.files):
            return known
        if not known.is_folder and place.name in known.files:
            return known
        if known.is_folder and place.name in (known.name, known.repository.rpartition("/")[2]):
            return known
    return None
