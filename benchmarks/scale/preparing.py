"""How long `mrm prepare mimic` takes for its tables: metadata, split, labels and reports joined with the images, and all sets written.

    python -m benchmarks.scale.preparing --studies 20000 227835 --folder DIR --out preparing.json

For each number of studies a tree is made in DIR by `mimic_tree.py` unless it is there. It is prepared in a process of its own,
without opening an image (`--check none`) and without the audit that follows, whose time is that of decoding (`hashing.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.scale import mimic_tree


def main() -> None:
    """Measure each number of studies, print the results, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)  # in the process that is measured
    options = parser.parse_args()
    if options.tree:
        print(json.dumps(prepared(options.tree, options.out)))
        return
    report: dict[str, Any] = {"cores": os.cpu_count(), "by studies": {}}
    for studies in options.studies:
        tree, out = options.folder / f"tree-{studies}", options.folder / f"prepared-{studies}"
        if not (tree / "mimic-cxr-reports.zip").is_file():  # it is written last
            shutil.rmtree(tree, ignore_errors=True)
            mimic_tree.write(tree, studies, report_files=False, seed=0)
        shutil.rmtree(out, ignore_errors=True)
        report["by studies"][studies] = measured(tree, out)
        print(json.dumps({studies: report["by studies"][studies]}), flush=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def measured(tree: Path, out: Path) -> dict[str, float]:
    """What one preparation takes, from the start of its process to its end."""
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.scale.preparing", "--studies", "0", "--folder", tree.parent]
    said = subprocess.run(
        [*command, "--tree", tree, "--out", out], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    wall = time.perf_counter() - start
    return {"seconds": round(wall, 1), **json.loads(said), "load before": round(load, 1)}


def prepared(tree: Path, out: Path) -> dict[str, float]:
    """The images of the records, the seconds of the processor and the largest memory of a preparation in this process."""
    from mrm import corpora
    from mrm.corpora.options import Options

    with contextlib.redirect_stdout(io.StringIO()):
        corpus = corpora.prepare("mimic", tree, out, Options(check="none"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = round(used.ru_utime + used.ru_stime, 1)
    return {"images": len(corpus.records), "seconds of the processor": seconds, "peak": used.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
