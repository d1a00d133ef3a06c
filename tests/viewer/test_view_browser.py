"""The page of `fcn-caffe view` in headless Chromium: shapes as Python has them, keys, search, sizes, narrow, dark."""

from __future__ import annotations

import numpy as np
import pytest
from browser import NEEDS_BROWSER, open_browser, open_page
from helpers import input_layer, layer
from layer_cases import CASES, build
from places import ROOT

from fcn_caffe import TEST, LayerError, Net
from fcn_caffe.host.pages import package_text
from fcn_caffe.net.layout import BOX
from fcn_caffe.net.multiply_adds import layer_multiply_adds
from fcn_caffe.viewer import write_view
from fcn_caffe.viewer.shape_rules import shape_rule
from fcn_caffe.weights.transfer import save_net

pytestmark = NEEDS_BROWSER
NETS = sorted((ROOT / "nets").glob("*.prototxt"))
UNKNOWN = {"BatchReindex", "Filter", "LSTM", "PSROIPooling", "RNN", "ROIPooling"}  # the page says so of these
HOSTILE = "</script><img/src=x>\\\"'&amp;"
COMPUTE = """
const [layers, built, inputs] = arguments;
const made = netShapes.compute(layers, built, inputs);
return [Object.fromEntries(made.shapes), made.layers.map((one) => one.adds), [...made.problems]];
"""


@pytest.fixture(scope="module")
def browser():
    with open_browser(height=800) as driver:
        yield driver


# -- shapes ------------------------------------------------------------------------------------------------------------


def page_shapes(browser, net: Net, inputs: dict[str, list[int]]):
    """The shapes, multiply-adds and problems that the page would have for a net."""
    layers = [
        {"bottoms": node.bottoms, "tops": node.tops, "rule": shape_rule(net.layer(node))} for node in net.graph.nodes
    ]
    script = str(package_text("fcn_caffe.viewer", "shapes.js")) + COMPUTE
    return browser.execute_script(script, layers, net.blob_shapes, inputs)


@pytest.fixture(scope="module")
def blank(browser):
    browser.get("about:blank")
    return browser


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_shapes_at_other_sizes_are_pythons(blank, path):
    net = Net(path, TEST, stages=("deploy",), device="meta")
    for sizes in ((1, 97, 129), (2, 321, 256), (1, 1, 640)):
        inputs = {blob: [sizes[0], net.blob_shapes[blob][1], *sizes[1:]] for blob in net.graph.inputs}
        try:
            other = Net(path, TEST, stages=("deploy",), device="meta", input_shapes=inputs)
            at = None
        except LayerError as error:
            other, at = None, error.layer
        shapes, adds, problems = page_shapes(blank, net, inputs)
        names = [net.graph.nodes[index].name for index, _ in problems]
        if other is None:
            assert names[0] == at
        elif any(layer.layer_type == "InnerProduct" for layer in net.layers_in_order):
            assert set(names) <= {"fc6"}  # Python's new net has weights of another size
        else:
            assert problems == []
            assert shapes == {blob: list(shape) for blob, shape in other.blob_shapes.items()}
            assert adds == [layer_multiply_adds(other, node) for node in other.graph.nodes]


def test_shapes_of_every_type_are_pythons(blank):
    unknown = set()
    for type, cases in CASES.items():
        for shapes, options in cases:
            net = build(type, shapes, options)[0]
            other = {blob: [*net.blob_shapes[blob]] for blob in net.graph.inputs}
            made, _, problems = page_shapes(blank, net, other)
            assert made == {blob: list(shape) for blob, shape in net.blob_shapes.items()}, (type, options)
            assert problems == []
            if shape_rule(net.layer("l"))["rule"] == "unknown":
                unknown.add(type)
    assert unknown == UNKNOWN
    net = build("LSTM", *CASES["LSTM"][0])[0]
    shapes, _, problems = page_shapes(blank, net, {"x0": [9, 9, 9]})
    assert shapes["l"] is None and problems[-1][1] == "no rule for its shape is known here"


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    net, weights = ROOT / "nets/shapes-fcn8s.prototxt", folder / "w.npz"
    made = Net(net, TEST, stages=("deploy",))
    made.params["conv1_1"][0].data[3] = 0
    save_net(weights, made)
    path = folder / "net.html"
    path.write_text(write_view(net, weights), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    yield from open_page(browser, address)


def keys(page, *typed):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(*typed).perform()


def key(name):
    from selenium.webdriver.common.keys import Keys

    return getattr(Keys, name)


def find(page, selector):
    return page.find_element("css selector", selector)


def texts(page, selector):
    return page.execute_script(f"return [...document.querySelectorAll({selector!r})].map((one) => one.textContent)")


def focused(page):
    return page.execute_script("return document.activeElement.getAttribute('aria-label') || document.activeElement.id")


def test_stages_open_and_fold(page):
    folded = texts(page, ".node .name")
    assert folded[0] == "input … conv1_1" and "conv1_1" not in folded
    find(page, ".node").click()
    assert "conv1_1" in texts(page, ".node .name") and len(texts(page, ".frame")) == 1
    find(page, "#open").click()
    assert {"conv1_1", "upscore8", "score"} <= set(texts(page, ".node .name"))
    find(page, "#fold").click()
    assert texts(page, ".node .name") == folded


def test_a_layer_says_what_it_is(page):
    page.get(f"{page.current_url}#deploy/score")
    said = find(page, "#details").text
    for words in ("Crop bottom[0] to the size", "How the offset follows", "8 x + 7.5", "the offset", "upscore8"):
        assert words in said
    page.execute_script("location.hash = '#deploy/conv1_1'")
    page.execute_async_script("setTimeout(arguments[0], 60)")
    said = find(page, "#details").text
    for words in ("num_output", "the number of filters", "1x16x144x144", "at their defaults", "stride", "× 2", "448"):
        assert words in said
    assert "1 of 16 outputs have only zeros" in said and "all 16 filters" in said
    assert page.execute_script("return document.querySelector('#details img').naturalWidth") > 10
    assert len(page.find_elements("css selector", ".histogram rect")) >= 41


def test_everything_can_be_reached_by_keys(page):
    keys(page, "/", "score_pool3")
    assert texts(page, "#found button span:first-child")[:1] == ["score_pool3"]
    keys(page, key("ENTER"))
    assert find(page, "#details h2").text == "score_pool3" and focused(page).startswith("score_pool3: conv 1×1")
    keys(page, key("ARROW_DOWN"))
    assert focused(page).startswith("fuse_pool3: sum")
    keys(page, key("ENTER"))
    assert find(page, "#details h2").text == "fuse_pool3"
    keys(page, key("ARROW_UP"), key("ARROW_LEFT"))
    assert not focused(page).startswith("fuse_pool3")
    keys(page, key("ESCAPE"))
    assert find(page, "#details h2").text == "Choose a layer"
    keys(page, key("ESCAPE"))
    assert "A folded stage." in focused(page)
    keys(page, key("HOME"), key("ENTER"))
    assert focused(page).startswith("input: ")
    keys(page, "/", "nothing at all")
    assert texts(page, "#found li") == ["No layer has these words."]
    keys(page, key("ESCAPE"))
    assert not find(page, "#found").is_displayed()
    tabs = page.execute_script("return document.querySelectorAll('.node[tabindex=\"0\"]').length")
    assert tabs == 1


def test_other_sizes(page):
    field = find(page, "#sizes input")
    field.clear()
    field.send_keys("224x96")
    assert "1x6x224x96" in texts(page, ".node .shape")
    field.clear()
    field.send_keys("1x4x64x64")
    assert "conv1_1" in find(page, "#note").text or "scale" in find(page, "#note").text
    assert page.find_elements("css selector", ".node.failed")
    field.clear()
    field.send_keys("wide")
    assert field.get_attribute("aria-invalid") == "true" and "whole numbers" in find(page, "#note").text
    find(page, "#reset").click()
    assert "1x6x112x112" in texts(page, ".node .shape") and field.get_attribute("aria-invalid") is None


def test_the_nets_of_a_file(page):
    page.execute_script("document.querySelectorAll('#forms input')[2].click()")
    assert "loss" in page.execute_script("return document.querySelector('#table').textContent")
    find(page, ".findings [data-layer]").click()
    assert find(page, "#details h2").text != "Choose a layer" and find(page, "#details .findings").is_displayed()


PLACES = """
const boxes = [...document.querySelectorAll(".node rect.box")];
return boxes.flatMap((one) => [one.getAttribute("x"), one.getAttribute("y")]);
"""


def test_zooming_and_dragging(page):
    box = "return document.querySelector('#picture').getAttribute('viewBox').split(' ').map(Number)"
    before = page.execute_script(box)
    find(page, "#larger").click()
    larger = page.execute_script(box)
    assert larger[2] < before[2] and np.isclose(larger[0] + larger[2] / 2, before[0] + before[2] / 2)
    find(page, "#open").click()
    find(page, "#fit").click()
    x, y, width, height = page.execute_script(box)
    places = [*map(float, page.execute_script(PLACES))]
    assert x <= 0 and y <= 0 and x + width >= max(places[::2]) + BOX[0] and y + height >= max(places[1::2]) + BOX[1]
    find(page, "#fold").click()
    before = page.execute_script(box)
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).drag_and_drop_by_offset(find(page, ".node"), 60, 30).perform()
    assert page.execute_script(box)[0] < before[0] and len(texts(page, ".frame")) == 0  # dragged, not clicked


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling_and_letters_that_show(page, width, scheme):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        page.execute_script("location.hash = '#deploy/conv1_1'")
        page.execute_async_script("setTimeout(arguments[0], 60)")
        wide, inner = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner == width
        colours = page.execute_script(
            "return ['color', 'backgroundColor'].map((one) => getComputedStyle(document.body)[one])"
        )
        ink, paper = (sum(map(int, one[4:-1].split(","))) for one in colours)
        assert (ink < paper) == (scheme == "light") and abs(ink - paper) > 450
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CUT = """
return [...document.querySelectorAll(".node, .frame")].flatMap((one) => {
  const edge = one.querySelector("rect.box, .frame > rect").getBoundingClientRect().right;
  return [...one.querySelectorAll("text")].map((text) => [text.textContent, edge - text.getBoundingClientRect().right]);
});
"""


def test_texts_keep_inside_their_boxes_and_are_cut_between_words(browser, tmp_path):
    long, wide = "x" * 300, "畳み込み層の名前がとても長い場合に何が起こるか"
    file, out = tmp_path / "net.prototxt", tmp_path / "net.html"
    convolution = "convolution_param { num_output: 4096 kernel_size: 7 pad: 3 }"
    file.write_text(
        input_layer(long, 1, 3, 8, 8)
        + layer(wide, "Convolution", long, "c", convolution)
        + layer("WWWWWWWWWWWWWWWWWWWW", "ReLU", "c", "c")
        + layer("drop", "Dropout", "c", "c")
        + layer("MMMMMMMMMMMMMMMMMMMM", "Power", "c", "p"),
        encoding="utf-8",
    )
    out.write_text(write_view(file), encoding="utf-8")
    browser.get(out.as_uri())
    find(browser, "#open").click()
    shown = browser.execute_script(CUT)
    assert all(spare > 1 for _, spare in shown), shown
    said = [text for text, _ in shown]
    assert {"conv 7×7 4096 + ReLU …", "conv 7×7 4096 + ReLU + Dropout"} & set(said)
    assert not any("……" in text or "… …" in text for text in said)
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner


def test_names_that_are_markup_do_nothing(browser, tmp_path):
    file, out = tmp_path / "net.prototxt", tmp_path / "net.html"
    file.write_text(
        f'name: "{HOSTILE}"\n'
        + input_layer("data", 1, 3, 8, 8)
        + layer(HOSTILE, "LRN", "data", "x")
        + layer("__proto__", "LRN", "x", "constructor")
    )
    out.write_text(write_view(file), encoding="utf-8")
    browser.get_log("browser")
    browser.get(out.as_uri())
    find(browser, "#open").click()
    name = HOSTILE.replace('\\"', '"')
    assert name in texts(browser, "#table button") and not browser.find_elements("css selector", "img")
    for entry in browser.find_elements("css selector", ".node"):
        browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', { bubbles: true }))", entry)
    assert find(browser, "#details h2").text == "__proto__" and "1x3x8x8" in find(browser, "#details").text
    assert browser.get_log("browser") == []


def test_the_layers_are_in_sight_without_the_script(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert "upscore8" in find(page, "#table").text and find(page, "noscript p").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
