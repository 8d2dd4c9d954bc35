"""The kinds of files that `tests.support.fuzzing` damages: small valid ones, made here, and how a command reads each."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless
from safetensors.torch import save_file

import mrm
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.kept_hashes import FILE, KeptHashes
from mrm.audit.overlaps import AuditReport, audit, audit_fingerprints
from mrm.corpora import described, description, openi
from mrm.corpora.mimic import read_reports
from mrm.corpora.options import Options
from mrm.data import display, images, masks, packing, record_cache, report_tokens, shards, webdataset
from mrm.data.box_files import read_boxes
from mrm.data.config import PackConfig
from mrm.data.finding_files import records_at
from mrm.data.header_index import read_header
from mrm.data.records import Record, Records
from mrm.data.report_files import read_report_file
from mrm.data.reports import Tokenizer
from mrm.evaluation.predictions import Predictions, read_counts, read_dice, read_predictions, write_predictions
from mrm.inference import neighbours
from mrm.interop import hub_folder
from mrm.models import model_folder, noise
from mrm.models.card import Gaussian, OutlierReference, PastTest
from mrm.models.classifier import Classifier
from mrm.models.weights import read_pickle, read_weights
from mrm.recipes import PretrainConfig, mimic, read_yaml, to_yaml
from mrm.system.archive_files import unpack
from mrm.system.table_files import write_parquet
from tests.support.configs import ENCODER, MICRO
from tests.support.corpora.downloads import DOWNLOADS
from tests.support.dicom_files import dicom_bytes
from tests.support.fuzzing import Kind
from tests.support.image_files import random_image
from tests.support.models import mrm_model
from tests.support.report_documents import oru, write_docx
from tests.support.workbooks import write_ods, write_xlsx

CSV = (
    b"image_path,report_content,patient_id,study_id,view,a,b\n"
    b'x.png,"no effusion,\nheart normal",1,1,PA,1,0\ny.png,nodule,2,2,AP,,-1\n'
)
BOXES = b"image_path,class,x,y,width,height,reader,text\nx.png,Mass,1,2.5,30,40,R1,a mass\ny.png,Nodule,0,0,9,9,,\n"
XML = (
    b'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">No effusion.'
    b'</AbstractText><major>normal</major><parentImage id="CXR1_1"><caption>PA</caption></parentImage></eCitation>'
)
SHEETS = {"records": [["image_path", "report_content", "a"], ["x.png", "no effusion", 1], ["y.png", None, 0]]}
REPORTS = ["no effusion", "heart is of normal size", "small nodule in the left lung"]


def kinds(folder: Path) -> list[Kind]:
    """All kinds of files; valid ones are written under `folder` where a reader needs them."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        *_images(),
        *_tables(folder),
        *_mapped(folder),
        *_corpora(),
        *_models(folder),
        *_shards(folder),
        *_results(folder),
    ]


def _images() -> list[Kind]:
    grey, deep = random_image(0), np.random.default_rng(1).integers(0, 4096, (24, 20), dtype=np.uint16)
    colour = np.random.default_rng(2).integers(0, 256, (24, 20, 3), dtype=np.uint8)

    def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
        return cv2.imencode(suffix, image, list(options))[1].tobytes()

    def read(path: Path) -> None:
        image = images.open_image(path)
        images.doubts(image)
        images.size(path)
        images.read(image, min_side=8)

    def read_values(path: Path) -> None:
        display.levels_of(images.open_image(path)).shrunk(16)

    progressive = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    palette = io.BytesIO()
    Image.fromarray(grey % 3).convert("P").save(palette, "PNG")
    jpeg = encoded(".jpg", grey)
    deflated = dicom_bytes(grey, DeflatedExplicitVRLittleEndian)
    rle = dicom_bytes(grey, RLELossless, frame=_rle(grey))
    dicoms = [dicom_bytes(grey), dicom_bytes(deep, WindowCenter="2048", WindowWidth="4096"), deflated, rle]
    return [
        Kind("a.jpg", [jpeg, encoded(".jpg", colour, *progressive), encoded(".jpg", grey, *progressive)], read),
        Kind("a.png", [encoded(".png", grey), encoded(".png", deep), encoded(".png", colour)], read),
        Kind("a.tif", [encoded(".tif", i) for i in (grey, deep, colour, deep.astype(np.float32))], read),
        Kind("a.pgm", [encoded(".pgm", grey), encoded(".pgm", deep)], read),
        Kind("a.dcm", [*dicoms, dicom_bytes(grey, JPEGBaseline8Bit, frame=jpeg)], read),
        Kind("b.dcm", [dicoms[0][132:], dicoms[1][132:], dicoms[2][132:]], read),
        Kind("values.dcm", [*dicoms, encoded(".png", deep), encoded(".tif", deep.astype(np.float32))], read_values),
        Kind("header.dcm", [*dicoms, dicoms[0][132:]], read_header),
        Kind("mask.png", [encoded(".png", grey % 3), palette.getvalue()], _read_mask),
        Kind("mask.tif", [encoded(".tif", grey % 3)], _read_mask),
    ]


def _rle(grey: np.ndarray) -> bytes:
    """Literal runs of 128 bytes at most in one RLE segment (PS3.5, G)."""
    raw = grey.tobytes()
    runs = b"".join(bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128] for i in range(0, len(raw), 128))
    return np.array([1, 64, *[0] * 14], "<u4").tobytes() + runs + b"\0" * (len(runs) % 2)


def _read_mask(path: Path) -> None:
    masks.read_mask(masks.MaskedImage("a", path, path))


def _tables(folder: Path) -> list[Kind]:
    table = folder / "valid.csv"
    table.write_bytes(CSV)
    records = Records.load(table, ("a", "b"))
    parquet = records.to_parquet(folder / "valid.parquet").read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", CSV)
    reports = io.BytesIO()
    with zipfile.ZipFile(reports, "w", zipfile.ZIP_DEFLATED) as archive:
        for study in ("50000001", "50000002"):
            archive.writestr(f"files/p10/p10000001/s{study}.txt", "FINDINGS: no effusion")
    runs = b"ImageId,EncodedPixels\nx,1 3 4 2\ny,-1\n"

    def load(path: Path) -> None:
        Records.load(path, None, on_error="skip").labels_NC  # noqa: B018

    def read_xml(path: Path) -> None:
        openi._read_reports({path.name: path}, [])

    def draw(path: Path) -> None:
        for mask in masks.read_run_lengths(path).values():
            masks.draw_runs(mask, 24, 20)

    return [
        Kind("t.csv", [CSV], load, text=True),
        Kind("t.csv.gz", [gzip.compress(CSV)], load),
        Kind("t.zip", [zipped.getvalue()], load, archive=True),
        Kind("t.xlsx", [write_xlsx(folder / "t.xlsx", SHEETS).read_bytes()], load, archive=True),
        Kind("t.ods", [write_ods(folder / "t.ods", SHEETS).read_bytes()], load, archive=True),
        Kind("t.parquet", [parquet], load),
        Kind("list.txt", [b"x.png 0 1\ny.png 1 0\n"], lambda p: Records.load(p, must_exist=False), text=True),
        Kind("paths.txt", [b"valid.csv\nvalid.csv\n"], lambda p: records_at([p], images=folder), text=True),
        Kind("runs.csv", [runs], draw, text=True),
        Kind("boxes.csv", [BOXES], read_boxes, text=True),
        Kind(
            "r.docx", [write_docx(folder / "r.docx", REPORTS, "Hospital").read_bytes()], read_report_file, archive=True
        ),
        Kind("r.hl7", [oru("A1", *REPORTS).encode()], read_report_file, text=True),
        Kind(
            "r.rtf",
            [rb"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 Gr\'f6\'dfe \b normal\b0.\par \u8211?\par}"],
            read_report_file,
            text=True,
        ),
        Kind(
            "r.html", [b"<html><body><p>No effusion &lt; 5 mm<br>clear</p></body></html>"], read_report_file, text=True
        ),
        Kind("reports.zip", [reports.getvalue()], lambda p: read_reports(p, p, {"50000001", "50000002"}), archive=True),
        Kind("report.xml", [XML], read_xml, text=True),
        Kind("config.yaml", [to_yaml(_recipe(folder)).encode()], lambda p: read_yaml(PretrainConfig, p), text=True),
        *_archives(zipped.getvalue(), reports.getvalue()),
    ]


def _archives(*zips: bytes) -> list[Kind]:
    """Archives that `mrm prepare --download` unpacks."""

    def tarred(mode: Literal["w", "w:gz"], form: int = tarfile.GNU_FORMAT) -> bytes:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode=mode, format=form) as archive:
            for name in ("set/table.csv", f"set/{'ä' * 120}/table.csv"):
                info = tarfile.TarInfo(name)
                info.size = len(CSV)
                archive.addfile(info, io.BytesIO(CSV))
        return content.getvalue()

    def unpack_all(path: Path) -> None:
        unpack(path, path.with_name("unpacked"))

    samples = io.BytesIO()
    with tarfile.open(fileobj=samples, mode="w") as archive:
        for name, content in {
            "a.jpg": b"j" * 600,
            "a.txt": b"Clear.",
            "a.json": b'{"age": "3", "x": [1]}',
            "a.cls": b"1",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return [
        Kind("samples.tar", [samples.getvalue()], webdataset.load),
        Kind("set.zip", [*zips], unpack_all, archive=True),
        Kind("set.tar", [tarred("w"), tarred("w", tarfile.PAX_FORMAT)], unpack_all),
        Kind("set.tar.gz", [tarred("w:gz")], unpack_all),
    ]


def _mapped(folder: Path) -> list[Kind]:
    """The files of a run that keep its records and their tokens; what is damaged is made again."""
    place = folder / "mapped"
    place.mkdir()
    table = place / "t.csv"
    table.write_bytes(CSV)
    records, tokenizer = record_cache.mapped_records(table, place / "kept"), Tokenizer.train(REPORTS, 60)
    report_tokens.mapped_tokens(place / "kept", records, tokenizer, 12, ())
    contents = {file.name: file.read_bytes() for file in (place / "kept").iterdir()}

    def again(path: Path) -> None:
        for name, content in contents.items():
            if name != path.name:
                (path.parent / name).write_bytes(content)
        mapped = record_cache.mapped_records(table, path.parent)
        assert len(list(mapped)) == len(mapped)
        report_tokens.mapped_tokens(path.parent, mapped, tokenizer, 12, ()).ids(1)

    names = (record_cache.INDEX, record_cache.ROWS, report_tokens.INDEX)
    return [
        Kind(f"mapped-{number}/{name}", [contents[name]], again, name.endswith(".json"), name.endswith(".json"))
        for number, name in enumerate(names)
    ]


def _corpora() -> list[Kind]:
    """The first table of described corpora, each among the other files of its download, and descriptions themselves."""

    def reader(name: str, first: str) -> Callable[[Path], object]:
        corpus = description.load(name)

        def read(path: Path) -> None:
            root = path.parents[len(Path(first).parts) - 1]
            for file, text in [*DOWNLOADS[name].tables.items(), *((image, "") for image in DOWNLOADS[name].images)]:
                if file != first:
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    (root / file).write_text(text.lstrip("\n"))
            described.read(corpus, root, Options())

        return read

    firsts = {
        name: next(iter(DOWNLOADS[name].tables)) for name in ("padchest", "chestx-det", "tbx11k", "object-cxr", "vindr")
    }
    yaml = Path(description.__file__).with_name("descriptions")
    settings = [(yaml / f"{name}.yaml").read_bytes() for name in ("nih", "vindr", "siim")]
    return [
        Kind("corpus.yaml", settings, lambda p: description.load(str(p)), text=True),
        *(
            Kind(
                first,
                [DOWNLOADS[n].tables[first].lstrip("\n").encode()],
                reader(n, first),
                True,
                first.endswith(".json"),
            )
            for n, first in firsts.items()
        ),
    ]


def _recipe(folder: Path) -> PretrainConfig:
    return mimic(folder / "records.csv", folder / "run")


def _models(folder: Path) -> list[Kind]:
    tokenizer = Tokenizer.train(REPORTS, 120)
    with noise.seeded(0):
        classifier = Classifier(ENCODER)
    width = MICRO.encoder_options["embed_dim"]
    vector = _packed(np.zeros(width))
    card = classifier.card
    known = {
        "thresholds": {"a": 0.3},
        "temperatures": {"a": 1.5},
        "origin": {"n": 5, "patients": 3, "records": "a.csv", "versions": {"mrm": "0.1"}, "audit": None},
        "tested": [asdict(PastTest("t", "ab", 9, [], {"a": {"auroc": {"value": 0.8, "low": None, "n": 9}}}))],
        "outliers": asdict(OutlierReference(Gaussian(vector, vector, (1.0,), 0.1), 2.0, 0.99, 9, "9 records")),
    }
    model_folder.save(folder / "classifier", classifier)
    model_folder.save(folder / "mrm", mrm_model(), tokenizer=tokenizer)
    weights = (folder / "classifier" / "model.safetensors").read_bytes()
    content = {**card.to_dict(), **known}
    published = model_folder.export_published(mrm_model(), folder / "MRM.pth").read_bytes()
    legacy = io.BytesIO()
    torch.save({"model": {"encoder.norm.weight": torch.ones(4)}}, legacy, _use_new_zipfile_serialization=False)
    state = io.BytesIO()
    torch.save({"step": 3, "best": 0.5, "weights": {}, "optimizer": {"state": {0: torch.ones(9)}}}, state)

    def with_valid(part: str, *others: str, source: str = "classifier") -> Callable[[Path], None]:
        def read(path: Path) -> None:
            for other in others:
                (path.parent / other).write_bytes((folder / source / other).read_bytes())
            assert path.name == part
            model = mrm.load(path.parent)
            mrm.load_encoder(path.parent)
            if model.config.image_size == 64:  # a damaged size is resampled to, and may be large
                model(torch.zeros(1, 3, 64, 64))

        return read

    def read_tokenizer(path: Path) -> None:
        Tokenizer.load(path).encode(["no effusion 12", "", "é"])

    return [
        Kind(
            "card/config.json",
            [json.dumps(content).encode()],
            with_valid("config.json", "model.safetensors"),
            True,
            True,
        ),
        Kind("weights/model.safetensors", [weights], with_valid("model.safetensors", "config.json"), json=True),
        *_hub_folders(folder, with_valid),
        *_foreign_folders(folder, with_valid),
        Kind("tokenizer.json", [tokenizer.to_json().encode()], read_tokenizer, text=True, json=True),
        Kind("MRM.pth", [published], mrm.load, archive=True),
        Kind("legacy.pth", [legacy.getvalue()], read_weights),
        Kind("training.pt", [state.getvalue()], read_pickle, archive=True),
    ]


def _hub_folders(folder: Path, with_valid: Callable[..., Callable[[Path], None]]) -> list[Kind]:
    """The two JSON files of a hub folder, and the one that a folder of timm has."""
    hub_folder.write_hub_folder(folder / "classifier", folder / "hub")
    config, card = ((folder / "hub" / name).read_bytes() for name in ("config.json", "mrm.json"))
    weights = "model.safetensors"
    return [
        Kind("hub/config.json", [config], with_valid("config.json", weights, "mrm.json", source="hub"), True, True),
        Kind("hub-card/mrm.json", [card], with_valid("mrm.json", weights, "config.json", source="hub"), True, True),
        Kind("timm/config.json", [config], with_valid("config.json", weights, source="hub"), True, True),
    ]


def _foreign_folders(folder: Path, with_valid: Callable[..., Callable[[Path], None]]) -> list[Kind]:
    """The two JSON files of a folder of transformers: those of a ViT of one block, and of its image processor."""
    config = {
        "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "patch_size": 8, "image_size": 16, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    }  # fmt: skip
    prepared = {
        "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5] * 3, "size": {"height": 16, "width": 16},
        "do_center_crop": False, "crop_size": 16,
    }  # fmt: skip
    layer = "encoder.layer.0."
    shapes = {
        "embeddings.cls_token": (1, 1, 8),
        "embeddings.position_embeddings": (1, 5, 8),
        "embeddings.patch_embeddings.projection.weight": (8, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (8,),
        **{f"{layer}attention.attention.{part}.weight": (8, 8) for part in ("query", "key", "value")},
        **{f"{layer}attention.attention.{part}.bias": (8,) for part in ("query", "key", "value")},
        f"{layer}attention.output.dense.weight": (8, 8),
        f"{layer}attention.output.dense.bias": (8,),
        f"{layer}intermediate.dense.weight": (16, 8),
        f"{layer}intermediate.dense.bias": (16,),
        f"{layer}output.dense.weight": (8, 16),
        f"{layer}output.dense.bias": (8,),
        **{f"{layer}layernorm_{place}.{part}": (8,) for place in ("before", "after") for part in ("weight", "bias")},
        **{f"layernorm.{part}": (8,) for part in ("weight", "bias")},
    }
    source, contents = folder / "vit", {"config.json": config, "preprocessor_config.json": prepared}
    source.mkdir(exist_ok=True)  # a worker that is started anew finds it
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, source / "model.safetensors")
    for name, content in contents.items():
        (source / name).write_text(json.dumps(content))
    return [
        Kind(
            f"{place}/{name}",
            [json.dumps(contents[name]).encode()],
            with_valid(name, "model.safetensors", *(other for other in contents if other != name), source="vit"),
            text=True,
            json=True,
        )
        for place, name in (("transformers", "config.json"), ("prepared", "preprocessor_config.json"))
    ]


def _packed(values: np.ndarray) -> str:
    import base64

    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _shards(folder: Path) -> list[Kind]:
    rows = [Record(images.encode_png(random_image(i)), "no effusion", f"p{i}", name=f"{i}.png") for i in range(3)]
    place = folder / "packed"
    packing.pack(packing.of_records(Records(rows)), place, PackConfig(size=16), workers=1)
    index = json.loads((place / shards.INDEX).read_bytes())

    def read_folder(root: Path) -> None:
        for record in Records.load(root):
            try:
                images.read(record.image)
            except mrm.system.errors.ImageError:
                continue

    def complete(path: Path) -> None:
        """Put the other files beside a damaged one, whose checksum the index is given."""
        for file in place.iterdir():
            if file.is_file() and file.name != path.name:
                (path.parent / file.name).write_bytes(file.read_bytes())
        if path.name != shards.INDEX:
            own = json.loads(json.dumps(index))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            for entry in (own["table"], *own["files"]):
                if entry["name"] == path.name:
                    entry |= {"sha256": digest, "bytes": path.stat().st_size}
            (path.parent / shards.INDEX).write_text(json.dumps(own))
        shards._mapped.cache_clear()
        read_folder(path.parent)

    arrow = place / index["files"][0]["name"]
    return [
        Kind(f"shards-a/{shards.INDEX}", [(place / shards.INDEX).read_bytes()], complete, text=True, json=True),
        Kind(f"shards-b/{shards.TABLE}", [(place / shards.TABLE).read_bytes()], complete),
        Kind(f"shards-c/{arrow.name}", [arrow.read_bytes()], complete),
    ]


def _results(folder: Path) -> list[Kind]:
    rows = [Record(images.encode_png(random_image(i)), "", f"p{i}", name=f"{i}.png") for i in range(3)]
    prints = fingerprint(Records(rows), workers=1)
    seen = prints.save(folder / "seen.npz").read_bytes()
    report = audit({"a": Records(rows), "b": Records(rows[:1])}, workers=1)
    labels, scores = np.array([[1.0], [0.0]]), np.array([[0.7], [0.2]])
    table = write_predictions(folder / "p.csv", Predictions(["x", "y"], ["1", "2"], ("a",), labels, scores))
    dice = b"name,patient_id,class,predicted,true,dice\nx,1,a,10,10,0.5\ny,2,a,0,0,\n"
    counts = b"name,class,intersection,predicted,true,pixels\nx,a,5,10,10,64\ny,a,0,0,0,64\n"
    facts = {"shape": [4], "model": "m"}
    features = [["x", "1", "1", [1.0, 0.0, 0.0, 0.0]], ["y", "2", "2", [0.0, 1.0, 0.0, 0.0]]]
    columns = {"path": str, "patient_id": str, "study_id": str, "feature": 4}
    index = write_parquet(folder / "features.parquet", columns, features, facts).read_bytes()
    array = io.BytesIO()
    np.save(array, np.eye(2, 4, dtype=np.float32))

    def read_seen(path: Path) -> None:
        audit_fingerprints({"seen": Fingerprints.load(path), "now": prints})

    def read_index(path: Path) -> None:
        path.with_suffix(".json").write_text(json.dumps(facts))
        path.with_suffix(".csv").write_text("path,patient_id,study_id\nx,1,1\ny,2,2\n")
        opened = neighbours.read_index(path)
        neighbours.nearest(neighbours.take(opened, [0]), opened.blocks(), 1, np.array([0]))

    hashes = KeptHashes(folder / "hashed")
    for key in range(1, 4):
        hashes.add(key, [10 * key] * 9)
    hashes.flush()

    def read_hashes(path: Path) -> None:
        known = KeptHashes(path.parent).hashes(np.arange(1, 4, dtype=np.uint64))
        assert all(set(words) <= {0, 10 * key} for key, words in enumerate(known.tolist(), 1))

    return [
        Kind(f"hashed/{FILE}", [hashes.path.read_bytes()], read_hashes),
        Kind("seen.npz", [seen], read_seen, archive=True),
        Kind("audit.json", [report.to_json().encode()], AuditReport.load, text=True, json=True),
        Kind("predictions.csv", [table.read_bytes()], read_predictions, text=True),
        Kind("images.csv", [dice], read_dice, text=True),
        Kind("counts.csv", [counts], read_counts, text=True),
        Kind("index.parquet", [index], read_index),
        Kind("index.npy", [array.getvalue()], read_index),
    ]
