"""The folder of a run: what lies in it stays, and files are named as their images."""

import pytest

from mrm import runs
from mrm.runs import run_folder
from mrm.system.errors import OutputError
from tests.support.configs import pretrain_config


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
