"""The folder of a run: what lies in it stays, and files are named as their images."""

import shutil
from dataclasses import replace

import pytest

from mrm import runs
from mrm.audit import fingerprints
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.kept_hashes import FILE
from mrm.data.records import Records
from mrm.runs import run_folder
from mrm.system.errors import OutputError
from tests.support.configs import pretrain_config
from tests.support.permissions import modes_below, readable_by_others


def test_another_run_in_the_folder_is_kept(phantoms, pretrained_run, tmp_path):
    before = (pretrained_run / "log.csv").read_bytes()
    with pytest.raises(OutputError, match=r"holds another run \(seed: 0, now 1\)"):
        runs.pretrain(pretrain_config(phantoms, pretrained_run, seed=1))
    assert (pretrained_run / "log.csv").read_bytes() == before


def test_a_folder_with_other_things_is_kept(phantoms, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))


def test_a_folder_that_cannot_be_written_is_named(phantoms, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: cannot be written \(Not a directory\)"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "file" / "run"))


def test_files_of_results_are_called_as_their_images_and_all_differ():
    names = ["a/radiograph.png", "b/Radiograph.jpg", "1.2.840.1", "1.2.840.2", "1.2.840.2.dcm", "ä b.dcm", "...."]
    expected = ["radiograph", "Radiograph-2", "1.2.840.1", "1.2.840.2", "1.2.840.2-2", "ä_b", "image"]
    assert run_folder.output_names(names) == expected  # a DICOM identifier has no ending to take off


def test_nobody_else_can_read_a_run_its_logs_and_its_models(pretrained_run):
    assert readable_by_others(pretrained_run) == []
    names = modes_below(pretrained_run)
    assert {"config.yaml", "log.csv", "checkpoints/", "seen/pre-training.npz"} <= set(names)
    assert any("events.out" in name for name in names)  # of TensorBoard
    assert any(name.endswith("seen/pre-training.npz") for name in names if name.startswith("checkpoints/"))


def test_fingerprints_of_a_model_are_copied_without_its_permissions_and_in_its_key(pretrained_run, tmp_path):
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other" / "a.npz").write_bytes((pretrained_run / "seen" / "pre-training.npz").read_bytes())
    (tmp_path / "other" / "a.npz").chmod(0o644)
    run_folder.copy_seen(tmp_path / "other", tmp_path / "run" / "seen")
    assert readable_by_others(tmp_path / "run") == []
    copied, before = (Fingerprints.load(f) for f in (tmp_path / "run/seen/a.npz", tmp_path / "other/a.npz"))
    assert copied.key == before.key != ""
    run_folder.copy_seen(tmp_path / "absent", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kept_in", ["data", "run"])
@pytest.mark.filterwarnings("ignore:.*the hashes of its images cannot be kept there")
def test_a_start_that_is_interrupted_while_it_reads_images_reads_none_of_them_again(
    phantoms, tmp_path, monkeypatch, kept_in
):
    """The hashes lie beside the records, or in the run where no file can be made there."""
    data = tmp_path / "data"
    shutil.copytree(phantoms, data, ignore=shutil.ignore_patterns(FILE))
    if kept_in == "run":
        (data / FILE).mkdir()
    config = pretrain_config(data, tmp_path / "run", audit="images")
    config.out.mkdir()
    records, read, images = Records.load(config.records), [], fingerprints.images.read
    whole = fingerprint(records)

    def read_some(image):
        read.append(image)
        if len(read) == 20:
            raise KeyboardInterrupt
        return images(image)

    monkeypatch.setattr(fingerprints.images, "read", read_some)
    with pytest.raises(KeyboardInterrupt):
        run_folder.note_seen(config, "training", records)
    first = set(read[:10])  # a thread may be ahead of another
    assert (tmp_path / kept_in / FILE).is_file()
    read.clear()
    monkeypatch.setattr(fingerprints.images, "read", lambda image: read.append(image) or images(image))
    resumed = Fingerprints.load(run_folder.note_seen(config, "training", records) / "training.npz")
    assert 0 < len(read) < len(records)
    assert not first & set(read)
    assert (resumed.exact == whole.exact).all()
    assert whole.exact.all()
    assert not (config.out / FILE).exists()
    read.clear()
    run_folder.note_seen(replace(config, out=tmp_path / "another"), "training", records)
    assert len(read) == (0 if kept_in == "data" else len(records))
