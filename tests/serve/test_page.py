"""The page of the service in headless Chromium: what a person sees and does, with the mouse, the keys and bad files."""

import base64
import csv
import json
import re
import shutil
import time
from contextlib import contextmanager

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
from tests.support.service import SMALL, TOKEN, ask, dicom, running, write_models

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
EXPECTED_STATUS = ("422", "413", "401")  # a refusal is shown in the page; Chromium notes it in its console too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def address(folder):
    with running(application(folder / "classifier", folder / "pretrained")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


@contextmanager
def opened(browser, address, **settings):
    """The page, which must send requests to its own service only and leave nothing in the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
    context.set_default_timeout(15_000)
    page = context.new_page()
    messages, errors, addresses = [], [], []
    page.on("console", lambda message: messages.append((message.type, message.text)))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(address)
    until(page, "service.about || !document.getElementById('token').hidden")
    yield page
    context.close()
    errors += [text for kind, text in messages if kind in ("error", "warning")]
    assert [text for text in errors if not any(status in text for status in EXPECTED_STATUS)] == []
    assert [url for url in addresses if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def image(phantoms):
    return images.read(sorted((phantoms / "images").iterdir())[0])


def drop(page, data: bytes, name: str):
    """Drop a file on the page, as a person does."""
    page.evaluate(
        """([base64, name]) => {
            const carried = new DataTransfer();
            carried.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
        }""",
        [base64.b64encode(data).decode(), name],
    )


def findings_of(page) -> dict[str, str]:
    """Each finding of the page with its number."""
    page.wait_for_selector(".finding")
    return {
        row.get_attribute("data-finding"): row.query_selector(".number").inner_text()
        for row in page.query_selector_all(".finding")
    }


def canvas(page) -> np.ndarray:
    """What the canvas shows, once drawn: (H, W, 3) uint8."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    drawn = page.evaluate("document.getElementById('canvas').toDataURL('image/png')").split(",")[1]
    return cv2.imdecode(np.frombuffer(base64.b64decode(drawn), np.uint8), cv2.IMREAD_COLOR_RGB)


def until(page, true: str, seconds=15.0):
    """Wait for something to be true in the page, whose own policy forbids what Playwright would wait with."""
    end = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < end, f"it did not happen in time: {true}"
        time.sleep(0.03)


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def no_overflow(page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("kind", ["png", "dicom"])
def test_drop_an_image_and_read_the_findings(page, address, image, kind):
    import httpx2

    data = images.encode_png(image) if kind == "png" else dicom(255 - image, PhotometricInterpretation="MONOCHROME1")
    with httpx2.Client(base_url=address) as client:
        expected = {f["finding"]: f for f in ask(client, "/predict", data).json()["findings"]}
    drop(page, data, f"radiograph.{kind}")
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
    drop(page, dicom(image, Modality="CT"), "slice.dcm")
    findings_of(page)
    assert "Modality is CT" in page.inner_text("#warnings")


def test_heat_map_opacity_window_and_level_change_the_image(page, folder, image):
    drop(page, images.encode_png(image), "a.png")
    findings_of(page)
    plain = canvas(page)
    page.locator(f'.finding[data-finding="{FINDINGS[0]}"]').click()
    until(page, "current.overlay")
    heat = heat_maps.heat_map(model_folder.load(folder / "classifier"), image, 0)
    slide(page, "opacity", 100)
    full = canvas(page)
    np.testing.assert_allclose(full.astype(int), heat_maps.overlay(image, heat, 1.0), atol=3)
    slide(page, "opacity", 20)
    faint = canvas(page)
    changes = [np.abs(drawn.astype(int) - plain).sum() for drawn in (faint, full)]
    assert 0 < changes[0] < changes[1]
    page.locator("#method").select_option("rollout")
    until(page, "current.overlay && current.heatMaps.size === 2")
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
    drop(page, images.encode_png(image), "a.png")
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
        (lambda: b"only words, no image", "Not a JPEG, PNG, TIFF or DICOM file"),
        (lambda: png_of_size(10_000, 10_000), "10,000 x 10,000 pixels"),
    ],
    ids=["text", "100 megapixels"],
)
def test_a_bad_file_is_refused_in_place_and_the_next_one_is_read(page, image, make, reason):
    drop(page, images.encode_png(image), "good.png")
    findings_of(page)
    drop(page, make(), "bad.png")
    page.wait_for_selector("#problem:not([hidden])")
    assert reason in page.inner_text("#problem")
    assert page.locator("#work").is_hidden()  # nothing of the image before may be taken for an answer
    assert page.inner_text("#status") == ""
    drop(page, images.encode_png(image), "good.png")
    assert len(findings_of(page)) == 8
    assert page.locator("#problem").is_hidden()


def test_a_file_that_is_too_large_is_not_even_sent(page):
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.evaluate("openFile(new File([new Uint8Array(65e6)], 'large.dcm'))")
    assert "65 MB, and this service accepts at most 64 MB" in page.inner_text("#problem")
    assert sent == []


def test_results_are_saved(page, image):
    drop(page, images.encode_png(image), "a.png")
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
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim()"
            )
        )
    assert {
        "window",
        "level",
        "opacity",
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
    until(page, "current.overlay")
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
    quoted = page.evaluate("texts => texts.map(quoted)", texts)
    assert quoted == ['"' + guarded(text or "").replace('"', '""') + '"' for text in texts]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_and_large_screens_in_light_and_dark(browser, address, image, scheme):
    with opened(browser, address, color_scheme=scheme) as page:
        drop(page, images.encode_png(image), "a.png")
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


def test_it_asks_for_the_token(browser, folder, image):
    app = application(folder / "classifier", token=TOKEN)
    with running(app) as address, opened(browser, address) as page:
        assert page.locator("#token-problem").is_hidden()  # before any token has been given
        for token, good in (("wrong", False), (TOKEN, True)):
            page.get_by_label("Enter the bearer token of this service").fill(token)
            page.get_by_role("button", name="Continue").click()
            until(page, f"document.getElementById('token-problem').hidden === {str(good).lower()}")
            until(page, f"Boolean(service.about) === {str(good).lower()}")
        drop(page, images.encode_png(image), "a.png")
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
        drop(page, images.encode_png(SMALL), "a.png")
        findings_of(page)
        plain = canvas(page)
        page.locator('.finding[data-finding="lung"]').click()
        until(page, "current.overlay")
        outlined = page.evaluate("current.overlay.cover.some((v) => v)")
        assert np.array_equal(canvas(page), plain) == (not outlined)
        assert "outlined" in page.inner_text(".decision")
