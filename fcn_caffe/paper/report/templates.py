"""The pages' templates: Jinja2 with autoescape, so that a text of an audited file stays a text."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from fcn_caffe.host import pages
from fcn_caffe.paper.report.numbers import number, one_decimal, short, sides

__all__ = ["package_text", "render"]

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


@cache
def _environment() -> Environment:
    environment = pages.templates(_ROOM)
    environment.filters |= {"number": number, "one_decimal": one_decimal, "short": short, "sides": sides}
    return environment
