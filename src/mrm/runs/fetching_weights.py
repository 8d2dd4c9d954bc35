"""`mrm weights get`: published weights from the Hugging Face hub into a cache, with their hash checked.

Fetched by the hub's own library. What is fetched is not read: `--init` reads it, and runs no code in doing so.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from mrm.models.known_weights import KnownWeights, find
from mrm.system.errors import RunError, first_line

SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_weights(name: str, out: Path | None = None) -> Path:
    """Fetch known weights into `out`, by default the hub's own cache. Returns what `--init` takes.

    The SHA-256 of each file is compared with the one that is known, else with the one that the hub states for large
    files; a file that differs is removed. Raises RunError, and ConfigError for an unknown name.
    """
    known = find(name)
    if not known.repository:
        raise RunError(
            f"{name}: its publishers offer it at {known.address}, which `mrm weights get` cannot fetch; download "
            f"{known.files[0]} there and give it to --init"
        )
    paths = [_fetched(known, file, out) for file in known.files]
    return paths[0].parent if known.is_folder else paths[0]


def _fetched(known: KnownWeights, file: str, out: Path | None) -> Path:
    """One file, fetched if it is not in the cache yet."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    address = os.environ.get("HF_ENDPOINT") or None
    try:
        path = Path(huggingface_hub.hf_hub_download(known.repository, file, cache_dir=out, endpoint=address))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise RunError(
            f"{known.name}: {file} cannot be fetched from {known.repository} ({first_line(error)}); check the connection, and "
            f"whether {known.address} asks you to accept terms"
        ) from error
    _check(path, known.sha256.get(file))
    return path


def _check(path: Path, expected: str | None) -> None:
    """Remove a file whose SHA-256 is not the expected one, else the one that the hub states. Raises RunError then."""
    stored = path.resolve()  # the cache names a large file by the hash that the hub states, and links to it
    stated = expected or (stored.name if SHA256.fullmatch(stored.name) else None)
    if stated is None:
        return
    with open(stored, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != stated:
        path.unlink()
        stored.unlink(missing_ok=True)
        raise RunError(
            f"{path}: removed, since its SHA-256 is {digest}, and {stated} was expected; it was damaged on the way, or "
            "changed at its source: try again, and do not use it if that repeats"
        )
