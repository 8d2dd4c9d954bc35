"""Outlines drawn over images: the true one as a line, the predicted one as a tint, told apart without colour too."""

# Shapes: H W pixels
import base64

import cv2
import numpy as np

from mrm.data import images

TRUE, PREDICTED = (64, 176, 255), (232, 160, 60)  # blue, green, red: an amber line, a blue tint
SIDE = 512  # pixels of the longer side of a drawn image


def overlay(image_HW: np.ndarray, true_HW: np.ndarray, predicted_HW: np.ndarray) -> str:
    """An image (H, W) uint8 with both masks (H, W) bool over it, as a data URI."""
    scale = min(1.0, SIDE / max(image_HW.shape))
    height, width = (max(1, round(side * scale)) for side in image_HW.shape)
    canvas = cv2.cvtColor(images.resize(image_HW, height, width), cv2.COLOR_GRAY2BGR)
    true, predicted = (
        cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        for mask in (true_HW, predicted_HW)
    )
    tint = np.where(predicted[..., None] > 0, np.array(PREDICTED, np.uint8), canvas)
    canvas = cv2.addWeighted(canvas, 0.6, tint, 0.4, 0)
    lines, _ = cv2.findContours(true, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, lines, -1, TRUE, thickness=2)
    encoded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
