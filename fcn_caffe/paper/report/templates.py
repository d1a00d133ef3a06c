"""The pages' templates: Jinja2 with autoescape, so that a text of an audited file stays a text."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from fcn_caffe.host import pages
from fcn_caffe.host.numbers import short, sides

__all__ = ["package_text", "render", "write_document"]

_ROOM = "fcn_caffe.paper.report"


def render(template: str, **values: object) -> Markup:
    """Fill in a template of templates/.

    Args:
        template: the name of its file.
        values: what the template reads, by name. Texts are escaped, `Markup` goes in as it is.
    """
    return Markup(_environment().get_template(template).render(**values))


def package_text(name: str) -> Markup:
    """Read page.css or page.js, which go into a page unescaped."""
    return pages.package_text(_ROOM, name)


def write_document(template: str, script: Markup, **values: object) -> str:
    """Fill in a page; nothing but its own style and script may act on it, whatever an audited file says."""
    return pages.document(_environment(), template, pages.shared_style() + package_text("page.css"), script, **values)


@cache
def _environment() -> Environment:
    environment = pages.templates(_ROOM)
    environment.filters |= {"short": short, "sides": sides}
    return environment
