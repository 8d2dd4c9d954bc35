"""Public corpora: a description or a short file each, from the official release to `Records`. `prepare` is the whole story."""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm.corpora.catalogue import CORPORA
    from mrm.corpora.options import Options
    from mrm.corpora.preparing import prepare

__all__ = ["CORPORA", "Options", "prepare"]
__getattr__, __dir__ = lazy.exports(
    "mrm.corpora",
    {
        "CORPORA": "mrm.corpora.catalogue",
        "Options": "mrm.corpora.options",
        "prepare": "mrm.corpora.preparing",
    },
)
