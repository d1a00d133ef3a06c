"""HTML pages that need nothing else: templates with autoescape, and a policy under which nothing foreign can act."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fcn_caffe.host.numbers import number, one_decimal

__all__ = ["document", "json_block", "package_text", "shared_style", "templates"]

_HOST = "fcn_caffe.host"


@cache
def templates(room: str) -> Environment:
    """Return the templates of a room, those in its folder templates/, and host's, which pages of all rooms share.

    Texts are escaped, `Markup` goes in as it is.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader(_HOST)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "one_decimal": one_decimal}
    return environment


def document(environment: Environment, template: str, style: Markup, script: Markup, **values: object) -> str:
    """Fill in a page that extends document.html. Nothing but its own style and script may act on it.

    Args:
        environment: of `templates`.
        template: the name of the page's file.
        style: the page's style.
        script: the page's script; empty for none.
        values: what the template reads, by name.
    """
    digests = {"style_digest": _digest(style), "script_digest": _digest(script)}
    return environment.get_template(template).render(style=style, script=script, **digests, **values)


def shared_style() -> Markup:
    """Read the style that reports share; a room's own follows it."""
    return package_text(_HOST, "page.css")


def package_text(room: str, name: str) -> Markup:
    """Read a style or a script of a room, which goes into a page unescaped."""
    text = resources.files(room).joinpath(name).read_text(encoding="utf-8")
    return Markup(text.replace("\r\n", "\n"))


def _digest(text: str) -> str:
    """Return what a Content-Security-Policy calls a style or a script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def json_block(value: object) -> Markup:
    """Write a value as JSON that can stand in a script element, whatever texts it holds.

    >>> json_block({"name": "</script><!-- &"})
    Markup('{"name":"\\\\u003c/script\\\\u003e\\\\u003c!-- \\\\u0026"}')
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text.encode("utf-8", "replace").decode())
