"""mrm: learn from radiographs and their reports, then classify and segment with few labels.

Start reading at `mrm.runs`: each command is one file there, its whole story at the top.

Nothing heavy is imported until it is used: processes that only read images start with this file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrm import audit, recipes, runs
    from mrm.models.model_folder import load, load_encoder
    from mrm.training.tasks import pretrain_losses

__version__ = "0.1.0"
__all__ = ["audit", "load", "load_encoder", "pretrain_losses", "recipes", "runs"]

HOMES = {
    "load": "mrm.models.model_folder",
    "load_encoder": "mrm.models.model_folder",
    "pretrain_losses": "mrm.training.tasks",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name in __all__:
        return import_module(f"mrm.{name}")
    raise AttributeError(f"module 'mrm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
