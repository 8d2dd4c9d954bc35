"""Models for other programs: their files, their interfaces, and their names of findings.

timm and transformers (`hub_folder`), ONNX (`onnx_export`), MONAI (`monai_bundle`), TorchXRayVision (`torchxrayvision`).
"""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm.interop.finding_names import names_of, translate
    from mrm.interop.torchxrayvision import XRVModel

__all__ = ["XRVModel", "names_of", "translate"]
__getattr__, __dir__ = lazy.exports(
    "mrm.interop",
    {
        "XRVModel": "mrm.interop.torchxrayvision",
        "names_of": "mrm.interop.finding_names",
        "translate": "mrm.interop.finding_names",
    },
)
