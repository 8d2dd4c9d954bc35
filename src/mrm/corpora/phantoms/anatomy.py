"""The body of a phantom: where its parts lie, as curves in body units.

Body units: x from the midline, positive towards the reader's right (the patient's left), y downwards; 1 is
the side of the image, 40 cm. Nothing here knows pixels, and nothing is drawn.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Anatomy:
    """What stays with a patient from study to study; lengths in body units."""

    sex: str
    age: int
    half_width: float  # of the thorax, inside the ribs
    apex: float  # y of the lung tips
    dome: float  # y of the right diaphragm in full inspiration
    left_drop: float  # how much lower the left diaphragm stands
    wall: float  # soft tissue outside the ribs
    thickness: float  # of the trunk along the beam, cm
    ctr: float  # cardiothoracic ratio in a PA view
    knob: float  # how far the aortic arch stands out
    rib_drop: float  # from spine to breastbone
    rib_width: float
    bone: float  # density, 1 is average
    breast: float  # 0 is none
    vessels: int  # seed of the vascular tree


@cache
def _spline_weights(points: int, steps: int) -> np.ndarray:
    """Catmull-Rom as a matrix: (n, points) weights that turn control points into a smooth open curve."""
    t = np.linspace(0, points - 1, (points - 1) * steps + 1)
    at = np.minimum(t.astype(int), points - 2)
    f = (t - at)[:, None]
    blend = np.hstack([-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2]) / 2
    weights = np.zeros((len(t), points))
    for k in range(4):
        np.add.at(weights, (np.arange(len(t)), np.clip(at + k - 1, 0, points - 1)), blend[:, k])
    return weights


def curve(points, steps: int = 6) -> np.ndarray:
    points = np.asarray(points, float)
    return _spline_weights(len(points), steps) @ points


def mirrored(points, side: int) -> np.ndarray:
    return np.asarray(points, float) * (side, 1)


WALL_Y = (-0.06, 0.0, 0.06, 0.17, 0.36, 0.58, 0.80, 1.0, 1.4)  # share of the lung's height
WALL_X = (0.30, 0.48, 0.66, 0.82, 0.93, 0.98, 1.0, 0.985, 0.94)  # share of the half width


def dome_of(a: Anatomy, side: int, raised: float = 0.0) -> float:
    return a.dome + (a.left_drop if side > 0 else 0.0) - raised


def lung_outline(a: Anatomy, side: int, raised: float = 0.0) -> np.ndarray:
    """Closed outline of one pleural space: smooth but for the costophrenic and the medial corner."""
    dome, top = dome_of(a, side, raised), a.apex
    angle = dome + 0.075
    h, w = angle - top, a.half_width
    upper = [(0.13 * w, dome + 0.035), (0.12 * w, top + 0.5 * h), (0.12 * w, top + 0.16 * h)]
    upper += [(0.17 * w, top + 0.055 * h), (0.30 * w, top + 0.01 * h)]
    upper += [(x * w, top + y * h) for x, y in zip(WALL_X[1:-1], WALL_Y[1:-1], strict=True)]
    lower = [(0.985 * w, angle), (0.93 * w, dome + 0.036), (0.76 * w, dome + 0.006), (0.54 * w, dome - 0.006)]
    lower += [(0.32 * w, dome + 0.010), (0.13 * w, dome + 0.035)]
    return mirrored(np.vstack([curve(upper), curve(lower)[1:-1]]), side)


def heart_outline(a: Anatomy) -> np.ndarray:
    """Closed outline of heart and mediastinum, from the neck down the left border and up the right one."""
    right, left = heart_reach(a, -1), heart_reach(a, 1)

    def at(share: float) -> float:
        return a.apex + share * (a.dome - a.apex)

    k = a.knob
    down = [
        (0.075, -0.1),
        (0.062, at(0.0)),
        (0.05, at(0.14)),
        (0.056 + 0.5 * k, at(0.20)),
        (0.066 + k, at(0.27)),
    ]
    down += [(0.062 + k, at(0.325)), (0.060, at(0.37)), (0.074, at(0.43)), (0.085, at(0.49))]
    down += [(0.35 * left + 0.065, at(0.57)), (0.72 * left + 0.02, at(0.68)), (0.95 * left, at(0.81))]
    down += [(left, at(0.92)), (0.95 * left, at(1.01)), (0.75 * left, at(1.09)), (0.4 * left, at(1.14))]
    up = [(0.8 * right, at(1.12)), (0.93 * right, at(1.02)), (right, at(0.88)), (0.95 * right, at(0.76))]
    up += [(0.5 * right + 0.032, at(0.62)), (0.066, at(0.53)), (0.062, at(0.40)), (0.060, at(0.22))]
    up += [(0.05, at(0.08)), (0.06, at(-0.06)), (0.075, -0.1)]
    return np.vstack([curve(down, 4), curve([(-x, y) for x, y in up], 4)])


def body_outlines(a: Anatomy, arms: float) -> list[np.ndarray]:
    """Trunk and the two arms; `arms` is how far they are held away."""
    flank = a.half_width + 0.03 + a.wall
    neck = 0.085 + 0.4 * a.wall
    top = a.apex
    half = [(neck, top - 0.25), (neck, top - 0.12), (neck + 0.03, top - 0.075), (0.24, top - 0.04)]
    half += [(0.36, top - 0.005), (flank + 0.03, top + 0.07), (flank + 0.012, 0.34), (flank, 0.5)]
    half += [(flank, 0.75), (flank + 0.01, 1.1)]
    side = curve(half)
    trunk = np.vstack([side, mirrored(side, -1)[::-1]])
    arm = curve([(0.30, top - 0.02), (0.42, top + 0.005), (0.50, 0.17), (0.56 + arms, 0.34), (0.62 + 2 * arms, 0.7)])
    inner = [(0.49 + 2 * arms + a.wall, 0.7), (flank + 0.035 + arms, 0.42), (flank - 0.02, 0.33)]
    arm = np.vstack([arm, inner])
    return [trunk, arm, mirrored(arm, -1)]


def heart_reach(a: Anatomy, side: int) -> float:
    """How far the heart stands out to a side; two thirds of it lie on the left."""
    return a.ctr * 2 * a.half_width * (0.62 if side > 0 else 0.38)


def zone_centre(a: Anatomy, side: int, zone: str) -> np.ndarray:
    """Middle of a lung zone, as far as the heart leaves it in sight."""
    out, down = {"upper": (0.50, 0.24), "mid": (0.58, 0.50), "lower": (0.60, 0.80)}[zone]
    x = out * a.half_width
    if zone == "lower":
        x = max(x, 0.5 * (heart_reach(a, side) + a.half_width))
    return np.array([side * x, a.apex + down * (dome_of(a, side) - a.apex)])


def hilum(a: Anatomy, side: int) -> np.ndarray:
    """The left one stands a little higher."""
    return np.array([side * 0.075, a.apex + (0.44 if side > 0 else 0.48) * (a.dome - a.apex)])


def rib_bands(a: Anatomy, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior (10, n, 2) and anterior (7, m, 2) halves of ribs, as bands: upper edge out, lower back.

    A rib is a tilted ring seen from the front: x follows the sine of the angle from the spine, y falls with
    the angle. So the back half runs down and outwards, the front half down and inwards, and both crowd at the
    side.
    """
    k = np.arange(10)[:, None]
    drop = a.rib_drop * (0.60 + 0.07 * k)
    top = a.apex - 0.035 + (a.dome + 0.075 - a.apex) / 9.3 * k * (0.95 + 0.003 * k)
    share = (top + 0.5 * drop - a.apex) / (a.dome + 0.075 - a.apex)
    reach = np.interp(share, WALL_Y, WALL_X) * a.half_width + 0.004
    back, front = np.linspace(0.05, 0.53 * np.pi, 15), np.linspace(0.47 * np.pi, 0.80 * np.pi, 11)
    posterior = _bands(back, reach, top, drop, a.rib_width, side)
    return posterior, _bands(front, reach[1:8], top[1:8], drop[1:8], a.rib_width * 1.15, side)


def _bands(angle: np.ndarray, reach: np.ndarray, top: np.ndarray, drop: np.ndarray, width: float, side: int):
    x = 0.028 + (reach - 0.028) * np.sin(angle) ** 0.85
    fall = 0.6 * angle / np.pi + 0.2 * (1 - np.cos(angle)) - 0.06 * np.sin(2 * np.minimum(angle, np.pi / 2))
    middle = np.stack([x, top + drop * fall], -1)
    along = np.gradient(middle, axis=1)
    across = np.stack([-along[..., 1], along[..., 0]], -1) / np.linalg.norm(along, axis=-1, keepdims=True)
    half = 0.5 * width * np.interp(angle, (0, 0.5, 1.5, 2.5), (0.8, 1.05, 0.85, 1.0))[:, None]
    return mirrored(np.concatenate([middle - half * across, (middle + half * across)[:, ::-1]], 1), side)


def clavicle(a: Anatomy, side: int, raised: float) -> np.ndarray:
    """Closed outline; thick at the breastbone, S-shaped, rising outwards."""
    y = a.apex + 0.085 - raised
    middle = curve(
        [
            (0.030, y + 0.028),
            (0.085, y + 0.008),
            (0.16, y - 0.010),
            (0.25, y - 0.042),
            (0.345, y - 0.052),
            (0.42, y - 0.035),
        ]
    )
    half = np.interp(np.linspace(0, 1, len(middle)), (0, 0.15, 0.5, 0.9, 1), (0.021, 0.014, 0.0115, 0.014, 0.008))
    across = np.array([0.25, 1.0]) * half[:, None]
    return mirrored(np.vstack([middle - across, (middle + across)[::-1]]), side)


def scapula(a: Anatomy, side: int, turned: float) -> np.ndarray:
    """Closed outline of the blade; `turned` brings it in over the lung, as when the arms hang (AP)."""
    w = a.half_width - turned
    y = a.apex
    points = [(w + 0.055, y + 0.045), (w - 0.05, y + 0.01), (w - 0.075, y + 0.09), (w - 0.05, y + 0.22)]
    points += [(w - 0.005, y + 0.36), (w + 0.02, y + 0.345), (w + 0.035, y + 0.22), (w + 0.07, y + 0.10)]
    return mirrored(curve([*points, points[0]]), side)


@cache
def spine() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bodies (n, 6, 2), end plates (2 n, 2, 2), spines (n, 4, 2), pedicles (2 n, 9, 2)."""
    bodies, plates, processes, pedicles = [], [], [], []
    angle = np.linspace(0, 2 * np.pi, 9)
    ring = np.stack([0.006 * np.cos(angle), 0.010 * np.sin(angle)], -1)
    y = -0.03
    for k in range(22):
        half, height = 0.030 + 0.0010 * k, 0.038 + 0.0013 * k
        y += height
        low, waist = 0.42 * height, 0.88 * half
        corners = [(-half, -low), (-waist, 0), (-half, low), (half, low), (waist, 0), (half, -low)]
        bodies.append(np.array([0, y]) + corners)
        plates += [np.array([(-half, y + e), (half, y + e)]) for e in (-low, low)]
        processes.append(np.array([(0, 0), (0.007, 0.3), (0, 0.6), (-0.007, 0.3)]) * (1, height) + np.array([0, y]))
        pedicles += [ring + np.array([s * half, y - 0.1 * height]) for s in (-0.62, 0.62)]
    return np.stack(bodies), np.stack(plates), np.stack(processes), np.stack(pedicles)


def vessel_tree(rng: np.random.Generator, a: Anatomy, side: int) -> list[tuple[float, np.ndarray]]:
    """Branches of one lung, thickest first: (width, curves (n, 3, 2)) of five generations.

    They fan out from the hilum and fork into three; lower ones are wider, since blood follows gravity.
    """
    n = 7
    angle = np.array([-1.35, -0.85, -0.35, 0.20, 0.65, 1.0, 1.35]) + rng.normal(0, 0.14, n)
    start = hilum(a, side) * (side, 1) + np.stack([0.010 * np.cos(angle) - 0.03, 0.055 * np.sin(angle)], -1)
    reach = (a.dome - a.apex) / 0.6
    length = 0.092 * reach * rng.uniform(0.7, 1.3, n) * np.array([1, 0.9, 0.8, 0.8, 1, 1.25, 1.35])
    generations = []
    for width, forks in ((0.0110, 3), (0.0070, 3), (0.0046, 2), (0.0032, 2), (0.0022, 1)):
        bend = rng.normal(0, 0.26, len(angle))
        middle = start + 0.5 * length[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        end = middle + 0.5 * length[:, None] * np.stack([np.cos(angle + bend), np.sin(angle + bend)], -1)
        generations.append((width, mirrored(np.stack([start, middle, end], 1), side)))
        turn = np.array([-0.42, 0.46, 0.04])[:forks] + rng.normal(0, 0.24, (len(angle), forks))
        start = np.stack([middle, end, end][3 - forks :], 1).reshape(-1, 2)
        angle = (angle[:, None] + bend[:, None] + turn).ravel()
        length = (length[:, None] * rng.uniform(0.6, 1.0, (len(length), forks))).ravel()
    return generations
