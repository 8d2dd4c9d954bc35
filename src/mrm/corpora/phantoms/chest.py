"""The healthy chest of a phantom as layers along the X-ray beam, in centimetres of water.

Smooth fields live on a grid of GRID x GRID whatever the image's size, so that all sizes show the same
patient and large ones stay fast; only edges (bones, vessels, outlines) are drawn at full size. `Pen` alone
knows pixels.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from mrm.corpora.phantoms.anatomy import (
    Anatomy,
    body_outlines,
    clavicle,
    curve,
    dome_of,
    heart_outline,
    hilum,
    lung_outline,
    mirrored,
    rib_bands,
    scapula,
    spine,
    vessel_tree,
)

GRID = 128  # side of the smooth fields


@dataclass(frozen=True)
class Pen:
    """Draws body units on 8-bit canvases of one size; `pose` (2, 3) places the body in the image."""

    size: int
    pose: np.ndarray

    def pixels(self, curves) -> list[np.ndarray]:
        """Curves ((k, n, 2), or a list of (n, 2)) in sixteenths of a pixel (shift=4 in OpenCV)."""
        flat = curves.reshape(-1, 2) if isinstance(curves, np.ndarray) else np.concatenate(curves)
        flat = flat @ (self.pose[:, :2].T * (16 * self.size))
        flat += (self.pose[:, 2] * self.size - 0.5) * 16
        points = np.rint(flat).astype(np.int32)
        ends = np.cumsum([len(one) for one in curves]).tolist()
        return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def canvas(self) -> np.ndarray:
        return np.zeros((self.size, self.size), np.uint8)

    def fill(self, outlines, canvas: np.ndarray | None = None, value: int = 255) -> np.ndarray:
        """Fills each outline on its own, so that overlaps stay filled."""
        canvas = self.canvas() if canvas is None else canvas
        for outline in self.pixels(outlines):
            cv2.fillPoly(canvas, [outline], value, cv2.LINE_AA, 4)
        return canvas

    def stroke(self, canvas: np.ndarray, lines, width: float, value: int = 255) -> None:
        """Lines of a width in body units; thinner than a pixel becomes fainter, not wider."""
        thick = max(1, round(width * self.size))
        shade = round(value * min(1.0, width * self.size / thick))
        cv2.polylines(canvas, self.pixels(lines), False, shade, thick, cv2.LINE_AA, 4)

    def cover(self, outlines) -> np.ndarray:
        """Coverage 0..1 as float32."""
        return self.fill(outlines) * np.float32(1 / 255)

    def enlarge(self, grid: np.ndarray) -> np.ndarray:
        how = cv2.INTER_LINEAR if self.size >= GRID else cv2.INTER_AREA
        return cv2.resize(grid, (self.size, self.size), interpolation=how)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Body x and y (each (size, size) float32) of the pixel centres."""
        inverse = cv2.invertAffineTransform(self.pose).astype(np.float32)
        at = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        x = inverse[0, 0] * at[None, :] + inverse[0, 1] * at[:, None] + inverse[0, 2]
        y = inverse[1, 0] * at[None, :] + inverse[1, 1] * at[:, None] + inverse[1, 2]
        return x, y


def noise(rng: np.random.Generator, scales=(8, 16, 32, 64), fall: float = 0.6) -> np.ndarray:
    """Cloud of unit spread on the grid (GRID, GRID): octaves that lose strength towards the fine ones."""
    cloud = np.zeros((GRID, GRID), np.float32)
    for k, n in enumerate(scales):
        octave = rng.standard_normal((n, n), dtype=np.float32) * fall**k
        cloud += cv2.resize(octave, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    return cloud / cloud.std()


def blurred(grid: np.ndarray, width: float) -> np.ndarray:
    """Gaussian blur of a square image by `width` body units."""
    return cv2.GaussianBlur(grid, (0, 0), max(width * grid.shape[0], 0.3))


@dataclass
class Layers:
    """The chest being drawn: fields named `_grid` are (GRID, GRID), others (size, size), all float32."""

    fine: Pen
    coarse: Pen
    lung: np.ndarray  # coverage by pleural space 0..1
    ventilated: np.ndarray  # the same without pneumothorax
    heart: np.ndarray  # coverage by heart and mediastinum
    tissue_grid: np.ndarray  # soft tissue, cm
    air_grid: np.ndarray  # lung along the beam, cm, reaching beyond the outlines
    x_grid: np.ndarray = field(init=False)  # body units
    y_grid: np.ndarray = field(init=False)
    vessel_grid: np.ndarray = field(init=False)  # share of the vessels that shows; below 0 air bronchograms
    extra: np.ndarray = field(init=False)  # small bright things, cm of water
    seen_lung: np.ndarray = field(init=False)  # lung that the heart does not hide, 0..1
    regions: dict[str, np.ndarray] = field(default_factory=dict)  # finding to bool (size, size)

    def __post_init__(self) -> None:
        self.x_grid, self.y_grid = self.coarse.centres()
        self.vessel_grid = np.ones((GRID, GRID), np.float32)
        self.extra = np.zeros_like(self.lung)
        self.seen_lung = self.lung * (1 - self.heart)

    def mark(self, name: str, coverage: np.ndarray, inside: np.ndarray | None = None) -> None:
        """Adds to the region of a finding all that is covered at least half as much as its best pixel."""
        coverage = coverage if inside is None else coverage * (inside > 0.5)
        region = coverage > 0.5 * max(float(coverage.max()), 1e-3)
        self.regions[name] = self.regions.get(name, False) | region


def _trunk(coarse: Pen, body: np.ndarray, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Soft tissue along the beam (GRID, GRID) in cm: an elliptic trunk with muscle, fat and breasts."""
    inside = cv2.distanceTransform((body > 127).astype(np.uint8), cv2.DIST_L2, 3) / (0.15 * GRID)
    inside, cloud = np.clip(blurred(inside, 0.012), 0, 1), noise(rng)
    x, y = coarse.centres()
    depth = a.thickness * np.interp(y, (0.0, 0.1, 0.3, 0.75, 1.0), (0.62, 0.78, 0.96, 1.0, 1.06)).astype(np.float32)
    tissue = depth * np.sqrt(1 - (1 - inside) ** 2) + 0.35 * cloud
    for side in (-1, 1):
        hx, hy = hilum(a, side) + np.array([0.004 * side, 0.012])
        tissue += 2.4 * np.exp(-((x - hx) ** 2) / 0.0011 - (y - hy) ** 2 / 0.0035) * (1 + 0.3 * cloud)
        tissue += _breast(coarse, a, side)
        pectoral = np.exp(-((side * x - 0.9 * a.half_width) ** 2) / 0.012 - (y - a.apex - 0.17) ** 2 / 0.012)
        tissue += (1.5 if a.sex == "M" else 0.8) * pectoral
    return tissue


def _breast(coarse: Pen, a: Anatomy, side: int) -> np.ndarray | float:
    """Thicker towards a rounded lower edge, fading upwards."""
    if not a.breast:
        return 0.0
    x, y = coarse.centres()
    r = 0.11 + 0.05 * a.breast
    u, v = (side * x - 0.60 * a.half_width) / (r * 1.05), (y - (a.dome - 0.10 + 0.05 * a.breast)) / r
    disk = np.clip((1 - (u**2 + np.where(v > 0, v, 0.65 * v) ** 2)) * 2.2, 0, 1) ** 0.8
    return blurred((a.breast * 2.6 * disk * np.clip(0.75 + 0.45 * v, 0, 1.2)).astype(np.float32), 0.008)


def _air(coarse: Pen, a: Anatomy, outlines: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Lung along the beam (GRID, GRID) in cm: full from 5 cm inside the edge, a little beyond it."""
    air = np.zeros((GRID, GRID), np.float32)
    for outline in outlines:
        mask = coarse.fill([outline])
        depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
        depth = cv2.dilate(depth, np.ones((5, 5), np.uint8))  # so that the fine outline cuts where air is left
        inside = np.clip(0.13 + 0.87 / (0.13 * GRID) * depth, 0, 1)
        air = np.maximum(air, np.sqrt(1 - (1 - inside) ** 2))
    levels = (a.apex, a.apex + 0.2, a.dome - 0.1, a.dome, a.dome + 0.09)
    height = np.interp(coarse.centres()[1], levels, (0.42, 0.85, 1.0, 0.92, 0.5)).astype(np.float32)
    texture = 1 + 0.035 * noise(rng, (16, 32, 64, 128), 0.8)
    return blurred(air, 0.006) * height * texture * (0.66 * a.thickness)


def bones(fine: Pen, a: Anatomy, view: str, rng: np.random.Generator) -> np.ndarray:
    """Bone (size, size) in cm of water above soft tissue. Tubes of cortex: bright edges, paler inside."""
    ap = view == "AP"
    posterior, anterior, others = fine.canvas(), fine.canvas(), fine.canvas()
    raised, turned = rng.uniform(-0.01, 0.02) + 0.03 * ap, rng.uniform(0.0, 0.015) + 0.05 * ap
    _spine(fine, others)
    for side in (-1, 1):
        back, front = rib_bands(a, side)
        for canvas, bands, strong in (
            (posterior, back[:8], 1.0),
            (posterior, back[8:], 0.55),
            (anterior, front, 1.0),
        ):
            n = bands.shape[1] // 2
            fine.fill(bands, canvas, round(120 * strong))
            fine.stroke(canvas, bands[:, :n], 0.0022, round(165 * strong))
            fine.stroke(canvas, bands[:, n:], 0.0032, round(205 * strong))
        for outline, shade in ((scapula(a, side, turned), 60), (clavicle(a, side, raised), 135)):
            fine.fill([outline], others, shade)
            fine.stroke(others, [outline], 0.0035, shade + 60)
        _humerus(fine, others, a, side)
    # Summed as bytes, since it is three times as fast: 255 is 4.5 cm
    both = cv2.addWeighted(posterior, 2.5 / 4.5, anterior, 1.7 / 4.5, 0)
    both = cv2.addWeighted(both, 1.0, others, 3.0 / 4.5, 0)
    return blurred(both, 0.0022) * np.float32(4.5 * a.bone / 255)


def _humerus(fine: Pen, canvas: np.ndarray, a: Anatomy, side: int) -> None:
    x, y = a.half_width + 0.075 + 0.5 * a.wall, a.apex + 0.055
    angle = np.linspace(0, 2 * np.pi, 20)
    head = mirrored(np.stack([x + 0.042 * np.cos(angle), y + 0.045 * np.sin(angle)], -1), side)
    shaft = mirrored([(x - 0.02, y + 0.02), (x + 0.035, y - 0.01), (x + 0.17, y + 0.4), (x + 0.12, y + 0.4)], side)
    fine.fill([shaft, head], canvas=canvas, value=130)
    fine.stroke(canvas, [shaft[[1, 2]], shaft[[0, 3]]], 0.008, 220)
    fine.stroke(canvas, [head], 0.003, 180)


def _spine(fine: Pen, canvas: np.ndarray) -> None:
    bodies, plates, processes, pedicles = spine()
    fine.fill(bodies, canvas, 78)
    fine.stroke(canvas, plates, 0.004, 130)
    fine.fill(processes, canvas, 150)
    fine.stroke(canvas, pedicles, 0.003, 150)


def vessels(fine: Pen, a: Anatomy, fullness: float) -> np.ndarray:
    """Blood in the lung's vessels (size, size), cm; thin branches first so that thick ones stay on top."""
    canvas = fine.canvas()
    rng = np.random.default_rng(a.vessels)
    trees = [vessel_tree(rng, a, side) for side in (-1, 1)]
    for right, left in zip(*(reversed(tree) for tree in trees), strict=True):
        width, lines = right[0] * fullness, np.vstack([right[1], left[1]])
        fine.stroke(canvas, lines, width, round(255 * min(1.0, (width / 0.0125) ** 0.5)))
    return blurred(canvas, 0.0013) * np.float32(1.5 / 255)


def _airways(coarse: Pen, a: Anatomy) -> np.ndarray:
    """Air in windpipe and main bronchi (GRID, GRID), cm."""
    carina = a.apex + 0.36 * (a.dome - a.apex)
    canvas = coarse.canvas()
    coarse.stroke(canvas, [curve([(0.0, -0.1), (0.002, 0.05), (-0.006, carina)])], 0.034, 255)
    for side in (-1, 1):
        coarse.stroke(canvas, [np.array([(-0.006, carina), hilum(a, side) * (0.85, 0.97)])], 0.020, 150)
    return blurred(canvas, 0.007) * np.float32(3.0 / 255)


def _bowel_gas(coarse: Pen, a: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """The stomach's bubble under the left diaphragm (GRID, GRID), cm; often there, never a finding."""
    amount = max(0.0, rng.normal(1.8, 1.8))
    x, y = rng.uniform(0.10, 0.17), dome_of(a, 1) + rng.uniform(0.055, 0.075)
    angle, r = np.linspace(0, 2 * np.pi, 30), rng.uniform(0.03, 0.06)
    lobes = 1 + 0.08 * np.cos(3 * angle + rng.uniform(0, 6))
    bubble = np.stack([x + 1.3 * r * lobes * np.cos(angle), y + 0.65 * r * lobes * np.sin(angle)], -1)
    return blurred(coarse.fill([bubble]), 0.008) * np.float32(amount / 255)


def healthy_chest(
    a: Anatomy, raised: dict[int, float], pens: tuple[Pen, Pen], rng: np.random.Generator
) -> tuple[Layers, np.ndarray]:
    """Trunk, lungs and heart as layers, and the body's coverage 0..255 (GRID, GRID).

    `raised` lifts the diaphragm of a side (-1, 1); `pens` draw on the image and on the grid.
    """
    fine, coarse = pens
    outlines = [lung_outline(a, side, raised.get(side, 0.0)) for side in (-1, 1)]
    body = coarse.fill(body_outlines(a, rng.uniform(-0.02, 0.05)))
    lung = fine.cover(outlines)
    layers = Layers(
        fine=fine,
        coarse=coarse,
        lung=lung,
        ventilated=lung.copy(),
        heart=blurred(fine.fill([heart_outline(a)]), 0.0025) * np.float32(1 / 255),
        tissue_grid=_trunk(coarse, body, a, rng) - _airways(coarse, a) - _bowel_gas(coarse, a, rng),
        air_grid=_air(coarse, a, outlines, rng),
    )
    return layers, body
