"""What the routes take: a form with an image and other fields, read within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from mrm.inference.studies import Pool
from mrm.serve.admission import Refused, Reservation
from mrm.serve.limits import Limits

IMAGE_FIELD = "image"
MAX_FIELDS = 8
MAX_IMAGES = 8  # of a study
MAX_FIELD_BYTES = 256_000  # of a field that is not a file: a report has a few thousand
DEFAULT_SIDE, MIN_SIDE, MAX_SIDE = 1024, 32, 4096  # pixels of the longer side of an image that is returned
MAX_SEED = 2**31 - 1
MIN_BYTES_PER_SECOND = 16_000  # of a body; one that comes more slowly only occupies a place


@dataclass(frozen=True)
class Form:
    """What was sent: the bytes of the image, and the other fields. The name of the file is not kept.

    `others` are the further images of a study.
    """

    data: bytes
    fields: dict[str, str]
    reservation: Reservation
    others: tuple[bytes, ...] = ()

    def text(self, name: str, default: str | None = None) -> str:
        """A field. Raises Refused (422) if it is missing and has no default."""
        value = self.fields.get(name, default)
        if value is None:
            raise Refused(422, f"the field {name!r} is missing")
        return value

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """A field with a few possible values. Raises Refused (422) for another value."""
        value = self.text(name, default)
        if value not in choices:
            raise Refused(422, f"unknown {name} {value[:40]!r}; choose from {', '.join(choices)}")
        return value

    def number(self, name: str, least: int, greatest: int, default: int) -> int:
        """A field with a whole number. Raises Refused (422) for anything else."""
        value = self.text(name, str(default))
        is_number = value.isascii() and value.isdigit() and len(value) < 12
        if not is_number or not least <= int(value) <= greatest:
            raise Refused(422, f"{name} must be a whole number from {least} to {greatest}, not {value[:40]!r}")
        return int(value)

    @property
    def single_images(self) -> list[Form]:
        """A form for each image that was sent, with the same reservation."""
        return [replace(self, data=data, others=()) for data in (self.data, *self.others)]

    @property
    def side(self) -> int:
        """Pixels of the longer side of the images to return."""
        return self.number("side", MIN_SIDE, MAX_SIDE, DEFAULT_SIDE)

    @property
    def pool(self) -> Pool:
        """How the images of a study give one answer."""
        return cast(Pool, self.choice("pool", get_args(Pool), "mean"))


class _InMemoryParser(MultiPartParser):
    """Files of forms stay in memory, which is counted; no image of a patient is written to a disk."""

    spool_max_size = 1 << 62


async def read_form(request: Request, limits: Limits, images: int = 1) -> Form:
    """The form in a request, with up to so many images. It is read piece by piece, and refused as soon as it is too large.

    Raises Refused.
    """
    reservation: Reservation = request.state.reservation
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, f"send a form (multipart/form-data) with the image in the field {IMAGE_FIELD!r}")
    content_length = request.headers.get("content-length", "")
    if content_length.isascii() and content_length.isdigit() and int(content_length) > limits.body_bytes:
        raise _too_large(limits)
    parts = await _parse(request, limits, reservation, images)
    request.state.uploading = False
    sent: list[bytes] = []
    for upload in parts.getlist(IMAGE_FIELD) or [None]:
        if upload is None or isinstance(upload, str):
            problem = "missing" if upload is None else "text, not a file"
            raise Refused(422, f"the field {IMAGE_FIELD!r} is {problem}; send the image there, with a file name")
        sent.append(await upload.read())
        await upload.close()
    fields = {name: value for name, value in parts.items() if isinstance(value, str)}
    return Form(sent[0], fields, reservation, tuple(sent[1:]))


async def _parse(request: Request, limits: Limits, reservation: Reservation, images: int):
    body = _counted(request, limits, reservation)
    parser = _InMemoryParser(
        request.headers, body, max_files=images, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message}") from None
    except ClientDisconnect:
        raise Refused(400, "the request ended before the form was complete") from None


async def _counted(request: Request, limits: Limits, reservation: Reservation) -> AsyncGenerator[bytes, None]:
    """The body, piece by piece, while it stays within the limits and does not come too slowly."""
    pieces, began = request.stream(), asyncio.get_running_loop().time()
    while True:
        try:
            async with asyncio.timeout_at(began + limits.headers_seconds + reservation.bytes / MIN_BYTES_PER_SECOND):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise Refused(408, "the request arrives too slowly; send it again", {"Connection": "close"}) from None
        if piece is None:
            return
        if reservation.bytes + len(piece) > limits.body_bytes:
            raise _too_large(limits)
        reservation.add(len(piece))
        yield piece


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request has more than {limits.body_mb:g} MB, the maximum of this service")


# How OpenAPI describes the forms ------------------------------------------------------------------------

SIDE: dict[str, Any] = {
    "type": "integer",
    "minimum": MIN_SIDE,
    "maximum": MAX_SIDE,
    "default": DEFAULT_SIDE,
    "description": "maximum length in pixels of the longer side of the images that are returned",
}
POOL: dict[str, Any] = {
    "type": "string",
    "enum": list(get_args(Pool)),
    "default": "mean",
    "description": "the mean or the largest of the logits of the images",
}


def describe_form(images: int = 1, **fields: dict[str, Any]) -> dict[str, Any]:
    """A form with an image, or up to so many, and other fields by their schemas. A field without a default is required."""
    image: dict[str, Any] = {
        "type": "string",
        "format": "binary",
        "description": "a radiograph: JPEG, PNG, TIFF, PGM or DICOM",
    }
    if images > 1:
        image = {"type": "array", "items": image, "minItems": 1, "maxItems": images}
    required = [IMAGE_FIELD, *(name for name, schema in fields.items() if "default" not in schema)]
    schema = {"type": "object", "required": required, "properties": {IMAGE_FIELD: image, **fields}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
