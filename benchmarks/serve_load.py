"""200 requests at once, a tenth of them broken: is every good one answered correctly, and every bad one with a reason?

    python benchmarks/serve_load.py runs/tiny --requests 200
    python benchmarks/serve_load.py runs/tiny --requests 200 --seconds 120 --out benchmarks/results/serve_load.json

With `--seconds`, so many clients send one request after another, each from an address of its own (127.0.1.1 and on), while
the four attacks of `serve_attacks.py` go on without a pause: three files, and 1,030 connections that never end their
headers. The exit status is 1 if an answer was wrong, if a good request got no answer, or if all processes
of the service together held more than 1.5 GiB (PSS).

Starts `mrm serve` as a process of its own. Good images are phantoms as PNG, JPEG and DICOM, and their answers must
agree with `mrm.inference.predict.classify` on the same bytes. A 503 is tried again with back-off, as a client should. Prints JSON:
answers by status, times of the good requests (with their repeats), memory of the server.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx2
import numpy as np
import psutil
import pydicom
import serve_attacks
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from mrm.corpora.phantoms.phantom import phantom
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.inference import predict
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder
from mrm.system import hardware

TOLERANCE = 1e-5  # by which a probability may differ: a batch sums in another order
MB = 1_000_000
MOST_MEMORY = 1.5 * (1 << 30)  # bytes, of all processes of the service together
UNFINISHED = 1030  # connections that never end their headers
WINDOW = 10  # seconds over which good answers are counted


class Request(NamedTuple):
    """What is sent, and what must come back: probabilities (C,), or None for a broken request."""

    kind: str
    body: bytes | None  # None: a gigabyte, made while it is sent
    expected: np.ndarray | None


class Answer(NamedTuple):
    """What came back: status, seconds since the first try, number of 503s before, what is wrong with it, and when."""

    kind: str
    good: bool
    status: int
    seconds: float
    refused: int
    wrong: str
    ended: float


def main() -> None:
    """Send the requests and print one object of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a classifier: a model folder or a run")
    parser.add_argument("--requests", type=int, default=200, help="all sent at once")
    parser.add_argument("--broken", type=float, default=0.1, help="share of them")
    parser.add_argument("--rounds", type=int, default=3, help="times that all are sent; memory must not grow")
    parser.add_argument("--size", type=int, default=512, help="pixels of a phantom's side")
    parser.add_argument(
        "--seconds", type=float, help="send for so long, with the attacks; the requests are the clients"
    )
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    requests = build_requests(options.model, options.requests, round(options.requests * options.broken), options.size)
    with tempfile.TemporaryFile("w+") as log:
        process, address = start_service(options.model, log)
        try:
            if options.seconds:
                report = sustained(requests, process, address, options.seconds)
            else:
                report = measured(requests, process, address, options.rounds)
        finally:
            process.terminate()
            ended = process.wait(60)
        log.seek(0)
        lines = log.read().splitlines()
        report |= {"log": lines[:20], "lines of the log": len(lines), "exit status": ended}
    text = json.dumps(report | {"processor": processor(), "cores": hardware.cores()}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    sys.exit(0 if not report["wrong"] and report["alive after"] else 1)


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


# What is sent -------------------------------------------------------------------------------------------


def build_requests(model: Path, count: int, broken: int, size: int) -> list[Request]:
    """Good and broken requests in a random order that is always the same."""
    drawn = [phantom(1, 6 * i, size=size).image for i in range(12)]
    writers = (images.encode_png, images.encode_jpeg, dicom)
    bodies = [writers[i % 3](image_HW) for i, image_HW in enumerate(drawn)]
    network = model_folder.load(model)
    classes = network.config.classes
    records = Records([Record(b, labels=(math.nan,) * len(classes)) for b in bodies], classes)
    logits_NC = predict.classify(network, records, workers=0).logits_NC
    expected_NC = DecisionRules.of(network.card, classes).probabilities(logits_NC)
    kinds = list(bad(bodies).items())
    good = [Request("good", bodies[i % 12], expected_NC[i % 12]) for i in range(count - broken)]
    requests = good + [Request(*kinds[i % len(kinds)], None) for i in range(broken)]
    random.Random(0).shuffle(requests)
    return requests


def bad(bodies: list[bytes]) -> dict[str, bytes | None]:
    """Ten kinds of broken bodies."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("radiograph.png", bodies[0])
    return {
        "empty": b"",
        "text": b"the heart is large " * 100,
        "zip": packed.getvalue(),
        "PNG cut off": bodies[0][: len(bodies[0]) // 2],
        "JPEG cut off": bodies[1][: len(bodies[1]) // 2],
        "DICOM cut off": bodies[2][: len(bodies[2]) // 2],
        "100 megapixels": images.encode_png(np.zeros((10_000, 10_000), np.uint8)),
        "noise": np.random.default_rng(0).bytes(100_000),
        "a header alone": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff",
        "a gigabyte": None,
    }


def dicom(image_HW: np.ndarray) -> bytes:
    """An image as an uncompressed DICOM radiograph."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        DigitalXRayImageStorageForPresentation,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.BodyPartExamined = "DX", "CHEST"
    dataset.Rows, dataset.Columns = image_HW.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation, dataset.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = image_HW.tobytes()
    dataset["PixelData"].VR = "OB"
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def gigabyte():
    """A form with a file of a gigabyte, in pieces."""
    yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    for _ in range(1000):
        yield bytes(MB)


# Sending ------------------------------------------------------------------------------------------------


def start_service(model: Path, log) -> tuple[psutil.Popen, str]:
    """The service, and the address it prints."""
    command = [sys.executable, "-m", "mrm", "serve", str(model), "--port", "0"]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    line = process.stdout.readline()
    if not line.startswith("http"):
        raise SystemExit(f"the service did not start: {line}")
    return process, line.split()[0]


def measured(requests: list[Request], process: psutil.Popen, address: str, rounds: int) -> dict:
    """Send all, in rounds, and watch the server's memory meanwhile."""
    with httpx2.Client(base_url=address, timeout=120, limits=httpx2.Limits(max_connections=None)) as client:
        good = next(r for r in requests if r.expected is not None)
        for _ in range(5):
            send(client, good)
        memory = [process.memory_info().rss]
        done, peak = threading.Event(), memory.copy()
        watch = threading.Thread(target=watched, args=(process, peak, done))
        watch.start()
        answers, seconds = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            with ThreadPoolExecutor(len(requests)) as pool:
                answers += pool.map(lambda request: send(client, request), requests)
            seconds.append(time.perf_counter() - began)
            memory.append(process.memory_info().rss)
        done.set()
        watch.join()
        alive = client.get("/health").status_code == 200 and not send(client, good).wrong
        metrics = client.get("/metrics").text
    return summary(answers, seconds) | {
        "memory, MB": {"before": memory[0] // MB, "after each round": [m // MB for m in memory[1:]], "peak": max(peak) // MB},
        "batches": metric(metrics, "mrm_classifier_batches_total"),
        "alive after": alive,
    }  # fmt: skip


def resident(process: psutil.Popen) -> int:
    """Bytes of the main process."""
    return process.memory_info().rss


def watched(process: psutil.Popen, peak: list[int], done: threading.Event, every=0.05, measure=resident) -> None:
    """Note the server's memory so often, in seconds."""
    while not done.wait(every):
        peak.append(measure(process))


def sustained(requests: list[Request], process: psutil.Popen, address: str, seconds: float) -> dict:
    """Clients that send one request after another, with the attacks meanwhile; what was answered, and the memory."""
    host, port = address.removeprefix("http://").split(":")
    attacks = serve_attacks.files()
    good = next(r for r in requests if r.expected is not None)
    with httpx2.Client(base_url=address, timeout=120) as client:
        alone = [send(client, good) for _ in range(20)]
        before = memory_of(process)
        until, began = time.perf_counter() + seconds, time.perf_counter()
        done, peak = threading.Event(), [before]
        watch = threading.Thread(
            target=watched, args=(process, peak, done), kwargs={"every": 0.5, "measure": memory_of}
        )
        watch.start()
        with (
            serve_attacks.UnfinishedConnections(host, int(port), UNFINISHED) as unfinished,
            ThreadPoolExecutor(len(requests) + len(attacks)) as pool,
        ):
            clients = [pool.submit(goes_on, address, requests, number, until) for number in range(len(requests))]
            attackers = [pool.submit(attacking, address, name, body, until) for name, body in attacks.items()]
            answers = [answer for client_ in clients for answer in client_.result()]
            attacked = [answer for attacker in attackers for answer in attacker.result()]
        done.set()
        watch.join()
        alive = client.get("/health").status_code == 200 and not send(client, good).wrong
        metrics = client.get("/metrics").text
    ended = [math.floor((a.ended - began) / WINDOW) for a in answers if a.good and not a.wrong]
    per_window = [ended.count(i) for i in range(math.floor(seconds / WINDOW))]
    report = summary(answers, [seconds])
    if max(peak) > MOST_MEMORY:
        report["wrong"].append(f"the service held {max(peak) / (1 << 30):.2f} GiB")
    if min(per_window) == 0:
        report["wrong"].append(f"no good answer in {WINDOW} seconds")
    return report | {
        "clients": len(requests),
        f"good answers in each {WINDOW} s": per_window,
        "seconds of a good request before the attacks, median": round(float(np.median([a.seconds for a in alone])), 3),
        "attacks, by kind and status": {f"{k}: {s}": n for (k, s), n in sorted(Counter(attacked).items())},
        "unfinished connections opened": unfinished.opened,
        "memory of all processes (PSS), MB": {"before": before // MB, "peak": max(peak) // MB, "after": memory_of(process) // MB},
        "decoding processes replaced": metric(metrics, "mrm_decoders_replaced_total"),
        "lines left out of the log": metric(metrics, "mrm_log_lines_left_out_total"),
        "alive after": alive,
    }  # fmt: skip


def metric(text: str, name: str) -> float:
    """A value of /metrics."""
    return float(text.split(f"\n{name} ")[1].split()[0])


def goes_on(address: str, requests: list[Request], number: int, until: float) -> list[Answer]:
    """What one client gets, who has an address of its own and starts at another request than the others."""
    source = httpx2.HTTPTransport(local_address=f"127.0.1.{number + 1}")
    answers = []
    with httpx2.Client(base_url=address, timeout=120, transport=source) as client:
        while time.perf_counter() < until:
            answer = send(client, requests[(number + len(answers)) % len(requests)], until)
            if answer.status != 503:  # it was still waiting for its turn when the time was over
                answers.append(answer)
    return answers


def attacking(address: str, name: str, body: bytes, until: float) -> list[tuple[str, str]]:
    """Send one attack again and again, without waiting after a refusal; the statuses."""
    statuses = []
    source = httpx2.HTTPTransport(local_address="127.0.2.1")
    with httpx2.Client(base_url=address, timeout=120, transport=source) as client:
        while time.perf_counter() < until:
            try:
                statuses.append((name, str(client.post("/predict", files={"image": ("a", body)}).status_code)))
            except httpx2.TransportError as error:
                statuses.append((name, type(error).__name__))
    return statuses


def memory_of(process: psutil.Popen) -> int:
    """Bytes of a process and all that it has started, pages that they share counted once (PSS)."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def send(client: httpx2.Client, request: Request, until: float = math.inf) -> Answer:
    """Send a request, again with back-off while the service has too much to do, at most `until` a time."""
    began, refused = time.perf_counter(), 0
    while True:
        if request.body is None:
            kind = {"content-type": "multipart/form-data; boundary=b"}
            answer = client.post("/predict", content=gigabyte(), headers=kind)
        else:
            answer = client.post("/predict", files={"image": ("a", request.body)})
        if answer.status_code != 503 or time.perf_counter() > until:
            break
        refused += 1
        time.sleep(float(answer.headers["retry-after"]) * random.uniform(0.5, 1.5))
    wrong, ended = fault(request, answer), time.perf_counter()
    return Answer(request.kind, request.expected is not None, answer.status_code, ended - began, refused, wrong, ended)


def fault(request: Request, answer: httpx2.Response) -> str:
    """What is wrong with an answer, or nothing."""
    content = answer.json()
    if request.expected is None:
        named = 400 <= answer.status_code < 500 and content.get("error")
        return "" if named else f"{request.kind}: {answer.status_code} {content}"
    if answer.status_code != 200:
        return f"good: {answer.status_code} {content}"
    probabilities = np.array([f["probability"] for f in content["findings"]])
    off = float(np.abs(probabilities - request.expected).max())
    return "" if off <= TOLERANCE else f"good: probabilities differ by {off:.2g}"


def summary(answers: list[Answer], seconds: list[float]) -> dict:
    """Counts, and times of the good requests."""
    times = [a.seconds for a in answers if a.good]
    return {
        "requests": len(answers),
        "good, answered rightly": sum(a.good and not a.wrong for a in answers),
        "bad, refused with a reason": sum(not a.good and not a.wrong for a in answers),
        "bad, by kind and status": {f"{k}: {s}": n for (k, s), n in sorted(Counter((a.kind, a.status) for a in answers if not a.good).items())},
        "wrong": [a.wrong for a in answers if a.wrong],
        "503 before an answer": sum(a.refused for a in answers),
        "seconds of each round": [round(s, 2) for s in seconds],
        "seconds of a good request": {f"{q} %": round(float(np.percentile(times, q)), 3) for q in (50, 95, 99, 100)},
        "torch": torch.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    main()
