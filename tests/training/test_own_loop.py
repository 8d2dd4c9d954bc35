"""A training loop of one's own sees the images that `mrm finetune` sees."""

import gc
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import mrm
from mrm.data import images
from mrm.data.config import FINETUNE_CROP, STRONG, CropConfig
from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.data.samples import LabelData
from mrm.models.classifier import Classifier
from mrm.models.mrm import normalise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.system.errors import CheckpointError, ConfigError, ImageError, RecordError
from tests.support.configs import ENCODER, MICRO
from tests.support.image_files import radiograph
from tests.support.samples import png


@pytest.fixture(scope="module")
def records(phantoms) -> Records:
    return Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))


def model_of(**changes) -> Classifier:
    return Classifier(replace(ENCODER, mean=0.4, std=0.2, **changes))


# ---- transforms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"view": "centre", "resize": "bilinear"}, {"crop_borders": True, "greys": "matched"}]
)
@pytest.mark.parametrize("augment", [None, STRONG])
def test_the_same_seed_gives_the_crop_and_the_augmentation_of_fine_tuning(records, changes, augment):
    model = model_of(**changes)
    options = {"augment": augment} if augment else {}
    train = mrm.transforms(model, **options).train
    ours = LabelData(records, EvalView.of(model.config), FINETUNE_CROP, seed=5, **options)
    for epoch, index in ((0, 0), (3, 7), (3, 8)):
        expected = normalise(torch.from_numpy(ours.sample(epoch, index)["image"])[None], 0.4, 0.2)[0]
        tensor = train(records[index], np.random.default_rng([5, epoch, index]))
        assert tensor.shape == (3, 64, 64)
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    "changes", [{}, {"view": "centre", "resize": "bilinear"}, {"crop_borders": True, "greys": "matched"}]
)
def test_the_test_transform_is_the_view_of_the_tests(records, changes):
    model = model_of(**changes)
    test = mrm.transforms(model).test
    ours = LabelData(records, EvalView.of(model.config))
    expected = normalise(torch.from_numpy(ours.sample(0, 3)["image"])[None], 0.4, 0.2)[0]
    assert torch.equal(test(records[3]), expected)
    assert torch.equal(test(str(records[3].image)), expected)
    if not changes:
        array = images.read(records[3].image)  # at 128 pixels a JPEG is decoded whole
        assert torch.equal(test(array), expected)


def test_a_folder_says_how_its_model_sees_images(pretrained_run, records):
    train, test = mrm.transforms(pretrained_run, crop=CropConfig(area=(0.5, 1.0), flip=0.0))
    assert (train.view.size, train.mean, train.std, train.crop.area) == (64, MICRO.mean, MICRO.std, (0.5, 1.0))
    loaded = mrm.load(pretrained_run)
    with torch.inference_mode():
        tokens = loaded.encode(test(records[0])[None])
    assert torch.isfinite(tokens).all()


def test_without_a_generator_crops_differ_and_follow_from_the_seed():
    image = radiograph(0, 100)
    train = mrm.transforms(model_of(), seed=1).train
    first = [train(image) for _ in range(3)]
    assert not torch.equal(first[0], first[1])
    again = mrm.transforms(model_of(), seed=1).train
    assert all(torch.equal(a, again(image)) for a in first)
    assert not torch.equal(first[0], mrm.transforms(model_of(), seed=2).train(image))


def test_what_has_no_transforms_is_refused(tmp_path):
    options = MICRO.encoder_options
    segmenter = Segmenter(SegmenterConfig(("a",), MICRO.encoder, options, image_size=(64, 64), channels=16))
    with pytest.raises(ConfigError, match="a segmenter crops an image and its mask together"):
        mrm.transforms(segmenter)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        mrm.transforms(tmp_path / "none")
    with pytest.raises(ImageError, match="image: float values below 0"):
        mrm.transforms(model_of()).test(-np.ones((9, 9)))


# ---- the data set ----------------------------------------------------------------------------------------------


def test_after_set_epoch_a_sample_is_that_of_fine_tuning(records):
    dataset = mrm.Dataset(records, mrm.transforms(model_of()).train, seed=4)
    ours = LabelData(records, EvalView(64), FINETUNE_CROP, seed=4)
    for epoch in (0, 2):
        dataset.set_epoch(epoch)
        for index in (0, 11, -1):
            image, labels = dataset[index]
            expected = ours.sample(epoch, index % len(records))
            assert torch.equal(image, normalise(torch.from_numpy(expected["image"])[None], 0.4, 0.2)[0])
            assert labels.tolist() == expected["labels"].tolist()
    with pytest.raises(ConfigError, match="epoch is -1"):
        dataset.set_epoch(-1)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_give_the_same_batches_and_see_a_new_epoch(records, persistent):
    dataset = mrm.Dataset(records[:12], mrm.transforms(model_of()).train)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches = torch.cat([image for image, _ in loader])
        assert torch.equal(batches, torch.stack([dataset[i][0] for i in range(12)]))


def test_workers_draw_different_crops_of_the_same_image_and_others_in_the_next_epoch():
    same = Records([Record(png(0))] * 6)
    loader = DataLoader(
        mrm.Dataset(same, mrm.transforms(model_of()).train),
        batch_size=1,
        num_workers=2,
        generator=torch.Generator().manual_seed(0),
    )
    crops = [image.numpy().tobytes() for _ in range(2) for image, _ in loader]
    assert len(set(crops)) == 12


def threads_of_opencv(image) -> int:
    return cv2.getNumThreads()


def test_a_worker_uses_one_thread_of_opencv(records):
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        dataset = mrm.Dataset(records[:2], threads_of_opencv)
        assert [count for count, _ in DataLoader(dataset, batch_size=None, num_workers=1)] == [1, 1]
        assert dataset[0][0] == 4
    finally:
        cv2.setNumThreads(before)


def test_a_transform_of_torchvision_gets_a_grey_pil_image(records):
    plain = v2.Compose([v2.PILToTensor(), v2.Resize((32, 32))])
    image, labels = mrm.Dataset(records, plain)[5]
    assert (image.dtype, image.shape, labels.shape) == (torch.uint8, (1, 32, 32), (2,))
    original, _ = mrm.Dataset(records, v2.PILToTensor())[5]
    np.testing.assert_array_equal(original[0], images.read(records[5].image))


def test_a_data_set_is_read_from_a_file_and_pickles(phantoms):
    dataset = mrm.Dataset(phantoms / "records.csv", mrm.transforms(model_of()).test, classes=("nodule", "effusion"))
    assert dataset.classes == ("nodule", "effusion")
    assert len(dataset) == 48
    copied = pickle.loads(pickle.dumps(dataset))
    for one, other in zip(dataset[9], copied[9], strict=True):
        assert torch.equal(one, other)
    every = mrm.Dataset(phantoms / "records.csv", mrm.transforms(model_of()).test)
    assert set(dataset.classes) < set(every.classes)
    with pytest.raises(IndexError):
        dataset[48]


def test_labels_that_are_not_stated_or_uncertain_are_nan():
    rows = [Record(png(0), labels=(1.0, -1.0)), Record(png(1), labels=(float("nan"), 0.0))]
    records = Records(rows, ("a", "b"))
    test = mrm.transforms(model_of()).test
    labels = torch.stack([label for _, label in mrm.Dataset(records, test)])
    np.testing.assert_array_equal(labels, [[1, np.nan], [np.nan, 0]])
    ones = torch.stack([label for _, label in mrm.Dataset(records, test, uncertain="ones")])
    np.testing.assert_array_equal(ones, [[1, 1], [np.nan, 0]])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_names_its_record(workers, monkeypatch):
    broken = Records([Record(png(0)), Record(b"\x89PNG\r\n\x1a\n", name="study-1")])
    dataset = mrm.Dataset(broken, mrm.transforms(model_of()).test)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # for its process, at the end here
    with pytest.raises(ImageError, match=r"record study-1: .*PNG"):
        list(DataLoader(dataset, batch_size=None, num_workers=workers))
    gc.collect()  # the error, its traceback and the loader's iterator hold each other


def test_records_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(RecordError, match="no such file of records"):
        mrm.Dataset(tmp_path / "none.csv", mrm.transforms(model_of()).test)
    (tmp_path / "a.csv").write_text("image_path,effusion\na.png,1\n")
    with pytest.raises(RecordError, match="no column oedema"):
        mrm.Dataset(tmp_path / "a.csv", mrm.transforms(model_of()).test, classes=("oedema",))
