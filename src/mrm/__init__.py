"""mrm: learn from radiographs and their reports, then classify and segment with few labels.

Start reading at `mrm.runs`: each command is one function there.
"""

from mrm import noise
from mrm.checkpoint import load, load_encoder
from mrm.data.records import Record, Records
from mrm.model import MRM, ModelConfig, pretrain_losses

__version__ = "0.1.0"
__all__ = ["MRM", "ModelConfig", "Record", "Records", "load", "load_encoder", "noise", "pretrain_losses"]
