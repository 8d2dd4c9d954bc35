"""Floors: what a logistic regression reaches without any network, on grey values and on oriented gradients.

A network that does not beat them has learned nothing that an afternoon with scikit-learn would not show. They are fitted
on the same training records as the network, choose their strength on the same validation records, and are tested on the
same images (`probes.linear`).
"""

# Shapes: N records, F features, H W pixels
from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from mrm.data import loader, sampling
from mrm.data.eval_view import EvalView
from mrm.data.oriented_gradients import SIDE, hog, hog_width
from mrm.data.records import Records
from mrm.data.samples import ImageData
from mrm.evaluation import probes
from mrm.evaluation.probes import Labelled, Probe
from mrm.system.errors import UnreachableError
from mrm.system.progress import Progress

BATCH = 64
FLOORS = ("pixels", "HOG")


def features(records: Records, workers: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The features (N, F) of every floor, float32, NaN where the image could not be read; and why, by name.

    Raises UnreachableError for an image that cannot be reached, since the values are to be kept.
    """
    values = {"pixels": np.full((len(records), (SIDE // 2) ** 2), np.nan, np.float32)}
    values["HOG"] = np.full((len(records), hog_width(SIDE)), np.nan, np.float32)
    unreadable: dict[str, str] = {}
    data, batches = ImageData(records, EvalView(SIDE)), sampling.in_order(len(records), BATCH)
    with Progress("reading for the floors", len(records)) as progress:
        for batch in loader.loader(data, batches, workers):
            for record in batch.skipped:
                if record.again:
                    raise UnreachableError(f"{record.reason}. Run the same command again when it can be reached")
                unreadable[record.name] = record.reason
            for index, image_HW in zip(batch.index_B.tolist(), batch.image_BHW.numpy(), strict=True):
                values["pixels"][index], values["HOG"][index] = pixels(image_HW), hog(image_HW)
            progress.add(len(batch.index_B) + len(batch.skipped))
    return values, unreadable


def pixels(image_HW: np.ndarray) -> np.ndarray:
    """Grey values (F,) of the image at half its size, 0 to 1."""
    height, width = image_HW.shape
    small_HW = cv2.resize(image_HW, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return small_HW.ravel() / np.float32(255)


def fitted(features: Mapping[str, np.ndarray], records: Mapping[str, Records]) -> Probe:
    """A logistic regression on the features (N, F) of the sets "train", "val" and "test", whose images can all be read.

    Raises ProbeError where nothing can be learned from the labels.
    """
    sets = [Labelled(features[name].astype(np.float64), records[name].labels_NC) for name in ("train", "val", "test")]
    return probes.linear(*sets)
