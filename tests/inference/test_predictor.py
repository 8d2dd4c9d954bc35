"""Images from memory give the numbers of `mrm predict` on their files, and an iterator of any length the same memory."""

import gc
import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

import mrm
from mrm import runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.blank_images import BLANK
from mrm.data.records import Record
from mrm.inference import heat_maps, outliers, outlines, predict
from mrm.models import model_folder, noise, segmenter
from mrm.models.bare_encoder import BareEncoder, BareEncoderConfig
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.runs.reading_options import Reading
from mrm.system.errors import CheckpointError, ConfigError, ExplainError, ImageError, PredictError
from tests.support.configs import MICRO
from tests.support.dicom_files import dataset, saved
from tests.support.image_files import radiograph


@pytest.fixture(scope="module")
def decided(classifier, records, tmp_path_factory):
    """The folder of a classifier with a threshold, a temperature and a reference of known images."""
    features, _ = predict.features(classifier, records, workers=0)
    card = replace(
        classifier.card,
        thresholds={FINDINGS[0]: 0.5},
        temperatures={FINDINGS[1]: 2.0},
        outliers=outliers.reference(features),
    )
    return model_folder.save(tmp_path_factory.mktemp("decided") / "model", classifier, card)


@pytest.fixture(scope="module")
def predictor(decided):
    return mrm.Predictor(decided, batch=8, workers=0)


@pytest.fixture(scope="module")
def outliner():
    """An untrained segmenter of two classes."""
    config = SegmenterConfig(
        ("disc", "ring"), MICRO.encoder, MICRO.encoder_options, image_size=(64, 48), channels=16, auxiliary=0
    )
    with noise.seeded(1):
        return Segmenter(config).eval()


def variants(image: np.ndarray, folder) -> list:
    """The same image as an array, and as files and objects that hold exactly its pixels."""
    png, dicom = folder / "a.png", folder / "a.dcm"
    png.write_bytes(images.encode_png(image) if image.dtype == np.uint8 else b"")
    if image.dtype != np.uint8:
        Image.fromarray(image).save(png)
    dicom.write_bytes(saved(dataset(image)))
    return [
        image,
        np.dstack([image] * 3),
        torch.from_numpy(image),
        png,
        str(png),
        png.read_bytes(),
        memoryview(png.read_bytes()),
        Image.open(png),
        dicom,
        dicom.read_bytes(),
        pydicom.dcmread(dicom),
        Record(png),
    ]


# ---- the same path as the command ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_its_png_and_its_dicom_give_the_same_row(decided, tmp_path, dtype):
    image = radiograph(3, 200).astype(dtype) * (1 if dtype is np.uint8 else 16)
    table = mrm.Predictor(decided, batch=1)(variants(image, tmp_path))
    assert not table.errors
    assert not table.warnings
    np.testing.assert_array_equal(table.probabilities_NC, np.repeat(table.probabilities_NC[:1], 12, axis=0))
    np.testing.assert_array_equal(table.outliers_N, np.repeat(table.outliers_N[:1], 12))
    (other,) = mrm.Predictor(decided)(255 - image if dtype is np.uint8 else image.max() - image)
    assert abs(other[FINDINGS[0]] - table[0][FINDINGS[0]]) > 1e-4  # the test can fail


@pytest.mark.parametrize("workers", [0, 2])
def test_the_table_is_that_of_mrm_predict(decided, phantoms, tmp_path, workers):
    files = [*sorted((phantoms / "images").iterdir())[:20], tmp_path / "damaged.png", tmp_path / "black.png"]
    files[-2].write_bytes(b"\x89PNG\r\n\x1a\n")
    files[-1].write_bytes(images.encode_png(np.zeros((50, 40), np.uint8)))
    reading = Reading(batch=8, workers=0)
    with pytest.warns(UserWarning, match="left out"):
        runs.predict(decided, files, tmp_path / "command.csv", reading)
    with pytest.warns(UserWarning, match="1 of 22 images could not be read; first: .*damaged"):
        table = mrm.Predictor(decided, batch=8, workers=workers)(iter(files))
    assert table.to_csv(tmp_path / "class.csv").read_text() == (tmp_path / "command.csv").read_text()
    assert list(table.errors) == [20]
    assert np.isnan(table.probabilities_NC[20]).all()
    assert np.isnan(table.decisions_NC[20]).all()
    assert BLANK in table.warnings[21]


def test_a_real_dataset_gives_the_row_of_its_file(decided, shared_data):
    files = sorted((shared_data / "dicom").glob("*.dcm"))
    one_by_one = mrm.Predictor(decided, batch=1)
    with pytest.warns(UserWarning, match="read with a warning; first: .*output of a chest radiograph model"):
        from_files, from_datasets = one_by_one(files), one_by_one(map(pydicom.dcmread, files))
    assert len(from_files) >= 3
    assert list(from_files) == list(from_datasets)


def test_features_are_those_of_mrm_embed(decided, phantoms, tmp_path, predictor):
    files = sorted((phantoms / "images").iterdir())[:10]
    for kind in ("pooled", "patches"):
        runs.embed(decided, files, tmp_path / "f.npy", kind, Reading(batch=8, workers=0))
        np.testing.assert_array_equal(predictor.embed(files, kind), np.load(tmp_path / "f.npy"))
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        features = predictor.embed([files[0], tmp_path / "gone.png"])
    assert np.isnan(features).all(axis=1).tolist() == [False, True]


def test_a_pre_trained_model_embeds(model, records, phantoms):
    expected, _ = predict.features(model, records[:5], workers=0)
    np.testing.assert_allclose(mrm.Predictor(model).embed(records[:5]), expected, rtol=0, atol=1e-6)
    with pytest.raises(PredictError, match="an MRM model gives no findings; call its embed"):
        mrm.Predictor(model)(records)


def test_an_encoder_of_another_program_embeds_and_says_what_it_cannot():
    config = BareEncoderConfig(MICRO.encoder, MICRO.encoder_options, MICRO.image_size)
    with noise.seeded(0):
        encoder = mrm.Predictor(BareEncoder(config))
    assert encoder.classes == ()
    assert encoder.embed([radiograph(0, 90), radiograph(1, 90)]).shape == (2, 48)
    for use in (encoder, encoder.masks, lambda image: encoder.explain(image, "effusion")):
        with pytest.raises(PredictError, match=r"an encoder gives no .*; call its embed"):
            use(radiograph(0, 90))


def test_heat_maps_are_those_of_mrm_explain(predictor, classifier):
    pytest.importorskip("captum")
    image = radiograph(1, 100)
    heat = predictor.explain(Image.fromarray(image), FINDINGS[2])
    np.testing.assert_array_equal(heat, heat_maps.heat_map(classifier, image, 2))
    with pytest.raises(ExplainError, match="unknown finding 'gout'; choose from"):
        predictor.explain(image, "gout")


def test_masks_are_those_of_the_segmenter_at_the_size_of_the_image(outliner):
    image = radiograph(1, 100)[:80]
    masks = mrm.Predictor(outliner).masks(image)
    expected = outlines.outline(
        segmenter.probabilities(outliner, image), outlines.thresholds_of(outliner.card, ("disc", "ring"))
    )
    assert list(masks) == ["disc", "ring"]
    assert expected.any()
    for number, mask in enumerate(masks.values(), 1):
        np.testing.assert_array_equal(mask, expected == number)
    with pytest.raises(PredictError, match="a segmenter gives no findings; call its masks"):
        mrm.Predictor(outliner)(image)
    with pytest.raises(PredictError, match="crop_borders is for classifiers"):
        mrm.Predictor(outliner, crop_borders=True).masks(image)


def test_borders_are_cropped_as_by_the_command(decided, tmp_path):
    framed = np.pad(radiograph(5, 120), 30)
    (tmp_path / "a.png").write_bytes(images.encode_png(framed))
    runs.predict(decided, [tmp_path / "a.png"], tmp_path / "a.csv", Reading(workers=0, crop_borders=True))
    cropping = mrm.Predictor(decided, crop_borders=True)
    assert cropping([tmp_path / "a.png"]).to_csv(tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    assert cropping([framed])[0][FINDINGS[0]] == cropping(radiograph(5, 120))[0][FINDINGS[0]]
    assert cropping.read(framed).shape == (120, 120)


# ---- the table ---------------------------------------------------------------------------------------------------


def test_rows_names_and_arrays_say_the_same(predictor):
    table = predictor([radiograph(i, 90) for i in range(11)], names=[f"study {i}" for i in range(11)])
    assert len(table) == 11
    assert table.names == [row["path"] for row in table] == [f"study {i}" for i in range(11)]
    assert table[-1] == table[10:][0] == list(table)[10]
    assert list(table[0]) == list(table.columns)
    for number, row in enumerate(table):
        assert [row[c] for c in FINDINGS] == table.probabilities_NC[number].tolist()
        assert row["outlier"] == table.outliers_N[number]
        decision = row[f"{FINDINGS[0]} decision"]
        assert decision == (None if row["abstain"] else int(row[FINDINGS[0]] >= 0.5))
        assert np.isnan(table.decisions_NC[number, 1])  # no threshold
    assert repr(table) == f"<Predictions of {', '.join(FINDINGS)} for 11 images>"


def test_a_data_frame_has_the_types_of_the_table(predictor, tmp_path):
    pandas = pytest.importorskip("pandas")
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        table = predictor([radiograph(0, 90), b""])
    frame = table.to_pandas()
    assert list(frame.columns) == list(table.columns)
    assert frame[FINDINGS[0]].dtype == np.float64
    assert frame[f"{FINDINGS[0]} decision"].dtype == "Int64"
    assert frame["error"][1] == "image 1: empty (0 bytes); download or copy it again"
    assert pandas.isna(frame.loc[1, FINDINGS[0]])
    assert frame.loc[0, FINDINGS[0]] == table[0][FINDINGS[0]]


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_few_images_of_an_iterator_are_alive_at_a_time(decided, workers):
    alive, most = weakref.WeakSet(), 0

    class Image(np.ndarray):
        """An array that a set can hold."""

        __hash__ = object.__hash__

    def stream():
        nonlocal most
        for _ in range(60):
            image = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8).view(Image)
            alive.add(image)
            most = max(most, len(alive))
            yield image
            del image

    assert len(mrm.Predictor(decided, batch=8, workers=workers)(stream())) == 60
    assert most <= 2 * workers + 4


def test_memory_does_not_grow_with_the_number_of_images(decided):
    predictor = mrm.Predictor(decided, batch=16, workers=0)

    def peak(count: int) -> int:
        gc.collect()
        tracemalloc.start()
        predictor(radiograph(i % 5, 96) for i in range(count))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(20)  # what is imported and kept on the first call
    few, many = peak(40), peak(240)
    assert many - few < 200 * 1500  # the rows; an image has 9 kB, and 33 kB where it is made


# ---- bad input ---------------------------------------------------------------------------------------------------


def test_each_bad_image_is_a_row_with_its_reason(predictor, tmp_path):
    good = radiograph(0, 90)
    bad = {
        1: (np.zeros((2, 3, 4, 5)), "is not an image"),
        2: (np.array([[None, 1]], dtype=object), "object of shape"),
        3: (good / -255.0, "float values below 0"),
        4: (np.full((9, 9), np.nan), "NaN"),
        5: (tmp_path / "gone.png", "no such file"),
        6: (dataset(good, PixelData=None), "no pixel data"),
    }
    with pytest.warns(UserWarning, match=r"6 of 8 images could not be read; first: image 1: .*not an image"):
        table = predictor([good, *(image for image, _ in bad.values()), good])
    assert list(table.errors) == list(bad)
    for number, (_, reason) in bad.items():
        assert reason in table[number]["error"]
        assert table[number][FINDINGS[0]] is None
    assert table[0][FINDINGS[0]] == pytest.approx(table[7][FINDINGS[0]], rel=1e-5)


def test_a_blank_array_is_predicted_with_a_warning(predictor):
    for blank in (np.full((20, 20), 7, np.uint8), np.ones((20, 20), np.float32)):
        with pytest.warns(UserWarning, match="1 of 1 images were read with a warning; first: image 0: all pixels"):
            (row,) = predictor(blank)
        assert row["warning"] == f"image 0: {BLANK}"
        assert row["error"] is None


def test_a_blank_image_is_warned_of_where_one_is_computed(outliner):
    with pytest.warns(UserWarning, match="image 0: all pixels have the same value"):
        mrm.Predictor(outliner).masks(np.full((20, 20), 7, np.uint8))


@pytest.mark.parametrize("empty", [[], iter(()), (x for x in "")])
def test_no_images_are_one_line(predictor, empty):
    for use in (predictor, predictor.embed):
        with pytest.raises(PredictError, match="no images were given"):
            use(empty)


def test_images_of_which_none_can_be_read_are_an_error(predictor, tmp_path):
    with pytest.raises(ImageError, match=r"none of the 2 images could be read; first error: .*a\.png: no such file"):
        predictor([tmp_path / "a.png", tmp_path / "b.png"])


def test_the_first_bad_image_can_stop(decided):
    stopping = mrm.Predictor(decided, on_error="stop")
    with pytest.raises(ImageError, match="image 1: empty"):
        stopping([radiograph(0, 90), b"", radiograph(1, 90)])


def test_an_error_of_the_iterator_itself_is_passed_on(predictor):
    def broken():
        yield radiograph(0, 90)
        raise ConnectionError("the archive does not answer")

    with pytest.raises(ConnectionError, match="the archive does not answer"):
        predictor(broken())


def test_one_image_is_expected_where_one_is_computed(predictor):
    with pytest.raises(PredictError, match="expected one image, found list"):
        predictor.explain([radiograph(0, 90)], FINDINGS[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"on_error": "ignore"}, "unknown on_error 'ignore'; choose from skip, stop"),
        ({"value_range": (1, 0)}, "expected two numbers"),
        ({"device": "toaster"}, "device toaster is not available"),
    ],
)
def test_settings_that_cannot_be_are_refused(decided, settings, message):
    with pytest.raises(ConfigError, match=message):
        mrm.Predictor(decided, **settings)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        mrm.Predictor(tmp_path)
