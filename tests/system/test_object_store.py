"""An object store: the same records and runs as from a folder, and a cache that stays within its bounds."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import recipes, runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images, loader, samples, sampling, shards
from mrm.data.config import PackConfig
from mrm.data.eval_view import EvalView
from mrm.data.packing import open_source, pack
from mrm.data.record_cache import mapped_records
from mrm.data.records import Records
from mrm.system import lock, object_store
from mrm.system.errors import StoreError
from mrm.system.object_store import Cache, Fetcher
from tests.support.buckets import running
from tests.support.commands import run_cli
from tests.support.configs import MICRO, pretrain_config
from tests.support.run_files import sigterm_after, trace


@pytest.fixture(scope="module")
def packed(phantoms, tmp_path_factory) -> Path:
    """The 48 phantoms at 64 pixels, in twelve files."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(open_source(phantoms / "records.csv"), out, PackConfig(64, rows=4), workers=1)
    return out


@pytest.fixture(scope="module")
def bucket():
    with running() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def uploaded(bucket, packed) -> str:
    return bucket.put(packed, "corpus/phantoms")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of this test alone."""
    shards._fetched.cache_clear()
    monkeypatch.setattr(object_store, "WAITS", (0.0,))
    monkeypatch.setenv("MRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MRM_CACHE_GB", "1")
    return tmp_path / "cache"


def held(cache: Path) -> int:
    """Bytes of the files in a cache."""
    return sum(f.stat().st_size for f in cache.iterdir() if f.suffix != ".lock")


# Addresses -------------------------------------------------------------------------------------------


def test_an_address_survives_being_a_path():
    whole = "s3://radiographs/a/b?endpoint_override=localhost:9000&scheme=http"
    assert object_store.address(whole) == object_store.address(Path(whole)) == whole
    assert recipes.from_yaml(recipes.PretrainConfig, recipes.to_yaml(pretrain_config(Path("a"), Path("b")))).records
    assert object_store.address(Path("records.csv")) is None
    assert object_store.address("/data/s3/x") is None
    assert (
        object_store.within(whole, "shards.json")
        == "s3://radiographs/a/b/shards.json?endpoint_override=localhost:9000&scheme=http"
    )


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(StoreError, match="an address must not contain a password") as error:
        Records.load("s3://key:secret@radiographs/a")
    assert "secret" not in str(error.value)


# The same as from a folder ---------------------------------------------------------------------------


def test_records_are_the_same_and_images_come_when_they_are_read(uploaded, packed, cache):
    for place in (uploaded, Path(uploaded), object_store.within(uploaded, "shards.json")):
        records = Records.load(place, FINDINGS)
        assert records.fingerprint() == Records.load(packed, FINDINGS).fingerprint()
    assert not cache.exists()
    here = Records.load(packed)
    assert np.array_equal(images.read(records[5].image), images.read(here[5].image))
    assert [f.stat().st_size for f in cache.iterdir() if f.suffix != ".lock"] == [here[5].image.file.bytes]


def test_checking_an_address_reads_every_file(uploaded, packed):
    assert dict(shards.check_files(uploaded)) == dict(shards.check_files(packed))
    assert not any(dict(shards.check_files(uploaded)).values())


def test_a_run_from_the_store_is_the_same_whatever_the_workers_and_wherever_it_stops(uploaded, packed, tmp_path):
    """A process that reads, a stop inside an epoch, and images taken in windows of files."""
    loaded, mapped = Records.load(uploaded), mapped_records(uploaded, tmp_path / "kept")
    orders = [sampling.order_of(records) for records in (loaded, mapped)]
    assert all(isinstance(order, sampling.InWindows) for order in orders)
    assert orders[0].epoch(0, 1).tolist() == orders[1].epoch(0, 1).tolist()
    assert list(mapped) == list(loaded)
    cfg = replace(pretrain_config(packed, tmp_path / "a"), records=Path(uploaded), model=MICRO)
    straight = trace(runs.pretrain(cfg))
    stopped = replace(cfg, out=tmp_path / "b")
    with sigterm_after(5), pytest.raises(SystemExit):
        runs.pretrain(stopped)
    assert len(trace(tmp_path / "b")) == 5
    assert trace(runs.pretrain(replace(stopped, training=replace(cfg.training, workers=1)))) == straight


def test_the_command_takes_an_address(uploaded, tmp_path, capsys):
    """Through the command line and its YAML file, where an address is a Path."""
    cfg = replace(
        pretrain_config(tmp_path, tmp_path / "run", steps=2, warmup_steps=1), records=Path(uploaded), model=MICRO
    )
    (tmp_path / "config.yaml").write_text(recipes.to_yaml(cfg))
    code, _, err = run_cli(capsys, "pretrain", "--config", str(tmp_path / "config.yaml"))
    assert code == 0, err
    assert len(trace(tmp_path / "run")) == 2


# The cache -------------------------------------------------------------------------------------------


@pytest.fixture
def files(bucket, tmp_path) -> list[tuple[str, int, str]]:
    """Eight files of 100,000 bytes in the store."""
    uploaded_files = []
    for number in range(8):
        content = bytes([number]) * 100_000
        bucket.client.put_object(Bucket="radiographs", Key=f"files/{number}", Body=content)
        uploaded_files.append((bucket.address(f"files/{number}"), len(content), hashlib.sha256(content).hexdigest()))
    return uploaded_files


def names(cache: Path) -> set[str]:
    return {f.name for f in cache.iterdir() if f.suffix != ".lock"}


def test_what_was_opened_longest_ago_goes_first(files, cache):
    kept = Cache(cache, 350_000)
    for file in files[:3]:
        kept.fetch(*file)
        time.sleep(0.01)
    kept.fetch(*files[0])
    kept.fetch(*files[3])
    assert names(cache) == {files[i][2] for i in (0, 2, 3)}
    assert held(cache) <= 350_000
    descriptor = kept.open(*files[2])
    for file in files[4:8]:
        kept.fetch(*file)
    assert files[2][2] not in names(cache)
    assert os.read(descriptor, 10) == b"\2" * 10  # who has it open keeps it
    os.close(descriptor)


def test_many_processes_share_a_cache_smaller_than_the_data(files, cache):
    """Two processes with four threads each read all files at random; the folder never holds more than its limit."""
    script = (
        "import sys, os, random, threading, json; from pathlib import Path; from mrm.system.object_store import Cache\n"
        "files, folder, seed = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "cache, bad = Cache(folder, 450_000), []\n"
        "def read(seed):\n"
        "    rng = random.Random(seed)\n"
        "    for _ in range(12):\n"
        "        number = rng.randrange(len(files))\n"
        "        fd = cache.open(*files[number])\n"
        "        data = os.read(fd, 200_000)\n"
        "        os.close(fd)\n"
        "        if data != bytes([number]) * 100_000: bad.append(number)\n"
        "threads = [threading.Thread(target=read, args=(seed * 10 + i,)) for i in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "sys.exit(len(bad))\n"
    )
    import json

    cache.mkdir()
    started = [
        subprocess.Popen([sys.executable, "-c", script, json.dumps(files), str(cache), str(i)]) for i in range(2)
    ]
    most = 0
    while any(p.poll() is None for p in started):
        try:
            most = max(most, held(cache))
        except FileNotFoundError:
            continue
        time.sleep(0.002)
    assert [p.returncode for p in started] == [0, 0]
    assert 100_000 <= most <= 450_000


def test_a_file_takes_its_name_while_nobody_counts_the_folder(cache, monkeypatch):
    """Else who makes room could see it under neither of its names, and let too many in."""
    arrived, counting = threading.Event(), threading.Event()

    def chunks(_uri):
        yield b"radiograph"
        arrived.set()
        assert counting.wait(10)

    monkeypatch.setattr(object_store, "_chunks", chunks)
    digest = hashlib.sha256(b"radiograph").hexdigest()
    fetching = threading.Thread(target=Cache(cache, 100).fetch, args=("s3://radiographs/one", 10, digest))
    fetching.start()
    assert arrived.wait(10)
    with lock.waiting_for(cache / "room.lock"):
        counting.set()
        fetching.join(0.3)
        assert [f.name for f in cache.iterdir() if f.suffix != ".lock"] == [f"{digest}.part"]
    fetching.join(10)
    assert [f.name for f in cache.iterdir() if f.suffix != ".lock"] == [digest]


def test_a_file_that_is_not_what_the_index_names_is_refused(files, cache):
    uri, size, _ = files[0]
    for wrong in ((uri, size + 1, files[0][2]), (uri, size, files[1][2])):
        with pytest.raises(
            StoreError, match=r"files/0.*: not the file that the index names .100,000 of 100,00\d bytes arrived"
        ):
            Cache(cache, 10**6).fetch(*wrong)
    assert not names(cache)


def test_a_file_that_is_not_there_is_named(bucket, cache):
    with pytest.raises(StoreError, match=r"radiographs/nothing/shards\.json.*: no such file"):
        Records.load(bucket.address("nothing"))


def test_a_store_that_does_not_answer_is_named():
    with pytest.raises(StoreError, match=r"cannot be read .*check the address, the network and the credentials"):
        Records.load("s3://radiographs/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")


def test_what_a_killed_process_left_does_not_count(files, cache):
    cache.mkdir()
    (cache / f"{'0' * 64}.part").write_bytes(b"x" * 300_000)
    kept = Cache(cache, 350_000)
    kept.fetch(*files[0])
    kept.fetch(*files[1])
    assert names(cache) == {files[0][2], files[1][2]}


def test_a_cache_that_cannot_hold_a_file_says_so(files, cache):
    with pytest.raises(StoreError, match=r"has no room for a file of .*raise MRM_CACHE_GB"):
        Cache(cache, 50_000).fetch(*files[0])


def test_a_cache_too_small_for_the_windows_is_refused_at_once(uploaded, monkeypatch):
    monkeypatch.setenv("MRM_CACHE_GB", "0.00001")
    data = samples.LabelData(Records.load(uploaded, FINDINGS), EvalView(64))
    with pytest.raises(StoreError, match=r"too small for 16 files at once; set MRM_CACHE_GB to at least 0\.1"):
        next(loader.loader(data, sampling.in_order(len(data), 4), workers=0))


@pytest.mark.parametrize("text", ["many", "0", "-3", "inf", ""])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("MRM_CACHE_GB", text)
    with pytest.raises(StoreError, match=r"MRM_CACHE_GB is .*, but must be a number of gigabytes above 0"):
        object_store.default_cache()


def test_a_cache_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written to .*set MRM_CACHE"):
        Cache(tmp_path / "file" / "cache", 10**6).fetch(*files[0])


def test_files_are_fetched_ahead(files, cache):
    fetcher = Fetcher(Cache(cache, 10**6))
    for file in files[:5]:
        fetcher.request(*file)
    until = time.monotonic() + 20
    expected = {file[2] for file in files[:5]}
    while not (cache.is_dir() and names(cache) == expected) and time.monotonic() < until:
        time.sleep(0.01)
    fetcher.close()
    assert names(cache) == expected
    for thread in fetcher.threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in fetcher.threads)


def test_the_loader_fetches_what_is_to_come(uploaded, cache, monkeypatch):
    """With one batch taken, files of later batches are on their way."""
    requested: list[str] = []
    monkeypatch.setattr(Fetcher, "request", lambda self, uri, size, sha: requested.append(uri))
    records = Records.load(uploaded, FINDINGS)
    data = samples.LabelData(records, EvalView(64))
    stream = loader.loader(data, sampling.in_order(len(data), 4), workers=0)
    next(stream)
    assert requested == [r.image.file.place for r in records][: 4 * 9 : 4]
    rest = list(stream)
    assert len(rest) == 11
    assert len(requested) == len(set(requested)) == 12


def test_a_fork_says_that_it_cannot_read(uploaded):
    Records.load(uploaded)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            object_store.read(object_store.within(uploaded, "shards.json"))
            answer = "read"
        except StoreError as error:
            answer = str(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert (
        "is a fork of a process that has read from an object store; start it with spawn"
        in os.read(reader, 10_000).decode()
    )
