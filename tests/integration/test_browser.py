"""The pages in a real browser that reaches nothing but this machine: Debian's chromium; `make trials` installs it."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.integration.conftest import ARCHITECTURE, MODEL, NAME
from tests.integration.support.bundles import Workshop
from tests.integration.support.load import get, post
from tests.integration.support.playbooks import docker, free_port

pytestmark = pytest.mark.trial

CONTAINER = f"{NAME}-browser"
SECONDS = 60


@dataclass(frozen=True)
class Site:
    """A service, and the origin of pages that may read its answers."""

    port: int
    friend: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(models: Path, workshop: Workshop, bundle: str, **settings: str) -> Iterator[int]:
    """The service in a container of its own; yields its port."""
    port = free_port()
    name = f"{CONTAINER}-{port}"
    docker(
        *("run", "--detach", f"--name={name}", f"--user={os.getuid()}:{os.getgid()}", "--read-only"),
        *(f"--publish=127.0.0.1:{port}:8000", f"--volume={models}:/models:ro"),
        *(f"--env=API_{key}={value}" for key, value in {"BUNDLE_PATH": f"/models/{bundle}", **settings}.items()),
        workshop.image,
    )
    try:
        end = time.monotonic() + SECONDS
        while not _ready(port):
            assert time.monotonic() < end, docker("logs", name)
            time.sleep(0.2)
        yield port
    finally:
        docker("rm", "--force", name)


@pytest.fixture(scope="module")
def site(models: Path, workshop: Workshop) -> Iterator[Site]:
    """The service with the small model."""
    friend = f"http://127.0.0.1:{free_port()}"
    with running(models, workshop, f"{MODEL}/A", CORS_ORIGINS=friend) as port:
        yield Site(port, friend)


def _ready(port: int) -> bool:
    try:
        return get(port, "/health/ready")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser that resolves no name."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(found.values()), f"{found}: make trials installs Debian's chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = str(found["chromium"])
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-dev-shm-usage"),
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(found["chromedriver"])))
    driver.set_page_load_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome, site: Site) -> Iterator[webdriver.Chrome]:
    """The browser; whatever a test does, its pages ask nobody but the service, and get what they ask for."""
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        read_log(chromium, kind)
    yield chromium
    messages = [json.loads(entry["message"])["message"] for entry in read_log(chromium, "performance")]
    asked = [event["params"]["request"]["url"] for event in messages if event["method"] == "Network.requestWillBeSent"]
    assert asked
    known = (
        f"{site.url}/",
        f"{site.friend}/",
        site.friend.replace("127.0.0.1", "localhost"),
        "blob:",
        "data:",
        "about:",
    )
    assert [url for url in asked if not url.startswith(known)] == []


def read_log(browser: webdriver.Chrome, kind: str) -> list[Any]:
    """What the browser has noted since it was last asked."""
    read: Callable[[str], list[Any]] = browser.get_log
    return read(kind)


def complaints(browser: webdriver.Chrome, *, refused: bool = False) -> list[Any]:
    """What the console has of errors; for a refused request the browser itself writes a line."""
    return [
        entry
        for entry in read_log(browser, "browser")
        if entry["level"] == "SEVERE" and not (refused and entry["source"] == "network")
    ]


def wait(browser: webdriver.Chrome, selector: str, text: str = "") -> WebElement:
    """The first element that is shown with this text."""

    def look(_: webdriver.Chrome) -> WebElement | Literal[False]:
        elements = browser.find_elements(By.CSS_SELECTOR, selector)
        return next((one for one in elements if one.is_displayed() and text in one.text), False)

    found: WebElement = WebDriverWait(browser, SECONDS, ignored_exceptions=[StaleElementReferenceException]).until(
        look, f"no {selector} with {text!r}; the page says: {browser.find_element(By.TAG_NAME, 'body').text}"
    )
    return found


def choose(browser: webdriver.Chrome, path: Path) -> None:
    browser.find_element(By.ID, "file").send_keys(str(path))


def drop(browser: webdriver.Chrome, path: Path, where: str) -> None:
    """What a browser does when a file is let go over the page."""
    browser.execute_script(
        """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], arguments[1]));
        for (const name of ["dragover", "drop"]) {
          const event = new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true });
          document.querySelector(arguments[2]).dispatchEvent(event);
          if (!event.defaultPrevented) throw new Error("the browser would open the file");
        }
        """,
        base64.b64encode(path.read_bytes()).decode(),
        path.name,
        where,
    )


def test_the_page_classifies_a_picture_that_is_chosen(browser: webdriver.Chrome, site: Site, photograph: Path) -> None:
    browser.get(site.url)
    wait(browser, "#model", f"{MODEL} version A, 67 classes, on cpu")
    for _ in range(2):  # the same file again is classified again
        choose(browser, photograph)
        wait(browser, "#answer table")
    expected = post(site.port, photograph.read_bytes())[1]
    wait(browser, "#answer p", f"{expected['predicted_class']} (in ")
    rows = browser.find_elements(By.CSS_SELECTOR, "#answer tr")
    assert [row.text.split("\n")[0].rsplit(" ", 2)[0] for row in rows] == [
        ranked["class_name"] for ranked in expected["top_5_predictions"]
    ]
    width = browser.execute_script("return document.querySelector('#answer img').naturalWidth")
    assert width == expected["image_metadata"]["original_width"]
    assert complaints(browser) == []


def test_the_page_shows_every_class_that_a_picture_has(
    chromium: webdriver.Chrome, models: Path, workshop: Workshop, photograph: Path
) -> None:
    checkpoint = workshop.checkpoint(ARCHITECTURE, classes=67, seed=0)
    options = ("--activation=sigmoid", '--threshold={"Abyssinian": 0.999}')
    made: dict[str, Any] = {"architecture": ARCHITECTURE, "name": "tags", "models": models}
    workshop.bundle(checkpoint, *options, version="1", **made)
    with running(models, workshop, "tags/1") as port:
        expected = post(port, photograph.read_bytes())[1]["predicted_classes"]
        assert len(expected) > 5
        chromium.get(f"http://127.0.0.1:{port}")
        choose(chromium, photograph)
        wait(chromium, "#answer p", f"{', '.join(item['class_name'] for item in expected)} (in ")
        rows = [row.text.split("\n")[0] for row in chromium.find_elements(By.CSS_SELECTOR, "#answer tr")]
        assert rows == [f"{item['class_name']} {100 * item['confidence']:.1f} %" for item in expected]
    workshop.bundle(checkpoint, options[0], "--threshold=0.9999", version="2", **made)
    with running(models, workshop, "tags/2") as port:
        chromium.get(f"http://127.0.0.1:{port}")
        choose(chromium, photograph)
        wait(chromium, "#answer p", "No class reaches its threshold (in ")
        assert len(chromium.find_elements(By.CSS_SELECTOR, "#answer tr")) == 5
    assert complaints(chromium) == []


@pytest.mark.parametrize("where", ["#drop", "footer"])
def test_the_page_classifies_a_picture_that_is_dropped(
    browser: webdriver.Chrome, site: Site, photograph: Path, where: str
) -> None:
    browser.get(site.url)
    drop(browser, photograph, where)
    wait(browser, "#answer table")
    expected = post(site.port, photograph.read_bytes())[1]
    wait(browser, "#answer p", expected["predicted_class"])
    assert complaints(browser) == []


def test_the_page_says_what_is_wrong_and_goes_on(
    browser: webdriver.Chrome, site: Site, photograph: Path, tmp_path: Path
) -> None:
    text = tmp_path / "cat.jpg"
    text.write_text("no picture at all")
    browser.get(site.url)
    choose(browser, text)
    said = wait(browser, "#answer .error")
    assert said.text == post(site.port, text.read_bytes())[1]["detail"]
    assert browser.find_elements(By.CSS_SELECTOR, "#answer img, #answer table") == []
    assert complaints(browser, refused=True) == []

    browser.execute_cdp_cmd("Network.enable", {})
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**conditions, "offline": True})
    choose(browser, photograph)
    wait(browser, "#answer .error", "The service did not answer: ")
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", {**conditions, "offline": False})
    choose(browser, photograph)
    wait(browser, "#answer table")
    assert browser.find_elements(By.CSS_SELECTOR, "#answer .error") == []
    assert complaints(browser, refused=True) == []


def test_the_documentation_shows_and_tries_the_api(browser: webdriver.Chrome, site: Site) -> None:
    browser.get(f"{site.url}/docs")
    wait(browser, ".opblock", "/api/v1/predict/batch")
    wait(browser, ".opblock-summary-path", "/health/ready").click()
    wait(browser, ".try-out__btn").click()
    wait(browser, ".execute").click()
    wait(browser, ".live-responses-table .response-col_status", "200")
    wait(browser, ".live-responses-table", '"status": "ready"')
    assert complaints(browser) == []


def test_a_page_of_another_origin_that_is_named_reads_the_answers(
    browser: webdriver.Chrome, site: Site, photograph: Path, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,><title>A shop</title>")
    port = int(site.friend.rpartition(":")[2])
    pages = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    ask = """
        const [address, picture, done] = arguments;
        const form = new FormData();
        form.append("file", new Blob([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))]), "cat.jpg");
        // The header makes the browser ask first.
        fetch(address, { method: "POST", body: form, headers: { "X-Request-ID": "shop-7" } })
          .then(async (answer) => done([(await answer.json()).predicted_class, answer.headers.get("X-Request-ID")]))
          .catch((error) => done(error.message));
    """
    picture = base64.b64encode(photograph.read_bytes()).decode()
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"{site.friend}/")
        answer = browser.execute_async_script(ask, f"{site.url}/api/v1/predict", picture)
        assert answer == [post(site.port, photograph.read_bytes())[1]["predicted_class"], "shop-7"]
        assert complaints(browser) == []
        # The same page under another name is another origin.
        browser.get(f"http://localhost:{port}/")
        assert browser.execute_async_script(ask, f"{site.url}/api/v1/predict", picture) == "Failed to fetch"
        browser.get("about:blank")
        server.shutdown()
