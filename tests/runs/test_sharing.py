"""Work that several processes share: killed anywhere and started again, the result is that of one process to the byte."""

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mrm import runs
from mrm.corpora.options import Options
from mrm.data.config import PackConfig
from mrm.models import model_folder
from mrm.runs import predicting, work
from mrm.system import lock
from mrm.system.errors import OutputError, RunError
from mrm.system.lock import only_writer
from mrm.system.partial_results import Partial
from mrm.system.shares import WHOLE, Share
from tests.support import forks
from tests.support.commands import run_cli
from tests.support.image_files import contents
from tests.support.models import segmenter_of
from tests.support.predictions import IN_PROCESS

BY_FOUR = replace(IN_PROCESS, batch=4)  # 48 images are 12 batches


def shared(share: Share):
    return replace(BY_FOUR, share=share)


def predict(model: Path, phantoms: Path, out: Path, share: Share) -> object:
    return predicting.predict_table(model, [phantoms / "images"], out / "p.csv", shared(share))


def predict_studies(model: Path, phantoms: Path, out: Path, share: Share) -> object:
    how = replace(shared(share), by_study="mean")
    return predicting.predict_table(model, [phantoms / "records.csv"], out / "s.parquet", how)


def embed(model: Path, phantoms: Path, out: Path, share: Share) -> object:
    return runs.embed(model, [phantoms / "images"], out / "f.npy", "patches", shared(share))


def pack(model: Path, phantoms: Path, out: Path, share: Share) -> object:
    return runs.pack(phantoms / "records.csv", out / "packed", PackConfig(64, rows=4), workers=1, share=share)


def prepare(model: Path, phantoms: Path, out: Path, share: Share) -> object:
    how = Options(table=(phantoms / "records.csv",), classes=("effusion",), workers=1)
    return runs.prepare("custom", phantoms, out / "prepared", how, share)


def is_complete(folder: Path, expected: dict[str, bytes]) -> bool:
    try:
        return contents(folder) == expected
    except FileNotFoundError:  # the other share removes what it no longer needs
        return False


@pytest.mark.parametrize("command", [predict, predict_studies, embed, pack, prepare])
def test_two_launches_of_which_one_is_killed_again_and_again_give_the_bytes_of_one(command, model, phantoms, tmp_path):
    alone = forks.wait(forks.start(lambda: command(model, phantoms, tmp_path / "alone", WHOLE)))
    assert alone.status == 0
    expected = contents(tmp_path / "alone")
    rng, kills = np.random.default_rng(sum(command.__name__.encode())), 0
    first = forks.start(lambda: command(model, phantoms, tmp_path / "two", Share(1, 2)))
    for attempt in range(5):
        after = float(rng.uniform(0.05, 0.25)) * alone.seconds if attempt < 4 else 0.0  # it does half of the work
        second = forks.wait(forks.start(lambda: command(model, phantoms, tmp_path / "two", Share(2, 2)), after))
        kills += second.status == -signal.SIGPROF
        if second.status == 0 or is_complete(tmp_path / "two", expected):  # it was killed after its work
            break
    assert forks.wait(first).status == 0
    assert kills
    assert contents(tmp_path / "two") == expected


def test_shares_may_come_one_after_the_other_in_any_order(model, phantoms, tmp_path):
    predict(model, phantoms, tmp_path / "alone", WHOLE)
    for number, left in ((3, 32), (1, 16)):
        written = predict(model, phantoms, tmp_path, Share(number, 3))
        assert (written.written, written.left, written.unreadable) == (False, left, 0)
        assert f"share {number}/3 is done; {left} of 48 images are left to other shares" in str(written)
        assert not (tmp_path / "p.csv").exists()
    written = predict(model, phantoms, tmp_path, Share(2, 3))
    assert (written.written, str(written)) == (True, f"{tmp_path / 'p.csv'}: 48 images")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "alone" / "p.csv").read_bytes()
    assert not Partial(tmp_path / "p.csv").folder.exists()


@pytest.mark.parametrize("command", [predict, embed, pack, prepare])
def test_what_is_left_can_be_divided_anew(command, model, phantoms, tmp_path):
    command(model, phantoms, tmp_path / "alone", WHOLE)
    command(model, phantoms, tmp_path / "shared", Share(2, 3))
    command(model, phantoms, tmp_path / "shared", Share(1, 5))
    command(model, phantoms, tmp_path / "shared", WHOLE)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def test_a_share_of_the_outlines_of_a_segmenter(phantoms, tmp_path):
    segmenter = model_folder.save(tmp_path / "model", segmenter_of(("pneumothorax",)))
    given = sorted((phantoms / "images").iterdir())[:5]
    for name, shares in (("alone", [WHOLE]), ("two", [Share(2, 2), Share(1, 2)])):
        for share in shares:
            runs.predict(segmenter, given, tmp_path / name, shared(share))
    assert contents(tmp_path / "two") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "two")) == 6


def test_shares_of_other_images_are_refused(model, phantoms, tmp_path):
    predict(model, phantoms, tmp_path, Share(1, 2))
    fewer = sorted((phantoms / "images").iterdir())[:40]
    with pytest.raises(OutputError, match=r"p\.csv\.partial: holds rows of another list of images; give every share"):
        predicting.predict_table(model, fewer, tmp_path / "p.csv", shared(Share(2, 2)))
    how = replace(shared(Share(2, 2)), crop_borders=True)
    with pytest.raises(OutputError, match=r"holds another unfinished table .*crop_borders: False, now True"):
        predicting.predict_table(model, [phantoms / "images"], tmp_path / "p.csv", how)


def test_a_share_that_another_process_does_is_refused(model, phantoms, tmp_path):
    with only_writer([tmp_path / "p.csv"], Share(2, 2)):
        with pytest.raises(OutputError, match=r"p\.csv: another process is writing here \(process \d+ on "):
            predict(model, phantoms, tmp_path, Share(2, 2))
        with pytest.raises(OutputError, match="another process is writing here"):
            predict(model, phantoms, tmp_path, WHOLE)
        assert predict(model, phantoms, tmp_path, Share(1, 2)).left == 24


def test_a_node_without_the_shared_folder_says_which_shares_it_sees(model, phantoms, tmp_path, capsys):
    """Each of two nodes has a folder of its own where one was meant: none of them writes a table that lacks a half."""
    predict(model, phantoms, tmp_path / "node1", Share(1, 2))
    written = predict(model, phantoms, tmp_path / "node2", Share(2, 2))
    assert "24 of 48 images are left to other shares (begun here: 2-of-2)" in str(written)
    assert str(written).endswith("with --out on storage that all machines share")
    assert pack(model, phantoms, tmp_path / "node1", Share(1, 2)) is None
    assert "share 1/2 is done; 6 files are left to other shares" in capsys.readouterr().out
    assert not any(file.name in ("p.csv", "shards.json") for file in tmp_path.rglob("*"))


def test_a_rank_without_the_shared_folder_stops(model, phantoms, tmp_path, monkeypatch):
    """Rank 1 of a `torchrun` whose first rank wrote its folder elsewhere."""
    second = SimpleNamespace(
        process_index=1, num_processes=2, is_main_process=False, wait_for_everyone=lambda: None, device="cpu"
    )
    monkeypatch.setattr(work, "processes", lambda: second)
    monkeypatch.setattr(lock, "SILENCE", 0.3)
    with pytest.raises(RunError, match="must be on storage that all nodes share"):
        predict(model, phantoms, tmp_path, WHOLE)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def damage(path: Path) -> None:
    path.write_text("{")


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        (
            "shard-00003.arrow",
            cut,
            r"shard-00003\.arrow: has [\d,]+ bytes, but [\d,]+ were written, so it is packed again",
        ),
        ("shard-00003.arrow", Path.unlink, r"shard-00003\.arrow: has 0 bytes"),
        ("shard-00003.arrow.json", damage, r"shard-00003\.arrow\.json: damaged .* packed again"),
    ],
)
def test_a_packed_file_that_is_cut_off_is_packed_again(model, phantoms, tmp_path, file, spoil, message):
    pack(model, phantoms, tmp_path / "alone", WHOLE)
    pack(model, phantoms, tmp_path, Share(2, 2))  # files 1, 3, ...
    spoil(tmp_path / "packed" / file)
    with pytest.warns(UserWarning, match=message):
        pack(model, phantoms, tmp_path, WHOLE)
    assert contents(tmp_path / "packed") == contents(tmp_path / "alone" / "packed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "model", "a.png", "--out", "p.csv", "--share", "3/2"], "there is no share 3/2"),
        (["embed", "model", "a.png", "--out", "f.npy", "--share", "array"], "SLURM_ARRAY_TASK_ID is not set"),
        (
            ["prepare", "custom", "--source", ".", "--preview", "--share", "1/2"],
            "--share divides the preparation itself; leave it out with --preview",
        ),
        (["pack", "a.csv", "--out", "packed", "--share", "half"], "expected a number and a count such as 2/8"),
    ],
)
def test_a_share_that_is_none_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "a.png", "a.csv"):
        Path(name).touch()
    status, _, error = run_cli(capsys, *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png", "model"]
