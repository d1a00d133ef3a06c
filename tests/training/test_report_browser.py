"""The page of a run in headless Chromium: nothing is refused or loaded, no sideways scrolling, dark and narrow."""

from __future__ import annotations

import pytest
from browser import NEEDS_BROWSER, open_browser, open_page
from small_stages import write_stages

from fcn_caffe.commands import solve
from fcn_caffe.training.report import write_run

pytestmark = NEEDS_BROWSER
COARSE = "solvers/coarse.prototxt"
LUMINANCE = """
const parts = (name) => getComputedStyle(document.querySelector(arguments[0]))[name].match(/[\\d.]+/g).map(Number);
const light = (name) => parts(name).slice(0, 3).reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);
return [light("backgroundColor"), light("color")];
"""


@pytest.fixture(scope="module")
def browser():
    with open_browser(height=1000) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = write_stages(tmp_path_factory.mktemp("task"))
    (folder / "nets/classes.txt").write_text(f"0: ground\n1: {'a class of a long name ' * 4}\n")
    assert solve.main([str(folder / COARSE)]) == 0
    path = folder / "report.html"
    path.write_text(write_run(folder), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    yield from open_page(browser, address)


def resize(page, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def test_nothing_is_loaded_and_every_picture_is_shown(page):
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    sizes = page.execute_script("return [...document.images].map(one => [one.naturalWidth, one.naturalHeight])")
    assert sizes == [[14, 12]] * 6


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_only_tables_scroll_sideways(page, width):
    resize(page, width)
    inside, outside = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert inside <= outside
    cut = """
    return [...document.querySelectorAll("h1, h2, h3, p, dd, figcaption, .legend li, img")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML)
    """
    assert page.execute_script(cut) == []


def test_names_of_axes_do_not_lie_on_their_numbers(page):
    resize(page, 1280)
    over = """
    const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    const box = (one) => one.getBoundingClientRect();
    return [...document.querySelectorAll(".chart > svg")].flatMap((svg) =>
        [...svg.querySelectorAll("text.name")].flatMap((name) => [...svg.querySelectorAll("text.tick")]
            .filter((tick) => touch(box(name), box(tick))).map((tick) => [name.textContent, tick.textContent])));
    """
    assert page.execute_script(over) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_read_by_day_and_by_night(page, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    ground, ink = page.execute_script(LUMINANCE, "body")
    assert (ground > 200 and ink < 60) if scheme == "light" else (ground < 60 and ink > 200)
