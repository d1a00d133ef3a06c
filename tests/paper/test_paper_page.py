"""The audit's page: whole, escaped, without network, with a way from every claim to its line; and its charts."""

from __future__ import annotations

import copy
import math
import re
from html.parser import HTMLParser

import pytest
from markupsafe import escape
from page_record import CURVE, HOSTILE, ROOT, claim, small_record

from fcn_caffe.host.charts import HEIGHT, LEFT, MOST, NAME_LINE, WIDTH, chart
from fcn_caffe.host.numbers import number, short
from fcn_caffe.paper.report.claims import anchor
from fcn_caffe.paper.report.net_drawing import draw_net, place_boxes
from fcn_caffe.paper.report.page import write_page

VOID = {"meta", "input", "br", "link", "img"}


class Structure(HTMLParser):
    """Elements by id, what is loaded, and whether every element that is opened is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.elements, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"still open: {self.open}"

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        assert len(known) == len(attributes), f"attribute given twice in <{tag} {attributes}>"
        self.elements.append((tag, known))
        if "id" in known:
            self.ids.append(known["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not data.isspace():
            self.text.append(data)


@pytest.fixture(scope="module")
def record():
    return small_record()


@pytest.fixture(scope="module")
def page(record):
    return write_page(record)


@pytest.fixture(scope="module")
def structure(page):
    return Structure(page)


def test_page_is_balanced_and_whole(record, structure):
    assert len(set(structure.ids)) == len(structure.ids)
    for one in record["claims"]:
        marks = [known for tag, known in structure.elements if tag == "article" and known.get("data-verdict")]
        assert len(marks) == len(record["claims"])
        assert one["id"] in structure.text and one["quantity"] in structure.text
    said = " ".join(structure.text)
    for word in (
        "Is this the paper?",
        "quick",
        "1 min 5 s",
        "21 November 2026, 12:00",
        "summed over pixels",
        "conv5_3",
    ):
        assert word in said
    assert len([1 for tag, _ in structure.elements if tag == "h1"]) == 1


def test_inner_links_lead_somewhere(structure):
    inner = [known["href"][1:] for tag, known in structure.elements if tag == "a" and known["href"].startswith("#")]
    assert len(inner) > 7 and set(inner) <= set(structure.ids)
    labels = [known["for"] for tag, known in structure.elements if tag == "label"]
    assert labels and set(labels) <= set(structure.ids)


def test_nothing_is_loaded(page, structure):
    assert "http://" not in page and "https://" not in page
    assert not [tag for tag, _ in structure.elements if tag in ("link", "img", "iframe", "object", "audio", "use")]
    assert not [known for _, known in structure.elements if {"src", "srcset", "style", "onclick"} & set(known)]
    policy = next(known["content"] for tag, known in structure.elements if known.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert len(page) < 3_000_000


def test_hostile_names_are_text(page, structure):
    assert HOSTILE not in page and str(escape(HOSTILE)) in page
    assert len([1 for tag, _ in structure.elements if tag == "script"]) == 1


def test_from_claim_to_file_and_line(record, structure, tmp_path):
    links = [known["href"] for tag, known in structure.elements if tag == "a"]
    assert "nets/voc-fcn32s.prototxt" in links
    assert "nets/voc-fcn32s.prototxt:4" in structure.text
    assert [known for tag, known in structure.elements if tag == "mark"] == [{"class": "line"}] * 6
    assert 'layer { name: "conv1_1"\n' in structure.text
    assert "solvers/gone.prototxt" in structure.text  # a place that is not there is named, not linked
    assert "solvers/gone.prototxt" not in links
    deeper = Structure(write_page(record, ROOT / "docs"))
    assert "../nets/voc-fcn32s.prototxt" in [known.get("href") for _, known in deeper.elements]
    outside = Structure(write_page(record, tmp_path))
    assert all(known["href"].startswith("#") for tag, known in outside.elements if tag == "a")


def test_verdict_is_a_word_beside_its_colour(record, page):
    for one in record["claims"]:
        article = page[page.index(f'id="{anchor(one["id"])}"') :]
        assert re.search(rf'class="badge [\w-]+"><span aria-hidden="true">.</span> {one["verdict"]}<', article)


def test_what_is_missing_is_told_in_short_and_whole():
    long = "weights/a.caffemodel is not there. Run `tools/solve.py x`; then wait " + "and wait " * 40
    one = claim("A.b", "CVPR 2015", "1", "not run", "data", missing=[long, "data/voc is not there"])
    page = write_page({**small_record(()), "claims": [one]})
    assert "<li>weights/a.caffemodel is not there</li>\n<li>data/voc is not there</li>" in page
    assert f"<li>{long}</li>" in page


def test_empty_record():
    bare = {**small_record(()), "claims": [], "nets": [], "differences": []}
    Structure(write_page(bare))
    lonely = claim("A.b", "CVPR 2015", "1", "not run", "", realised=[], remarks=[], rows=[], interrupted=True)
    found = Structure(write_page({**bare, "claims": [lonely], "interrupted": True}))
    assert "no check" in " ".join(found.text) and "interrupted" in " ".join(found.text)


def test_words_and_odd_numbers():
    values = [3.0, 134268032.0, 0.123456789, math.nan, math.inf, "10x10", None, 1e20]
    told = ["3", "134,268,032", "0.1235", "not a number", "infinite", "10x10", "", "1e+20"]
    assert [number(value) for value in values] == told
    assert [short(value) for value in (12, 999.9, 1728, 134268032, 181365854976)] == [
        "12",
        "1k",
        "1.73k",
        "134M",
        "181G",
    ]


# -- charts ------------------------------------------------------------------------------------------------------------


def drawn(text):
    """The points of a chart's lines and marks."""
    found = Structure(text)
    points = []
    for tag, known in found.elements:
        if tag == "path" and known["class"].startswith("line") and "H" not in known["d"]:
            points += [tuple(map(float, pair.split())) for pair in known["d"][1:].split("L")]
        if tag == "circle":
            points.append((float(known["cx"]), float(known["cy"])))
    return found, points


@pytest.mark.parametrize(
    "lines",
    [
        CURVE["lines"],
        {"one": [[5, 5]]},
        {"flat": [[0, 2], [1, 2]]},
        {"zero": [[0, 0], [0, 0]]},
        {"wide": [[1, 1e-9], [2, 1e9], [3, 5]]},
        {"negative": [[-4, -1e-3], [4, -7]]},
        {"factors": [[128, 50.9], [4, 98.5]]},
        {"tiny": [[0, 5e-324], [1, 0.0]]},
        {"large": [[0, -1e299], [1, 1e299]]},
        {"long": [[x, math.sin(x)] for x in range(5000)]},
        {"odd": [[0, 1], [1, math.nan], [2, 3], [3, math.inf], [4, 1e308], [5, None]]},
    ],
    ids=lambda lines: next(iter(lines)),
)
def test_points_lie_in_the_frame(lines):
    found, points = drawn(chart({"title": "t", "x": "x", "y": "y", "lines": lines}))
    assert points and len(points) <= 2 * MOST
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    ticks = [known for tag, known in found.elements if tag == "text" and known["class"].startswith("tick")]
    assert len(ticks) >= 4
    assert all(0 <= float(known["x"]) <= WIDTH and 0 <= float(known["y"]) <= HEIGHT for known in ticks)


def test_order_and_direction_of_points():
    _, points = drawn(chart({"title": "t", "x": "x", "y": "y", "lines": {"up": [[0, 0], [1, 10]]}}))
    assert points[0][0] < points[1][0] and points[0][1] > points[1][1]


@pytest.mark.parametrize(
    ("lines", "why"),
    [({}, "no points"), ({"a": []}, "no points"), ({"a": [[0, math.nan], [1, math.inf]]}, "no value is finite")],
)
def test_nothing_to_draw_is_said(lines, why):
    found, points = drawn(chart({"title": "t", "x": "x", "y": "y", "lines": lines}))
    assert not points and why in " ".join(found.text)


def test_long_name_beside_the_frame_is_broken_into_lines():
    name = "training loss a pixel (nats, mean of the last 20 iterations)"
    found, points = drawn(chart({**CURVE, "y": name, "lines": {"a": [[0, 1], [1, 2]]}}))
    beside = [known["transform"] for tag, known in found.elements if tag == "text" and "transform" in known]
    assert len(beside) == 2 and len(set(beside)) == 2
    assert name in " ".join(found.text) and max(map(len, found.text)) < len(name)
    assert min(x for x, _ in points) > LEFT + NAME_LINE


def test_lines_are_told_apart_and_named():
    found, _ = drawn(chart({**CURVE, "title": HOSTILE, "lines": {HOSTILE: [[0, 1], [1, 2]], "b": [[0, 2], [1, 1]]}}))
    assert "iterations" in found.text and "loss a pixel" in found.text and found.text.count(HOSTILE) == 2
    assert {known["class"] for tag, known in found.elements if tag == "path" and "line" in known["class"]} == {
        "line style0",
        "line style1",
    }


# -- drawings ----------------------------------------------------------------------------------------------------------


def test_boxes_of_a_skip_net_do_not_overlap(record):
    for net in record["nets"][:2]:
        made = place_boxes(net["layers"])
        assert len({(box.row, box.lane) for box in made}) == len(made)
        assert all(made[below].row < box.row for box in made for below in box.below)
        assert len([box for box in made if box.title.startswith("conv")]) == (13 if net["name"] == "voc-fcn8s" else 26)
        # A straight way down a lane passes through no other box.
        for box in made:
            for below in box.below:
                if made[below].lane == box.lane:
                    between = range(made[below].row + 1, box.row)
                    assert not [one for one in made if one.lane == box.lane and one.row in between]
    lanes = {box.title: box.lane for box in place_boxes(record["nets"][0]["layers"])}
    assert lanes["conv1_1"] == lanes["score"] == lanes["fuse_pool4"] == 0
    assert len({0, lanes["score_pool4"], lanes["score_pool3"]}) == 3


def test_modules_are_one_box():
    googlenet = small_record(("voc-fcn-googlenet",))["nets"][0]
    made = place_boxes(googlenet["layers"])
    module = next(box for box in made if box.title == "inception_3a")
    assert len(module.layers) == 14 and module.total("parameters") == 163696
    assert "inception_3a" in draw_net(googlenet)


def test_layer_names_are_escaped(record):
    net = copy.deepcopy(record["nets"][0])
    net["layers"][1]["name"] = "<b>"
    assert "<b>" not in draw_net(net) and "&lt;b&gt;" in draw_net(net)
