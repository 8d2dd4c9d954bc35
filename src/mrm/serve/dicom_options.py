"""How the service receives images by DICOM's own protocol (C-STORE), as options state it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mrm.system.errors import ConfigError
from mrm.system.hosts import is_loopback

LONGEST_TITLE = 16  # characters of the value representation AE


@dataclass(frozen=True)
class DicomOptions:
    """Where images are received, from whom, and where reports go. Raises ConfigError."""

    dicom_port: int | None = None  # that a modality or an archive sends images to (C-STORE); by default none
    dicom_host: str = "127.0.0.1"  # the address of that port; any other than this machine needs --dicom-from
    dicom_title: str = "MRM"  # the application entity title that senders must call
    dicom_from: tuple[str, ...] = ()  # the titles of the senders that are allowed; by default any, from this machine
    dicom_quiet_seconds: float = 30.0  # without a further image, after which a study is complete
    dicom_out: Path | None = None  # folder that a report of each study is written into
    dicom_store: str | None = None  # the archive that reports are stored in; by default that of --watch

    def __post_init__(self) -> None:
        if self.dicom_port is None:
            for field in fields(self):
                if getattr(self, field.name) != field.default:
                    flag = f"--{field.name.replace('_', '-')}"
                    raise ConfigError(f"{flag} is for images that are received; give --dicom-port too, or leave it out")
            return
        if not 0 <= self.dicom_port <= 65535:
            raise ConfigError(f"--dicom-port must be a port from 0 to 65535, not {self.dicom_port}")
        if not 1e-3 <= self.dicom_quiet_seconds < 1e6:
            raise ConfigError(f"--dicom-quiet-seconds must be a number above 0, not {self.dicom_quiet_seconds}")
        for flag, titles in (("--dicom-title", (self.dicom_title,)), ("--dicom-from", self.dicom_from)):
            for title in titles:
                if not _is_title(title):
                    raise ConfigError(
                        f"{flag} {title!r} is no application entity title: 1 to {LONGEST_TITLE} ASCII characters without \\"
                    )
        if not is_loopback(self.dicom_host) and not self.dicom_from:
            raise ConfigError(
                f"--dicom-host {self.dicom_host} can be reached from other machines, so name the titles of the senders that "
                "are allowed: --dicom-from TITLE"
            )


def _is_title(title: str) -> bool:
    printable = title.isascii() and title.isprintable() and "\\" not in title
    return printable and 0 < len(title) <= LONGEST_TITLE and title == title.strip()
