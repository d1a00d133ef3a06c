"""Which blobs of a net are one memory in Caffe, and what overwrites a memory.

A top of Reshape, of a Concat of one bottom or of a Slice into one top is its bottom, data and diff, in another shape; a
Parameter's top is its parameter. A top of Split or Flatten is its bottom's data alone; Flatten's backward makes the
bottom's diff the top's. So a layer in place on such a top overwrites what others read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from fcn_caffe.net.graph import Graph, Node


def shares_bottom(node: Node) -> bool:
    """Whether a layer's top is its bottom's memory, data and diff."""
    if node.type == "Reshape":
        return True
    return (node.type == "Concat" and len(node.bottoms) == 1) or (node.type == "Slice" and len(node.tops) == 1)


def shares_data(node: Node) -> bool:
    """Whether a layer's tops are its bottom's memory, of the data at least."""
    return node.type in ("Flatten", "Split") or shares_bottom(node)


class Sharing:
    """The data memories of a net: blobs in one memory have the same root, the first of them in file order.

    roots: each blob's root. writers: the layers that compute into a memory, in file order, by root.
    """

    def __init__(self, graph: Graph) -> None:
        self.roots: dict[str, str] = {}
        self.writers: defaultdict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for top in node.tops:
                if shares_data(node):
                    self.roots[top] = self.roots[node.bottoms[0]]
                else:
                    self.writers[self.roots.setdefault(top, top)].append(node)

    def later_writers(self, node: Node, blobs: Iterable[str]) -> list[Node]:
        """Return the layers after a node that overwrite the data of one of these blobs."""
        roots = {self.roots[name] for name in blobs}
        return [writer for root in roots for writer in self.writers[root] if writer.index > node.index]

    def others(self, blob: str) -> tuple[str, ...]:
        """Return the other blobs whose data are in a blob's memory."""
        return tuple(name for name, root in self.roots.items() if name != blob and root == self.roots[blob])

    def has_one_memory(self, first: str, second: str) -> bool:
        """Whether two blobs' data are one memory."""
        return self.roots[first] == self.roots[second]
