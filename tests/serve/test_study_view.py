"""Several images of a study on the page: one answer, a prior study beside it, windows of real values, zoom and keys."""

import csv
import re

import cv2
import httpx2
import numpy as np
import pydicom
import pytest

from mrm.data import images
from mrm.serve.views import ViewRule
from tests.support.service import ask, dicom
from tests.support.service_page import canvas, drop, findings_of, no_overflow, opened, overlaid, slide, until

WINDOW = {"WindowCenter": 2000, "WindowWidth": 3000}


def deep_values(image_HW) -> np.ndarray:
    """Values of 12 bits, which lie between the grey levels of an 8-bit image too."""
    return (image_HW.astype(np.uint16) * 16 + np.indices(image_HW.shape).sum(axis=0) % 16).astype(np.uint16)


def deep(image_HW, **tags) -> bytes:
    return dicom(deep_values(image_HW), BitsStored=12, HighBit=11, **tags)


def answer_of(address, path, *data: bytes, **fields) -> dict[str, str]:
    """The findings of the service's own answer, as the page writes numbers."""
    with httpx2.Client(base_url=address, timeout=30) as client:
        if len(data) == 1:
            answer = ask(client, path, data[0], **fields)
        else:
            answer = client.post(path, files=[("image", ("a", one)) for one in data], data=fields)
    return {f["finding"]: f"{f['probability']:.3f}" for f in answer.json()["findings"]}


def tiles(page):
    return page.locator(".tile")


def boxes(page):
    return [tile.bounding_box() for tile in tiles(page).all()]


def linear(values, center, width) -> np.ndarray:
    """The window function LINEAR of PS3.3, C.11.2.1.2.1, as grey from 0 to 255."""
    return np.rint(255 * np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


def test_several_images_give_one_answer_by_the_rule_for_studies(page, address, radiographs):
    data = [deep(radiographs[0], ViewPosition="PA"), deep(radiographs[1], ViewPosition="LL")]
    drop(page, ("a.dcm", data[0]), ("b.dcm", data[1]))
    assert findings_of(page) == answer_of(address, "/predict-study", *data)
    assert "from 2 images together" in page.inner_text("#findings-about")
    assert [tile.get_attribute("aria-label") for tile in tiles(page).all()] == [
        "Current, image 1 of 2",
        "Current, image 2 of 2",
    ]
    assert [re.sub(r"\s+", " ", text)[:2] for text in page.locator(".tile .about").all_inner_texts()] == ["PA", "LL"]
    with page.expect_response("**/predict-study"):
        page.get_by_label("Images of a study count by").select_option("max")
    page.wait_for_selector(".finding")
    assert findings_of(page) == answer_of(address, "/predict-study", *data, pool="max")
    with page.expect_response("**/predict"):
        page.get_by_label("Current, image 2 of 2: in the answer").uncheck()
    page.wait_for_selector(".finding")
    assert findings_of(page) == answer_of(address, "/predict", data[0])
    page.get_by_label("Current, image 1 of 2: in the answer").uncheck()
    page.wait_for_selector(".finding", state="detached")  # no answer that is about nothing
    assert "Tick at least one image" in page.inner_text("#findings-about")
    assert page.locator("#save-csv").is_disabled()


def test_a_lateral_image_does_not_count_where_the_service_leaves_it_out(
    page, page_app, address, radiographs, monkeypatch
):
    monkeypatch.setattr(page_app.state.service, "views", ViewRule("frontal"))
    frontal, lateral = deep(radiographs[0], ViewPosition="PA"), deep(radiographs[1], ViewPosition="LL")
    drop(page, ("a.dcm", frontal), ("b.dcm", lateral))
    assert findings_of(page) == answer_of(address, "/predict", frontal)
    box = page.get_by_label("Current, image 2 of 2: in the answer")
    assert (box.is_checked(), box.is_disabled()) == (False, True)
    reason = "is a lateral view (LL), which this service leaves out"
    assert reason in page.inner_text("#warnings")
    drop(page, ("b.dcm", lateral))
    until(
        page, "document.getElementById('findings-about').textContent.startsWith('No image of the current study counts')"
    )
    assert reason in page.inner_text("#warnings")
    assert page.locator(".finding").count() == 0


def test_a_finding_is_explained_in_every_image(page, radiographs):
    drop(page, ("a.png", images.encode_png(radiographs[0])), ("b.png", images.encode_png(radiographs[1])))
    findings_of(page)
    before = [canvas(page, f".tile:nth-child({number})") for number in (1, 2)]
    page.locator(".finding").first.click()
    overlaid(page, "heat map")
    covered = [canvas(page, f".tile:nth-child({number})") for number in (1, 2)]
    assert not any(np.array_equal(*pair) for pair in zip(before, covered, strict=True))


def test_windows_are_of_the_values_in_the_file(page, radiographs):
    values, data = deep_values(radiographs[0]), deep(radiographs[0], **WINDOW)
    drop(page, ("a.dcm", data))
    findings_of(page)
    np.testing.assert_array_equal(canvas(page)[..., 0], images.read(data))
    assert page.inner_text(".windowed") == "W 3000 L 2000"
    assert f"values from {values.min():,} to {values.max():,}" in page.inner_text("#about-image")
    middle = int(np.median(values))
    slide(page, "window", 64)
    slide(page, "level", middle)
    narrow = canvas(page)[..., 0]
    np.testing.assert_allclose(narrow, linear(values, middle, 64), atol=1)
    assert len(np.unique(narrow)) > 30  # four grey levels of an 8-bit image would lie in this window
    page.get_by_role("button", name="Invert").click()
    np.testing.assert_array_equal(canvas(page)[..., 0], 255 - narrow)
    page.get_by_role("button", name="Reset view").click()
    np.testing.assert_array_equal(canvas(page)[..., 0], images.read(data))


def test_the_mouse_changes_window_and_level_zooms_and_moves(page, radiographs):
    values = deep_values(radiographs[0])
    drop(page, ("a.dcm", deep(radiographs[0], **WINDOW)))
    findings_of(page)
    box = page.locator(".tile canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(dx, dy):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + dx, y + dy, steps=2)
        page.mouse.up()

    drag(-128, 64)  # 256 pixels are the width of the first window
    np.testing.assert_allclose(canvas(page)[..., 0], linear(values, 2000 + 750, 1500), atol=1)
    assert page.inner_text("#window-value") == "1,500"
    assert page.inner_text("#level-value") == "2,750"
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    until(page, "document.getElementById('zoom-value').innerText !== '100 %'")
    large = page.locator(".tile canvas").bounding_box()
    assert large["width"] / box["width"] == pytest.approx(1.0015**600, rel=0.01)
    assert (large["x"] + large["width"] / 2, large["y"] + large["height"] / 2) == pytest.approx((x, y), abs=2)
    page.locator("#drag").select_option("move")
    drag(30, -20)
    moved = page.locator(".tile canvas").bounding_box()
    assert (moved["x"] - large["x"], moved["y"] - large["y"]) == pytest.approx((30, -20), abs=1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Image as shown").click()
    saved = cv2.imread(str(download.value.path()), cv2.IMREAD_GRAYSCALE)
    visible = page.locator(".light-box").bounding_box()["height"] / 1.0015**600  # the part that the box does not hide
    assert saved.shape == (
        pytest.approx(visible + 28, abs=1),
        radiographs[0].shape[1],
    )  # with the line that says what it is


def test_keys_do_all_that_the_mouse_does(page, radiographs):
    values = deep_values(radiographs[0])
    drop(page, ("a.dcm", deep(radiographs[0], **WINDOW)), ("b.dcm", deep(radiographs[1])))
    findings_of(page)
    first, second = tiles(page).all()
    first.focus()
    plain = canvas(page)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    np.testing.assert_allclose(canvas(page)[..., 0], linear(values, 2000 + 3000 / 32, 3000 - 2 * 3000 / 32), atol=1)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.inner_text("#zoom-value") == "156 %"
    at = first.locator("canvas").bounding_box()
    page.keyboard.press("Shift+ArrowLeft")
    assert first.locator("canvas").bounding_box()["x"] > at["x"]
    page.keyboard.press("0")
    np.testing.assert_array_equal(canvas(page), plain)
    page.keyboard.press("i")
    assert page.locator("#invert").get_attribute("aria-pressed") == "true"
    page.locator("#link").check()
    first.focus()
    page.keyboard.press("+")
    assert second.locator("canvas").evaluate("one => one.style.transform").endswith("scale(1.25)")
    page.keyboard.press("Enter")
    assert [tile.is_visible() for tile in (first, second)] == [True, False]
    page.keyboard.press("Enter")
    assert second.is_visible()
    for _ in range(4):  # its checkbox and its button, then the next image
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('tile')"):
            break
    assert second.evaluate("one => one === document.activeElement && one.classList.contains('active')")


def test_a_prior_study_stands_beside_the_current_one(browser, address, radiographs):
    current, prior = (
        deep(radiographs[0], PatientID="A", StudyDate="20240301"),
        deep(radiographs[1], PatientID="B", StudyDate="20240501"),
    )
    with opened(browser, address) as page:
        drop(page, ("a.dcm", current))
        findings_of(page)
        drop(page, ("b.dcm", prior), on="prior-drop")
        page.wait_for_selector(".prior-number")
        old = answer_of(address, "/predict", prior)
        shown = {
            row.get_attribute("data-finding"): row.query_selector(".prior-number").inner_text().split()[-1]
            for row in page.query_selector_all(".finding")
        }
        assert shown == old
        assert findings_of(page) == answer_of(address, "/predict", current)
        said = page.inner_text("#warnings")
        assert "The prior study states another patient than the current one" in said
        assert "The prior study is of 2024-05-01, later than the current one of 2024-03-01" in said
        for width in (1280, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            left, right = boxes(page)
            assert left["y"] == right["y"]
            assert left["x"] + left["width"] <= right["x"] + 1
            assert no_overflow(page), width
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
        assert {(r["study"], r["finding"], f"{float(r['probability']):.3f}") for r in rows} == {
            *(("current", *one) for one in findings_of(page).items()),
            *(("prior", *one) for one in old.items()),
        }
        drop(page, ("c.dcm", current))  # another study is another patient: nothing of the prior one may stay
        page.wait_for_selector(".prior-number", state="detached")
        findings_of(page)
        assert tiles(page).count() == 1
        assert page.locator("#warnings").is_hidden()


def test_the_answer_about_dicom_images_is_saved_as_a_report(page, radiographs):
    pytest.importorskip("highdicom")
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
    drop(page, *[(f"{n}.dcm", deep(radiographs[n], SOPInstanceUID=f"1.2.3.1.{n}", **uids)) for n in (1, 2)])
    findings_of(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM report").click()
    made = pydicom.dcmread(download.value.path())
    assert made.Modality == "SR"
    (series,) = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == ["1.2.3.1.1", "1.2.3.1.2"]
    drop(page, ("no-ids.dcm", deep(radiographs[0])))
    findings_of(page)
    page.get_by_role("button", name="DICOM report").click()
    page.wait_for_selector("#save-problem:not([hidden])")
    assert "it has no" in page.inner_text("#save-problem")
    drop(page, ("a.png", images.encode_png(radiographs[0])))
    page.wait_for_selector(".finding")
    assert page.locator("#save-dicom").is_hidden()


def test_images_of_two_patients_are_no_study_without_a_word(page, radiographs):
    drop(page, *[(f"{name}.dcm", deep(radiographs[0], PatientID=name)) for name in ("A", "B")])
    findings_of(page)
    assert "The images state 2 different patients; check that they belong together" in page.inner_text("#warnings")


def test_an_image_that_cannot_be_read_is_left_out_by_name(page, address, radiographs):
    good = [images.encode_png(image) for image in radiographs[:2]]
    drop(page, ("a.png", good[0]), ("notes.txt", b"only words"), ("c.png", good[1]))
    assert findings_of(page) == answer_of(address, "/predict-study", *good)
    assert "Notes.txt is left out: not a JPEG, PNG, TIFF, PGM or DICOM file" in page.inner_text("#warnings")
    assert tiles(page).count() == 2


def test_more_images_than_a_study_may_have_are_not_even_sent(page):
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    drop(page, *[(f"{number}.png", b"x") for number in range(9)])
    page.wait_for_selector("#problem:not([hidden])")
    assert "9 images are more than the 8 that this service takes of a study" in page.inner_text("#problem")
    assert sent == []
