"""What sets of records share: patients, studies, files and images. `audit` compares records, `compare` fingerprints."""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm.audit.fingerprints import Fingerprints, fingerprint, read_names
    from mrm.audit.overlaps import AuditReport, audit, compare

__all__ = ["AuditReport", "Fingerprints", "audit", "compare", "fingerprint", "read_names"]
__getattr__, __dir__ = lazy.exports(
    "mrm.audit",
    {
        "AuditReport": "mrm.audit.overlaps",
        "Fingerprints": "mrm.audit.fingerprints",
        "audit": "mrm.audit.overlaps",
        "compare": "mrm.audit.overlaps",
        "fingerprint": "mrm.audit.fingerprints",
        "read_names": "mrm.audit.fingerprints",
    },
)
