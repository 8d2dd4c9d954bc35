"""Where the tests find what lies beside the package."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS, EXAMPLES = ROOT / "benchmarks", ROOT / "examples"
SHARED = Path(os.environ.get("MRM_SHARED", ROOT.parent / "shared"))
