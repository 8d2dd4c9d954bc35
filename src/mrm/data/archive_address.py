"""Addresses of images in an archive: `dicomweb://host:port/path?StudyDate=20240101-20240131&Modality=DX`.

`dicomweb://` is https, and http where the archive is on this machine; `dicomweb+http://` and `dicomweb+https://` say which.
The path is that of the service, and may go on to a study, a series or an instance (`.../studies/UID/series/UID`). What follows
`?` are filters by DICOM keyword: those of a study are for the archive, those of an image are checked here, because archives
differ in what they search. Nothing heavy is imported here: the command line asks for every path whether it is an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from mrm.system.errors import ArchiveError
from mrm.system.hosts import is_loopback

STUDY_FILTERS = (
    *("StudyDate", "StudyTime", "AccessionNumber", "PatientID", "PatientName", "StudyInstanceUID", "StudyID"),
    *("StudyDescription", "ModalitiesInStudy", "ReferringPhysicianName", "InstitutionName"),
)
IMAGE_FILTERS = ("Modality", "BodyPartExamined", "ViewPosition", "SeriesDescription", "SeriesInstanceUID")
LEVELS = ("studies", "series", "instances")
_ADDRESS = re.compile(r"dicomweb(\+https?)?:/{1,2}([^/].*)", re.DOTALL)
_BELOW = re.compile(
    r"(?:/studies/(?P<studies>[^/]+)(?:/series/(?P<series>[^/]+)(?:/instances/(?P<instances>[^/]+))?)?)?/?$"
)
UID = re.compile(r"[0-9A-Za-z.-]{1,64}")  # also those that break the standard's rules, but nothing that changes a path


@dataclass(frozen=True)
class Address:
    """Where an archive is, what of it is meant, and by which filters."""

    url: str  # of the service: https://host/path
    shown: str  # the same as it is written: dicomweb://host/path
    study: str = ""
    series: str = ""
    instance: str = ""
    filters: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """As it is written, without filters, which may name a patient."""
        levels = zip(LEVELS, (self.study, self.series, self.instance), strict=True)
        return self.shown + "".join(f"/{level}/{uid}" for level, uid in levels if uid)

    @property
    def is_local(self) -> bool:
        """Whether the archive is on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def filters_of(self, names: Iterable[str]) -> dict[str, str]:
        """The filters of these names."""
        return {name: value for name, value in self.filters if name in set(names)}

    def at(self, study: str, series: str = "", instance: str = "") -> Address:
        """The address of a part of the same archive."""
        return replace(self, study=study, series=series, instance=instance, filters=())


def is_archive(place: Path | str) -> bool:
    """Whether this is an address of an archive and no path of a file; `Path` turns two slashes into one."""
    return bool(_ADDRESS.fullmatch(str(place)))


def parse(place: Path | str) -> Address:
    """The parts of an address. Raises ArchiveError for one that cannot be used."""
    match = _ADDRESS.fullmatch(str(place))
    if not match:
        raise ArchiveError(
            f"{place}: expected an address such as dicomweb://host/dicom-web?StudyDate=20240101-20240131"
        )
    scheme, rest = match[1] or "", match[2]
    if "@" in re.split(r"[/?]", rest)[0]:
        raise ArchiveError(
            "dicomweb://...: an address must not contain a password, because tables record it; set MRM_DICOMWEB_TOKEN, or "
            "MRM_DICOMWEB_USER and MRM_DICOMWEB_PASSWORD, or write the machine into ~/.netrc"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ArchiveError(f"dicomweb://{rest.partition('?')[0]}: is no address ({error})") from None
    if parts.fragment or not host:
        raise ArchiveError(f"dicomweb://{rest.partition('?')[0]}: is no address; write # as %23, and name a host")
    below = _BELOW.search(parts.path)
    service = parts.path[: below.start()].rstrip("/") if below else parts.path.rstrip("/")
    levels = {level: uid or "" for level, uid in (below.groupdict() if below else {}).items()}
    if wrong := [uid for uid in levels.values() if uid and not UID.fullmatch(uid)]:
        raise ArchiveError(f"dicomweb://{parts.netloc}: {wrong[0]!r} is no DICOM identifier")
    protocol = scheme[1:] or ("http" if is_loopback(host) else "https")
    return Address(
        f"{protocol}://{parts.netloc}{service}",
        f"dicomweb{scheme}://{parts.netloc}{service}",
        levels.get("studies", ""),
        levels.get("series", ""),
        levels.get("instances", ""),
        _filters(parts.query),
    )


def _filters(query: str) -> tuple[tuple[str, str], ...]:
    """The filters of a query, each named once. Raises ArchiveError for one that is unknown, or has no value."""
    known = (*STUDY_FILTERS, *IMAGE_FILTERS)
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if name not in known:
            raise ArchiveError(f"unknown filter {name!r} of an archive; choose from {', '.join(known)}")
        if not value.strip():
            raise ArchiveError(f"the filter {name} of an archive has no value; write {name}=VALUE, or leave it out")
    if len(dict(pairs)) < len(pairs):
        raise ArchiveError("a filter of an archive is named twice; separate several values by commas: Modality=CR,DX")
    return tuple(pairs)
