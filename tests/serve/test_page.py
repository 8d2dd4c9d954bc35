"""The page of the service in headless Chromium: what a person sees and does, with the mouse, the keys and bad files."""

import csv
import json
import re

import cv2
import numpy as np
import pytest

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.inference import heat_maps
from mrm.models import model_folder, noise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.serve.server import application
from mrm.system.spreadsheet_cells import guarded
from tests.support.image_files import png_of_size
from tests.support.service import SMALL, TOKEN, ask, dicom, running
from tests.support.service_page import canvas, drop, findings_of, no_overflow, opened, overlaid, slide, until


@pytest.fixture
def image(radiographs):
    return radiographs[0]


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_drop_an_image_and_read_the_findings(page, address, image, kind):
    import httpx2

    data = images.encode_png(image) if kind == "png" else dicom(255 - image, PhotometricInterpretation="MONOCHROME1")
    with httpx2.Client(base_url=address) as client:
        expected = {f["finding"]: f for f in ask(client, "/predict", data).json()["findings"]}
    drop(page, (f"radiograph.{kind}", data))
    assert findings_of(page) == {name: f"{f['probability']:.3f}" for name, f in expected.items()}
    np.testing.assert_array_equal(canvas(page)[..., 0], image)
    for row in page.query_selector_all(".finding"):
        finding = expected[row.get_attribute("data-finding")]
        decision = row.query_selector(".decision").inner_text()
        if finding["threshold"] is None:
            assert decision == "no threshold"
            assert row.query_selector(".bar b") is None
        else:  # in words, not by colour alone
            assert decision == f"{'▲ above' if finding['decision'] else 'below'} {finding['threshold']:.3f}"
            assert row.query_selector(".bar b").evaluate("b => b.style.left") == f"{100 * finding['threshold']:g}%"
    above = sum(bool(f["decision"]) for f in expected.values())
    assert f"{above} of 2 findings with a threshold" in page.inner_text("#status")
    assert "Not for clinical use" in page.inner_text("header")
    assert "classifier + pretrained" in page.inner_text("header")


def test_a_ct_slice_is_shown_with_its_warning(page, image):
    drop(page, ("slice.dcm", dicom(image, Modality="CT")))
    findings_of(page)
    assert "Modality is CT" in page.inner_text("#warnings")


def test_heat_map_opacity_window_and_level_change_the_image(page, page_models, image):
    drop(page, ("a.png", images.encode_png(image)))
    findings_of(page)
    plain = canvas(page)
    page.locator(f'.finding[data-finding="{FINDINGS[0]}"]').click()
    overlaid(page, "heat map")
    heat = heat_maps.heat_map(model_folder.load(page_models / "classifier"), image, 0)
    slide(page, "opacity", 100)
    full = canvas(page)
    np.testing.assert_allclose(full.astype(int), heat_maps.overlay(image, heat, 1.0), atol=3)
    slide(page, "opacity", 20)
    faint = canvas(page)
    changes = [np.abs(drawn.astype(int) - plain).sum() for drawn in (faint, full)]
    assert 0 < changes[0] < changes[1]
    with page.expect_response("**/explain"):
        page.locator("#method").select_option("rollout")
    overlaid(page, "heat map")
    assert not np.array_equal(canvas(page), faint)
    page.get_by_label("No overlay").click()
    np.testing.assert_array_equal(canvas(page), plain)
    slide(page, "window", 100)
    slide(page, "level", 60)
    expected = np.rint(np.clip((image.astype(float) - 60 + 50) / 100 * 255, 0, 255))
    np.testing.assert_allclose(canvas(page)[..., 0], expected, atol=1)
    page.get_by_role("button", name="Reset view").click()
    np.testing.assert_allclose(canvas(page)[..., 0], image, atol=1)


def test_fill_in_blanks_and_restore(page, image):
    drop(page, ("a.png", images.encode_png(image)))
    findings_of(page)
    page.get_by_label("Report with blanks").fill("The heart is ____.\nNo 🫁 ____.")
    page.get_by_role("button", name="Fill in").click()
    page.wait_for_selector("#filled table")
    assert page.locator("#filled table").count() == 2
    read = page.inner_text("#filled .read").replace("\r", "").replace("\n\n", "\n")
    words = page.locator("#filled mark").all_inner_texts()
    assert read == f"The heart is {words[0]}.\nNo 🫁 {words[1]}."
    firsts = [t.locator("tbody td").first.inner_text() for t in page.locator("#filled table").all()]
    assert [f.split()[0] for f in firsts] == words
    page.get_by_label("Report with blanks").fill("no blank at all")
    page.get_by_role("button", name="Fill in").click()
    page.wait_for_selector("#fill-problem:not([hidden])")
    assert "0 blanks" in page.inner_text("#fill-problem")
    page.get_by_role("button", name="Mask and restore").click()
    until(page, "document.querySelectorAll('#restored img').length === 4")
    until(page, "[...document.querySelectorAll('#restored img')].every((i) => i.complete && i.naturalWidth)")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"only words, no image", "Not a JPEG, PNG, TIFF, PGM or DICOM file"),
        (lambda: png_of_size(10_000, 10_000), "10,000 x 10,000 pixels"),
    ],
    ids=["text", "100 megapixels"],
)
def test_a_bad_file_is_refused_in_place_and_the_next_one_is_read(page, image, make, reason):
    drop(page, ("good.png", images.encode_png(image)))
    findings_of(page)
    drop(page, ("bad.png", make()))
    page.wait_for_selector("#problem:not([hidden])")
    assert reason in page.inner_text("#problem")
    assert page.locator("#work").is_hidden()  # nothing of the image before may be taken for an answer
    assert page.inner_text("#status") == ""
    drop(page, ("good.png", images.encode_png(image)))
    assert len(findings_of(page)) == 8
    assert page.locator("#problem").is_hidden()


def test_a_file_that_is_too_large_is_not_even_sent(page):
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate(
        """() => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(65e6)], "large.dcm"));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
        }"""
    )
    page.wait_for_selector("#problem:not([hidden])")
    assert "65 MB, and this service accepts at most 64 MB" in page.inner_text("#problem")
    assert sent == []


def test_results_are_saved(page, image):
    drop(page, ("a.png", images.encode_png(image)))
    numbers = findings_of(page)

    def saved(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        return download.value.path().read_bytes()

    answer = json.loads(saved("JSON"))
    assert {f["finding"]: f"{f['probability']:.3f}" for f in answer["findings"]} == numbers
    assert "not for clinical use" in answer["notice"]
    rows = list(csv.DictReader(saved("CSV").decode().splitlines()))
    assert {r["finding"]: f"{float(r['probability']):.3f}" for r in rows} == numbers
    assert {r["notice"] for r in rows} == {"not for clinical use"}
    shown = cv2.imdecode(np.frombuffer(saved("Image as shown"), np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = image.shape
    np.testing.assert_array_equal(shown[:height, :width], image)
    assert shown.shape[0] > height  # the line that says what it is


def test_everything_is_within_reach_of_the_keys(page, tmp_path, image):
    (tmp_path / "a.png").write_bytes(images.encode_png(image))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.locator("#file").set_input_files(tmp_path / "a.png")
    findings_of(page)
    reached = set()
    page.locator("#file").focus()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim()"
            )
        )
    assert {
        "file",
        "prior-file",
        "window",
        "level",
        "opacity",
        "drag",
        "zoom-in",
        "zoom-out",
        "invert",
        "reset",
        "finding",
        "method",
        "save-json",
        "save-csv",
        "save-png",
        "report",
        "restore-go",
    } <= reached
    page.locator('input[name="finding"]:checked').focus()
    page.keyboard.press("ArrowUp")
    overlaid(page, "heat map")
    before = canvas(page)
    page.locator("#opacity").focus()
    page.keyboard.press("ArrowRight")
    assert not np.array_equal(canvas(page), before)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")].filter((e) => e.offsetParent !== null
            && !(e.labels && e.labels.length) && !e.textContent.trim() && !e.ariaLabel).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


def test_no_cell_of_the_table_to_save_is_computed_by_a_spreadsheet(page):
    texts = ["=1+1", "'=1", "+1+1", "-0.5", "-x", "@a", "\t=1", " =1", "＝1", 'Pleural "effusion"', "- no", "", None]
    quoted = page.evaluate("async (texts) => texts.map((await import('/downloads.js')).quoted)", texts)
    assert quoted == ['"' + guarded(text or "").replace('"', '""') + '"' for text in texts]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_and_large_screens_in_light_and_dark(browser, address, image, scheme):
    with opened(browser, address, color_scheme=scheme) as page:
        drop(page, ("a.png", images.encode_png(image)))
        findings_of(page)
        page.get_by_role("button", name="Fill in").click()
        page.wait_for_selector("#filled table")
        page.get_by_role("button", name="Mask and restore").click()
        page.wait_for_selector("#restored img")
        for width in (1280, 768, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            assert no_overflow(page), width
        paper, ink = page.evaluate(
            "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; }"
        )
        light = [sum(int(v) for v in re.findall(r"\d+", colour)) for colour in (paper, ink)]
        assert (light[0] > light[1]) == (scheme == "light")


def test_it_asks_for_the_token(browser, page_models, image):
    app = application(page_models / "classifier", token=TOKEN)
    with running(app) as address, opened(browser, address) as page:
        assert page.locator("#token-problem").is_hidden()  # before any token has been given
        for token, good in (("wrong", False), (TOKEN, True)):
            page.get_by_label("Enter the bearer token of this service").fill(token)
            page.get_by_role("button", name="Continue").click()
            until(page, f"document.getElementById('token-problem').hidden === {str(good).lower()}")
            until(page, f"document.getElementById('drop').hidden !== {str(good).lower()}")
        drop(page, ("a.png", images.encode_png(image)))
        assert len(findings_of(page)) == 8
        assert page.locator("#fill").is_hidden()  # no pre-trained model, so nothing is offered that cannot be done
        assert page.locator("#restore").is_hidden()


def test_a_segmenter_shows_its_outline(browser, tmp_path):
    with noise.seeded(0):
        model = Segmenter(
            SegmenterConfig(
                ("lung",),
                "vit_tiny_patch16_224",
                {"depth": 2, "embed_dim": 48, "num_heads": 3},
                (64, 64),
                blocks=(1, 1, 2, 2),
                head="linear",
                channels=16,
            )
        ).eval()
    model_folder.save(tmp_path / "segmenter", model)
    with running(application(tmp_path / "segmenter")) as address, opened(browser, address) as page:
        drop(page, ("a.png", images.encode_png(SMALL)))
        findings_of(page)
        plain = canvas(page)
        page.locator('.finding[data-finding="lung"]').click()
        overlaid(page, "outline")
        outlined = "▲" in page.inner_text(".decision")
        assert np.array_equal(canvas(page), plain) == (not outlined)
        assert "outlined" in page.inner_text(".decision")
