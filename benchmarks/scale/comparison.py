"""How long the audit takes to compare the hashes of many images with those of many others, and how many copies it finds.

    python benchmarks/scale/comparison.py --images DIR [DIR ...] --hashes 100000 400000 --out comparison.json

The hashes are drawn so that their bits depend on each other as those of the real radiographs in DIR do: bits are the signs of normal
variables with the same correlations. So two of them are as far apart as two real ones, and share a band as often. Of the second
set one in a hundred is a copy of one of the first, as it is, inverted, mirrored or both, with up to 36 bits changed. Each size
is measured in a process of its own. On a machine that others use the seconds of the processor tell more than those of the clock.
"""

# Shapes: N hashes, B = 256 bits
from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from mrm.audit.perceptual_hashes import BITS, THRESHOLD, distance, mirrored, near_pairs, perceptual_hash
from mrm.data import images
from mrm.system import hardware

MOST = 2_000  # images of a folder that are hashed
PAIRS = 200_000  # of which the distance is measured
COPIES = 100  # one hash of the second set in so many is a copy


def main() -> None:
    """Measure each number of hashes, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--hashes", type=int, nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixing", type=Path, help=argparse.SUPPRESS)  # in the process that is measured
    options = parser.parse_args()
    if options.mixing:
        print(json.dumps(compared(np.load(options.mixing), options.hashes[0], options.seed)))
        return
    real = real_hashes(options.images)
    mixing = mixing_of(real)
    rng = np.random.default_rng(options.seed)
    report: dict[str, Any] = {
        "cores": hardware.cores(),
        "real hashes": len(real),
        "bits between two": {"real": spread(real, rng), "drawn": spread(drawn(mixing, 20_000, rng), rng)},
        "by hashes": {},
    }
    file = Path(f"{options.out or 'comparison'}.npy")
    np.save(file, mixing)
    for count in options.hashes:
        given = [f"--hashes={count}", f"--seed={options.seed}", f"--mixing={file}", "--images=."]
        command = [sys.executable, __file__, *given]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        report["by hashes"][count] = json.loads(said.splitlines()[-1])
        print(json.dumps(report, indent=1), flush=True)
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    file.unlink()


def real_hashes(folders: list[Path]) -> np.ndarray:
    """The hashes (N, 4) of images in folders, spread over each."""
    files = []
    for folder in folders:
        own = sorted(file for file in folder.iterdir() if file.is_file())
        files += own[:: max(1, len(own) // MOST)]
    return np.array([perceptual_hash(images.read(file)) for file in files])


def mixing_of(hashes_N4: np.ndarray) -> np.ndarray:
    """(B + 1, B): what makes of independent normal variables those whose signs are correlated as the bits are; the last row is added.

    The correlation of two normal variables is the sine of a quarter turn times that of their signs.
    """
    signs_NB = 2.0 * bits_of(hashes_N4) - 1
    share_B = np.clip((signs_NB.mean(axis=0) + 1) / 2, 0.01, 0.99)
    normal_BB = np.sin(np.pi / 2 * np.corrcoef(signs_NB.T))
    values, vectors = np.linalg.eigh(normal_BB)
    mixing_BB = (vectors * np.sqrt(np.clip(values, 1e-6, None))).T
    mixing_BB /= np.sqrt((mixing_BB**2).sum(axis=0))
    return np.vstack([mixing_BB, norm.ppf(share_B)]).astype(np.float32)


def bits_of(hashes_N4: np.ndarray) -> np.ndarray:
    """(N, B) of 0 and 1."""
    return np.unpackbits(hashes_N4.view(np.uint8).reshape(len(hashes_N4), -1), axis=1, bitorder="little")


def packed(bits_NB: np.ndarray) -> np.ndarray:
    """The hashes (N, 4) that have these bits."""
    return np.packbits(bits_NB, axis=1, bitorder="little").view(np.uint64)


def drawn(mixing: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many hashes (N, 4)."""
    parts = []
    for start in range(0, count, 1 << 14):
        normal = rng.standard_normal((min(1 << 14, count - start), BITS), dtype=np.float32)
        parts.append(packed(normal @ mixing[:-1] + mixing[-1] > 0))
    return np.concatenate(parts)


def spread(hashes_N4: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """How many bits lie between two of the hashes."""
    i, j = rng.integers(len(hashes_N4), size=(2, PAIRS))
    bits = distance(hashes_N4[i[i != j]], hashes_N4[j[i != j]])
    return {f"{share} %": float(np.percentile(bits, share)) for share in (0.01, 0.1, 1, 10, 50)}


def planted(first_N4: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Copies of so many hashes, each with up to THRESHOLD bits changed, and the places (2, count) of originals and bits changed."""
    originals = rng.choice(len(first_N4), count, replace=False)
    changes = rng.integers(THRESHOLD + 1, size=count)
    order = rng.permuted(np.tile(np.arange(BITS), (count, 1)), axis=1)
    copies = first_N4[originals] ^ packed(order < changes[:, None])
    ways = rng.integers(4, size=count)
    copies = np.where((ways % 2 == 1)[:, None], ~copies, copies)
    return np.where((ways >= 2)[:, None], mirrored(copies), copies), np.stack([originals, changes])


def compared(mixing: np.ndarray, count: int, seed: int) -> dict[str, Any]:
    """What it takes to compare so many hashes with as many others, and how many of the copies among them are found."""
    rng = np.random.default_rng(seed)
    first, second = drawn(mixing, count, rng), drawn(mixing, count, rng)
    copies, (originals, changes) = planted(first, max(1, count // COPIES), rng)
    places = rng.choice(count, len(copies), replace=False)
    second[places] = copies
    load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    pairs = near_pairs(first, second, THRESHOLD, hardware.cores())
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    keys = pairs[:, 0] * count + pairs[:, 1]
    found = np.isin(originals * count + places, keys)
    return {
        "seconds": round(seconds, 1),
        "seconds of the processor": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak bytes": peak_bytes(),
        "copies": len(copies),
        "found": int(found.sum()),
        "most bits changed among those found": int(changes[found].max(initial=0)),
        "other pairs": len(pairs) - int(found.sum()),
        "load before": round(load, 1),
    }


def peak_bytes() -> int:
    """The most memory that this process has had at once; `ru_maxrss` would be that of its parent where that had more."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main()
