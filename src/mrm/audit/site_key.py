"""The key of this site: with it the ids and file names of training records are hashed before a model folder keeps them.

Ids are few and often numbers, so a hash without a key is found out by hashing all of them. With a key that stays at the
site (HMAC-SHA-256), whoever gets the model folder but not the key learns nothing from the hashes, and cannot compare
patients with them either; images can still be compared.

The key is a file of 64 hexadecimal digits, `~/.config/mrm/site-key` (under $XDG_CONFIG_HOME where that is set), made when
it is first needed, for its user alone. The environment variable MRM_SITE_KEY names another file, which several users
or machines may share. Never put it beside a model. If it is lost, models of before can no longer be compared by patient.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mrm.system.errors import ConfigError
from mrm.system.permissions import restricted

VARIABLE = "MRM_SITE_KEY"
DIGITS = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SiteKey:
    """A secret of 32 bytes."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Sixteen hex digits that tell this key from others, and nothing about its secret."""
        return self._hash(b"id of this key").hex()

    def hashed(self, values: np.ndarray) -> np.ndarray:
        """Keyed 64-bit hashes of an array of uint64; 0, which means unknown, stays 0."""
        distinct, place = np.unique(values, return_inverse=True)
        messages = distinct.astype("<u8").tobytes()
        hashes = b"".join(self._hash(messages[start : start + 8]) for start in range(0, len(messages), 8))
        hashed = np.maximum(np.frombuffer(hashes, "<u8").astype(np.uint64), np.uint64(1))
        hashed[distinct == 0] = 0
        return hashed[place].reshape(values.shape)

    def pseudonym(self, text: str) -> str:
        """Sixteen hex digits in place of an id; the same for the same text, and nothing without the key."""
        return self._hash(f"pseudonym {text}".encode()).hex()

    def _hash(self, message: bytes) -> bytes:
        """The first 8 bytes of HMAC-SHA-256 (RFC 2104)."""
        return hmac.digest(self.secret, message, "sha256")[:8]


def place() -> Path:
    """The file that holds the key of this site, or will hold it."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "mrm" / "site-key"


def load() -> SiteKey | None:
    """The key of this site; None where none has been made yet. Raises ConfigError for a file that holds no key."""
    file = place()
    try:
        text, mode = file.read_text(encoding="ascii", errors="replace").strip(), file.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{file}: the site key cannot be read ({error.strerror}); set {VARIABLE} to its file"
        ) from None
    if not DIGITS.fullmatch(text):
        raise ConfigError(
            f"{file}: holds no site key (64 hexadecimal digits); restore it from a backup, or remove it: a new one is "
            "made, and patients can no longer be compared with models of before"
        )
    if mode & 0o007:
        warnings.warn(f"{file}: all users of this machine can read the site key; run chmod o= on it", stacklevel=2)
    return SiteKey(bytes.fromhex(text))


def load_or_make() -> SiteKey:
    """The key of this site, made if there is none. Raises ConfigError where that is impossible."""
    return load() or _make(place())


def _make(file: Path) -> SiteKey:
    """Write a new key, unless another process is faster; its file appears whole or not at all."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with restricted():
            if not os.environ.get(
                VARIABLE
            ):  # a folder that a user has named and that is absent may be a share that is gone
                file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                    opened.write(secrets.token_hex(32) + "\n")
                os.link(temporary, file)  # unlike a rename, this never replaces the key of another process
                warnings.warn(
                    f"made the site key {file}: it keeps patient ids in model folders secret. Back it up, and never "
                    "share it with a model (docs/privacy.md)",
                    stacklevel=4,
                )
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{file}: the site key cannot be made ({error.strerror or error}), and fingerprints of records need it; set "
            f"{VARIABLE} to a file in a folder that can be written to, or make the file by `openssl rand -hex 32 > FILE`"
        ) from error
    made = load()
    if made is None:
        raise ConfigError(f"{file}: the site key was removed while it was made; run the command again")
    return made
