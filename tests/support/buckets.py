"""An object store on this machine, and a way to it that can be cut."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class Bucket:
    """A server of the S3 protocol on this machine, with one bucket in it."""

    def __init__(self) -> None:
        server = pytest.importorskip("moto.server")
        self.server = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.host, self.port = self.server.get_host_and_port()
        import boto3

        self.client: Any = boto3.client("s3", endpoint_url=f"http://{self.host}:{self.port}", region_name="us-east-1")
        self.client.create_bucket(Bucket="radiographs")

    def put(self, folder: Path, at: str) -> str:
        """Upload a folder; its address."""
        for file in folder.iterdir():
            self.client.upload_file(str(file), "radiographs", f"{at}/{file.name}")
        return self.address(at)

    def address(self, at: str, port: int | None = None) -> str:
        """The address of a folder of the bucket, by another port of this machine if one is given."""
        where = f"endpoint_override={self.host}:{port or self.port}&scheme=http&region=us-east-1"
        return f"s3://radiographs/{at}?{where}"


@contextmanager
def running() -> Iterator[Bucket]:
    """A bucket, and the credentials for it in the environment."""
    before = {key: os.environ.get(key) for key in KEYS}
    os.environ.update(KEYS)
    bucket = Bucket()
    try:
        yield bucket
    finally:
        bucket.server.stop()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


class Way:
    """A way to a server: the answers to requests `cut_from` to `cut_to` end in their middle, as where a network fails."""

    def __init__(self, host: str, port: int) -> None:
        self.target, self.requests, self.cut_from, self.cut_to = (host, port), 0, 0, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, first: int, last: int) -> None:
        """Cut the answers to these requests of those to come, counted from 1."""
        self.cut_from, self.cut_to = self.requests + first, self.requests + last

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server, suppress(OSError):
            number = 0
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    if not (data := ready.recv(1 << 16)):
                        return
                    if ready is client:
                        if data.startswith((b"GET ", b"HEAD ")):
                            self.requests += 1
                            number = self.requests
                        server.sendall(data)
                    elif self.cut_from <= number <= self.cut_to and number:
                        client.sendall(data[: len(data) // 2])
                        return
                    else:
                        client.sendall(data)
