"""The audit's page in headless Chromium: no errors, filters, search, state in the hash, and no sideways scrolling."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from browser import NEEDS_BROWSER, open_browser, open_page
from page_record import HOSTILE, small_record

from fcn_caffe.paper.report.claims import anchor
from fcn_caffe.paper.report.page import write_page

pytestmark = NEEDS_BROWSER
IDS = ["T1.stride", "T1.params", "T2.32s", "S3.4.sampling", "R.8s", "P.pool", f"X.{HOSTILE}"]


@pytest.fixture(scope="module")
def browser():
    with open_browser(height=1000) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "audit.html"
    path.write_text(write_page(small_record()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    yield from open_page(browser, address)
    assert browser.title == "Is this the paper? An audit"  # a layer's name that is a script did nothing


def seen(page):
    """The ids of the claims in sight."""
    script = (
        "return [...document.querySelectorAll('article.claim')].filter(one => one.checkVisibility()).map(one => one.id)"
    )
    return page.execute_script(script)


def places(*numbers):
    return [anchor(IDS[at]) for at in numbers]


def choose(page, value):
    from selenium.webdriver.common.by import By

    page.find_element(By.CSS_SELECTOR, f"#filters input[value='{value}']").click()


def find(page, selector):
    from selenium.webdriver.common.by import By

    return page.find_element(By.CSS_SELECTOR, selector)


def test_everything_is_there_at_first(page):
    assert seen(page) == places(*range(7))
    assert find(page, "#shown").text == "7 of 7 claims"
    assert not page.execute_script("return [...document.querySelectorAll('details')].some(one => one.open)")


def test_filters_work_together(page):
    choose(page, "holds")
    assert seen(page) == places(0, 3)
    choose(page, "differs")
    assert seen(page) == places(0, 1, 3, 6)
    choose(page, "static")
    assert seen(page) == places(0, 1, 6)
    choose(page, "CVPR 2015")
    assert seen(page) == places(0, 1)
    find(page, "#words").send_keys("PARAMETERS")
    assert seen(page) == places(1)
    assert find(page, "#shown").text == "1 of 7 claims"
    headings = page.execute_script(
        "const all = [...document.querySelectorAll('#claims h3')];"
        "return all.filter(one => one.checkVisibility()).map(one => one.textContent)"
    )
    assert headings == ["Table 1"]  # sections without claims go too
    find(page, "#clear").click()
    assert seen(page) == places(*range(7))


def test_search_finds_code_and_says_when_nothing_fits(page):
    words = find(page, "#words")
    words.send_keys("gone.prototxt")
    assert seen(page) == places(4)
    words.send_keys(" nowhere")
    assert seen(page) == [] and find(page, "#no-match").is_displayed()


def test_state_is_in_the_hash_and_survives_a_reload(page):
    choose(page, "unverified source")
    choose(page, "not run")
    find(page, "#words").send_keys("quantity of")
    page.execute_script(f"document.querySelector('#{quote('claim-P')}\\\\.pool summary').click()")
    page.execute_async_script("setTimeout(arguments[0], 50)")
    address = page.current_url
    assert "verdict=not+run" in address and "q=quantity+of" in address and "open=claim-P.pool" in address
    page.get("about:blank")
    page.get(address)
    assert seen(page) == places(2, 4, 5)
    assert find(page, "#words").get_attribute("value") == "quantity of"
    assert page.execute_script("return document.querySelector('#claim-P\\\\.pool details').open")
    page.refresh()
    assert seen(page) == places(2, 4, 5)


def test_a_link_to_a_claim_opens_it(page, address):
    choose(page, "holds")
    page.get(f"{address}#{anchor(IDS[1])}")
    page.execute_async_script("setTimeout(arguments[0], 50)")
    assert anchor(IDS[1]) in seen(page)
    assert page.execute_script("return document.getElementById('claim-T1.params').querySelector('details').open")


def test_evidence_opens_and_leads_to_the_line(page):
    summary = find(page, "#claim-T1\\.stride summary")
    mark = find(page, "#claim-T1\\.stride mark")
    assert not mark.is_displayed()
    summary.click()
    assert mark.is_displayed() and mark.text == '4layer { name: "conv1_1"'
    find(page, "#all-details").click()
    assert page.execute_script("return [...document.querySelectorAll('.claim details')].every(one => one.open)")


def test_keyboard_reaches_the_filters(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(page).send_keys("/").send_keys("sampling").perform()
    assert seen(page) == places(3)
    ActionChains(page).send_keys(Keys.ESCAPE).send_keys(Keys.TAB * 3).send_keys(Keys.SPACE).perform()
    assert page.execute_script("return document.activeElement.value") == "holds"
    assert seen(page) == places(0, 3)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_sideways_scrolling(page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        wide, inner = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner == width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print_has_the_skips_of_a_net_on_white_paper(page):
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        page.execute_script("dispatchEvent(new Event('beforeprint'))")
        shown = "[...document.querySelectorAll('svg .skip')].map(one => getComputedStyle(one).display)"
        assert set(page.execute_script(f"return {shown}")) == {"inline"}
        box = "getComputedStyle(document.querySelector('svg .conv')).fill"
        light = page.execute_script(f"return {box}")
        assert min(map(int, light.removeprefix("rgb(").removesuffix(")").split(","))) > 200
        assert not find(page, "#filters").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_all_is_in_sight_without_the_script(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert find(page, "#claim-T1\\.stride mark").is_displayed()
        assert not find(page, "#filters").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
