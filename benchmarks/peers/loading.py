"""Lines `loading-originals` and `loading-prepared`: from stored radiographs to normalised batches for fine-tuning.

On one core, in the process itself: a random resized crop of 8 to 100 % to 224 pixels, flipped or not, normalised, three
channels, batches of 8. Ours resizes by area, the others by bilinear interpolation with antialiasing. Before they are timed,
all ways load the whole images without crop, and what they load is compared.

`loading-originals` reads JPEG of 2544 x 3056. `loading-prepared` reads the same images with 512 pixels on the shorter side:
ours from packed shards (and, as `mrm, files`, from JPEG files), the others from JPEG files or a tar of them. `loading-decoded`
reads them decoded: ours from shards without compression (`mrm pack --format pgm`, 0.3 MB an image, mapped), MONAI from tensors
on the disk (`PersistentDataset`) or in the memory of each process (`CacheDataset`), both of 1.3 MB an image, or 470 GB for the
377,110 of MIMIC-CXR.
"""

# Shapes: B images, H W pixels
from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import speed
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import io, transforms

from benchmarks.peers.turns import OURS, Gate, Line, Setting, Way, mean_of_image
from mrm.data import images, loader, packing
from mrm.data.config import FINETUNE_CROP, GREY_MEAN, GREY_STD, CropConfig, PackConfig
from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.data.samples import LabelData
from mrm.data.sampling import Sample
from mrm.models.mrm import normalise

COUNT, SIDE, BATCH = 8, 224, 8
PASSES = 10  # over prepared images in a turn
WHOLE = CropConfig(area=(1.0, 1.0), flip=0.0)
Batches = Callable[[CropConfig, int], Iterable[Tensor]]  # normalised (B, 3, H, W), over so many passes


def write_images(setting: Setting, source: Path) -> None:
    """Originals, the same images with 512 pixels on the shorter side, shards and a tar of these, unless they are there."""
    place = setting.folder
    if (place / "images.tar").exists():
        return
    height, width = (764, 636) if setting.quick else speed.ORIGINAL
    for name in ("originals", "prepared"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(speed.largest_images(source, COUNT)):
        original = speed.write(place / "originals" / f"{number}.jpg", images.resize(image, height, width))
        speed.write(place / "prepared" / f"{number}.jpg", speed.shorter_side(images.read(original), speed.PACKED))
    for kind in ("jpeg", "pgm"):
        source, config = packing.of_records(records(place / "prepared")), PackConfig(size=speed.PACKED, format=kind)
        packing.pack(source, place / f"shards-{kind}", config, workers=1)
    with tarfile.open(place / "images.partial", "w") as tar:
        for file in files(place / "prepared"):
            tar.add(file, file.name)
    (place / "images.partial").rename(place / "images.tar")


def files(folder: Path) -> list[Path]:
    """The JPEG files of a folder, in order."""
    return sorted(folder.glob("*.jpg"))


def records(folder: Path) -> Records:
    """The same as records with one label."""
    return Records([Record(file, name=file.stem, labels=(1.0,)) for file in files(folder)], ("finding",))


def loading(batches_of: Callable[[Setting], Batches], passes: int) -> Way:
    """Load the whole images once, to be compared, then crops of them, so many passes in a turn."""

    def way(gate: Gate, setting: Setting) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        batches = batches_of(setting)
        gate.open()
        gate.done(greys(torch.cat(list(batches(WHOLE, 1)))))
        while True:
            count = sum(len(image_BCHW) for image_BCHW in batches(FINETUNE_CROP, passes))
            assert count == COUNT * passes, count
            gate.done(np.nan)

    return way


def greys(image_BCHW: Tensor) -> Tensor:
    """Grey levels of normalised images in squares of 14 pixels."""
    levels_BCHW = (image_BCHW * GREY_STD + GREY_MEAN) * 255
    return torch.nn.functional.avg_pool2d(levels_BCHW, 14)


def ours(name: str) -> Callable[[Setting], Batches]:
    """The loader of `mrm finetune`, and the normalisation that it leaves to the step."""

    def batches_of(setting: Setting) -> Batches:
        place = setting.folder / name
        known = Records.load(place) if name.startswith("shards") else records(place)

        def batches(crop: CropConfig, passes: int) -> Iterable[Tensor]:
            data = LabelData(known, EvalView(SIDE), crop)
            order = iter([[Sample(epoch, i) for i in range(COUNT)] for epoch in range(passes)])
            return (
                normalise(b.image_BHW, GREY_MEAN, GREY_STD).contiguous() for b in loader.loader(data, order, workers=0)
            )

        return batches

    return batches_of


def random_crop(crop: CropConfig) -> list[Any]:
    """torchvision's crop and flip with these settings."""
    return [
        transforms.RandomResizedCrop(SIDE, crop.area, crop.aspect, antialias=True),
        transforms.RandomHorizontalFlip(crop.flip),
    ]


def of_pil(crop: CropConfig) -> transforms.Compose:
    """A PIL image to a normalised tensor of three equal channels."""
    return transforms.Compose(
        [*random_crop(crop), transforms.ToTensor(), transforms.Normalize([GREY_MEAN], [GREY_STD]), three_channels]
    )


def three_channels(image_1HW: Tensor) -> Tensor:
    """The one channel three times."""
    return image_1HW.expand(3, -1, -1)


class Files(Dataset):
    """JPEG files, opened by PIL as grey images or decoded by torchvision, and transformed."""

    def __init__(self, folder: Path, transform: Callable[[Any], Tensor], by_torchvision: bool) -> None:
        self.files, self.transform, self.by_torchvision = files(folder), transform, by_torchvision

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        if self.by_torchvision:
            return self.transform(io.read_image(str(self.files[index]), io.ImageReadMode.GRAY))
        return self.transform(Image.open(self.files[index]).convert("L"))


def batched(data: Any, passes: int) -> Iterable[Tensor]:
    """A DataLoader over so many passes."""
    return DataLoader(Subset(data, list(range(COUNT)) * passes), batch_size=BATCH)


def torchvision(name: str, by_torchvision: bool = False) -> Callable[[Setting], Batches]:
    """torchvision's transforms and a DataLoader, from PIL images, or from tensors that torchvision decodes."""

    def batches_of(setting: Setting) -> Batches:
        def batches(crop: CropConfig, passes: int) -> Iterable[Tensor]:
            scale = [transforms.ConvertImageDtype(torch.float32), transforms.Normalize([GREY_MEAN], [GREY_STD])]
            of_tensor = transforms.Compose([*random_crop(crop), *scale, three_channels])
            transform = of_tensor if by_torchvision else of_pil(crop)
            return batched(Files(setting.folder / name, transform, by_torchvision), passes)

        return batches

    return batches_of


def webdataset(setting: Setting) -> Batches:
    """WebDataset over a tar of JPEG files, decoded by PIL, with torchvision's transforms."""
    import webdataset as wds

    def batches(crop: CropConfig, passes: int) -> Iterable[Tensor]:
        stored = wds.WebDataset(str(setting.folder / "images.tar"), shardshuffle=False, empty_check=False)
        decoded = stored.decode("pill").to_tuple("jpg").map_tuple(of_pil(crop)).batched(BATCH)
        return (image_BCHW for (image_BCHW,) in decoded.repeat(passes))

    return batches


def monai(kept: str) -> Callable[[Setting], Batches]:
    """MONAI's reader and transforms; `CacheDataset` or `PersistentDataset` keeps what comes before the random crop."""

    def batches_of(setting: Setting) -> Batches:
        from monai.data import CacheDataset, PersistentDataset, PILReader
        from monai.transforms import Compose, EnsureType, LoadImage, RandTorchVision, ScaleIntensityRange

        reader = PILReader(converter=lambda image: image.convert("L"), reverse_indexing=False)
        listed = [str(file) for file in files(setting.folder / "prepared")]
        fixed = [
            LoadImage(reader, image_only=True, ensure_channel_first=True),
            ScaleIntensityRange(0, 255, 0, 1),
            EnsureType(track_meta=False),
        ]

        def data_of(crop: CropConfig) -> Any:
            flip = RandTorchVision("RandomHorizontalFlip", p=crop.flip)
            cropped = RandTorchVision("RandomResizedCrop", SIDE, crop.area, crop.aspect, antialias=True)
            scaled = RandTorchVision("Normalize", [GREY_MEAN], [GREY_STD])
            transform = Compose([*fixed, cropped, flip, scaled, three_channels])
            if kept == "CacheDataset":
                return CacheDataset(listed, transform, num_workers=None, progress=False)
            return PersistentDataset(listed, transform, cache_dir=setting.folder / "persistent")

        known = {crop: data_of(crop) for crop in (WHOLE, FINETUNE_CROP)}
        return lambda crop, passes: batched(known[crop], passes)

    return batches_of


LINES = {
    "loading-originals": Line(
        f"{COUNT} radiographs of 2544 x 3056 in JPEG, cropped at random to {SIDE}, in normalised batches of {BATCH}",
        f"seconds for {COUNT} images",
        {
            OURS: loading(ours("originals"), 1),
            "torchvision, PIL": loading(torchvision("originals"), 1),
            "torchvision, its decoder": loading(torchvision("originals", by_torchvision=True), 1),
        },
        mean_of_image,
        1.5,  # grey levels
        threads=1,
    ),
    "loading-prepared": Line(
        f"the same with 512 pixels on the shorter side, {PASSES} times",
        f"seconds for {COUNT * PASSES} images",
        {
            OURS: loading(ours("shards-jpeg"), PASSES),
            "mrm, files": loading(ours("prepared"), PASSES),
            "torchvision, PIL": loading(torchvision("prepared"), PASSES),
            "torchvision, its decoder": loading(torchvision("prepared", by_torchvision=True), PASSES),
            "WebDataset": loading(webdataset, PASSES),
        },
        mean_of_image,
        1.5,  # grey levels
        repeats=11,
        threads=1,
    ),
    "loading-decoded": Line(
        f"the same with 512 pixels on the shorter side and decoded before, {PASSES} times",
        f"seconds for {COUNT * PASSES} images",
        {
            OURS: loading(ours("shards-pgm"), PASSES),
            "MONAI PersistentDataset": loading(monai("PersistentDataset"), PASSES),
            "MONAI CacheDataset": loading(monai("CacheDataset"), PASSES),
        },
        mean_of_image,
        1.5,
        repeats=11,
        threads=1,
    ),
}
