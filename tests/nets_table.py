"""The table of the classics in docs/nets.md: run `python tests/nets_table.py` to write it anew."""

from __future__ import annotations

from functools import lru_cache

from places import ROOT

from fcn_caffe import TEST, GraphError, Net
from fcn_caffe.models.classics import CLASSICS, classic_net
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.paper.experiments.cost import layer_multiply_adds

PAGE = ROOT / "docs" / "nets.md"
START, END = "<!-- the table of tests/nets_table.py -->", "<!-- its end -->"
HEAD = (
    "| net | who | year | image | parameters | stride | sees | multiply-adds | starts from | compared with |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
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


def row(name: str) -> str:
    """Return the line of one net."""
    classic, net = CLASSICS[name], deploy(name)
    parameters = sum(blob.numel() for blobs in net.params.values() for blob in blobs)
    multiply_adds = sum(layer_multiply_adds(net, node) for node in net.graph.nodes)
    stride, field = coarsest(net)
    image = "x".join(map(str, net.blob_shapes["data"][2:]))
    start = ", ".join(weights.split("/")[1].split(".")[0] for weights in classic.weights) or "fillers"
    cells = (
        f"`{name}`: {classic.title}",
        classic.authors,
        str(classic.year),
        image,
        f"{parameters:,}",
        stride,
        field,
        f"{multiply_adds / 1e9:.1f} G",
        start,
        f"`{classic.compared}`" if classic.compared else "the paper alone",
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Return the table as Markdown."""
    return "\n".join((*HEAD, *(row(name) for name in CLASSICS)))


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
