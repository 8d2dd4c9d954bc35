"""Phantom corpus: procedural chest radiographs with reports, labels and masks, from a seed.

This file says what a study is: who the patient is, what is found, and in which words. How it looks is in
`phantom_drawing`. `phantom(seed, index)` is a pure function, so a corpus needs no storage and any process can
make any part of it. A patient has one to three studies in a row, which share anatomy and heart size but not
the other findings: split by patient, as with real data.

The images teach and test software. They are not a model of disease and prove nothing about patients.
"""

from dataclasses import dataclass, replace

import numpy as np

from mrm.corpora.phantoms.anatomy import Anatomy
from mrm.corpora.phantoms.drawing import Finding, draw, nodule_mm
from mrm.system.errors import RecordError

FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "devices",
    "effusion",
    "nodule",
    "oedema",
    "pneumothorax",
)
LARGE_HEART = (0.555, 0.67)  # cardiothoracic ratio in a PA view, from the mildest to the most severe
BLOCK = (1, 2, 3)  # studies of the patients in one block, in shuffled order
OTHER = {"right": "left", "left": "right"}


@dataclass(frozen=True)
class Kinds:
    """Which findings occur, and how severe they are at least: at few pixels, the slight ones cannot be seen."""

    findings: tuple[str, ...] = FINDINGS
    least_severity: float = 0.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.findings) - set(FINDINGS)):
            raise RecordError(f"unknown finding {', '.join(unknown)}; choose from {', '.join(FINDINGS)}")
        if not self.findings or len(set(self.findings)) < len(self.findings):
            raise RecordError(f"a list of findings names at least one, and each once, not {list(self.findings)}")
        if not 0 <= self.least_severity < 1:
            raise RecordError(f"the least severity must be at least 0 and below 1, not {self.least_severity:g}")

    def severity(self, draw: float) -> float:
        """A severity from the least to 1, for a number from 0 to 1."""
        return self.least_severity + (1 - self.least_severity) * draw


ALL = Kinds()


@dataclass(frozen=True)
class Phantom:
    """One study with one frontal image. The patient's right is on the left of the image."""

    image: np.ndarray  # (size, size) uint8
    report: str
    labels: tuple[float, ...]  # 1.0 or 0.0, in the order of FINDINGS
    lungs: np.ndarray  # (size, size) bool: both lung fields beside the heart, disease included
    pneumothorax: np.ndarray  # (size, size) bool, within `lungs`
    regions: dict[str, np.ndarray]  # where each present finding is, (size, size) bool
    patient: str
    study: str
    sex: str  # F or M
    age: int  # years
    view: str  # PA or AP


def phantom(seed: int, index: int, size: int = 512, kinds: Kinds = ALL) -> Phantom:
    """Study `index` of the corpus `seed`; equal arguments give equal bytes, other sizes the same study.

    Raises RecordError for a negative seed or index, or a size below 32.
    """
    if seed < 0 or index < 0 or size < 32:
        raise RecordError(f"phantom needs seed >= 0, index >= 0 and size >= 32, not {seed}, {index} and {size}")
    number, visit = patient_of(seed, index)
    patient = _with_heart(_patient(np.random.default_rng([seed, number, 1])), kinds)
    rng = np.random.default_rng([seed, index])
    view = "AP" if rng.random() < 0.36 else "PA"
    findings = _findings(patient, view, kinds, rng)
    words, brush = rng.spawn(2)
    drawing = draw(_breathing(patient, view, rng), findings, view, size, brush)
    found = {f.name for f in findings}
    return Phantom(
        image=drawing.image,
        report=_report(findings, view, words),
        labels=tuple(float(name in found) for name in FINDINGS),
        lungs=drawing.lungs,
        pneumothorax=drawing.regions.get("pneumothorax", np.zeros_like(drawing.lungs)),
        regions=drawing.regions,
        patient=f"P{seed}-{number:06d}",
        study=f"S{seed}-{index:06d}",
        sex=patient.sex,
        age=patient.age + visit,
        view=view,
    )


# --- Patients ---


def patient_of(seed: int, index: int) -> tuple[int, int]:
    """Number of the patient, and which of their visits this is, without walking through the corpus."""
    block, place = divmod(index, sum(BLOCK))
    studies = np.random.default_rng([seed, block, 2]).permutation(BLOCK)
    ends = np.cumsum(studies)
    which = int(np.searchsorted(ends, place, side="right"))
    return block * len(BLOCK) + which, int(place - ends[which] + studies[which])


def _patient(rng: np.random.Generator) -> Anatomy:
    sex = "F" if rng.random() < 0.48 else "M"
    age = int(np.clip(rng.normal(58, 17), 18, 92))
    stout = float(np.clip(rng.normal(0.45, 0.25), 0, 1))
    small = 0.022 if sex == "F" else 0.0
    enlarged = rng.random() < 0.19
    return Anatomy(
        sex=sex,
        age=age,
        half_width=rng.uniform(0.352, 0.392) - 0.5 * small,
        apex=rng.uniform(0.075, 0.115),
        dome=rng.uniform(0.715, 0.775) - small,
        left_drop=rng.uniform(0.010, 0.032),
        wall=0.025 + 0.065 * stout,
        thickness=16.5 + 6.5 * stout + rng.normal(0, 0.6),
        ctr=rng.uniform(*LARGE_HEART) if enlarged else rng.uniform(0.40, 0.475),
        knob=0.006 + 0.020 * (age - 18) / 74 + rng.uniform(0, 0.006),
        rib_drop=rng.uniform(0.17, 0.23),
        rib_width=rng.uniform(0.022, 0.028),
        bone=rng.uniform(0.85, 1.15) - 0.25 * max(0, age - 60) / 32,
        breast=rng.uniform(0.25, 0.7) + 0.4 * stout if sex == "F" else 0.0,
        vessels=int(rng.integers(2**31)),
    )


def _with_heart(patient: Anatomy, kinds: Kinds) -> Anatomy:
    """The patient with an enlarged heart as severe as it has to be, or with a normal one where none may be enlarged."""
    if patient.ctr <= 0.5:
        return patient
    if "cardiomegaly" not in kinds.findings:
        return replace(patient, ctr=0.40 + 0.075 * _enlargement(patient))
    if kinds.least_severity:
        low, high = LARGE_HEART
        return replace(patient, ctr=low + (high - low) * kinds.severity(_enlargement(patient)))
    return patient


def _enlargement(patient: Anatomy) -> float:
    """How severe an enlarged heart is, 0 to 1."""
    low, high = LARGE_HEART
    return (patient.ctr - low) / (high - low)


def _breathing(patient: Anatomy, view: str, rng: np.random.Generator) -> Anatomy:
    """The patient on the day: a lying patient (AP) breathes in less, and the heart is thrown larger."""
    shallow = abs(rng.normal(0, 0.012)) + (rng.uniform(0.0, 0.045) if view == "AP" else 0.0)
    return replace(patient, dome=patient.dome - shallow, ctr=patient.ctr * (1.05 if view == "AP" else 1.0))


# --- Findings ---

WEIGHTS = {
    "atelectasis": 1.0,
    "consolidation": 1.15,
    "effusion": 1.2,
    "nodule": 0.9,
    "oedema": 0.85,
    "pneumothorax": 0.9,
}
KINDS = {
    "AP": ("endotracheal tube", "central line", "nasogastric tube", "pacemaker", "sternal wires"),
    "PA": ("pacemaker", "sternal wires", "central line"),
}
DEVICE_SIDES = {"central line": "right", "pacemaker": "left"}


def _findings(patient: Anatomy, view: str, kinds: Kinds, rng: np.random.Generator) -> list[Finding]:
    """What is found, in an order that lets pneumothorax claim its side first. A quarter has nothing."""
    enlarged = patient.ctr > 0.5
    found = [Finding("cardiomegaly", severity=_enlargement(patient))] if enlarged else []
    weights = {**WEIGHTS, "devices": 1.9 if view == "AP" else 0.75}
    if enlarged:
        weights["oedema"] *= 1.7
    weights = {name: weight for name, weight in weights.items() if name in kinds.findings}
    if rng.random() < 0.33 or not weights:
        return found
    p = np.array(list(weights.values()))
    count = min(rng.choice((1, 2, 3), p=(0.40, 0.38, 0.22)), len(weights))
    names = rng.choice(list(weights), size=count, replace=False, p=p / p.sum())
    placed: dict[str, Finding] = {}
    for name in ("pneumothorax", "effusion", "atelectasis", "consolidation", "nodule", "oedema"):
        if name in names:
            placed[name] = _place(name, placed, set(names), kinds, rng)
    if "devices" in names:
        found += _devices(view, rng)
    return found + list(placed.values())


def _place(name: str, placed: dict[str, Finding], names: set[str], kinds: Kinds, rng: np.random.Generator) -> Finding:
    """Side, zone and severity such that none hides another: what the report says can be seen."""
    severity, side = kinds.severity(float(rng.uniform(0, 1))), str(rng.choice(["right", "left"]))
    both = rng.random() < 0.3
    if name == "oedema":
        return Finding(name, "bilateral", severity)
    avoid = [placed[other].side for other in AVOIDS.get(name, ()) if other in placed]
    if avoid and avoid[0] in OTHER:
        side = OTHER[avoid[0]]
    elif both and not names & EXCLUDE_BOTH.get(name, set(FINDINGS)):
        side = "bilateral"
    zones = [zone for zone in ("upper", "mid", "lower") if zone not in _blocked(name, side, placed)]
    return Finding(name, side, severity, str(rng.choice(zones)) if name in ("consolidation", "nodule") else "")


AVOIDS = {  # a finding goes to the side where the first of these is not
    "effusion": ("pneumothorax",),
    "atelectasis": ("effusion", "pneumothorax"),
    "consolidation": ("pneumothorax",),
    "nodule": ("pneumothorax", "consolidation"),
}
EXCLUDE_BOTH = {  # a finding is on one side only beside any of these
    "effusion": {"pneumothorax", "atelectasis"},
    "atelectasis": {"pneumothorax", "effusion", "consolidation"},
    "consolidation": {"pneumothorax", "nodule", "effusion", "atelectasis"},
}


def _blocked(name: str, side: str, placed: dict[str, Finding]) -> set[str]:
    """Zones where something else on this side would hide a consolidation or a nodule."""
    blocked = {"lower"} if name == "nodule" else set()

    def here(other: str) -> bool:
        return other in placed and placed[other].side in (side, "bilateral")

    if here("effusion"):
        blocked |= {"mid", "lower"}
    if here("atelectasis"):
        blocked |= {"lower"}
    if name == "nodule" and here("consolidation"):
        zone = placed["consolidation"].zone
        return {"upper": {"upper", "lower"}, "mid": {"mid", "lower"}, "lower": {"lower", "mid"}}[zone]
    return blocked


def _devices(view: str, rng: np.random.Generator) -> list[Finding]:
    count = rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2)) if view == "AP" else 1
    kinds = rng.choice(KINDS[view], size=count, replace=False)
    return [Finding("devices", DEVICE_SIDES.get(kind, "midline"), kind=str(kind)) for kind in kinds]


# --- Reports ---

SIZES = {  # words for rising severity
    "atelectasis": ("minimal", "mild", "moderate", "marked"),
    "cardiomegaly": ("mild", "mild to moderate", "moderate", "severe"),
    "consolidation": ("faint", "patchy", "moderate", "dense"),
    "effusion": ("trace", "small", "moderate", "large"),
    "oedema": ("mild", "mild", "moderate", "severe"),
    "pneumothorax": ("small", "small", "moderate", "large"),
}
PRESENT = {
    "atelectasis": (
        "{size} {side} basilar atelectasis.",
        "Linear opacity at the {side} lung base compatible with {size} atelectasis.",
        "{size} plate-like atelectasis is present at the {side} base.",
        "Low volume at the {side} base with {size} subsegmental atelectasis.",
    ),
    "cardiomegaly": (
        "{size} cardiomegaly.",
        "The cardiac silhouette shows {size} enlargement.",
        "There is {size} enlargement of the heart.",
        "Heart is enlarged, with {size} cardiomegaly.",
    ),
    "consolidation": (
        "{size} consolidation in the {side} {zone}.",
        "{size} airspace opacity in the {side} {zone}, concerning for pneumonia.",
        "There is {size} consolidation involving the {side} {zone}.",
        "{size} {side} {zone} consolidation with air bronchograms.",
    ),
    "effusion": (
        "{size} {side} pleural effusion.",
        "There is blunting of the {side} costophrenic angle from {size} pleural effusion.",
        "{size} {side} effusion is noted.",
        "{size} amount of {side} pleural fluid, layering at the base.",
    ),
    "nodule": (
        "{mm} mm nodule in the {side} {zone}.",
        "There is a nodule measuring {mm} mm in the {side} {zone}.",
        "{side} {zone} pulmonary nodule, about {mm} mm.",
        "Rounded {mm} mm nodular opacity projects over the {side} {zone}.",
    ),
    "oedema": (
        "{size} pulmonary edema.",
        "Bilateral perihilar haze and septal lines indicate {size} interstitial edema.",
        "{size} pulmonary vascular congestion with Kerley B lines, consistent with edema.",
        "There is {size} bilateral interstitial edema.",
    ),
    "pneumothorax": (
        "{size} {side} pneumothorax.",
        "There is {size} {side} apical pneumothorax.",
        "A visceral pleural line is seen on the {side}, consistent with {size} pneumothorax.",
        "{size} {side}-sided pneumothorax is present.",
    ),
}
DEVICE_SENTENCES = {
    "endotracheal tube": (
        "Endotracheal tube terminates above the carina.",
        "ET tube is in satisfactory position.",
    ),
    "central line": (
        "Right central venous catheter terminates over the superior vena cava.",
        "Right-sided central line with tip in the SVC.",
    ),
    "nasogastric tube": (
        "Enteric tube courses below the diaphragm.",
        "Nasogastric tube tip projects over the stomach.",
    ),
    "pacemaker": (
        "Left chest wall pacemaker with two leads is in place.",
        "Left-sided dual lead pacemaker is present.",
    ),
    "sternal wires": ("Median sternotomy wires are intact.", "Sternal wires from prior cardiac surgery."),
}
LUNG = ("atelectasis", "consolidation", "nodule", "oedema")
ABSENT = (  # a sentence may be used when none of the named findings is present
    (("effusion", "pneumothorax"), "No pleural effusion or pneumothorax."),
    (("effusion", "pneumothorax"), "There is no evidence of pneumothorax or pleural effusion."),
    (
        ("consolidation", "effusion", "pneumothorax"),
        "No focal consolidation, pleural effusion, or pneumothorax.",
    ),
    (("pneumothorax",), "No pneumothorax."),
    (("pneumothorax",), "No evidence of pneumothorax is seen."),
    (("effusion",), "No pleural effusion."),
    (("effusion",), "Costophrenic angles are sharp."),
    (("consolidation",), "No focal airspace consolidation."),
    (("consolidation", "oedema"), "No consolidation or pulmonary edema."),
    (("oedema",), "No pulmonary edema."),
    (("oedema",), "Pulmonary vascularity is within normal limits."),
    (("nodule",), "No suspicious pulmonary nodule."),
    (("atelectasis",), "No atelectasis."),
    (LUNG, "The lungs are clear."),
    ((*LUNG, "effusion", "pneumothorax"), "Lungs are clear without effusion or pneumothorax."),
    (LUNG, "Lungs are well expanded and clear."),
    (("cardiomegaly",), "Heart size is normal."),
    (("cardiomegaly",), "The cardiac silhouette is within normal limits."),
    (("cardiomegaly",), "No cardiomegaly."),
    (("devices",), "No support lines or tubes."),
)
NEUTRAL = (
    "Osseous structures are intact.",
    "Bony thorax is unremarkable.",
    "The trachea is midline.",
    "No acute bony abnormality.",
    "Visualized upper abdomen is unremarkable.",
)
TAILS = {
    "pneumothorax": "without pneumothorax",
    "effusion": "without pleural effusion",
    "oedema": "without edema",
}
NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "No evidence of active disease.",
    "Normal chest radiograph.",
    "No acute disease.",
)
BRIEF = {
    "atelectasis": "{size} {side} basilar atelectasis",
    "cardiomegaly": "{size} cardiomegaly",
    "consolidation": "{side} {zone} consolidation",
    "effusion": "{size} {side} pleural effusion",
    "nodule": "{side} {zone} nodule",
    "oedema": "{size} pulmonary edema",
    "pneumothorax": "{size} {side} pneumothorax",
}


def _report(findings: list[Finding], view: str, rng: np.random.Generator) -> str:
    """Findings in shuffled order and an impression; says only what is true of the image."""
    absent = set(FINDINGS) - {f.name for f in findings}
    sentences = [_filled(_pick(DEVICE_SENTENCES[f.kind] if f.kind else PRESENT[f.name], rng), f) for f in findings]
    unmentioned, tails = set(absent), sorted(absent & set(TAILS))
    if findings and not findings[-1].kind and tails and rng.random() < 0.3:
        name = _pick(tails, rng)
        sentences[-1] = f"{sentences[-1][:-1]} {TAILS[name]}."
        unmentioned.discard(name)
    sentences += _denied(unmentioned, absent, 5 - len(findings), rng)
    sentences += [_pick(NEUTRAL, rng)] * int(rng.random() < 0.6)
    sentences = [sentences[i] for i in rng.permutation(len(sentences))]
    opening = [_pick((f"{view} view of the chest.", f"Frontal {view} radiograph."), rng)] * int(rng.random() < 0.4)
    body, end = " ".join(opening + sentences), _impression(findings, rng)
    heads = _pick((("FINDINGS:", "IMPRESSION:"), ("Findings:", "Impression:"), ("FINDINGS:", "Impression:")), rng)
    return f"{heads[0]} {body}{_pick((' ', chr(10)), rng)}{heads[1]} {end}"


def _pick(options, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _denied(unmentioned: set[str], absent: set[str], count: int, rng: np.random.Generator) -> list[str]:
    """Up to `count` (at least one) sentences that rule out absent findings, each with one not mentioned before."""
    sentences: list[str] = []
    for i in rng.permutation(len(ABSENT)):
        names, sentence = ABSENT[i]
        if len(sentences) < max(1, count) and absent.issuperset(names) and unmentioned & set(names):
            sentences.append(sentence)
            unmentioned = unmentioned - set(names)
    return sentences


def _filled(template: str, f: Finding) -> str:
    """A template with size, side and zone put in, plural for both sides, and a capital first."""
    sizes = SIZES.get(f.name, ("",))
    size = sizes[min(int(f.severity * len(sizes)), len(sizes) - 1)]
    zone = f"{f.zone} lung zone" if f.zone == "mid" else f"{f.zone} lobe"
    text = template.format(size=size, side=f.side, zone=zone, mm=nodule_mm(f))
    if f.side == "bilateral":
        for one, two in PLURALS:
            text = text.replace(one, two)
    return text[0].upper() + text[1:]


PLURALS = (
    ("bilateral pleural effusion", "bilateral pleural effusions"),
    ("the bilateral costophrenic angle", "both costophrenic angles"),
    ("bilateral effusion is", "bilateral effusions are"),
    ("the bilateral lung base", "both lung bases"),
    ("the bilateral base", "both bases"),
    ("the bilateral upper lobe", "both upper lobes"),
    ("the bilateral lower lobe", "both lower lobes"),
    ("the bilateral mid lung zone", "both mid lung zones"),
)


def _impression(findings: list[Finding], rng: np.random.Generator) -> str:
    """The findings in short form, the most severe first, sometimes numbered."""
    by_severity = sorted((f for f in findings if f.name != "devices"), key=lambda f: -f.severity)
    items = [_filled(BRIEF[f.name], f) for f in by_severity]
    if len(by_severity) < len(findings):
        items.append(_pick(("Support devices as described", "Lines and devices as above"), rng))
    if not by_severity:
        return " ".join([*(f"{item}." for item in items), _pick(NORMAL[:2] if items else NORMAL, rng)])
    if len(items) > 1 and rng.random() < 0.4:
        return " ".join(f"{i}. {item}." for i, item in enumerate(items, 1))
    return " ".join(f"{item}." for item in items)
