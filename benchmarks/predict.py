"""Images a second of `mrm predict` against a plain timm loop, and its memory over few and many images.

    python benchmarks/predict.py
    python benchmarks/predict.py --encoder vit_base_patch16_224 --images 500 --repeats 3 --workers 8

The plain loop is what timm's documentation shows: PIL opens and converts to RGB, torchvision resizes, ToTensor,
Normalize, a DataLoader with as many workers and as large batches, and the same weights. Both are given the same JPEG
files (phantoms, `--side` pixels, or those of `--folder`), and take turns; the order changes with each repeat. `mrm
predict` is timed with everything it does: finding the images, journal, table. Both are timed without the start of
Python, after an untimed batch, and with the threads that PyTorch starts with. The probabilities of both are compared, so
that the same work is timed.

Memory is the peak of a fresh `mrm predict`, its readers included, when this many images were done, sampled twenty times
a second: anonymous and shared memory, pages that its processes share counted once (Linux, Pss_Anon and
Pss_Shmem of smaps_rollup). Mapped files, the libraries above all, are left out: the system may keep or drop
them. `--precisions` without a value skips the timing, `--memory` without a value the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import mrm
from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.runs import predicting, reading_options
from mrm.system import hardware
from mrm.system.hardware import best_device
from mrm.system.partial_results import Partial


def main() -> None:
    """Time, measure, and print one line of JSON."""
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder / "model", options.encoder)
        files = images(folder / "images", options)
        report = {
            **vars(options),
            "folder": options.folder.name if options.folder else None,
            "device": hardware.device_name(best_device()),
            "torch": torch.__version__,
            **{kind: timed(model, files, kind, folder, options) for kind in options.precisions},
        }
        if options.memory:
            report["memory_mib"] = memory_curve(model, files, folder, options)
    print(json.dumps(report))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_tiny_patch16_224", help="any timm Vision Transformer")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--side", type=int, default=512, help="pixels of the phantoms")
    parser.add_argument("--folder", type=Path, help="JPEG files to use instead")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument(
        "--memory",
        nargs="*",
        type=int,
        default=[200, 1000, 2000, 5000],
        help="numbers of images at which to record it; none: skip",
    )
    options = parser.parse_args()
    options.threads = torch.get_num_threads()  # those that PyTorch starts with, which the plain loop uses
    return options


def write_model(folder: Path, encoder: str) -> Path:
    """A classifier with random weights, those of its head large enough that probabilities differ."""
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(FINDINGS, encoder))
        torch.nn.init.normal_(model.encoder.head.weight, std=0.1)
    return model_folder.save(folder, model.eval())


def images(folder: Path, options: argparse.Namespace) -> list[Path]:
    """The files to predict, in order; few phantoms are drawn, and stand in turn for the many."""
    if options.folder:
        return sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: options.images]
    phantom_files.write(folder, 16, seed=0, size=options.side, workers=1)
    drawn = [p.read_bytes() for p in sorted((folder / "images").iterdir())]
    many = folder / "many"
    many.mkdir()
    for i in range(options.images):
        (many / f"{i:05}.jpg").write_bytes(drawn[i % len(drawn)])
    return sorted(many.iterdir())


class Plain(Dataset):
    """Images as a plain timm loop reads them."""

    def __init__(self, files: list[Path], size: int, mean: float, std: float) -> None:
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize([mean] * 3, [std] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


@torch.inference_mode()
def plain_loop(encoder, config, files: list[Path], precision: str, options: argparse.Namespace) -> np.ndarray:
    """Probabilities (N, C) by the plain loop."""
    device = next(encoder.parameters()).device
    data = Plain(files, config.image_size, config.mean, config.std)
    loader = DataLoader(data, batch_size=options.batch, num_workers=options.workers, pin_memory=device.type == "cuda")
    batches = []
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for image_BCHW in loader:
            logits_BC = encoder(image_BCHW.to(device, non_blocking=True))
            batches.append(logits_BC.float().sigmoid().cpu().numpy())
    return np.concatenate(batches)


def timed(model: Path, files: list[Path], precision: str, folder: Path, options: argparse.Namespace) -> dict:
    """Images a second of both, the median of the repeats and each of them, and how far their probabilities differ."""
    reading = reading_options.Reading(batch=options.batch, workers=options.workers, precision=precision)
    loaded = mrm.load(model).to(reading_options.device_of(reading))
    answers: dict[str, np.ndarray] = {}
    threads = {"timm": options.threads}

    def ours(some: list[Path]) -> None:
        out = folder / "out.jsonl"
        predicting.predict_table(model, some, out, reading)
        threads["mrm"] = torch.get_num_threads()  # what it has chosen
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        answers["mrm"] = np.array([[row[c] for c in FINDINGS] for row in rows])

    def plain(some: list[Path]) -> None:
        torch.set_num_threads(options.threads)
        answers["timm"] = plain_loop(loaded.encoder, loaded.config, some, precision, options)

    ways, rates = {"mrm": ours, "timm": plain}, {"mrm": [], "timm": []}
    for way in ways.values():
        way(files[: options.batch])
    for repeat in range(options.repeats):
        for name in ("mrm", "timm") if repeat % 2 == 0 else ("timm", "mrm"):
            start = time.perf_counter()
            ways[name](files)
            rates[name].append(round(len(files) / (time.perf_counter() - start), 2))
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    return {
        "images_a_second": medians,
        "each": rates,
        "threads": threads,
        "mrm_over_timm": round(medians["mrm"] / medians["timm"], 3),
        "greatest_difference_of_probabilities": float(np.abs(answers["mrm"] - answers["timm"]).max()),
    }


def memory_curve(model: Path, files: list[Path], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The peak MiB that one fresh `mrm predict` had held when so many images were done, its readers included."""
    counts, out = sorted(options.memory), folder / "memory.csv"
    many = folder / "many.csv"
    many.write_text("image_path\n" + "".join(f"{files[i % len(files)].absolute()}\n" for i in range(counts[-1])))
    words = [str(model), str(many), "--out", str(out), "--batch", str(options.batch), "--workers", str(options.workers)]
    process = subprocess.Popen([sys.executable, "-m", "mrm", "predict", *words], stdout=subprocess.DEVNULL)
    peak, curve = 0, {}
    while process.poll() is None:
        peak = max(peak, sum(resident(p) for p in (process.pid, *children(process.pid))))
        done = rows_done(out)
        curve |= {str(n): round(peak / 2**20, 1) for n in counts if n <= done and str(n) not in curve}
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"predicting {counts[-1]} images failed")
    return curve | {str(counts[-1]): round(peak / 2**20, 1)}  # with the writing of the table


def rows_done(out: Path) -> int:
    """Rows that an unfinished table has so far."""
    try:
        *batches, _ = Partial(out).part.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return sum(len(json.loads(batch)) for batch in batches)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        return [int(p) for p in listed.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, shared memory counted by share; without mapped files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


if __name__ == "__main__":
    main()
