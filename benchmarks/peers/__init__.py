"""mrm beside other libraries at the same work: `python -m benchmarks.peers --help`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # speed.py and its neighbours, which name each other plainly
