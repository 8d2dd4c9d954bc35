"""Every command that writes holds its output: a second start is refused in words, before it writes anything."""

import os
from pathlib import Path

import pytest

from mrm import runs
from mrm.data.config import PackConfig
from mrm.runs.output_lock import held_files, held_folder
from mrm.runs.packing import pack
from mrm.runs.predicting import predict_table
from mrm.system.errors import OutputError
from mrm.system.lock import only_process, only_writer
from tests.support.commands import run_cli
from tests.support.configs import finetune_config, pretrain_config, segment_config
from tests.support.models import classifier_of, segmenter_of

NONE = Path("none")  # what a refused command never comes to read
FOLDERS = {
    "pretrain": lambda out: runs.pretrain(pretrain_config(NONE, out)),
    "finetune": lambda out: runs.finetune(finetune_config(NONE, NONE, out)),
    "segment": lambda out: runs.segment(segment_config(NONE, NONE, out)),
    "probe": lambda out: runs.probe(runs.ProbeConfig((str(NONE),), NONE, NONE, NONE, out)),
    "benchmark": lambda out: runs.benchmark(runs.BenchmarkConfig("nih", out)),
    "demo": lambda out: runs.demo(out),
    "prepare": lambda out: runs.prepare("nih", NONE, out),
    "outline": lambda out: runs.outline(NONE, [NONE], out),
    "explain": lambda out: runs.explain(NONE, [NONE], out),
    "reconstruct": lambda out: runs.reconstruct(NONE, [NONE], out),
    "compare": lambda out: runs.compare(NONE, NONE, out),
}
FILES = {
    "predict": lambda out: predict_table(NONE, [NONE], out),
    "embed": lambda out: runs.embed(NONE, [NONE], out),
    "tokenizer": lambda out: runs.train_tokenizer(NONE, out),
    "audit": lambda out: runs.audit([NONE, NONE], out),
    "fill-in": lambda out: runs.fill_in(NONE, NONE, "", json=out),
    "surprise": lambda out: runs.surprise(NONE, NONE, "", json=out),
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_another_process_writes_to_is_refused(tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    with (
        only_process(out),
        pytest.raises(OutputError, match=rf"out: another process is writing here .*{os.getpid()} on "),
    ):
        FOLDERS[command](out)
    assert not list(out.iterdir())


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_another_process_writes_is_refused(tmp_path, command):
    out = tmp_path / "out.npy"
    with (
        only_writer([out]),
        pytest.raises(OutputError, match=rf"npy: another process is writing here .*{os.getpid()} on "),
    ):
        FILES[command](out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["evaluate", "calibrate"])
def test_tests_and_calibrations_too(tmp_path, kind):
    from mrm.models import model_folder

    out = tmp_path / "out"
    model = model_folder.save(out, classifier_of())
    segmenter = model_folder.save(tmp_path / "segmenter", segmenter_of(("a",)))
    with only_process(out), pytest.raises(OutputError, match="another process is writing here"):
        runs.evaluate(model, NONE, out) if kind == "evaluate" else runs.calibrate(model, NONE)
    with only_process(out), pytest.raises(OutputError, match="another process is writing here"):
        runs.evaluate(segmenter, NONE, out)


def test_the_commands_without_a_function_of_their_own_too(capsys, phantoms, tmp_path):
    with only_writer([tmp_path / "out"]), only_process(tmp_path):
        code, _, err = run_cli(capsys, "phantoms", "--out", str(tmp_path))
        assert (code, "another process is writing here" in err) == (2, True)
        code, _, err = run_cli(capsys, "export", str(phantoms), "--out", str(tmp_path / "out"))
        assert (code, "another process is writing here" in err) == (2, True)
        with pytest.raises(OutputError, match="another process is writing here"):
            pack(phantoms / "records.csv", tmp_path, PackConfig())


def test_features_and_predictions_with_a_file_of_the_same_name_do_not_meet(tmp_path):
    """`embed --out a.npy` also writes a.csv, the table of `predict --out a.csv`."""
    with only_writer([tmp_path / "a.csv"]), pytest.raises(OutputError, match=r"a\.csv: another process"):
        runs.embed(NONE, [NONE], tmp_path / "a.npy")


def test_a_command_that_fails_before_it_writes_leaves_no_new_folder(tmp_path):
    def fail(place: Path) -> None:
        assert place.is_dir()
        raise KeyError

    for hold, place in (
        (held_folder, tmp_path / "a" / "b"),
        (lambda p: held_files([p / "c.csv"]), tmp_path / "a" / "b"),
    ):
        with pytest.raises(KeyError), hold(place):
            fail(place)
        assert not list(tmp_path.iterdir())
    with held_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["result"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"), held_folder(tmp_path):
        pass
