"""The documentation site builds without a warning, leads to every page, and asks no other machine for anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import make_reference
import pytest
import site_hooks

import mixwell

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def settings(**changes: Any) -> Any:
    """Return the settings of the site."""
    config = pytest.importorskip("mkdocs.config")
    return config.load_config(str(ROOT / "mkdocs.yml"), **changes)


def listed(entries: Any) -> Iterator[str]:
    """Yield the pages in a navigation."""
    for entry in list(entries.values()) if isinstance(entries, dict) else entries:
        yield from [entry] if isinstance(entry, str) else listed(entry)


def test_every_page_is_in_the_navigation() -> None:
    """Once each."""
    found = list(listed(site_hooks.on_config(settings()).nav))
    assert len(found) == len(set(found))
    assert set(found) == {str(path.relative_to(DOCS)) for path in DOCS.glob("**/*.md")}


def test_reference_is_current_and_complete() -> None:
    """The pages of the reference name every public object once."""
    texts = make_reference.texts()
    kept = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")}
    assert kept == texts, "run 'make pages'"
    named = re.findall(r"^::: mixwell\.(\w+)$", "\n".join(texts.values()), re.MULTILINE)
    assert sorted(named) == sorted(set(mixwell.__all__) - set(make_reference.CONSTANTS))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    build = pytest.importorskip("mkdocs.commands.build")
    config = settings(site_dir=str(out), strict=True)
    config.plugins.run_event("startup", command="build", dirty=False)
    try:
        build.build(config)
    finally:
        config.plugins.run_event("shutdown")
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of other packages; MkDocs counts its own
def test_the_site_has_all_pages_and_needs_no_other_machine(site: Path) -> None:
    """Scripts, styles, fonts and pictures are files of the site; links to other machines are for people to follow."""
    pages = {str(path.relative_to(site)) for path in site.glob("**/*.html")}
    assert {"index.html", "gallery.html", "policies/CutMix.html", "methods/SUMix.html", "404.html"} <= pages
    assert len(pages) == 1 + len(list(DOCS.glob("**/*.md")))
    for page in pages:
        text = (site / page).read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|source|iframe)[^>]*\ssrc=\"([^\"]+)", text)
        loaded += re.findall(r"<link[^>]*\srel=\"(?:stylesheet|preconnect|preload|icon)\"[^>]*href=\"([^\"]+)", text)
        assert not [address for address in loaded if re.match(r"(?:\w+:)?//", address)], page
        assert "<p>:::" not in text and ":class:" not in text, f"{page}: markup is left"
    styles = "".join(path.read_text(encoding="utf-8") for path in site.glob("**/*.css"))
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pages_fit_a_screen_and_a_phone(site: Path, tmp_path: Path) -> None:
    """In a browser no page is wider than its window, nothing is requested elsewhere, and the console is empty."""
    browser = pytest.importorskip("browser")
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser.chromium(tmp_path) as driver:
            for page in ("index", "gallery", "questions", "from-openmixup", "policies/CutMix", "reference/policies"):
                for width in (1280, 390):
                    browser.resize(driver, width)
                    driver.get(f"http://127.0.0.1:{server.server_port}/{page}.html")
                    assert browser.overflow(driver) <= 0, f"{page} at {width} pixels"
                    assert not browser.elsewhere(driver) and not browser.complaints(driver), page
    finally:
        server.shutdown()
        server.server_close()
