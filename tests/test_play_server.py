"""The play page as a server and in a browser: many users at once, closed routes, and the same pixels from its line."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import chromium, complaints, elsewhere, overflow
from mixwell.report import picture
from test_play import png, sent


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the page as the command does, and return its address."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mixwell", "play", "--port", str(port)]
    temporary = tmp_path_factory.mktemp("temporary")
    served = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None and "http://127.0.0.1" in served.stdout.readline()
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        kept = [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size > 0]
        assert [path.name for path in kept if path.suffix in (".png", ".jpg", ".webp")] == []
    finally:
        served.terminate()
        served.communicate(timeout=60)


def asked(address: str, data: list[Any]) -> list[str]:
    """Call the page's function as a browser does: one request to start it, one to wait for the result."""
    body = json.dumps({"data": data}).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/gradio_api/call/view", body, headers), timeout=300
    ) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/view/{event}", timeout=300) as answer:
        text = answer.read().decode()
    assert "event: complete" in text, text[:200]
    return json.loads(text.rpartition("data: ")[2])


def mixed_of(html: str) -> np.ndarray:
    raw = base64.b64decode(html.partition('id="mixed"')[2].partition("base64,")[2].partition('"')[0])
    return np.asarray(Image.open(io.BytesIO(raw)))


@pytest.mark.slow
def test_concurrent_users_see_their_own_pictures(address: str) -> None:
    """200 requests at once: each gets the mean of the two colours that it sent."""
    colours = [((k, 255 - k, (7 * k) % 256), ((3 * k) % 256, k, 255 - k)) for k in range(200)]
    gate = threading.Barrier(50)

    def ask(k: int) -> None:
        gate.wait(120)
        first, second = (sent(f"{side}{k}.png", png(colours[k][j], (16, 16))) for j, side in enumerate("ab"))
        html, line = asked(address, [first, second, "MixUp()", "PixelShare()", 0.5, k, 16])
        expected = (np.array(colours[k]).sum(0) / 2 + 0.5).astype(int)
        assert np.abs(mixed_of(html).astype(int) - expected).max() <= 1
        assert f"a{k}.png" in line and f"manual_seed({k})" in line and f"a{k} " in html

    with ThreadPoolExecutor(50) as pool:
        assert len(list(pool.map(ask, range(200)))) == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/gradio_api/upload", {}, 404),
        ("/gradio_api/proxy=https://example.org/", {}, 404),
        ("/gradio_api/file=pyproject.toml", {}, 404),
        ("/", {"Host": "evil.example"}, 400),
    ],
)
def test_closed_doors(address: str, path: str, headers: dict[str, str], status: int) -> None:
    """Nothing is uploaded to files, no file is served, and other host names are refused."""
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=60)
    assert error.value.code == status
    error.value.close()


def test_large_requests_are_refused(address: str) -> None:
    """A request larger than two pictures is refused before it is read."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 60) as line:
        line.sendall(b"POST /gradio_api/call/view HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999999\r\n\r\n")
        assert b"413" in line.recv(100)


def wait_until(found: Any, seconds: float = 60) -> Any:
    """Return what a function returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.2)
    assert value
    return value


def test_in_a_browser(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load, change the policy and a setting, drag lam, upload a picture, run the line: the same pixels."""
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    (tmp_path / "fake.png").write_text("<svg/>")
    with chromium(tmp_path / "profile") as browser:
        browser.get(address)

        def line() -> str:
            return browser.execute_script("const t = document.querySelector('#line textarea'); return t ? t.value : ''")

        wait_until(lambda: "CutMix" in line())
        chooser = browser.find_element(By.CSS_SELECTOR, "#policy input")
        chooser.click()
        chooser.send_keys(Keys.CONTROL, "a")
        chooser.send_keys("FMix", Keys.ENTER)
        wait_until(lambda: "FMix" in line())
        decay = wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, "input[aria-label='decay']"))[0]
        decay.send_keys(Keys.CONTROL, "a")
        decay.send_keys("2.5", Keys.TAB)
        wait_until(lambda: "decay=2.5" in line())
        thumb = browser.find_element(By.CSS_SELECTOR, "#lam input[type=range]")
        ActionChains(browser).move_to_element(thumb).click_and_hold().move_by_offset(-60, 0).release().perform()
        wait_until(lambda: "value=0.7" not in line() and "Constant" in line())
        browser.find_element(By.CSS_SELECTOR, "#anchor input[type=file]").send_keys(str(tmp_path / "noise.png"))
        wait_until(lambda: "noise.png" in line())
        time.sleep(2)
        source = browser.find_element(By.CSS_SELECTOR, "#mixed").get_attribute("src")
        made: dict[str, Any] = {}
        monkeypatch.chdir(tmp_path)
        exec(line(), made)  # noqa: S102
        raw = io.BytesIO(base64.b64decode(source.partition(",")[2]))
        assert np.array_equal(np.asarray(Image.open(raw)), np.asarray(picture.tile(made["mixed"])))
        browser.find_element(By.CSS_SELECTOR, "#partner input[type=file]").send_keys(str(tmp_path / "fake.png"))
        wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, "[role=alert]"))
        assert complaints(browser) == []
        assert elsewhere(browser) == []


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone(address: str, tmp_path: Path, dark: bool) -> None:
    """At 390 pixels nothing is wider than the screen, and every image has a text alternative."""
    from selenium.webdriver.common.by import By

    with chromium(tmp_path / "profile", 390, dark) as browser:
        browser.get(address)
        wait_until(lambda: browser.find_elements(By.ID, "mixed"))
        assert overflow(browser) <= 0
        assert all(image.get_attribute("alt") for image in browser.find_elements(By.CSS_SELECTOR, "#view img"))
        assert elsewhere(browser) == [] and complaints(browser) == []
