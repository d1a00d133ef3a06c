"""The released solvers as facts, and those of the nets that only the papers describe."""

from __future__ import annotations

from fcn_caffe.paper.audit.released.fields import Facts

__all__ = ["EXEMPT", "released_solver"]

# What no paper speaks of: how often a line is printed, where files go, what the solver runs on, and its seed.
EXEMPT = (
    *("display", "snapshot_prefix", "solver_mode", "device_id", "debug_info", "snapshot_format"),
    *("random_seed", "layer_wise_reduce"),
)

_VGG, _CAFFENET, _GOOGLENET = ("vgg16fc",), ("caffenetfc",), ("googlenetfc",)
# Net: starts, base_lr, momentum, iter_size, weight_decay, max_iter, test_iter, snapshot (0: none).
_TABLE: dict[str, tuple[tuple[str, ...], float, float, int, float, int, int, int]] = {
    "voc-fcn32s": (_VGG, 1e-10, 0.99, 1, 5e-4, 100000, 736, 4000),
    "voc-fcn16s": (("voc-fcn32s",), 1e-12, 0.99, 1, 5e-4, 100000, 736, 4000),
    "voc-fcn8s": (("voc-fcn16s",), 1e-14, 0.99, 1, 5e-4, 100000, 736, 4000),
    "voc-fcn8s-atonce": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 736, 4000),
    "voc-fcn-alexnet": (_CAFFENET, 1e-4, 0.9, 20, 5e-4, 100000, 736, 4000),
    "nyud-fcn32s-color": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 654, 2000),
    "nyud-fcn32s-hha": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 654, 2000),
    "nyud-fcn32s-color-d": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 654, 2000),
    "nyud-fcn32s-color-hha": (("nyud-fcn32s-color", "nyud-fcn32s-hha"), 1e-12, 0.99, 1, 5e-4, 300000, 654, 2000),
    "siftflow-fcn32s": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 200, 0),
    "siftflow-fcn16s": (("siftflow-fcn32s",), 1e-12, 0.99, 1, 5e-4, 300000, 200, 0),
    "siftflow-fcn8s": (("siftflow-fcn16s",), 1e-12, 0.99, 1, 5e-4, 300000, 200, 0),
    "pascalcontext-fcn32s": (_VGG, 1e-10, 0.99, 1, 5e-4, 300000, 5105, 4000),
    "pascalcontext-fcn16s": (("pascalcontext-fcn32s",), 1e-12, 0.99, 1, 5e-4, 300000, 5105, 4000),
    "pascalcontext-fcn8s": (("pascalcontext-fcn16s",), 1e-14, 0.99, 1, 5e-4, 300000, 5105, 4000),
    # The text of CVPR 2015, which allows weight decays of 5e-4 and 2e-4; lengths and scores are the release's.
    "cvpr-fcn32s": (_VGG, 1e-4, 0.9, 20, 5e-4, 100000, 736, 4000),
    "cvpr-fcn16s": (("cvpr-fcn32s",), 1e-6, 0.9, 20, 5e-4, 100000, 736, 4000),
    "cvpr-fcn8s": (("cvpr-fcn16s",), 1e-8, 0.9, 20, 5e-4, 100000, 736, 4000),
    "cvpr-fcn-alexnet": (_CAFFENET, 1e-3, 0.9, 20, 5e-4, 100000, 736, 4000),
    "cvpr-fcn-googlenet": (_GOOGLENET, 5e-5, 0.9, 20, 2e-4, 100000, 736, 4000),
    "voc-fcn-googlenet": (_GOOGLENET, 5e-5, 0.9, 20, 5e-4, 100000, 736, 4000),
    # Table 4's nets of stride 16: the rate is dropped by 100, as section 4.2 says.
    "nyud-fcn16s-hha": (("nyud-fcn32s-hha",), 1e-12, 0.99, 1, 5e-4, 300000, 654, 2000),
    "nyud-fcn16s-rgb-hha": (("nyud-fcn32s-color-hha",), 1e-14, 0.99, 1, 5e-4, 300000, 654, 2000),
}


def released_solver(name: str) -> Facts:
    """Return what a net's solver should say, in the form of `solver_facts`. Raises: KeyError for an unknown net."""
    starts, base_lr, momentum, iter_size, decay, max_iter, test_iter, snapshot = _TABLE[name]
    facts: Facts = {"net": f"nets/{name}.prototxt", "weights": tuple(f"weights/{start}.caffemodel" for start in starts)}
    facts |= {"base_lr": base_lr, "momentum": momentum, "weight_decay": decay, "lr_policy": "fixed"}
    facts |= {"max_iter": max_iter, "test_iter": (test_iter,), "average_loss": 20}
    facts |= {"test_interval": 999999999, "test_initialization": False}
    # What Caffe takes where a file is silent is left out.
    return facts | ({"iter_size": iter_size} if iter_size != 1 else {}) | ({"snapshot": snapshot} if snapshot else {})
