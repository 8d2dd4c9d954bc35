"""Encoded images that are no file of this machine's own: an object of a store, or a part of a larger file or object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mrm.data.headers import MAX_BYTES
from mrm.system import object_store
from mrm.system.errors import ImageError, StoreError, UnreachableError


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """The bytes of a file, or of the object at an address, from `offset` on: `length` of them, or all to the end."""

    place: str
    offset: int = 0
    length: int | None = None

    def read_bytes(self) -> bytes:
        """The encoded image. Raises UnreachableError where its place cannot be reached, ImageError where it is cut off."""
        try:
            if object_store.address(self.place):
                return object_store.read(self.place, self.offset, self.length, MAX_BYTES)
            with open(self.place, "rb") as file:
                file.seek(self.offset)
                data = file.read(-1 if self.length is None else self.length)
        except StoreError as error:
            raise UnreachableError(str(error)) from error
        except OSError as error:
            raise UnreachableError(f"{self}: cannot be read ({error.strerror or error})") from error
        if self.length is not None and len(data) < self.length:
            raise ImageError(f"{self}: the file is cut off; copy it again")
        return data

    def __str__(self) -> str:
        if self.length is None:
            return self.place
        return f"{self.place}, bytes {self.offset} to {self.offset + self.length}"


def image_in(folder: Path, name: str) -> Path | PlacedImage:
    """The image of that name in a folder, which may be the address of one in an object store."""
    if uri := object_store.address(folder):
        return PlacedImage(object_store.within(uri, name))
    return folder / name  # an absolute name stays as it is
