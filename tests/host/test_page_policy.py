"""The pages' content policy: each page has it, and under it nothing that was put into a page acts or loads."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
from browser import NEEDS_BROWSER, open_browser
from helpers import input_layer
from page_record import small_record
from places import ROOT

from fcn_caffe.host.pages import document, package_text, templates
from fcn_caffe.paper.report.page import write_page
from fcn_caffe.viewer.page import write_view

# What a text that was not escaped could be. HOST is a server that counts.
INTRUDERS = """
<script>document.title = "acted"</script>
<script src="HOST/script.js"></script>
<img src="HOST/image.png" onerror="document.title = 'acted'">
<link rel="stylesheet" href="HOST/style.css">
<style>body { background: url(HOST/style.png); visibility: hidden }</style>
<p style="visibility: hidden; background: url(HOST/inline.png)">inline</p>
<iframe src="HOST/frame.html"></iframe>
<object data="HOST/object.svg"></object>
<video src="HOST/film.mp4" autoplay></video>
<svg onload="document.title = 'acted'"><image href="HOST/vector.png"/></svg>
"""


def test_every_page_extends_the_document_with_the_policy() -> None:
    pages = [path for path in (ROOT / "fcn_caffe").rglob("templates/*.html") if "<html" in path.read_text()]
    assert [path.name for path in pages] == ["document.html"]
    for path in (ROOT / "fcn_caffe").rglob("*.py"):
        if path.name != "wrong_file.py":  # knows what pages begin with
            assert not re.search(r"<html|<!doctype", path.read_text(), re.IGNORECASE), f"{path}: no policy"


def test_no_template_lifts_the_escaping_and_no_policy_allows_more_than_images_of_the_page() -> None:
    for path in (ROOT / "fcn_caffe").rglob("templates/*.html"):
        text = path.read_text()
        assert not re.search(r"\|\s*safe\b|autoescape", text), path.name
        policy = re.search(r"{% block policy %}(.*?){% endblock %}", text)
        assert policy is None or policy[1] in ("", "img-src data:; "), path.name


def test_the_policy_comes_first_and_names_style_and_script_alone() -> None:
    style, script = package_text("fcn_caffe.host", "page.css"), package_text("fcn_caffe.viewer", "page.js")
    page = document(templates("fcn_caffe.host"), "document.html", style, script)
    policy = re.search(
        r'<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="(.*)">', page
    )
    assert policy, "what stands before the policy is not under it"
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules.pop("style-src").startswith("'sha256-") and rules.pop("script-src").startswith("'sha256-")
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    assert resources.files("fcn_caffe.host").joinpath("templates/document.html").is_file()


class _Counter(BaseHTTPRequestHandler):
    """Answers whatever is asked, and remembers it."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("_", [pytest.param(None, marks=NEEDS_BROWSER)])
def test_what_gets_into_a_page_unescaped_neither_acts_nor_loads(tmp_path: Path, _: None) -> None:
    (tmp_path / "net.prototxt").write_text(input_layer("data", 1, 3, 8, 8))
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Counter", (_Counter,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with open_browser(800) as browser:
            for name, page in (("view", write_view(tmp_path / "net.prototxt")), ("audit", write_page(small_record()))):
                intruders = INTRUDERS.replace("HOST", f"http://127.0.0.1:{server.server_port}")
                place = tmp_path / f"{name}.html"
                place.write_text(page.replace("<body>", f"<body>{intruders}", 1), encoding="utf-8")
                browser.get(place.as_uri())
                assert browser.title and browser.title != "acted"
                inline = browser.find_element("xpath", "//p[.='inline']")
                assert inline.value_of_css_property("visibility") == "visible"
                refused = [entry["message"] for entry in browser.get_log("browser")]
                assert sum("Content Security Policy" in message for message in refused) >= 10, refused
            assert not asked, "a page loaded something from a server"
            (tmp_path / "plain.html").write_text(f"<!DOCTYPE html><title>plain</title>{intruders}")
            browser.get((tmp_path / "plain.html").as_uri())
            assert browser.title == "acted" and asked, "without the policy the same intruders act"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
