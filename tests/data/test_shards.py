"""Shards stand in for records everywhere: the same bits, from any process; and damage is named."""

import hashlib
import json
import mmap
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mrm import runs
from mrm.audit.overlaps import audit
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images, shards
from mrm.data.config import CropConfig, PackConfig
from mrm.data.eval_view import EvalView
from mrm.data.loader import loader
from mrm.data.packing import open_source, pack
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.samples import LabelData, PretrainData
from mrm.data.sampling import InWindows, Sample, order_of, shuffled
from mrm.system.errors import RecordError, RunError, ShardError, UnreachableError
from tests.support.configs import MICRO, finetune_config, pretrain_config
from tests.support.run_files import trace, weights


@pytest.fixture(scope="module")
def unpacked(packed, tmp_path_factory) -> Path:
    """The same encoded images as files of the same names, with `records.csv` beside them."""
    out = tmp_path_factory.mktemp("unpacked")
    records = Records.load(packed)
    (out / "images").mkdir()
    for record in records:
        (out / record.name).write_bytes(record.image.read_bytes())
    replace(records, rows=[replace(r, image=out / r.name) for r in records]).to_csv(out / "records.csv")
    return out


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    """Shards to damage."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


# The same as from files ------------------------------------------------------------------------------


def test_samples_are_the_same_bits(packed, unpacked):
    here, there = Records.load(packed, FINDINGS), Records.load(unpacked / "records.csv", FINDINGS)
    assert here.fingerprint() == there.fingerprint()
    tokenizer = Tokenizer.train([r.report for r in here], 300)
    make = lambda r: PretrainData(r, tokenizer, size=64, patches=16, keep=4, length=40, seed=3)  # noqa: E731
    for first, second in ((make(here), make(there)), (LabelData(here, EvalView(64)), LabelData(there, EvalView(64)))):
        for index in range(len(here)):
            a, b = first.sample(5, index), second.sample(5, index)
            assert all(np.array_equal(a[key], b[key], equal_nan=key == "labels") for key in b)


@pytest.fixture(scope="module")
def runs_of_both(packed, unpacked, tmp_path_factory) -> dict[str, tuple[Path, Path, dict]]:
    """Pre-trained, fine-tuned and tested, from shards and from the same images as files."""
    made = {}
    for name, records in (("shards", packed), ("files", unpacked / "records.csv")):
        out = tmp_path_factory.mktemp(name)
        pretrained = runs.pretrain(
            replace(pretrain_config(unpacked, out / "a", steps=4, save_every=4, validate_every=4), records=records)
        )
        short = {"steps": 4, "log_every": 2, "validate_every": 4, "save_every": 4, "classes": FINDINGS}
        tuned = runs.finetune(finetune_config(unpacked, pretrained, out / "b", train=records, val=records, **short))
        made[name] = (
            pretrained,
            tuned,
            runs.evaluate(tuned, records, out / "c", draws=50, reading=runs.Reading(workers=0)),
        )
    return made


def test_runs_have_the_same_losses_and_weights(runs_of_both):
    for there, here in zip(runs_of_both["files"][:2], runs_of_both["shards"][:2], strict=True):
        assert trace(here) == trace(there)
        assert len(trace(here)) >= 2
        assert all((weights(here)[k] == w).all() for k, w in weights(there).items())


def test_tests_have_the_same_results(runs_of_both):
    there, here = runs_of_both["files"][2], runs_of_both["shards"][2]
    assert here["classes"] == there["classes"]
    assert here["fingerprint"] == there["fingerprint"]
    assert here["overlap"] == there["overlap"] != []


def test_audits_know_records_again_by_their_names_and_images(packed, unpacked, phantoms):
    same = audit({"shards": Records.load(packed), "files": Records.load(unpacked / "records.csv")})
    assert {o.kind for o in same.overlaps} >= {"patient", "study", "file", "image"}
    packed_half, other_half = Records.load(packed)[:20], Records.load(phantoms / "records.csv")[30:]
    patients = {r.patient for r in packed_half} & {r.patient for r in other_half}
    assert audit({"a": packed_half, "b": other_half}).clean == (not patients)


# From any process ------------------------------------------------------------------------------------


def test_nothing_is_copied(packed):
    data = Records.load(packed)[7].image.read_bytes()
    assert isinstance(data, memoryview)
    assert data.readonly
    assert isinstance(data.obj, mmap.mmap)
    assert data.obj is Records.load(packed)[8].image.read_bytes().obj


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_handles_go_to_other_processes(packed, method):
    handles = [r.image for r in Records.load(packed)][::7]
    here = [images.read(handle) for handle in handles]  # opened in this process first
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(here, pool.map(images.read, handles), strict=True))
    assert pickle.loads(pickle.dumps(handles)) == handles
    assert len(pickle.dumps(handles[0])) < 400


def test_workers_give_the_same_batches_as_this_process(packed):
    data = LabelData(Records.load(packed, FINDINGS), EvalView(64), CropConfig())
    wanted = [[Sample(1, i), Sample(1, i + 20)] for i in range(6)]
    for a, b in zip(loader(data, iter(wanted), 0), loader(data, iter(wanted), 1), strict=True):
        assert (a.image_BHW == b.image_BHW).all()


def test_few_files_are_open_at_a_time(phantoms, tmp_path, monkeypatch):
    pack(open_source(phantoms / "records.csv"), tmp_path / "out", PackConfig(32, rows=1), workers=1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(shards, "_mapped", shards.lru_cache(maxsize=4)(shards._mapped.__wrapped__))
    for record in Records.load(tmp_path / "out"):
        images.read(record.image)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5


# What is wrong is named ------------------------------------------------------------------------------


def test_a_truncated_file_is_named(copy):
    file = copy / "shard-00002.arrow"
    size = file.stat().st_size
    opened = Records.load(copy)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(
        ShardError,
        match=rf"shard-00002\.arrow: has 5,000 bytes, but shards.json says {size:,}; copy it again, or remove",
    ):
        Records.load(copy)
    with pytest.raises(ShardError, match=r"shard-00002\.arrow: has 5,000 bytes"):  # cut off after it was listed
        images.read(opened[25].image)
    assert images.read(opened[0].image).shape == (96, 96)


def test_a_missing_file_is_named(copy):
    (copy / "shard-00004.arrow").unlink()
    with pytest.raises(ShardError, match=r"shard-00004\.arrow: cannot be opened .No such file.*copy the whole folder"):
        Records.load(copy)


def test_a_wrong_checksum_is_found_by_checking(copy):
    flip(copy / "shard-00001.arrow")
    assert [name for name, problem in shards.check_files(copy) if problem] == ["shard-00001.arrow"]
    assert "its checksum differs" in dict(shards.check_files(copy))["shard-00001.arrow"]
    (copy / "shard-00003.arrow").unlink()
    assert [name for name, problem in shards.check_files(copy) if problem] == ["shard-00001.arrow", "shard-00003.arrow"]


def test_a_damaged_table_is_refused(copy):
    flip(copy / "records.parquet")
    with pytest.raises(ShardError, match=r"records\.parquet: damaged, its checksum differs"):
        Records.load(copy)


def with_places(folder: Path, column: str, change) -> None:
    """Change a column of the places of images, and the checksum of the table with it."""
    table = pyarrow.parquet.read_table(folder / shards.TABLE)
    values = change(np.array(table[column]))
    number = table.column_names.index(column)
    changed = table.set_column(number, column, pyarrow.array(values.astype(table[column].type.to_pandas_dtype())))
    pyarrow.parquet.write_table(changed, folder / shards.TABLE)
    content = (folder / shards.TABLE).read_bytes()
    index = json.loads((folder / shards.INDEX).read_text())
    index["table"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / shards.INDEX).write_text(json.dumps(index))


def changed_at(row: int, value: int):
    return lambda values: np.where(np.arange(len(values)) == row, values + value, values)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (shards.OFFSET, lambda offsets: offsets + 1, "there is no image at a place named in .*shard-0000"),
        (shards.OFFSET, lambda offsets: offsets + 10**9, "row 1 lies at bytes"),
        (shards.OFFSET, lambda offsets: offsets[::-1], "row 19 lies at bytes"),
        (shards.OFFSET, changed_at(13, 1), "shard-00001.* overlap or lie outside"),
        (shards.OFFSET, changed_at(13, -1), "shard-00001.* overlap or lie outside"),
        (shards.LENGTH, changed_at(3, 1), "overlap or lie outside"),
        (shards.LENGTH, lambda lengths: lengths * 0, "overlap or lie outside"),
        (shards.SHARD, changed_at(3, 1), "other numbers of images"),
        (shards.SHARD, lambda numbers: numbers - 1, "row 1 is in no file"),
    ],
)
def test_wrong_places_of_images_are_refused_before_any_is_left_out(copy, column, change, message):
    with_places(copy, column, change)
    with pytest.raises(ShardError, match=rf"records\.parquet: .*{message}"):
        Records.load(copy)


def test_places_that_are_right_are_taken(copy):
    before = [record.image.read_bytes() for record in Records.load(copy)]
    with_places(copy, shards.OFFSET, lambda offsets: offsets)
    assert [record.image.read_bytes() for record in Records.load(copy)] == before
    assert len(before) == 48


def test_a_folder_that_is_gone_while_it_is_read_is_out_of_reach(copy, tmp_path):
    """Its images are not damaged: a later command may read them."""
    first = Records.load(copy)[0]
    shards._mapped.cache_clear()
    copy.rename(tmp_path / "elsewhere")
    with pytest.raises(UnreachableError, match=r"shard-00000\.arrow: cannot be opened"):
        images.read(first.image)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_an_index_of_another_version_is_refused(copy):
    index = json.loads((copy / "shards.json").read_text())
    (copy / "shards.json").write_text(json.dumps({**index, "version": 2}))
    with pytest.raises(ShardError, match=r"shards of version 2, but this mrm reads version 1; pack the records again"):
        Records.load(copy)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "table": 3}', '{"version": 1, "table": {}, "files": []}'],
)
def test_an_index_that_is_none_is_refused(copy, text):
    (copy / "shards.json").write_text(text)
    with pytest.raises(ShardError, match=r"shards\.json: not the index of a shard folder, or damaged"):
        Records.load(copy)


@pytest.mark.parametrize(("name", "value"), [("format", "gif"), ("format", {"jpeg": 1}), ("kind", ["records"])])
def test_an_index_with_another_format_or_kind_is_refused(copy, name, value):
    index = json.loads((copy / "shards.json").read_text())
    (copy / "shards.json").write_text(json.dumps({**index, name: value}))
    with pytest.raises(ShardError, match=rf"shards\.json: not the index of a shard folder.*{name} is"):
        Records.load(copy)


@pytest.mark.parametrize("name", ["columns", "classes"])
def test_an_index_names_its_columns_in_words(copy, name):
    index = json.loads((copy / "shards.json").read_text())
    (copy / "shards.json").write_text(json.dumps({**index, name: [["patient_id"]]}))
    with pytest.raises(
        ShardError, match=r"shards\.json: not the index of a shard folder.*columns and classes must be names"
    ):
        Records.load(copy)


def test_an_index_cannot_name_files_elsewhere(copy):
    index = json.loads((copy / "shards.json").read_text())
    index["files"][0]["name"] = "../elsewhere.arrow"
    (copy / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ShardError, match=r"'\.\./elsewhere\.arrow' is not the name of a file in the folder"):
        Records.load(copy)


def test_a_folder_that_is_not_packed_is_named(phantoms):
    with pytest.raises(RecordError, match=r"a folder without shards\.json; name the file of records in it"):
        Records.load(phantoms)


def test_classes_that_the_records_did_not_have_are_named(packed, unpacked, tmp_path):
    with pytest.raises(RecordError, match="no column fracture; the columns found are image_path, "):
        Records.load(packed, ("fracture",))
    cfg = replace(pretrain_config(unpacked, tmp_path / "run"), records=packed, val=tmp_path / "none.csv", model=MICRO)
    with pytest.raises((RecordError, RunError), match="no such file"):
        runs.pretrain(cfg)


# The order of files that have to be fetched -----------------------------------------------------------


def test_windows_take_every_record_once_an_epoch_from_few_files_at_a_time():
    file_N = np.repeat(np.arange(20), 37)[: 20 * 37 - 11]
    order, n = InWindows(file_N, window=4), len(file_N)
    stream = order(7, n, 0)
    epochs = [[next(stream) for _ in range(n)] for _ in range(2)]
    for number, epoch in enumerate(epochs):
        assert {s.epoch for s in epoch} == {number}
        assert sorted(s.index for s in epoch) == list(range(n))
        for at in range(0, n, 37):
            assert len({file_N[s.index] for s in epoch[at : at + 37]}) <= 8
    assert [s.index for s in epochs[0]] != [s.index for s in epochs[1]]
    first = [file_N[s.index] for s in epochs[0][:100]]
    assert len(set(first)) == 4  # four files, mixed
    assert np.mean(np.diff(first) == 0) < 0.5


def test_windows_go_on_from_any_place():
    order, n = InWindows(np.repeat(np.arange(6), 5), window=2), 30
    whole = [s for s, _ in zip(order(1, n, 0), range(100), strict=False)]
    for seen in (0, 1, 29, 30, 31, 75):
        assert [s for s, _ in zip(order(1, n, seen), range(20), strict=False)] == whole[seen : seen + 20]
    assert [s for s, _ in zip(order(2, n, 0), range(30), strict=False)] != whole[:30]


def test_files_at_hand_are_shuffled_freely(packed, phantoms):
    assert order_of(Records.load(packed)) is shuffled
    assert order_of(Records.load(phantoms / "records.csv")) is shuffled
