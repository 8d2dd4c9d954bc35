"""Phantom corpus: reports, labels, masks and images tell the same story, and tell it again on demand."""

import pickle
import re
import time

import cv2
import numpy as np
import pytest

from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import FINDINGS, Kinds, phantom
from mrm.system.errors import RecordError

TERMS = {
    "atelectasis": r"atelectasis",
    "cardiomegaly": r"cardiomegaly|enlarge",
    "consolidation": r"consolidation|airspace opacity",
    "devices": r"\btubes?\b|catheter|central line|support lines|pacemaker|wires",
    "effusion": r"effusion|pleural fluid|blunting",
    "nodule": r"nodul",
    "oedema": r"edema|congestion|kerley",
    "pneumothorax": r"pneumothorax",
}
DENIAL = re.compile(r"\b(no|without|not|normal|clear|unremarkable)\b")
SIDED = ("atelectasis", "consolidation", "effusion", "nodule", "pneumothorax")


def clauses(report: str) -> list[str]:
    """What each sentence affirms: its text before the first denial."""
    return [DENIAL.split(sentence)[0] for sentence in re.split(r"\.|impression:|findings:", report.lower())]


def affirmed(report: str) -> set[str]:
    return {name for name, term in TERMS.items() if any(re.search(term, clause) for clause in clauses(report))}


def stated_sides(report: str, name: str) -> set[str]:
    """Halves of the chest, "right" and "left", that the report gives for a finding."""
    sides = set()
    for clause in clauses(report):
        if re.search(TERMS[name], clause):
            sides |= set(re.findall(r"\b(right|left)\b", clause))
            sides |= {"right", "left"} if re.search(r"\b(bilateral|both)\b", clause) else set()
    return sides


def present(study) -> set[str]:
    return {name for name, label in zip(FINDINGS, study.labels, strict=True) if label}


@pytest.fixture(scope="module")
def studies():
    return [phantom(3, index, 64) for index in range(300)]


def test_the_reader_of_these_tests_tells_denial_from_statement():
    text = "FINDINGS: Small left pleural effusion without pneumothorax. No nodule. Both lungs show edema."
    assert affirmed(text) == {"effusion", "oedema"}
    assert stated_sides(text, "effusion") == {"left"}


def test_equal_arguments_give_equal_bytes():
    first, again = phantom(5, 11, 128), phantom(5, 11, 128)
    assert pickle.dumps(first) == pickle.dumps(again)


def test_another_index_or_seed_is_another_study():
    images = {phantom(seed, index, 64).image.tobytes() for seed in (0, 1) for index in range(20)}
    assert len(images) == 40


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 16)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(RecordError, match="needs seed"):
        phantom(*arguments)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"count": 0}, "0 phantoms"), ({"size": 8}, "size >= 32"), ({"masks": ("heart",)}, "no phantom mask heart"),
])  # fmt: skip
def test_files_that_cannot_be_drawn_are_refused(tmp_path, wrong, message):
    with pytest.raises(RecordError, match=message):
        phantom_files.write(**{"out": tmp_path, "count": 2, "size": 64, **wrong})


def test_only_chosen_findings_occur_and_none_that_is_slighter_than_asked(tmp_path):
    """Severities from 0.5 on are the upper two of the four sizes that a report can state."""
    kinds = Kinds(("cardiomegaly", "effusion", "oedema"), 0.5)
    records = phantom_files.write(tmp_path, 60, seed=5, size=32, workers=1, kinds=kinds)
    assert records.classes == kinds.findings
    assert (np.nanmean(records.labels_NC, axis=0) > 0.05).all()
    slight = re.compile(r"\b(trace|small|minimal|mild|faint)\b")
    for record in records:
        assert affirmed(record.report) == {n for n, label in zip(kinds.findings, record.labels, strict=True) if label}
        assert not slight.search(record.report.lower().replace("mild to moderate", ""))
    one = [phantom(5, i, 32, Kinds(("effusion",))) for i in range(30)]
    assert {name for p in one for name in p.regions} == {"effusion"}


@pytest.mark.parametrize(
    ("findings", "severity", "message"),
    [
        (("effusion", "hernia"), 0.0, "unknown finding hernia; choose from atelectasis, "),
        ((), 0.0, "names at least one"),
        (("effusion", "effusion"), 0.0, "each once"),
        (FINDINGS, 1.0, "at least 0 and below 1, not 1"),
        (FINDINGS, float("nan"), "at least 0 and below 1, not nan"),
    ],
)
def test_findings_that_cannot_be_drawn_are_refused(findings, severity, message):
    with pytest.raises(RecordError, match=message):
        Kinds(findings, severity)


def test_labels_are_the_regions_and_lie_in_the_image(studies):
    for s in studies:
        assert present(s) == {name for name, region in s.regions.items() if region.any()}, s.study
        assert all(region.shape == s.image.shape and region.dtype == bool for region in s.regions.values())


def test_lung_findings_lie_in_the_lungs(studies):
    for s in studies:
        for name in present(s) & {"atelectasis", "consolidation", "effusion", "oedema", "pneumothorax"}:
            assert not (s.regions[name] & ~s.lungs).any(), (s.study, name)


def test_pneumothorax_mask_is_its_region_and_part_of_one_lung(studies):
    for s in studies:
        assert s.pneumothorax.any() == ("pneumothorax" in present(s))
        assert s.pneumothorax.sum() < 0.5 * s.lungs.sum()
    assert any(s.pneumothorax.any() for s in studies)


def test_reports_affirm_exactly_what_is_present(studies):
    for s in studies:
        body, impression = re.split("impression:", s.report, flags=re.IGNORECASE)
        assert affirmed(body) == present(s), s.report
        assert affirmed(impression) == present(s) - {"devices"}, s.report


def test_reports_state_the_side_that_the_image_shows(studies):
    checked = 0
    for s in studies:
        for name in present(s) & set(SIDED):
            columns = s.regions[name].sum(0)
            on_reader_left = columns[: len(columns) // 2].sum() / columns.sum()
            expected = {"right"} if on_reader_left > 0.9 else {"left"} if on_reader_left < 0.1 else {"right", "left"}
            assert stated_sides(s.report, name) == expected, (s.study, name, s.report)
            checked += 1
    assert checked > 200


def test_reports_vary_in_words_and_keep_to_a_length(studies):
    assert len({s.report for s in studies}) > 290
    assert all(15 <= len(s.report.split()) <= 80 for s in studies)
    assert sum("no " in s.report.lower() for s in studies) > 250


def test_every_finding_is_neither_rare_nor_common(studies):
    labels = np.array([s.labels for s in studies])
    assert 0.20 < (labels.sum(1) == 0).mean() < 0.36
    assert ((labels.mean(0) > 0.10) & (labels.mean(0) < 0.28)).all(), dict(zip(FINDINGS, labels.mean(0), strict=True))


@pytest.mark.parametrize("name", ["effusion", "consolidation"])
def test_one_sided_opacity_is_brighter_than_the_other_lung(studies, name):
    differences = []
    for s in studies:
        if name in present(s) and len(stated_sides(s.report, name)) == 1 and "pneumothorax" not in present(s):
            here = s.regions[name]
            there = here[:, ::-1] & s.lungs & ~here
            if there.sum() > 4:
                differences.append(s.image[here].mean() - s.image[there].mean())
    assert len(differences) > 15
    assert np.mean(np.array(differences) > 0) > 0.8


def test_overall_brightness_does_not_give_the_label_away(studies):
    labels = np.array([s.labels for s in studies])
    mean = np.array([s.image.mean() for s in studies])
    for k, name in enumerate(FINDINGS):
        assert abs(np.corrcoef(mean, labels[:, k])[0, 1]) < 0.3, name


def test_studies_of_a_patient_share_sex_heart_and_follow_each_other(studies):
    patients: dict[str, list] = {}
    for s in studies:
        patients.setdefault(s.patient, []).append(s)
    assert {len(group) for group in patients.values()} == {1, 2, 3}
    for group in patients.values():
        assert len({(s.sex, "cardiomegaly" in present(s)) for s in group}) == 1
        assert [s.age for s in group] == list(range(group[0].age, group[0].age + len(group)))
        numbers = [int(s.study.split("-")[1]) for s in group]
        assert numbers == list(range(numbers[0], numbers[0] + len(group)))
    assert len({tuple(present(s)) for group in patients.values() if len(group) > 1 for s in group}) > 20


def test_studies_of_a_patient_look_alike(studies):
    """Rib cage and posture differ less within a patient than between patients of the same sex."""

    def overlap(a, b):
        return (a.lungs & b.lungs).sum() / (a.lungs | b.lungs).sum()

    pairs = [(a, b) for i, a in enumerate(studies) for b in studies[i + 1 : i + 7] if a.sex == b.sex]
    same = [overlap(a, b) for a, b in pairs if a.patient == b.patient]
    other = [overlap(a, b) for a, b in pairs if a.patient != b.patient]
    assert np.mean(same) > np.mean(other) + 0.03


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_sizes_show_the_same_study(size):
    whole, sized = phantom(2, 8, 512), phantom(2, 8, size)
    assert sized.image.shape == (size, size)
    assert sized.image.dtype == np.uint8
    assert (sized.report, sized.labels) == (whole.report, whole.labels)
    small = min(size, 256)
    a, b = (cv2.resize(s.image, (small, small), interpolation=cv2.INTER_AREA).ravel() for s in (whole, sized))
    assert np.corrcoef(a, b)[0, 1] > 0.97
    assert abs(whole.lungs.mean() - sized.lungs.mean()) < 0.01


def test_an_image_has_the_tones_of_a_radiograph(studies):
    """Air around the body is black, the lungs are darker than the mediastinum, little is burnt out."""
    for s in studies[:60]:
        inner = s.image[24:44, 29:35].mean()
        clean = s.lungs & ~np.any([*s.regions.values(), np.zeros_like(s.lungs)], axis=0)
        assert s.image[clean].mean() < inner - 20, s.study
        assert (s.image == 255).mean() < 0.15, s.study


@pytest.mark.slow
def test_forty_images_a_second_are_in_reach():
    """The aim is 40 a second on one core at 512; half of it must hold even on a busy machine."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        phantom(0, 0)
        rates = []
        for _ in range(3):
            start = time.perf_counter()
            for index in range(20):
                phantom(0, index)
            rates.append(20 / (time.perf_counter() - start))
    finally:
        cv2.setNumThreads(threads)
    print(f"{max(rates):.0f} images a second")
    assert max(rates) >= 20


def test_boxes_go_around_every_part_of_every_finding(tmp_path):
    """Each box touches its region with all four sides, and all boxes of a finding hold nearly all of it."""
    records = phantom_files.write(tmp_path, 12, seed=4, size=64, workers=1)
    rows = [line.split(",") for line in (tmp_path / "boxes.csv").read_text().splitlines()[1:]]
    assert {(row[0], row[1]) for row in rows} == {
        (record.name, name) for record in records for name, label in zip(FINDINGS, record.labels, strict=True) if label
    }
    for index, record in enumerate(records):
        for name, region in phantom(4, index, 64).regions.items():
            held = np.zeros_like(region)
            for x, y, width, height in (map(int, row[2:6]) for row in rows if row[:2] == [record.name, name]):
                part = region[y : y + height, x : x + width]
                assert all(side.any() for side in (part[0], part[-1], part[:, 0], part[:, -1]))
                held[y : y + height, x : x + width] = True
            assert (region & held).sum() > 0.8 * region.sum()
