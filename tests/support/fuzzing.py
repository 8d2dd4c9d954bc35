"""Damaged files of every kind that a command reads, made from small valid ones, and what the readers do with them.

A file is damaged by a seed alone, so that a number names it for good. A reader may succeed or raise an MRMError, which a
user sees as one line; any other exception is a fault, and so is more than LONGEST of processor time or MOST_MEMORY.

    python -m tests.support.fuzzing 6000 --keep DIR     # all readers in turn, in a process that is watched
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

LONGEST = 10.0  # seconds of processor time for a file
MOST_MEMORY = 1 << 30  # bytes of the process at its largest
PATIENCE = 90.0  # seconds of wall time without an answer, after which the process counts as hung


class Kind(NamedTuple):
    """A kind of file: its name on the disk, small valid contents, how to read one, and how to damage it beside bytes."""

    name: str
    valid: list[bytes]
    read: Callable[[Path], object]
    text: bool = False  # JSON, YAML, CSV: damaged by words too
    json: bool = False  # damaged by values too
    archive: bool = False  # a zip archive, whose members are damaged and packed again


class Outcome(NamedTuple):
    """What a reader did with a file."""

    number: int
    kind: str
    result: str  # "read", "refused" or the last line of a traceback
    seconds: float
    memory: int  # bytes of the process at its largest
    where: str = ""


# Damage -------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    *("NaN", "Infinity", "-1", "0", "1e999", "-1e-999", "null", "true", '""', "[]", "{}", '"x"', "9" * 5000, "9" * 30),
    *("&a [*a]", "*b", "<<: *a", "!!python/object/apply:os.system [ls]", "!!binary x", "2020-99-99", "0x", "1:99:99"),
    *("\x00", "\ufeff", "\u2028", '"', "'", ",", "\r", "\n", ";", "\t", "=cmd()", "../../x", "/dev/zero", "é", "𝔘"),
    *("[" * 300, "{" * 300, '{"a":' * 3000, "(" * 200 + ")*" * 200, "a" * 20000, "nan", "inf", "label", "image_path"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 1e-308, float("nan"), float("inf"), 0.5),
    *("", "x", "nan", "1", "hf-hub:a/b", "local-dir:/tmp", "../../etc/passwd", "\x00", "\ud800", "a" * 5000),
    *([], {}, [[]], [1, 2, 3], {"a": {}}, [None], {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
)


def damaged(kind: Kind, number: int) -> bytes:
    """The file of this kind and number."""
    rng = random.Random(f"{kind.name} {number}")
    content = rng.choice(kind.valid)
    ways: list[Callable[[random.Random, bytes], bytes]] = [flip, flip, cut, overwrite, number_in, move, insert]
    if kind.text:
        ways += [word, word, word]
    if kind.json:
        ways += [value, value, value]
    if kind.archive:
        ways += [member, member, member]
    for _ in range(rng.choice((1, 1, 1, 2, 4, 10))):
        content = rng.choice(ways)(rng, content)
    return content


def flip(rng: random.Random, content: bytes) -> bytes:
    """One to eight bits turned."""
    changed = bytearray(content or b"\0")
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, content: bytes) -> bytes:
    """The beginning, or all but a part."""
    start = rng.randrange(len(content) + 1)
    return content[:start] + (b"" if rng.random() < 0.5 else content[start + rng.randint(1, 64) :])


def overwrite(rng: random.Random, content: bytes) -> bytes:
    """A run of one byte, or of noise."""
    at, length = rng.randrange(len(content) + 1), rng.randint(1, 40)
    noise = rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.choice((0, 255, 32, 127))]) * length
    return content[:at] + noise + content[at + length :]


def number_in(rng: random.Random, content: bytes) -> bytes:
    """A field of one to eight bytes set to a number at the edge of its range."""
    code = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(code)
    at = rng.randrange(max(1, min(len(content), 400 if rng.random() < 0.5 else len(content)) - size + 1))
    return content[:at] + struct.pack(code, rng.choice(NUMBERS) % (1 << 8 * size)) + content[at + size :]


def move(rng: random.Random, content: bytes) -> bytes:
    """A part of the file repeated elsewhere, up to a hundred times."""
    start, at = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    part = content[start : start + rng.randint(1, 200)]
    return content[:at] + part * rng.choice((1, 1, 2, 100)) + content[at:]


def insert(rng: random.Random, content: bytes) -> bytes:
    """Noise between two bytes."""
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randint(1, 30)) + content[at:]


def word(rng: random.Random, content: bytes) -> bytes:
    """A word of the text replaced by one that means something to a parser."""
    matches = list(re.finditer(rb"[\w.+-]+", content))
    if not matches:
        return content
    match = rng.choice(matches)
    return content[: match.start()] + rng.choice(WORDS).encode() + content[match.end() :]


def value(rng: random.Random, content: bytes) -> bytes:
    """A value of a JSON text replaced by another, removed, or put under another name; a header of weights too."""
    prefix = b""
    if len(content) > 8 and content[8:9] == b"{":  # safetensors: the length of the JSON comes first
        length = int.from_bytes(content[:8], "little")
        prefix, content, rest = content[:8], content[8 : 8 + length], content[8 + length :]
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return prefix + content
    places = list(_places(whole))
    if places:
        holder, key = rng.choice(places)
        if rng.random() < 0.15:
            del holder[key]
        elif isinstance(holder, dict) and rng.random() < 0.15:
            holder[rng.choice(("x", "", "pretrained", "checkpoint_path", "depth", "\x00"))] = holder.pop(key)
        else:
            holder[key] = rng.choice(VALUES)
    text = json.dumps(whole).encode()
    return len(text).to_bytes(8, "little") + text + rest if prefix else text


def _places(whole: Any) -> Iterator[tuple[Any, Any]]:
    """(dictionary or list, key) of every value inside, at most 20 in each."""
    keys = list(whole) if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else []
    for key in list(keys)[:20]:
        yield whole, key
        yield from _places(whole[key])


def member(rng: random.Random, content: bytes) -> bytes:
    """A file of a zip archive damaged, removed, repeated or compressed, and all packed again with right checksums."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return content
    if not files:
        return content
    at = rng.randrange(len(files))
    name, inside = files[at]
    ways = (flip, cut, overwrite, number_in, insert, word)
    files[at] = (name, rng.choice(ways)(rng, inside))
    if rng.random() < 0.1:
        files.pop(at)
    elif rng.random() < 0.1:
        files[at] = (name, bytes(rng.choice((10**4, 3 * 10**7))))
    target = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", rng.choice((0, 0, zipfile.ZIP_DEFLATED))) as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, inside in files:
            archive.writestr(name, inside)
    return target.getvalue()


# Running ------------------------------------------------------------------------------------------------


def try_one(kind: Kind, number: int, folder: Path, undamaged: bool = False) -> Outcome:
    """Write the file, read it, and say what happened."""
    from mrm.system.errors import MRMError

    path = folder / kind.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kind.valid[0] if undamaged else damaged(kind, number))
    _reset_memory()
    start, result, where = time.process_time(), "read", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except MRMError as error:
        text = str(error)
        result = "refused" if text.strip() else "a refusal without a word"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is not an Exception
        result = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
    memory = _largest_memory()
    return Outcome(number, kind.name, result, time.process_time() - start, memory, where)


def _reset_memory() -> None:
    """Give back what earlier files left free, and forget the largest memory so far, where the system can (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _largest_memory() -> int:
    """The bytes that this process has held at most, since `_reset_memory` where the system tells."""
    status = Path("/proc/self/status")
    if status.is_file() and (match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def faults_of(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes that must not be: tracebacks, and files that took too long or too much memory."""
    return {
        "tracebacks": [o for o in outcomes if o.result not in ("read", "refused")],
        "over 1 GiB": [o for o in outcomes if o.memory > MOST_MEMORY],
        "over 10 s": [o for o in outcomes if o.seconds > LONGEST],
    }


class _AsInstalled(PathFinder):
    """Finds what a user has installed: torch imports some packages that only the tests need, and they take 45 MB."""

    HIDDEN = frozenset({"IPython", "monai", "onnx", "pandas", "transformers"})

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name in cls.HIDDEN else super().find_spec(name, path, target)


def _worker(connection: Any, folder: Path, names: list[str] | None) -> None:
    sys.meta_path = [_AsInstalled if finder is PathFinder else finder for finder in sys.meta_path]
    from tests.support.fuzz_kinds import kinds

    known = kinds(folder)
    connection.send([kind.name for kind in known if not names or kind.name in names])
    by_name = {kind.name: kind for kind in known}
    while (task := connection.recv()) is not None:
        connection.send(try_one(by_name[task[0]], task[1], folder / "damaged"))


def watched(numbers: range, folder: Path, names: list[str] | None = None) -> list[Outcome]:
    """The outcomes of these files, the kinds in turn, in a process that is started anew where it hangs or dies."""
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    process, ours, kinds = None, None, []
    for number in numbers:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs, folder, names), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is noticed
            kinds = ours.recv()
        kind = kinds[number % len(kinds)]
        try:
            ours.send((kind, number))
            if not ours.poll(PATIENCE):
                raise TimeoutError
            outcomes.append(ours.recv())
            if outcomes[-1].memory <= MOST_MEMORY:
                continue
        except (EOFError, ConnectionError):
            outcomes.append(Outcome(number, kind, "the process died", 0.0, 0))
        except TimeoutError:
            outcomes.append(Outcome(number, kind, "read", PATIENCE, 0))
        process.kill()
        process.join()
        process = None
    if process is not None:
        ours.send(None)
        process.join()
    return outcomes


def main() -> None:
    """Print the counts by kind, and the faults; exit with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = watched(range(options.first, options.first + options.files), Path(folder), options.kinds)
    faults = faults_of(outcomes)
    counts = Counter((o.kind, o.result if o.result in ("read", "refused") else "traceback") for o in outcomes)
    summary = {
        "files": len(outcomes),
        "read": sum(o.result == "read" for o in outcomes),
        "refused": sum(o.result == "refused" for o in outcomes),
        **{what: len(those) for what, those in faults.items()},
        "longest, s": round(max(o.seconds for o in outcomes), 2),
        "largest, MiB": max(o.memory for o in outcomes) >> 20,
        "kinds": {
            kind: {r: counts[kind, r] for r in ("read", "refused", "traceback")}
            for kind in sorted({o.kind for o in outcomes})
        },
    }
    print(json.dumps(summary, indent=2))
    for what, those in faults.items():
        for outcome in those:
            print(
                f"{what}: {outcome.kind} {outcome.number}: {outcome.result} ({outcome.seconds:.1f} s)\n{outcome.where}"
            )
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    sys.exit(any(faults.values()))


if __name__ == "__main__":
    main()
