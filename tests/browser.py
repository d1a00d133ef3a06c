"""Headless Chromium for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NEEDS_BROWSER = [
    pytest.mark.needs_program("chromium"),
    pytest.mark.needs_program("chromedriver"),
    pytest.mark.needs_package("selenium"),
]


@contextmanager
def open_browser(height: int) -> Iterator[Any]:
    """Start Chromium with a window of 1280 x height that keeps what its console says; end it behind the block."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size=1280,{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(executable_path=shutil.which("chromedriver")), options=options)
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser: Any, address: str) -> Iterator[Any]:
    """Give a page, freshly opened; at the end the console must be silent. A fixture yields from it."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
