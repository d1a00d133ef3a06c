"""Writes the page: one HTML file that needs nothing else, and in which nothing but its own script can act."""

from __future__ import annotations

import os

from markupsafe import Markup

from fcn_caffe.host.pages import document, json_block, package_text, templates
from fcn_caffe.net.layout import BOX
from fcn_caffe.net.picture import KIND_COLOURS
from fcn_caffe.viewer.facts import view_facts

__all__ = ["write_view"]

_ROOM = "fcn_caffe.viewer"


def write_view(path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> str:
    """Return the page of a net or a solver file.

    Args:
        path: the file.
        weights: whose filters and histograms are shown.

    Raises:
        FcnCaffeError: as `view_facts`.
    """
    facts = {**view_facts(path, weights), "box": BOX}
    style = package_text(_ROOM, "page.css") + _colours()
    script = Markup('"use strict";\n') + package_text(_ROOM, "shapes.js") + package_text(_ROOM, "page.js")
    return document(templates(_ROOM), "view.html", style, script, facts=facts, data=json_block(facts))


def _colours() -> Markup:
    light, dark = (
        Markup(" ").join(Markup(".{} {{ --ground: {} }}").format(name, pair[at]) for name, pair in KIND_COLOURS.items())
        for at in (0, 1)
    )
    return Markup("{}\n@media screen and (prefers-color-scheme: dark) {{ {} }}\n").format(light, dark)
