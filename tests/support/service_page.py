"""The page of the service in headless Chromium: opening it, dropping files on it, and reading what it shows."""

import base64
import time
from contextlib import contextmanager

import cv2
import numpy as np

EXPECTED_STATUS = ("422", "413", "401")  # a refusal is shown in the page; Chromium notes it in its console too


@contextmanager
def opened(browser, address, seconds=20.0, **settings):
    """The page, which must send requests to its own service only and leave nothing in the console.

    It may take so many seconds for each step.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    context.set_default_timeout(1000 * seconds)
    page = context.new_page()
    messages, errors, addresses = [], [], []
    page.on("console", lambda message: messages.append((message.type, message.text)))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(address)
    until(page, "['drop', 'token'].some((id) => !document.getElementById(id).hidden)", seconds)
    yield page
    context.close()
    errors += [text for kind, text in messages if kind in ("error", "warning")]
    assert [text for text in errors if not any(status in text for status in EXPECTED_STATUS)] == []
    assert [url for url in addresses if not url.startswith((address, "data:", "blob:"))] == []


def drop(page, *files: tuple[str, bytes], on: str = "drop"):
    """Drop files, by name and content, on a part of the page, as a person does."""
    page.evaluate(
        """([files, place]) => {
            const carried = new DataTransfer();
            for (const [name, base64] of files) {
                carried.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
            }
            document.getElementById(place).dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
        }""",
        [[[name, base64.b64encode(data).decode()] for name, data in files], on],
    )


def findings_of(page) -> dict[str, str]:
    """Each finding of the page with its number."""
    page.wait_for_selector(".finding")
    return {
        row.get_attribute("data-finding"): row.query_selector(".number").inner_text()
        for row in page.query_selector_all(".finding")
    }


def canvas(page, tile: str = ".tile.active") -> np.ndarray:
    """What the canvas of an image shows, once drawn: (H, W, 3) uint8."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    drawn = page.evaluate(f"document.querySelector('{tile} canvas').toDataURL('image/png')").split(",")[1]
    return cv2.imdecode(np.frombuffer(base64.b64decode(drawn), np.uint8), cv2.IMREAD_COLOR_RGB)


def overlaid(page, what: str):
    """Wait until every image of the page is covered by a heat map, or an outline."""
    until(page, f"[...document.querySelectorAll('.tile canvas')].every((one) => one.ariaLabel.includes('{what}'))")


def until(page, true: str, seconds=20.0):
    """Wait for something to be true in the page, whose own policy forbids what Playwright would wait with."""
    end = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < end, f"it did not happen in time: {true}"
        time.sleep(0.03)


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def no_overflow(page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
