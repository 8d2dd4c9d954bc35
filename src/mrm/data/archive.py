"""An archive that speaks DICOMweb: its studies are searched (QIDO-RS), its images read (WADO-RS), results stored (STOW-RS).

Searching, headers and storing are left to `dicomweb-client` (extra `archive`). The bytes of an image are fetched here, as
they lie in the archive, with a limit on their size and time, and are read by the same strict reader as a file.

Credentials come from the environment (`MRM_DICOMWEB_TOKEN`, or `MRM_DICOMWEB_USER` and `MRM_DICOMWEB_PASSWORD`) or from
`~/.netrc`. They are never part of an address, and no message repeats them. `MRM_DICOMWEB_TIMEOUT` is how many seconds an
archive may be silent.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any, NoReturn

from mrm.data.archive_address import STUDY_FILTERS, Address
from mrm.data.headers import MAX_BYTES
from mrm.system.errors import ArchiveError, ImageError, LostArchiveError, UnreachableError, first_line

if TYPE_CHECKING:
    import pydicom
    import requests

Found = dict[str, Any]  # an answer of a search: DICOM JSON by tag
CONNECT_SECONDS = 10.0
BODY_TIMES = 10  # an image may take so many times longer to arrive than the archive may be silent
CHUNK = 1 << 20  # bytes that are read at a time
PAGE = 200  # answers of a search that are asked for at a time
ATTEMPTS, BACKOFF = 3, 0.5  # of a request that fails on its way; the pauses grow: 0.5, 1, ... seconds
FAILURES = 5  # requests in a row that fail on their way, after which an archive counts as lost
AGAIN = "what is done is kept, so run the same command again when it is back"
GONE = (404, 410)
STUDY_COUNT, MODALITIES, STUDY_UID, SOP_UID = "00201208", "00080061", "0020000D", "00080018"


class Archive:
    """A connection to an archive, for one thread of one process (see `connected`)."""

    def __init__(self, address: Address) -> None:
        require_client()
        from dicomweb_client import DICOMwebClient

        self.address, self.seconds, self.failures = address, _seconds(), 0
        self.session = _session(address)
        timeout = CONNECT_SECONDS, self.seconds
        self.client = DICOMwebClient(address.url, self.session, permissive_uid=True, timeout=timeout)
        self.client.set_http_retry_params(retry=False)  # the session repeats requests itself

    # Searching ----------------------------------------------------------------------------------------------

    def studies(self) -> Iterator[Found]:
        """The studies that the address means, a page at a time; each once. Raises ArchiveError."""
        filters = self.address.filters_of(STUDY_FILTERS)
        if self.address.study:
            filters["StudyInstanceUID"] = self.address.study
        fields = ["ModalitiesInStudy", "NumberOfStudyRelatedInstances"]
        pages = lambda offset: self.client.search_for_studies(  # noqa: E731
            limit=PAGE, offset=offset, fields=fields, search_filters=filters
        )
        return self._pages("search for studies", pages, STUDY_UID)

    def instances(self, study: str, fields: list[str], count: int = 0) -> Iterator[Found]:
        """The instances of a study, each once; `count` of them end the search. Raises ArchiveError."""
        pages = lambda offset: self.client.search_for_instances(  # noqa: E731
            study, limit=PAGE, offset=offset, fields=fields
        )
        return self._pages("search for instances", pages, "", count)

    def holds(self, study: str, instance: str) -> bool:
        """Whether the archive has an instance. Raises ArchiveError."""
        with self._asking("search for an instance"):
            answers = self.client.search_for_instances(study, search_filters={"SOPInstanceUID": instance})
            return any(value_of(answer, SOP_UID) == instance for answer in answers)

    def _pages(self, what: str, page: Callable[[int], list[Found]], tag: str, count: int = 0) -> Iterator[Found]:
        """All answers of a search; with a `tag`, those with one value of it once. It ends when nothing new comes.

        An archive may give fewer answers at a time than it was asked for, and one that knows no offset gives the same again.
        """
        seen: set[str] = set()
        offset, before = 0, None
        while True:
            with self._asking(what):
                answers = page(offset)
                if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
                    raise ValueError("no list of datasets")
            if not answers or answers == before:
                return
            for answer in answers:
                key = value_of(answer, tag) if tag else ""
                if not tag or (key and key not in seen):
                    seen.add(key)
                    yield answer
            offset, before = offset + len(answers), answers
            if count and offset >= count:
                return

    # Reading ------------------------------------------------------------------------------------------------

    def read(self, place: Address) -> bytes:
        """The bytes of an instance, encoded as the archive has it.

        Raises ImageError where the instance is no longer there, UnreachableError where it did not come whole after some
        attempts, LostArchiveError where the archive does not answer, and ArchiveError for credentials that it refuses.
        """
        url = f"{place.url}/studies/{place.study}/series/{place.series}/instances/{place.instance}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._asking(str(place)):
                    return self._fetched(url, place)
            except LostArchiveError:
                raise
            except UnreachableError:
                if attempt == ATTEMPTS or self.failures >= FAILURES:
                    raise
                time.sleep(BACKOFF * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _fetched(self, url: str, place: Address) -> bytes:
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        until = time.monotonic() + BODY_TIMES * self.seconds
        body = bytearray()
        timeout = CONNECT_SECONDS, self.seconds
        with self.session.get(url, headers=accept, stream=True, timeout=timeout) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_content(CHUNK):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ImageError(f"{place}: more than {MAX_BYTES:,} bytes, which no radiograph has")
                if time.monotonic() > until:
                    raise UnreachableError(f"{place}: did not arrive within {BODY_TIMES * self.seconds:g} s")
            kind = answer.headers.get("Content-Type", "")
        content = only_part(bytes(body), kind, str(place))
        if place.instance.encode() not in content[:CHUNK]:
            raise UnreachableError(f"{place}: the archive sent another instance")
        return content

    def header(self, place: Address) -> pydicom.Dataset:
        """What the archive knows of an instance, without pixels and other large values. Raises as `read` does."""
        import pydicom

        with self._asking(str(place)):
            answer = self.client.retrieve_instance_metadata(place.study, place.series, place.instance)
            small = {tag: element for tag, element in answer.items() if "BulkDataURI" not in element}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about values that break a rule, which are passed on
                dataset = pydicom.Dataset.from_json(small)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        return dataset

    # Storing ------------------------------------------------------------------------------------------------

    def store(self, made: pydicom.Dataset) -> bool:
        """Store an instance unless the archive has it; returns whether it was stored now.

        Raises ArchiveError where the archive refuses it, LostArchiveError where it does not answer.
        """
        study, instance = str(made.StudyInstanceUID), str(made.SOPInstanceUID)
        for attempt in range(1, ATTEMPTS + 1):
            if self.holds(study, instance):  # also after an attempt whose answer was lost
                return attempt > 1
            try:
                with self._asking("store an instance"):
                    answer = self.client.store_instances([made], study)
                if failed := answer.get("FailedSOPSequence"):
                    reason = failed[0].get("FailureReason")
                    raise ArchiveError(
                        f"{self.address.shown}: did not store {instance} (reason {reason}); ask the archive's administrator"
                    )
                return True
            except UnreachableError as error:
                if attempt == ATTEMPTS:
                    raise LostArchiveError(f"{first_line(error)}; {AGAIN}") from error
                time.sleep(BACKOFF * attempt)
        raise AssertionError("the last attempt returns or raises")

    # Failures -----------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn what a request raises into errors that say what is wrong; count those that failed on their way."""
        import requests

        shown = self.address.shown
        where = what if what.startswith(shown) else f"{shown}: {what}"
        try:
            yield
        except requests.HTTPError as error:
            assert error.response is not None
            self._refused(where, error.response.status_code)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            self._failed(where, error)
        except requests.JSONDecodeError as error:
            self._not_json(where, error)
        except requests.RequestException as error:
            raise ArchiveError(f"{where}: cannot be asked ({type(error).__name__}); check the address") from None
        except (ArchiveError, ImageError):
            raise
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            self._not_json(where, error)
        else:
            self.failures = 0

    def _not_json(self, where: str, error: Exception) -> NoReturn:
        raise ArchiveError(
            f"{where}: the answer is not DICOM JSON ({first_line(error)}); is the path that of the DICOMweb service?"
        ) from None

    def _refused(self, where: str, status: int) -> None:
        if status in (401, 403):
            raise ArchiveError(
                f"{where}: the archive refuses the credentials ({status}); set MRM_DICOMWEB_TOKEN, or MRM_DICOMWEB_USER "
                "and MRM_DICOMWEB_PASSWORD, or write the machine into ~/.netrc"
            ) from None
        if status in GONE:
            raise ImageError(
                f"{where}: is not in the archive ({status}); it was deleted, or the path is wrong"
            ) from None
        if status == 429 or status >= 500:
            self.failures += 1
            self._give_up(where, f"the archive answered {status}")
            raise UnreachableError(f"{where}: the archive answered {status}") from None
        raise ArchiveError(f"{where}: the archive refuses the request ({status})") from None

    def _failed(self, where: str, error: requests.RequestException) -> None:
        import requests
        from urllib3.exceptions import NewConnectionError

        reason = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(error, requests.exceptions.SSLError):
            raise ArchiveError(
                f"{where}: its certificate cannot be verified; name that of its authority in REQUESTS_CA_BUNDLE"
            ) from None
        if isinstance(reason, NewConnectionError) or isinstance(error, requests.ConnectTimeout):
            raise LostArchiveError(f"{self.address.shown}: cannot be reached; {AGAIN}, or check the address") from None
        self.failures += 1
        silent = isinstance(error, requests.Timeout) or "timed out" in str(error)
        said = f"did not answer within {self.seconds:g} s" if silent else "the connection broke off"
        self._give_up(where, said)
        raise UnreachableError(f"{where}: {said}") from None

    def _give_up(self, where: str, said: str) -> None:
        """Raises LostArchiveError after some failures in a row: an archive that is down must not cost an hour an image."""
        if self.failures >= FAILURES:
            raise LostArchiveError(f"{where}: {said}, {self.failures} times in a row; {AGAIN}") from None


# One instance -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchivedImage:
    """An image in an archive, fetched whenever it is read. It can be the image of a `Record`."""

    place: Address

    def read_bytes(self) -> bytes:
        """The DICOM file. Raises as `Archive.read` does."""
        return connected(self.place).read(self.place)

    def header(self) -> pydicom.Dataset:
        """What the archive knows of it, without the pixels. Raises as `Archive.header` does."""
        return connected(self.place).header(self.place)

    def __str__(self) -> str:
        return str(self.place)


def only_part(body: bytes, kind: str, name: str) -> bytes:
    """The DICOM file in an answer of WADO-RS: the only part of a multipart message, or the body itself.

    Raises UnreachableError for any other answer, because a proxy may have given it, and for one that is cut off.
    """
    message = Message()
    message["Content-Type"] = kind
    if message.get_content_type() == "application/dicom":
        return body
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise UnreachableError(f"{name}: the archive sent {kind[:60] or 'something'} instead of DICOM")
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    start = body.find(delimiter)
    head = body.find(b"\r\n\r\n", start)
    end = body.find(b"\r\n" + delimiter, head + 2)
    if start < 0 or head < 0 or end < 0:
        raise UnreachableError(f"{name}: the archive's answer is cut off, or no multipart message")
    if body[end + 2 + len(delimiter) :][:2] != b"--":
        raise UnreachableError(f"{name}: the archive sent more than one instance")
    return body[head + 4 : end]


def value_of(found: Found, tag: str) -> str:
    """The first value of an element of DICOM JSON as text; empty where there is none."""
    values = (found.get(tag) or {}).get("Value") or [""]
    return str(values[0] if values[0] is not None else "")


def values_of(found: Found, tag: str) -> list[str]:
    """All values of an element of DICOM JSON as text."""
    return [str(value) for value in (found.get(tag) or {}).get("Value") or [] if value is not None]


# Connections --------------------------------------------------------------------------------------------------

_LOCAL = threading.local()


def connected(address: Address) -> Archive:
    """The connection of this thread to an archive; a fork of a process has its own."""
    archives = _LOCAL.__dict__.setdefault("archives", {})
    key = os.getpid(), address.url
    if key not in archives:
        archives[key] = Archive(address.at(""))
    return archives[key]


def require_client() -> None:
    """Raises ArchiveError, with how to install it, where dicomweb-client is missing."""
    if importlib.util.find_spec("dicomweb_client") is None:
        raise ArchiveError(
            "archives need dicomweb-client, which is not installed: pip install 'mrm-radiograph[archive]'"
        )


def _seconds() -> float:
    text = os.environ.get("MRM_DICOMWEB_TIMEOUT", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ArchiveError(f"MRM_DICOMWEB_TIMEOUT is {text!r}, but must be a number of seconds above 0")
    return seconds


def _session(address: Address) -> requests.Session:
    """A session with credentials that repeats requests which fail on their way, but none that stores."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    session.trust_env = not address.is_local  # no proxy leads to this machine
    repeated = Retry(
        total=ATTEMPTS - 1, read=0, status_forcelist=(429, 500, 502, 503, 504), backoff_factor=BACKOFF,
        raise_on_status=False, respect_retry_after_header=False,
    )  # fmt: skip
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=repeated))
    token, user = os.environ.get("MRM_DICOMWEB_TOKEN"), os.environ.get("MRM_DICOMWEB_USER")
    if token:
        session.auth = _Bearer(token)
    elif user:
        session.auth = (user, os.environ.get("MRM_DICOMWEB_PASSWORD", ""))
    elif address.is_local:
        session.auth = requests.utils.get_netrc_auth(address.url)
    return session


class _Bearer:
    """Authorisation by a token; as an object of its own so that `~/.netrc` does not take its place."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request
