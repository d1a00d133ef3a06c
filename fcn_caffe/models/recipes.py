"""The recipe of each reference net: what it starts from, its solver, its steps, its scores."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import NamedTuple

from fcn_caffe.proto import caffe_pb2

__all__ = ["RECIPES", "Recipe", "Start", "solver_param", "starts_of"]


class Start(NamedTuple):
    """A weight file that a net starts from, and how it is copied.

    Attributes:
        weights: the file.
        suffix: what its layers' names end in in the new net.
        how: "copy" for equal shapes, else "transplant".
        wider: a layer of the new net, and the file's layer whose filters it takes for its first channels. Each channel
            more takes the mean of those filters.
    """

    weights: str
    suffix: str = ""
    how: str = "copy"
    wider: tuple[str, str] | None = None

    def can_widen(self, layers: Container[str]) -> bool:
        """Say whether a file of these layers has the narrow convolution and lacks the wide one."""
        return self.wider is not None and self.wider[1] in layers and self.wider[0] not in layers


@dataclass(frozen=True)
class Recipe:
    """How one net is trained: `steps` times `step` iterations at a fixed rate, each followed by scoring.

    The numbers are those of the published solvers, but for "cvpr-" nets.

    Attributes:
        starts: the weight files that the net starts from, in order.
        test_iter: the number of images that are scored.
        snapshot: the iterations between the solver's own snapshots, 0 for none.
        heads: pairs of score blob and label blob.
    """

    starts: tuple[Start, ...]
    base_lr: float
    steps: int
    step: int
    max_iter: int
    test_iter: int
    snapshot: int
    momentum: float = 0.99
    iter_size: int = 1
    weight_decay: float = 0.0005
    heads: tuple[tuple[str, str], ...] = (("score", "label"),)


def _weights(name: str) -> str:
    return f"weights/{name}.caffemodel"


VGG16 = Start(_weights("vgg16fc"))


def _after(name: str) -> tuple[Start, ...]:
    return (Start(_weights(name)),)


def _voc(
    starts: tuple[Start, ...], base_lr: float, steps: int = 25, momentum: float = 0.99, iter_size: int = 1
) -> Recipe:
    return Recipe(starts, base_lr, steps, 4000, 4000 * steps, 736, 4000, momentum, iter_size)


def _cvpr(starts: tuple[Start, ...], base_lr: float, weight_decay: float = 0.0005) -> Recipe:
    """Return a recipe with minibatches of 20 images and momentum 0.9, as the text of CVPR 2015 says."""
    return replace(_voc(starts, base_lr, momentum=0.9, iter_size=20), weight_decay=weight_decay)


def _nyud(starts: tuple[Start, ...], base_lr: float) -> Recipe:
    return Recipe(starts, base_lr, 50, 2000, 300000, 654, 2000)


def _siftflow(starts: tuple[Start, ...], base_lr: float) -> Recipe:
    return Recipe(starts, base_lr, 50, 2000, 300000, 200, 0, heads=(("score_sem", "sem"), ("score_geo", "geo")))


def _context(starts: tuple[Start, ...], base_lr: float) -> Recipe:
    return Recipe(starts, base_lr, 50, 8000, 300000, 5105, 4000)


RECIPES: dict[str, Recipe] = {
    "voc-fcn32s": _voc((VGG16,), 1e-10),
    "voc-fcn16s": _voc(_after("voc-fcn32s"), 1e-12),
    "voc-fcn8s": _voc(_after("voc-fcn16s"), 1e-14),
    "voc-fcn8s-atonce": _voc((VGG16,), 1e-10, 75),
    "voc-fcn-alexnet": _voc(_after("caffenetfc"), 1e-4, momentum=0.9, iter_size=20),
    # The rate and minibatch of the CVPR 2015 text; this net was not released.
    "voc-fcn-googlenet": _voc(_after("googlenetfc"), 5e-5, momentum=0.9, iter_size=20),
    # The regime of the CVPR 2015 text. "5e-4 or 2e-4" it says of weight decay: what each classifier was trained with.
    "cvpr-fcn32s": _cvpr((VGG16,), 1e-4),
    "cvpr-fcn16s": _cvpr(_after("cvpr-fcn32s"), 1e-6),
    "cvpr-fcn8s": _cvpr(_after("cvpr-fcn16s"), 1e-8),
    "cvpr-fcn-alexnet": _cvpr(_after("caffenetfc"), 1e-3),
    "cvpr-fcn-googlenet": _cvpr(_after("googlenetfc"), 5e-5, weight_decay=2e-4),
    "nyud-fcn32s-color": _nyud((VGG16,), 1e-10),
    "nyud-fcn32s-hha": _nyud((VGG16,), 1e-10),
    # Depth starts with the mean of colour's filters.
    "nyud-fcn32s-color-d": _nyud((VGG16._replace(how="transplant", wider=("conv1_1_bgrd", "conv1_1")),), 1e-10),
    "nyud-fcn32s-color-hha": _nyud(
        (
            Start(_weights("nyud-fcn32s-color"), "color", "transplant"),
            Start(_weights("nyud-fcn32s-hha"), "hha", "transplant"),
        ),
        1e-12,
    ),
    # Not released. The rate is dropped by 100 from the coarser stage's, as the paper says of its 16s nets.
    "nyud-fcn16s-hha": _nyud(_after("nyud-fcn32s-hha"), 1e-12),
    "nyud-fcn16s-rgb-hha": _nyud(_after("nyud-fcn32s-color-hha"), 1e-14),
    "siftflow-fcn32s": _siftflow((VGG16,), 1e-10),
    "siftflow-fcn16s": _siftflow(_after("siftflow-fcn32s"), 1e-12),
    "siftflow-fcn8s": _siftflow(_after("siftflow-fcn16s"), 1e-12),
    "pascalcontext-fcn32s": _context((VGG16,), 1e-10),
    "pascalcontext-fcn16s": _context(_after("pascalcontext-fcn32s"), 1e-12),
    "pascalcontext-fcn8s": _context(_after("pascalcontext-fcn16s"), 1e-14),
}


def starts_of(name: str, weights: str) -> Start:
    """Return how a stage starts from a weight file: as its recipe says, else by a plain copy.

    Only the file's name counts, so that voc-fcn32s.caffemodel of another folder is copied in the same way. A recipe
    that widens a layer does so for every file.
    """
    starts = RECIPES[name].starts if name in RECIPES else ()
    for start in starts:
        if PurePath(start.weights).name == PurePath(weights).name:
            return start._replace(weights=weights)
    return Start(weights, wider=next((start.wider for start in starts if start.wider), None))


def solver_param(name: str) -> caffe_pb2.SolverParameter:
    """Build the SolverParameter of a reference net. Raises: KeyError for a net without a recipe."""
    recipe = RECIPES[name]
    param = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        test_iter=[recipe.test_iter],
        test_interval=999999999,
        test_initialization=False,
        base_lr=recipe.base_lr,
        lr_policy="fixed",
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        iter_size=recipe.iter_size,
        max_iter=recipe.max_iter,
        average_loss=20,
        display=20,
        snapshot_prefix=f"snapshot/{name}/train",
        weights=[start.weights for start in recipe.starts],
    )
    if recipe.snapshot:
        param.snapshot = recipe.snapshot
    return param
