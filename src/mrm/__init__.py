"""mrm: learn from radiographs and their reports, then classify and segment with few labels.

Start reading in `mrm/runs/`: each command is one file there, its whole story at the top.

Nothing heavy is imported until it is used: processes that only read images start with this file.
"""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm import audit, interop, recipes, runs
    from mrm.inference.predictor import Predictor
    from mrm.models.model_folder import load, load_encoder
    from mrm.training.own_loop import Dataset, transforms
    from mrm.training.tasks import pretrain_losses

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Predictor",
    "audit",
    "interop",
    "load",
    "load_encoder",
    "pretrain_losses",
    "recipes",
    "runs",
    "transforms",
]
__getattr__, __dir__ = lazy.exports(
    "mrm",
    {
        "Dataset": "mrm.training.own_loop",
        "Predictor": "mrm.inference.predictor",
        "audit": "mrm.audit",
        "interop": "mrm.interop",
        "load": "mrm.models.model_folder",
        "load_encoder": "mrm.models.model_folder",
        "pretrain_losses": "mrm.training.tasks",
        "recipes": "mrm.recipes",
        "runs": "mrm.runs",
        "transforms": "mrm.training.own_loop",
    },
)
