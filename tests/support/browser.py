"""A headless browser that looks at a page: what it could not load, what its scripts said, and whether it is too wide.

It needs the `pages` extra (playwright) and a Chromium: Debian's package `chromium`, or what `playwright install
chromium` fetches.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WIDTHS = (380, 1400)  # a telephone, a desk
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Looked:
    """What is wrong with a page at one width; empty where nothing is."""

    failed: list[str] = field(default_factory=list)  # requests that found nothing
    errors: list[str] = field(default_factory=list)  # of scripts and the console
    broken: list[str] = field(default_factory=list)  # pictures without pixels, by what they should show
    fetched: list[str] = field(default_factory=list)  # what came from elsewhere than the page's folder
    too_wide: int = 0  # pixels that stick out of the window

    def __bool__(self) -> bool:
        return bool(self.failed or self.errors or self.broken or self.fetched or self.too_wide)


def why_no_browser() -> str | None:
    """The reason for a skip; None where there is a browser."""
    if find_spec("playwright") is None:
        return "playwright is not installed (the extra `pages`)"
    if _executable() is None:
        return "there is no Chromium (apt-get install chromium, or playwright install chromium)"
    return None


def _executable() -> str | None:
    from playwright.sync_api import sync_playwright

    if found := next(filter(None, map(shutil.which, _NAMES)), None):
        return found
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium, which needs neither a sandbox nor /dev/shm of its own, as containers lack both."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=_executable(), args=flags)
        yield chromium
        chromium.close()


def look_at(chromium: Any, page: Path, *, width: int, picture: Path | None = None) -> Looked:
    """Open a file in a window of so many pixels; draw all of it into `picture`, if one is named."""
    tab, looked = chromium.new_page(viewport={"width": width, "height": 900}), Looked()
    tab.on("requestfailed", lambda request: looked.failed.append(request.url[:200]))
    tab.on("pageerror", lambda error: looked.errors.append(str(error)))
    tab.on("console", lambda said: looked.errors.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: looked.fetched.append(request.url) if _is_elsewhere(request.url) else None)
    tab.goto(page.resolve().as_uri(), wait_until="load")
    looked.broken = tab.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.alt || i.src)")
    looked.too_wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if picture is not None:
        tab.screenshot(path=str(picture), full_page=True)
    tab.close()
    return looked


def _is_elsewhere(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def photograph(page: Path, picture: Path, *, width: int, height: int, heading: str) -> None:
    """A picture of a page where a heading stands at its top, of so few colours that a repository may hold it."""
    from PIL import Image

    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": width, "height": height})
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.get_by_role("heading", name=heading).evaluate("heading => heading.scrollIntoView()")
        tab.screenshot(path=str(picture))
    with Image.open(picture) as taken:
        small = taken.convert("RGB").quantize(128)
    small.save(picture, optimize=True)


if __name__ == "__main__":  # python -m tests.support.browser PAGE.html PICTURE.png WIDTH HEIGHT HEADING
    _page, _picture, _width, _height, _heading = sys.argv[1:]
    if reason := why_no_browser():
        raise SystemExit(reason)
    photograph(Path(_page), Path(_picture), width=int(_width), height=int(_height), heading=_heading)
