"""Masks and DICOM Segmentations as files."""

import numpy as np
import pytest

from mrm import cli, runs
from mrm.data import images, masks
from mrm.data.blank_images import BLANK
from mrm.system.errors import MaskError, OutputError, RecordError, RunError
from tests.support.run_files import table


def test_another_kind_of_model_is_refused(discs, disc_encoder, tmp_path):
    with pytest.raises(RunError, match="expected a segmenter, found a classifier; train one"):
        runs.outline(disc_encoder, [discs / "images" / "test"], tmp_path / "out")


def test_masks_are_written_at_the_size_of_the_image(disc_segmenter, discs, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    names = [str(discs / "images" / "test"), str(tmp_path / "bad.png")]
    with pytest.warns(UserWarning, match=r"left out .*bad\.png"), pytest.raises(SystemExit, match="3"):
        cli.main(["predict", str(disc_segmenter), *names, "--out", str(tmp_path / "out")])
    assert "1 could not be read" in capsys.readouterr().out
    written = sorted((tmp_path / "out").glob("*.png"))
    assert len(written) == 12
    row = masks.MaskedImage("a", discs / "images" / "test" / "test00.png", written[0])
    found = masks.read_mask(row)
    true = images.read(discs / "annotations" / "test" / "test00.png") > 0
    assert found.shape == true.shape
    assert set(np.unique(found)) <= {0, 1}
    assert 2 * (true & (found > 0)).sum() / (true.sum() + (found > 0).sum()) > 0.6


def test_masks_never_overwrite_images_and_want_a_folder(disc_segmenter, discs, tmp_path):
    image = discs / "images" / "test" / "test00.png"
    (tmp_path / "x.png").write_bytes(image.read_bytes())
    with pytest.raises(RunError, match=r"x\.png: is an input, and would be overwritten; choose another --out"):
        runs.outline(disc_segmenter, [tmp_path], tmp_path)
    assert (tmp_path / "x.png").read_bytes() == image.read_bytes()
    with pytest.raises(OutputError, match=r"x\.png: is a file, but a folder is needed; choose another --out"):
        runs.outline(disc_segmenter, [image], tmp_path / "x.png")
    for _ in range(2):  # the second time the masks of the first are there
        assert runs.outline(disc_segmenter, [tmp_path], tmp_path / "masks").n == 1


def test_findings_of_a_segmenter_cannot_be_reported(disc_segmenter, discs, tmp_path):
    with pytest.raises(RunError, match=r"is a segmenter, which writes DICOM Segmentations; leave out --dicom-sr"):
        runs.predict(disc_segmenter, [discs / "images" / "test"], tmp_path / "out", dicom_sr=tmp_path / "sr")


def test_dicom_gets_a_segmentation_that_refers_to_it(disc_segmenter, shared_data, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    file = next((shared_data / "dicom").glob("1.2.276*.dcm"))
    runs.outline(disc_segmenter, [file], tmp_path)
    source, made = pydicom.dcmread(file), highdicom.seg.segread(tmp_path / f"{file.stem}.seg.dcm")
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert (
        made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    assert [made.get_segment_description(1).segment_label] == ["disc"]
    png = masks.read_mask(masks.MaskedImage("a", file, tmp_path / f"{file.stem}.png"))
    np.testing.assert_array_equal(made.pixel_array.squeeze() > 0, png == 1)


def test_a_radiograph_that_no_segmentation_can_refer_to_keeps_its_mask(disc_segmenter, shared_data, tmp_path):
    pytest.importorskip("highdicom")
    import pydicom

    radiograph = pydicom.dcmread(next((shared_data / "dicom").glob("1.2.276*.dcm")))
    del radiograph.StudyInstanceUID
    radiograph.save_as(tmp_path / "radiograph.dcm")
    with pytest.warns(UserWarning, match="no DICOM Segmentation can refer to it"):
        assert runs.outline(disc_segmenter, [tmp_path / "radiograph.dcm"], tmp_path / "out").unreadable == 0
    [row] = table(tmp_path / "out" / "masks.csv")
    found = masks.read_mask(masks.MaskedImage("a", tmp_path / "radiograph.dcm", tmp_path / "out" / "radiograph.png"))
    assert float(row["disc area"]) == pytest.approx((found == 1).mean())
    assert (row["mask"], row["error"]) == ("radiograph.png", "")
    assert "no DICOM Segmentation" in row["warning"]


def test_without_highdicom_the_extra_is_named(disc_segmenter, shared_data, tmp_path, monkeypatch):
    import importlib.util

    file = next((shared_data / "dicom").glob("1.2.276*.dcm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MaskError, match=r"mrm-radiograph\[seg\].*--no-dicom-seg"):
        runs.outline(disc_segmenter, [file], tmp_path)
    runs.outline(disc_segmenter, [file], tmp_path, dicom=False)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".png"]


def test_two_images_of_one_name_are_refused(disc_segmenter, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(images.encode_png(np.zeros((20, 20), np.uint8)))
    with pytest.raises(RunError, match=r"would both be written as x\.png"):
        runs.outline(disc_segmenter, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(RecordError, match="no such file or folder"):
        runs.outline(disc_segmenter, [tmp_path / "none"], tmp_path / "out")


def test_a_blank_image_has_a_mask_and_a_warning(disc_segmenter, tmp_path):
    (tmp_path / "blank.png").write_bytes(images.encode_png(np.full((40, 30), 9, np.uint8)))
    with pytest.warns(UserWarning, match="all pixels have the same value"):
        runs.outline(disc_segmenter, [tmp_path / "blank.png"], tmp_path / "masks")
    (row,) = table(tmp_path / "masks" / "masks.csv")
    assert BLANK in row["warning"]
    assert not row["error"]
