"""The pages' templates: Jinja2 with autoescape, so that a text of an audited file stays a text."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
    text = resources.files(_ROOM).joinpath(name).read_text(encoding="utf-8")
    return Markup(text.replace("\r\n", "\n"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_ROOM),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "one_decimal": one_decimal, "short": short, "sides": sides}
    return environment
