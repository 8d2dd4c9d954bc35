"""mrm: learn from radiographs and their reports, then classify and segment with few labels.

Start reading at `mrm.runs`: each command is one function there.
"""

from mrm.data.records import Record, Records
from mrm.models import noise
from mrm.models.model_folder import load, load_encoder
from mrm.models.mrm import MRM, ModelConfig, pretrain_losses

__version__ = "0.1.0"
__all__ = ["MRM", "ModelConfig", "Record", "Records", "load", "load_encoder", "noise", "pretrain_losses"]
