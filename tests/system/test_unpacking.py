"""What a packed file may unpack to: enough for every true table, and far less than a bomb."""

import gzip
import io
import resource
import subprocess
import sys
import zipfile

import pytest

from mrm.system import unpacking
from mrm.system.errors import ConfigError
from mrm.system.unpacking import MIB, RATIO, TooLargeError, limit_of


def test_a_small_file_may_unpack_to_256_mib_and_a_large_one_to_twenty_times_its_size():
    assert limit_of(0) == limit_of(1_500_000) == 268_435_456
    assert limit_of(100 * MIB) == 2_000 * MIB
    assert RATIO == 20


def test_a_variable_raises_the_limit(monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "5000")
    assert limit_of(1) == 5_242_880_000
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "0")
    assert limit_of(10) == 200


@pytest.mark.parametrize("text", ["", "-1", "1e9", "many", "٣", "9" * 30])
def test_a_variable_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", text)
    with pytest.raises(ConfigError, match="MRM_MAX_UNPACKED_MB must be a whole number of megabytes"):
        limit_of(1)


def test_reading_stops_at_the_limit_and_says_how_to_raise_it(monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "2")
    asked = []

    class Endless:
        def read(self, size):
            asked.append(size)
            return bytes(size)

    with pytest.raises(TooLargeError, match=r"^7 bytes unpack to more than 2 MiB; if the file is genuine, set the env"):
        unpacking.read_bounded(Endless(), 7)
    assert sum(asked) <= 4 * MIB
    assert unpacking.read_bounded(io.BytesIO(b"abc"), 1) == b"abc"


def test_the_sizes_that_an_archive_states_are_enough_to_refuse_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "1")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(MIB))
        archive.writestr("b", b"")
    unpacking.check_archive(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c", b"x")
    with pytest.raises(TooLargeError):
        unpacking.check_archive(path)


BOMBS = """
import sys, resource
import numpy, pyarrow, pyarrow.parquet
from pathlib import Path
from mrm.system.errors import MRMError

kind, path = sys.argv[1], Path(sys.argv[2])
if kind == "rows":
    from mrm.system.tables import read_rows
elif kind == "seen":
    from mrm.audit.fingerprints import Fingerprints
else:
    from mrm.inference.neighbours import read_index
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    if kind == "rows":
        header, rows = read_rows(path)
        print(sum(1 for _ in rows))
    else:
        (Fingerprints.load if kind == "seen" else read_index)(path)
except MRMError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
"""


def answer(kind, path) -> tuple[str, int]:
    """What a reader says of a file, and by how many bytes its process has grown."""
    done = subprocess.run([sys.executable, "-c", BOMBS, kind, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == 1
    return lines[0], int(grown) * 1024


def test_a_compressed_table_of_a_gigabyte_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "t.csv.gz"  # a header and 16 MiB of rows 64 times, which gzip reads as one text
    path.write_bytes(gzip.compress(b"image_path,a\n") + gzip.compress(b"x,1\n" * (1 << 22)) * 64)
    assert path.stat().st_size < 2_000_000
    message, grown = answer("rows", path)
    assert message.startswith(f"{path}: ")
    assert "bytes unpack to more than 256 MiB" in message
    assert grown < 700 * MIB


def test_a_parquet_of_a_hundred_million_equal_values_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.repeat(0, 10**7).cast("int32"), ["x"])
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema({"image_path": column.type})) as writer:
        for _ in range(10):
            writer.write_table(pyarrow.table({"image_path": column}), row_group_size=10**7)
    assert path.stat().st_size < 300_000
    message, grown = answer("rows", path)
    assert message.startswith(f"{path}: ")
    assert "unpack to more than 256 MiB" in message
    assert grown < 200 * MIB


def test_a_parquet_of_one_long_text_many_times_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.repeat(0, 100_000).cast("int32"), ["x" * 1_000_000])
    pyarrow.parquet.write_table(pyarrow.table({"image_path": column}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    answers = {kind: answer(kind, path) for kind in ("rows", "index")}
    for message, grown in answers.values():
        assert message.startswith(f"{path}: ")
        assert grown < 300 * MIB
    assert "unpack to more than 256 MiB" in answers["rows"][0]


def test_a_small_seen_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "seen.npz"
    block = bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("names.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(20):
            file.write(block)
    assert path.stat().st_size < 400_000
    message, grown = answer("seen", path)
    assert message.startswith(f"{path}: ")
    assert "unpack to more than 256 MiB" in message
    assert grown < 100 * MIB


def test_memory_is_measured_in_kilobytes_here():
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 10_000
