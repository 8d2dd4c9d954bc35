"""Pages looked at: whole, from nowhere else, and as wide as a phone."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "wbr", "hr", "link", "input"}
PHONE = 390


class Wellformed(HTMLParser):
    """Fails where an element is closed that is not open; collects ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [given[k] for k in ("src", "href", "xlink:href", "data", "action") if k in given]
        assert tag != "img" or given.get("alt")
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def check_whole(text: str) -> None:
    """Well-formed, ids that are unique, links that lead somewhere, nothing from a network."""
    page = Wellformed(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        inside = address.startswith("#") and address[1:] in page.ids
        assert inside or address.startswith("data:image/") or address in ("roc.png", "pr.png", "reliability.png"), (
            address
        )
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert text.count("<h1") == 1
    assert "not for clinical use" in text


def widths(browser: str, page: Path, folder: Path) -> tuple[int, int]:
    """(scroll width, client width) of a page in a frame as wide as a phone."""
    framed = folder / "framed.html"
    framed.write_text(
        f'<iframe id="f" width="{PHONE}" height="800" style="border:0" srcdoc></iframe><script>'
        "onload = () => { const root = f.contentDocument.documentElement;"
        "document.body.dataset.widths = root.scrollWidth + ' ' + root.clientWidth }</script>"
    )
    inside = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    framed.write_text(framed.read_text().replace("srcdoc", f'srcdoc="{inside}"'))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'user'}"]
    command = [browser, *quiet, "--dump-dom", framed.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'data-widths="(\d+) (\d+)"', dom)
    assert found, dom[:500]
    return int(found[1]), int(found[2])
