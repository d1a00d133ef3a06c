"""Errors: named and hinted copies, and how long a text may be."""

from __future__ import annotations

import traceback

import pytest

from fcn_caffe.errors import FcnCaffeError, LayerError, PrototxtError


def refuse() -> None:
    try:
        int("x")
    except ValueError as error:
        raise PrototxtError("is odd.", "a.prototxt", 3, 4) from error


@pytest.mark.parametrize("place", ["net 'a'", "a.prototxt"])
def test_a_named_error_is_the_error_with_the_place_in_front(place: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        try:
            refuse()
        except FcnCaffeError as error:
            raise error.named(place) from error.__cause__
    front = "" if place == "a.prototxt" else f"{place}: "
    assert str(caught.value) == f"{front}a.prototxt:3:4: is odd."
    assert (caught.value.line, caught.value.column) == (3, 4)
    text = "".join(traceback.format_exception(caught.value))
    assert "in refuse" in text, "the place where it was raised"
    assert text.count("ValueError: invalid literal") == 1 and text.count("a.prototxt:3:4: is odd.") == 1


def test_a_hint_goes_behind() -> None:
    error = LayerError("is odd.", "conv", "Convolution")
    assert str(error.hinted(" Mend it.")) == "layer 'conv' (Convolution): is odd. Mend it."
    assert str(error) == "layer 'conv' (Convolution): is odd."


def test_bytes_that_are_no_text_are_escaped() -> None:
    error = FcnCaffeError(b"\xff.png".decode("utf-8", "surrogateescape"))
    assert str(error) == r"\udcff.png"
    assert str(error.hinted(" \udcfe")).endswith(r" \udcfe")
    assert str(FcnCaffeError("é\x1b[2J\r\x85\u202e\n\tend")) == r"é\x1b[2J\r\x85\u202e" + "\n\tend"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = str(FcnCaffeError("begin" + "x" * 10_000 + "end"))
    assert text.startswith("beginx") and text.endswith("xend") and "… (7008 characters) …" in text
    assert len(text) < 3100


def test_what_escapes_make_longer_is_cut_once_more() -> None:
    text = str(FcnCaffeError("a.txt: " + "\0" * 5000 + "\udcff" * 5000 + ". Copy it again."))
    assert text.startswith("a.txt: ") and text.endswith(". Copy it again.") and len(text) < 3100
