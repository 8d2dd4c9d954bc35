"""The service: models for it, files to send, and a server of its own."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from pydicom.uid import UID, ExplicitVRLittleEndian

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.reports import Tokenizer
from mrm.models import model_folder, noise
from mrm.models.card import Card, SetCuts
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import MRM
from mrm.serve.limits import Limits
from mrm.serve.server import listen, server_config
from tests.support.configs import MICRO
from tests.support.dicom_files import dicom_bytes

TOKEN = "a-token-of-some-length"
SMALL = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def write_models(folder):
    """A classifier with temperatures, two thresholds and a set, and a pre-trained MRM with a tokenizer."""
    tokenizer = Tokenizer.train(["the heart is large. no effusion. the lungs are clear."] * 3, 300)
    with noise.seeded(0):
        config = ClassifierConfig(FINDINGS, MICRO.encoder, MICRO.encoder_options, MICRO.image_size)
        classifier, pretrained = Classifier(config), MRM(replace(MICRO, vocabulary=tokenizer.size))
        torch.nn.init.normal_(classifier.encoder.head.weight)
    card = Card("classifier", vars(config), thresholds={FINDINGS[0]: 0.5, FINDINGS[1]: 0.4})
    sets = {FINDINGS[0]: SetCuts(0.0, 1.0, 0.9)}  # neither present nor absent is ever ruled out
    card = replace(card, temperatures={FINDINGS[0]: 1.7, FINDINGS[2]: 0.6}, sets=sets)
    model_folder.save(folder / "classifier", classifier, card)
    model_folder.save(folder / "pretrained", pretrained, tokenizer=tokenizer)
    return folder


def dicom(image_HW: np.ndarray, syntax: UID = ExplicitVRLittleEndian, frame: bytes | None = None, **tags) -> bytes:
    """A DICOM radiograph of an 8-bit image, with a patient's name in it."""
    return dicom_bytes(image_HW, syntax, frame, **{"PatientName": "Secret^Name", "Modality": "DX", **tags})


def ask(client, path, data, **fields):
    return client.post(path, files={"image": ("name.png", data)}, data=fields)


@contextmanager
def running(app, limits=None):
    """The service at an address of its own, as `mrm serve` configures it; gives the address."""
    import uvicorn

    listener = listen("127.0.0.1", 0)
    app.state.service.log.take_over()
    server = uvicorn.Server(server_config(app, limits or Limits()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the service does not end"
        listener.close()
