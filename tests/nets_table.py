"""The tables of the classics in docs/nets.md and README.md: run `python tests/nets_table.py` to write them anew."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from places import ROOT

from fcn_caffe import TEST, GraphError, Net
from fcn_caffe.models.classics import CLASSICS, classic_net
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.multiply_adds import multiply_adds

START, END = "<!-- the table of tests/nets_table.py -->", "<!-- its end -->"
COLUMNS = (
    *("net", "who", "year", "image", "parameters", "stride", "sees", "multiply-adds", "starts from", "compared with"),
)
PAGES = {  # the columns of each page's table
    ROOT / "docs" / "nets.md": COLUMNS,
    ROOT / "README.md": ("net", "who", "year", "parameters", "sees", "multiply-adds"),
}
BIGGER = {"Deconvolution", "Upsample", "Unpooling", "Interp"}


@lru_cache(maxsize=1)
def deploy(name: str) -> Net:
    """Return the deploy form of a classic, shapes alone."""
    return Net(classic_net(name), TEST, stages=("deploy",), device="meta")


def coarsest(net: Net) -> tuple[str, str]:
    """Return the largest stride and the largest receptive field before anything is made bigger, in pixels.

    A dash where Interp makes images smaller: it has no coordinate map.
    """
    if any(_shrinks(node) for node in net.graph.nodes):
        return "-", "-"
    upsampled: set[str] = set()
    strides, fields = [1], [1]
    for node in net.graph.nodes:
        if node.type in BIGGER or upsampled & set(node.bottoms):
            upsampled.update(node.tops)
            continue
        stride, field = _field(net.graph, node)
        strides.append(stride)
        fields.append(field)
    return str(max(strides)), str(max(fields))


def _shrinks(node: Node) -> bool:
    return node.type == "Interp" and node.param.interp_param.HasField("shrink_factor")


def _field(graph: Graph, node: Node) -> tuple[int, int]:
    try:
        field = receptive_field(graph, node.tops[0])
    except GraphError:
        return 1, 1
    return int(field.stride), field.size


@lru_cache
def facts(name: str) -> dict[str, str]:
    """Return what the table says of one net, by column."""
    classic, net = CLASSICS[name], deploy(name)
    parameters = sum(blob.numel() for blobs in net.params.values() for blob in blobs)
    stride, field = coarsest(net)
    cells = (
        f"`{name}`: {classic.title}",
        classic.authors,
        str(classic.year),
        "x".join(map(str, net.blob_shapes["data"][2:])),
        f"{parameters:,}",
        stride,
        field,
        f"{multiply_adds(net) / 1e9:.1f} G",
        ", ".join(weights.split("/")[1].split(".")[0] for weights in classic.weights) or "fillers",
        f"`{classic.compared}`" if classic.compared else "the paper alone",
    )
    return dict(zip(COLUMNS, cells, strict=True))


def table(page: Path) -> str:
    """Return a page's table as Markdown."""
    columns = PAGES[page]
    rows = [columns, ["---"] * len(columns), *([facts(name)[column] for column in columns] for name in CLASSICS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def written(page: Path) -> str:
    """Return the table that stands in a page."""
    return page.read_text(encoding="utf-8").partition(START)[2].partition(END)[0].strip()


def main() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        before, _, rest = page.read_text(encoding="utf-8").partition(START)
        after = rest.partition(END)[2]
        page.write_text(f"{before}{START}\n{table(page)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
