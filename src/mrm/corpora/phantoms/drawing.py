"""How a phantom looks: findings drawn into a healthy chest, and the chest turned into a radiograph.

The image is a line integral. Every structure adds (bone, blood, metal) or removes (air) centimetres of
water along the beam; the sum goes through Beer-Lambert's law, scatter, quantum noise and the characteristic curve
of a detector. Structures overlap as on a real radiograph, and a finding is visible only by its effect on that path.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mrm.corpora.phantoms.anatomy import (
    Anatomy,
    curve,
    dome_of,
    heart_reach,
    hilum,
    lung_outline,
    mirrored,
    zone_centre,
)
from mrm.corpora.phantoms.chest import GRID, Layers, Pen, blurred, bones, healthy_chest, noise, vessels

CM = 40.0  # centimetres along the side of an image
LUNG_AIR = 0.74  # what a centimetre of lung lacks against water: density 0.26
ATTENUATION = 0.19  # per cm of water, at about 110 kV
SIDES = {"right": (-1,), "left": (1,), "bilateral": (-1, 1)}


@dataclass(frozen=True)
class Finding:
    """One abnormality."""

    name: str  # as in FINDINGS
    side: str = "bilateral"  # of the patient: a key of SIDES, or midline
    severity: float = 0.5  # 0..1
    zone: str = ""  # upper, mid, lower
    kind: str = ""  # of a device


@dataclass(frozen=True)
class Drawing:
    image: np.ndarray  # (size, size) uint8
    lungs: np.ndarray  # (size, size) bool
    regions: dict[str, np.ndarray]  # finding name -> (size, size) bool


# --- Findings: each changes the layers and marks where it is ---


def _cardiomegaly(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """The outline is already wide; this only marks the heart itself, without the vessels above it."""
    below = layers.fine.enlarge((layers.y_grid > a.apex + 0.5 * (a.dome - a.apex)).astype(np.float32))
    above = layers.fine.enlarge((layers.y_grid < a.dome + 0.02).astype(np.float32))
    layers.mark("cardiomegaly", layers.heart * below * above)


def _effusion(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Fluid from the costophrenic angle up, highest at the wall (meniscus), to half a lung."""
    for side in SIDES[f.side]:
        severity = np.clip(f.severity + (rng.uniform(-0.12, 0.12) if f.side == "bilateral" else 0), 0, 1)
        wall = dome_of(a, side) + 0.075 - (0.055 + 0.36 * severity**1.4)
        inward = np.clip(1 - side * layers.x_grid / a.half_width, 0, 1)
        top = wall + (0.075 + 0.04 * severity) * inward**0.6
        fluid = 1 / (1 + np.exp(-np.clip((layers.y_grid - top) / 0.009, -30, 30)))
        fluid *= side * layers.x_grid > 0
        layers.air_grid *= 1 - 0.94 * fluid
        layers.vessel_grid *= 1 - fluid
        layers.mark("effusion", layers.fine.enlarge(fluid.astype(np.float32)), layers.seen_lung)


def _pneumothorax(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """The lung shrinks towards its hilum, most at the apex; outside its pleural line there are no vessels."""
    side = SIDES[f.side][0]
    outline, centre = lung_outline(a, side), hilum(a, side)
    height = (a.dome - outline[:, 1]) / (a.dome - a.apex)
    share = (0.13 + 0.42 * f.severity) * np.clip(0.6 * f.severity - 0.15 + 0.95 * height, 0, 1)
    lateral = np.clip((side * outline[:, 0] - 0.08) / 0.1, 0, 1)  # towards the mediastinum it stays attached
    pleura = outline + np.stack([share * lateral, share], -1) * (centre - outline)
    collapsed = layers.fine.cover([pleura])
    free = layers.lung * (layers.fine.enlarge((side * layers.x_grid > 0).astype(np.float32)) > 0) * (1 - collapsed)
    layers.ventilated *= 1 - free
    line = layers.fine.canvas()
    layers.fine.stroke(line, [pleura], 0.0032, 255)
    layers.extra += blurred(line, 0.0010) * layers.seen_lung * np.float32(1.1 / 255)
    layers.mark("pneumothorax", free, layers.seen_lung)


def _consolidation(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Fluffy loss of air in one zone; the bronchi stay open and show as dark branches."""
    for side in SIDES[f.side]:
        x, y = zone_centre(a, side, f.zone) + rng.normal(0, 0.012, 2)
        r = 0.055 + 0.055 * f.severity
        near = ((layers.x_grid - x) / r) ** 2 + ((layers.y_grid - y) / (1.15 * r)) ** 2
        cloud = np.exp(-0.5 * near) * (1 + 0.26 * noise(rng, (16, 32, 64)))
        cloud = np.clip((cloud - 0.22) * 1.9, 0, 1).astype(np.float32)
        layers.air_grid *= 1 - (0.34 + 0.46 * f.severity) * cloud
        layers.vessel_grid *= 1 - 1.5 * cloud
        layers.mark("consolidation", layers.fine.enlarge(cloud), layers.seen_lung)


def _nodule(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """A ball of 9 to 26 mm, slightly lobed; it adds its chord."""
    side = SIDES[f.side][0]
    x, y = zone_centre(a, side, f.zone) + rng.uniform(-0.028, 0.028, 2)
    r = 0.011 + 0.021 * f.severity
    angle = np.linspace(0, 2 * np.pi, 40)
    lobes = 1 + sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4))
    ball = np.zeros_like(layers.extra)
    shells = np.sqrt(np.arange(6) / 6)  # of equal chord on average: stacked disks make a round profile
    for shell in shells:
        q = r * lobes * np.sqrt(1 - shell**2)
        ball += layers.fine.cover([np.stack([x + q * np.cos(angle), y + q * np.sin(angle)], -1)])
    layers.extra += blurred(ball, 0.0012) * np.float32(2 * r * CM * 1.1 / len(shells))
    layers.mark("nodule", np.minimum(ball, 1))


def nodule_mm(f: Finding) -> int:
    """Diameter as a radiologist would measure it."""
    return round(20 * CM * (0.011 + 0.021 * f.severity))


def _oedema(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Haze around both hila, and short septal (Kerley B) lines at the lateral bases."""
    lines = layers.fine.canvas()
    for side in (-1, 1):
        x, y = hilum(a, side) + np.array([side * 0.045, 0.05])
        near = ((layers.x_grid - x) / 0.085) ** 2 + ((layers.y_grid - y) / 0.14) ** 2
        haze = np.exp(-0.5 * near) * np.clip(1 + 0.28 * noise(rng, (16, 32, 64)), 0.3, 1.8)
        layers.air_grid *= 1 - (0.16 + 0.38 * f.severity) * np.clip(haze, 0, 1.2)
        layers.mark("oedema", layers.fine.enlarge(haze.astype(np.float32)), layers.seen_lung)
        for k in range(4 + round(6 * f.severity)):
            level = dome_of(a, side) - 0.015 - 0.021 * k + rng.normal(0, 0.003)
            length, slope = rng.uniform(0.025, 0.045), rng.normal(0.004, 0.003)
            reach = a.half_width - 0.004
            layers.fine.stroke(lines, [mirrored([(reach - length, level - slope), (reach, level)], side)], 0.0028)
    layers.extra += blurred(lines, 0.0012) * layers.ventilated * np.float32((0.45 + 0.5 * f.severity) / 255)


def _atelectasis(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Plates above a raised diaphragm, nearly level, with less air around them."""
    for side in SIDES[f.side]:
        plates = layers.fine.canvas()
        for k in range(1 + round(2 * f.severity)):
            x = max(rng.uniform(0.50, 0.66) * a.half_width, 0.45 * (heart_reach(a, side) + a.half_width))
            y = dome_of(a, side, lift(f)) - 0.038 - 0.030 * k + rng.normal(0, 0.004)
            half, slope = rng.uniform(0.05, 0.075) + 0.02 * f.severity, rng.normal(0.10, 0.12)
            thick = rng.uniform(0.0045, 0.0065) + 0.004 * f.severity
            t = np.linspace(-1, 1, 14)
            middle = np.stack([x + half * t, y - slope * half * t + 0.006 * rng.uniform(-0.3, 1) * t**2], -1)
            across = np.stack([0 * t, thick * (1 - t**2) ** 0.7 * rng.uniform(0.7, 1.3, 14)], -1)
            lens = np.vstack([middle - across, (middle + across)[::-1]])
            layers.fine.fill([mirrored(lens, side)], plates)
        plate = blurred(plates, 0.0036) * layers.ventilated * np.float32(1 / 255)
        layers.extra += plate * np.float32(1.7 + 1.2 * f.severity)
        around = blurred(cv2.resize(plate, (GRID, GRID), interpolation=cv2.INTER_AREA), 0.022)
        layers.air_grid *= 1 - np.clip((0.5 + 0.6 * f.severity) * around, 0, 0.5)
        layers.mark("atelectasis", plate, layers.seen_lung)


def lift(f: Finding) -> float:
    """How far atelectasis raises the diaphragm."""
    return 0.018 + 0.035 * f.severity


def _devices(layers: Layers, a: Anatomy, f: Finding, rng: np.random.Generator) -> None:
    """Tubes, lines, a pacemaker or wires: crisp and dense."""
    canvas = layers.fine.canvas()
    DEVICES[f.kind](layers.fine, canvas, a, rng)
    layers.extra += blurred(canvas, 0.0008) * np.float32(4.2 / 255)
    layers.mark("devices", cv2.dilate(canvas, np.ones((3, 3), np.uint8)).astype(np.float32))


def _share(a: Anatomy, share: float) -> float:
    """y at a share of the height from the apex (0) to the right diaphragm (1)."""
    return a.apex + share * (a.dome - a.apex)


def _endotracheal(fine: Pen, canvas: np.ndarray, a: Anatomy, rng: np.random.Generator) -> None:
    middle = curve([(0.004, -0.1), (0.002, 0.05), (-0.004, _share(a, rng.uniform(0.17, 0.29)))])
    for dx, value in ((-0.010, 80), (0.010, 80), (0.004, 235)):
        fine.stroke(canvas, [middle + np.array([dx, 0])], 0.003, value)


def _central_line(fine: Pen, canvas: np.ndarray, a: Anatomy, rng: np.random.Generator) -> None:
    tip = (-0.045 + rng.normal(0, 0.004), _share(a, rng.uniform(0.45, 0.62)))
    jugular = [(-0.115, -0.06), (-0.085, 0.04), (-0.058, _share(a, 0.08)), (-0.042, _share(a, 0.26)), tip]
    clavicular = [(-0.36, 0.19), (-0.25, 0.155), (-0.13, _share(a, 0.085)), (-0.05, _share(a, 0.20)), tip]
    fine.stroke(canvas, [curve(jugular if rng.random() < 0.6 else clavicular, 10)], 0.0042, 190)


def _nasogastric(fine: Pen, canvas: np.ndarray, a: Anatomy, rng: np.random.Generator) -> None:
    d = a.dome
    tip = (rng.uniform(0.10, 0.17), d + rng.uniform(0.11, 0.17))
    line = curve([(-0.008, -0.1), (0.012, 0.1), (0.004, 0.35), (0.022, d - 0.08), (0.05, d + 0.05), tip], 10)
    fine.stroke(canvas, [line], 0.0062, 120)
    fine.stroke(canvas, [line], 0.0022, 200)


def _pacemaker(fine: Pen, canvas: np.ndarray, a: Anatomy, rng: np.random.Generator) -> None:
    """Generator below the left clavicle, leads to right atrium and ventricle."""
    x, y = 0.72 * a.half_width + rng.normal(0, 0.01), _share(a, 0.16)
    angle = np.linspace(0, 2 * np.pi, 40)
    box = (
        np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.6,
        np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.6,
    )
    fine.fill([np.stack([x + 0.052 * box[0], y + 0.045 * box[1]], -1)], canvas, 170)
    fine.fill([np.stack([x + 0.030 * box[0], y + 0.008 + 0.026 * box[1]], -1)], canvas, 255)
    top = [(x - 0.02, y - 0.04), (0.12, _share(a, 0.08)), (0.0, _share(a, 0.24)), (-0.045, _share(a, 0.42))]
    atrium = [*top, (-0.055, _share(a, 0.68)), (-0.035, _share(a, 0.74)), (-0.03, _share(a, 0.66))]
    ventricle = [*top, (-0.05, _share(a, 0.72)), (0.0, _share(a, 0.92)), (0.085, _share(a, 0.93))]
    fine.stroke(canvas, [curve(atrium, 8), curve(ventricle, 8)], 0.0042, 215)


def _sternal_wires(fine: Pen, canvas: np.ndarray, a: Anatomy, rng: np.random.Generator) -> None:
    angle = np.linspace(0, 2 * np.pi, 22)
    for k in range(6):
        tilt, w = rng.normal(0, 0.25), rng.uniform(0.016, 0.024)
        x, y = rng.normal(0, 0.002), _share(a, 0.18 + 0.115 * k)
        loop = np.stack([x + w * np.cos(angle), y + 0.008 * np.sin(angle) + tilt * w * np.cos(angle)], -1)
        twist = np.array([(x, y), (x + 0.006, y + 0.014), (x - 0.003, y + 0.010)])
        fine.stroke(canvas, [loop[:-2], twist], 0.0034, 235)


DEVICES = {
    "endotracheal tube": _endotracheal,
    "central line": _central_line,
    "nasogastric tube": _nasogastric,
    "pacemaker": _pacemaker,
    "sternal wires": _sternal_wires,
}
EFFECTS = {
    "atelectasis": _atelectasis,
    "cardiomegaly": _cardiomegaly,
    "consolidation": _consolidation,
    "devices": _devices,
    "effusion": _effusion,
    "nodule": _nodule,
    "oedema": _oedema,
    "pneumothorax": _pneumothorax,
}


# --- Radiograph ---


def _path(layers: Layers, a: Anatomy, view: str, fullness: float, rng: np.random.Generator) -> np.ndarray:
    """Centimetres of water along each beam (size, size). In place where it can be: this is the costly sum."""
    fine = layers.fine
    beside = 1 - layers.heart * fine.enlarge(0.50 + 0.42 * blurred(_shrunk(layers.heart), 0.035))
    lung = vessels(fine, a, fullness)
    lung *= fine.enlarge(layers.vessel_grid)
    lung -= fine.enlarge(layers.air_grid * np.float32(LUNG_AIR))
    lung *= layers.ventilated
    if "pneumothorax" in layers.regions:
        free = layers.lung - layers.ventilated
        lung -= free * fine.enlarge(layers.air_grid * np.float32(LUNG_AIR + 0.16))
    lung *= beside
    lung += fine.enlarge(layers.tissue_grid)
    lung += bones(fine, a, view, rng)
    lung += layers.extra
    return np.maximum(lung, 0, out=lung)


def _expose(path: np.ndarray, body: np.ndarray, view: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """From cm of water (size, size) to what the detector sees, in cm again, and its quanta (1 in air)."""
    quanta = np.exp(path * np.float32(-ATTENUATION))
    scatter = _shrunk(quanta) * (body > 127)
    scatter = blurred(scatter, 0.07) * np.float32(rng.uniform(0.10, 0.30) + 0.15 * (view == "AP"))
    quanta += cv2.resize(scatter, quanta.shape, interpolation=cv2.INTER_LINEAR)
    return np.log(quanta) * np.float32(-1 / ATTENUATION), quanta


def _develop(seen: np.ndarray, body: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centimetres to brightness 0..1 with a window found on the body, as automatic exposure does."""
    flatten = rng.uniform(0.0, 0.5)  # digital systems even out large differences
    small = _shrunk(seen)
    broad = blurred(np.maximum(small, 4), 0.10) * np.float32(flatten)
    middle = (slice(12, -8), slice(12, -12))
    low, high = np.percentile((small - broad)[middle][body[middle] > 127], (2, 96))
    low, high = low - rng.uniform(0.0, 0.2) * (high - low), high + rng.uniform(0.0, 0.35) * (high - low)
    floor = cv2.resize(broad + np.float32(low), seen.shape, interpolation=cv2.INTER_LINEAR)
    bright: np.ndarray = seen - floor
    bright *= np.float32(1 / (high - low))
    np.clip(bright, 0, 1.3, out=bright)
    bend = np.float32(rng.uniform(-0.50, 0.05))  # below 0 lifts the dark parts
    slope = bright * -bend
    slope += 1 + bend
    return np.divide(bright, slope, out=bright)


def _shrunk(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)


def _frame(image: np.ndarray, view: str, rng: np.random.Generator) -> None:
    """Side marker, sometimes a caption, sometimes collimation; in place on (size, size) uint8."""
    size = len(image)
    side, marked, caption, collimated = (
        rng.integers(2),
        rng.random() < 0.7,
        rng.random() < 0.4,
        rng.random() < 0.3,
    )
    x, y, tall, shade = (
        rng.uniform(0.04, 0.09),
        rng.uniform(0.07, 0.16),
        rng.uniform(0.8, 1.3),
        int(rng.integers(200, 256)),
    )
    edges, black = np.rint(rng.uniform(-0.03, 0.035, 4) * size).astype(int), int(rng.integers(0, 16))
    scale = tall * size / 512
    if marked:  # the patient's left is on the reader's right
        at = (int((1 - x if side else x) * size - 8 * scale), int(y * size))
        cv2.putText(
            image,
            "RL"[side],
            at,
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            shade,
            max(1, round(2 * scale)),
            cv2.LINE_AA,
        )
        if caption:
            at = (at[0] - int((60 if side else 0) * scale), at[1] + int(22 * scale))
            text = "PORTABLE" if view == "AP" else "PA"
            cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, shade, 1, cv2.LINE_AA)
    if collimated:
        top, bottom, left, right = np.maximum(edges, 0)
        image[:top], image[size - bottom :], image[:, :left], image[:, size - right :] = (black,) * 4


def _grain(quanta: np.ndarray, noisy: float, rng: np.random.Generator) -> np.ndarray:
    """Quantum noise (size, size), stronger where fewer quanta arrive; smoothed bytes do for normal."""
    size = len(quanta)
    flat = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size)
    spread = np.minimum(noisy / np.sqrt(_shrunk(quanta)), 0.025) * min(1.0, size / 512)
    grain = cv2.GaussianBlur(flat, (3, 3), 0.9) - np.float32(127.5)
    grain *= cv2.resize((spread / 24).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return grain


def _stand(view: str, rng: np.random.Generator) -> np.ndarray:
    """How the patient stands before the detector: (2, 3) from body units to shares of the image."""
    spread = 1.6 if view == "AP" else 1.0
    angle, scale = rng.normal(0, 0.012 * spread), rng.normal(1.07, 0.03)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    shift = rng.normal(0, 0.010 * spread, 2)
    return np.array([[c, -s, 0.5 + s * 0.45 + shift[0]], [s, c, 0.45 - c * 0.45 + shift[1]]])


def draw(a: Anatomy, findings: list[Finding], view: str, size: int, rng: np.random.Generator) -> Drawing:
    """One radiograph. `rng` is drawn in the same order for every size, the grain last."""
    pose = _stand(view, rng)
    raised = {s: lift(f) for f in findings if f.name == "atelectasis" for s in SIDES[f.side]}
    layers, body = healthy_chest(a, raised, (Pen(size, pose), Pen(GRID, pose)), rng)
    for f in findings:
        EFFECTS[f.name](layers, a, f, rng)
    congested = max((f.severity for f in findings if f.name == "oedema"), default=0.0)
    path = _path(layers, a, view, rng.uniform(0.9, 1.1) + 0.4 * congested, rng)
    seen, quanta = _expose(path, body, view, rng)
    image = _develop(seen, body, rng)
    framing, noisy = rng.spawn(1)[0], rng.uniform(0.0008, 0.0026)
    image += _grain(quanta, noisy, rng)
    image = cv2.convertScaleAbs(np.maximum(image, 0, out=image), alpha=255)
    _frame(image, view, framing)
    return Drawing(image, layers.seen_lung > 0.5, layers.regions)
