"""The nets of the audit's page, each drawn and in a table; and where the release and the paper's text part."""

from __future__ import annotations

from html import escape
from typing import Any

from fcn_caffe.paper.report.charts import number
from fcn_caffe.paper.report.claims import Links
from fcn_caffe.paper.report.net_drawing import draw_net, short, size

__all__ = ["differences_section", "nets_section"]

_TOTALS = (
    ("parameters", "Parameters"),
    ("multiply_adds", "Multiply-adds"),
    ("convolutions", "Convolutions"),
    ("depth", "Deepest chain"),
    ("max_stride", "Max stride"),
    ("receptive_field", "Receptive field"),
)


def nets_section(nets: list[dict[str, Any]], links: Links) -> str:
    """The nets beside each other in totals, then each by itself."""
    if not nets:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><a href="#net-{index}">{escape(net["title"])}</a></th>'
        + "".join(f'<td class="number">{_total(net["totals"].get(key))}</td>' for key, _ in _TOTALS)
        + f"<td>{links.place(net['file'], 1)}</td></tr>"
        for index, net in enumerate(nets)
    )
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for _, name in _TOTALS)
    return (
        '<section class="nets" aria-labelledby="nets"><h2 id="nets">The nets</h2>'
        "<p>As they are built to answer, on the size of image that their files name. A layer <em>sees</em> its "
        "receptive field: that many pixels of the image, on a side; in the totals, that of the last score before it is "
        "upsampled. Stride is the distance of two neighbours in pixels of the image.</p>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Nets"><table class="rows"><thead><tr>'
        f'<th scope="col">Net</th>{heads}<th scope="col">File</th></tr></thead><tbody>{rows}</tbody></table></div>'
        f"{''.join(_net(net, index, links) for index, net in enumerate(nets))}</section>"
    )


def _total(value: Any) -> str:
    if value is None:
        return ""
    return f'<abbr title="{number(value)}">{short(value)}</abbr>' if value >= 1e5 else number(value)


def _net(net: dict[str, Any], index: int, links: Links) -> str:
    summary = f'<summary id="net-{index}"><b>{escape(net["title"])}</b> <code>{escape(net["name"])}</code></summary>'
    if net.get("error") or not net["layers"]:
        why = escape(str(net.get("error", "it has no layers")))
        return f'<details class="net" open>{summary}<p class="reason">Could not be built: {why}</p></details>'
    sides = "×".join(number(side) for side in net["size"])
    return (
        f'<details class="net" open>{summary}<div class="beside"><figure class="drawing" tabindex="0" '
        f'aria-label="Drawing of {escape(net["name"])}">{draw_net(net)}<figcaption>{escape(net["name"])} on an image '
        f"of {sides}. The bar below a box is its share of multiply-adds, beside the costliest box.</figcaption>"
        f"</figure>{_table(net, links)}</div></details>"
    )


def _table(net: dict[str, Any], links: Links) -> str:
    names = (
        "Layer",
        "Type",
        "Kernel",
        "Pad",
        "Makes",
        "Stride",
        "Sees",
        "Parameters",
        "Multiply-adds",
        "Rates",
        "Line",
    )
    heads = "".join(
        f'<th scope="col"{" class=number" if 3 < at < 9 or at == 10 else ""}>{name}</th>'
        for at, name in enumerate(names)
    )
    rows = "".join(_layer(layer) for layer in net["layers"])
    return (
        f'<div class="wide layers" tabindex="0" role="region" aria-label="Layers of {escape(net["name"])}">'
        f"<table><caption>{links.place(net['file'], 1)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _layer(layer: dict[str, Any]) -> str:
    shape = "×".join(str(side) for side in layer["shape"][1:])
    kernel = size(layer["kernel"]) + (
        f" /{size(layer['step']).split('×')[0]}" if layer.get("step") not in (None, 1) else ""
    )
    pad = "" if layer["pad"] in (None, 0) else size(layer["pad"]).split("×")[0]
    rates = ", ".join(number(rate) for rate in layer["lr_mult"])
    cells = (shape, _some(layer["stride"]), _some(layer["receptive_field"]), _cost(layer["parameters"]))
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in (*cells, _cost(layer["multiply_adds"])))
    folded = ' class="folded"' if layer["bottoms"] == layer["tops"] else ""
    return (
        f'<tr{folded}><th scope="row">{escape(layer["name"])}</th><td>{escape(layer["type"])}</td><td>{kernel}</td>'
        f'<td>{pad}</td>{numbers}<td>{rates}</td><td class="number">{_some(layer["line"])}</td></tr>'
    )


def _some(value: Any) -> str:
    return "" if value is None else number(value).replace(",", "")


def _cost(value: int) -> str:
    return f'<abbr title="{number(value)}">{short(value)}</abbr>' if value >= 1000 else number(value) if value else ""


def differences_section(differences: list[dict[str, Any]], links: Links) -> str:
    """The table of what the released nets do otherwise than the text of CVPR 2015 says."""
    if not differences:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(one["what"]))}</th><td>{escape(str(one["release"]))}'
        f"{_source(one.get('where_release'), links)}</td><td>{escape(str(one['cvpr']))}"
        f"{_source(one.get('where_cvpr'), links)}</td></tr>"
        for one in differences
    )
    return (
        '<section aria-labelledby="differences"><h2 id="differences">Where the release and the text part</h2>'
        "<p>The authors released nets that differ from what their paper of CVPR 2015 says. Both are here: those of the "
        "release under their own names, those of the text as <code>cvpr-…</code>. One rate moves the weights "
        "farther for a loss that is a sum over pixels than for their mean: <code>python "
        "tools/explain_lr.py</code> with two solvers puts such rates side by side.</p>"
        '<div class="wide" tabindex="0" role="region" aria-label="Differences"><table class="rows parted"><thead><tr>'
        '<th scope="col">What</th><th scope="col">The release</th><th scope="col">The text of CVPR 2015</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _source(place: dict[str, Any] | None, links: Links) -> str:
    return f"<small>{links.place(str(place['path']), place.get('line'))}</small>" if place else ""
