"""The paper's recipe in miniature, on the generated data set `shapes`: a narrow classifier and the FCNs made of it.

The trunk is VGG's: five blocks of 3x3 convolutions, five pools, fc6, fc7. The classifier sees crops of 64 pixels,
of which pool5 leaves 2x2, so fc6 becomes a 2x2 convolution in the FCNs. The stages, each starting from the one before:
classifier, 32s-fixed (only the last layer learns), 32s, 16s, 8s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_caffe.data.shapes import CLASSES
from fcn_caffe.models.heads import crop_to, loss, upsample
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import conv_relu, max_pool
from fcn_caffe.net_spec import NetSpec, Top
from fcn_caffe.net_spec import layers as L
from fcn_caffe.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["CROP", "RECIPES", "SCENE", "ShapesRecipe", "classifier", "fcn", "shapes_files", "solver"]

# Outputs of the convolutions of each block.
BLOCKS = ((16,), (24,), (32, 32), (48, 48), (64, 64))
FC = 128
CROP, SCENE = 64, 112  # pixels a side
# So much that fc6's first window is centred 16 pixels into the image, half a stride, as every next one is.
PAD = 17
SCORE_RATE = 3  # lr_mult of the score layers, which start at zero and have few iterations to catch up
SEED = 1337
VAL_IMAGES, VAL_BATCH = 100, 10


@dataclass(frozen=True)
class ShapesRecipe:
    """How one stage is trained: its rate, iterations, images a pass, and the stage it starts from."""

    base_lr: float
    max_iter: int
    batch: int
    starts_from: str | None = None


RECIPES = {
    "shapes-classifier": ShapesRecipe(0.02, 800, 32),
    "shapes-fcn32s-fixed": ShapesRecipe(0.01, 60, 8, "shapes-classifier"),
    "shapes-fcn32s": ShapesRecipe(0.03, 350, 8, "shapes-fcn32s-fixed"),
    "shapes-fcn16s": ShapesRecipe(0.025, 300, 8, "shapes-fcn32s"),
    "shapes-fcn8s": ShapesRecipe(0.02, 350, 8, "shapes-fcn16s"),
}


def _data(layer: str, batch: int, size: int, seed: int) -> DataSource:
    train = {"split": "train", "batch": batch, "size": size, "seed": seed}
    test = {"split": "val", "batch": VAL_BATCH, "size": size, "seed": SEED, "count": VAL_IMAGES}
    return DataSource("shapes_layers", (layer, train), (layer, test), {"data": 3})


def _learned(rate: int, filler: str | None = "msra") -> dict[str, Any]:
    """The options of a layer that learns at `rate`. Without a filler it starts at zero."""
    filled = {"weight_filler": {"type": filler}} if filler else {}
    return {"param": [{"lr_mult": rate, "decay_mult": 1}, {"lr_mult": 2 * rate, "decay_mult": 0}], **filled}


def _trunk(n: NetSpec, pad: int, rate: int) -> Top:
    """From data to pool5. Filled at random, the trunk would make nothing of colours as large as they come."""
    n.scale_data = L.Scale(n.data, filler={"type": "constant", "value": 1 / 64}, param=[{"lr_mult": 0}])
    bottom: Top = n.scale_data
    for block, widths in enumerate(BLOCKS, 1):
        for number, width in enumerate(widths, 1):
            edge = pad if (block, number) == (1, 1) else 1
            options = {"num_output": width, "pad": edge, "kernel_size": 3, **_learned(rate)}
            bottom = conv_relu(n, bottom, f"conv{block}_{number}", f"relu{block}_{number}", **options)
        bottom = max_pool(n, bottom, f"pool{block}")
    return bottom


def _score(n: NetSpec, bottom: Top, name: str) -> Top:
    options = {"num_output": len(CLASSES), "pad": 0, "kernel_size": 1, **_learned(SCORE_RATE, None)}
    n[name] = L.Convolution(bottom, **options)
    made: Top = n[name]
    return made


def _finish(data: DataSource, n: NetSpec, name: str, size: int) -> Any:
    """The net, deployed at the size it is trained with."""
    net = data.finish(n, name)
    inputs = next(layer for layer in net.layer if layer.type == "Input")
    inputs.input_param.shape[0].dim[2:] = [size, size]
    return net


def classifier(name: str = "shapes-classifier", seed: int = SEED) -> Any:
    """The net that classifies crops; its inner products become the FCNs' convolutions."""
    data = _data("ShapesClassData", RECIPES[name].batch, CROP, seed)
    n = data.start()
    bottom = _trunk(n, 1, 1)
    for number in (6, 7):
        n[f"fc{number}"] = L.InnerProduct(bottom, num_output=FC, **_learned(1))
        bottom = n[f"relu{number}"] = L.ReLU(n[f"fc{number}"], in_place=True)
    n.fc8 = L.InnerProduct(bottom, num_output=len(CLASSES), **_learned(1, None))
    loss(n, n.fc8, n.label, normalize=True)
    return _finish(data, n, name, CROP)


def fcn(name: str, seed: int = SEED) -> Any:
    """The FCN of stride 32, 16 or 8 that `name` speaks of, for training, testing and deploy.

    It is the upsampled side that is cropped before a sum, where the paper's nets crop the skip: with an fc6 of 2x2
    it is never the smaller one, whatever the image's size.
    """
    data = _data("ShapesSegData", RECIPES[name].batch, SCENE, seed)
    n, rate = data.start(), 0 if name.endswith("-fixed") else 1
    bottom = _trunk(n, PAD, rate)
    for number, kernel in ((6, 2), (7, 1)):
        options = {"num_output": FC, "pad": 0, "kernel_size": kernel, **_learned(rate)}
        bottom = conv_relu(n, bottom, f"fc{number}", f"relu{number}", **options)
    scores, factor, stride = _score(n, bottom, "score_fr"), 32, 32 if "32s" in name else 16 if "16s" in name else 8
    for pool, up_name in ((4, "upscore2"), (3, "upscore_pool4")):
        if factor == stride:
            break
        skip = _score(n, n[f"pool{pool}"], f"score_pool{pool}")
        cut = crop_to(n, upsample(n, scores, up_name, len(CLASSES), 2), skip, f"{up_name}c")
        scores = n[f"fuse_pool{pool}"] = L.Eltwise(cut, skip, operation=P.Eltwise.SUM)
        factor //= 2
    up = upsample(n, scores, f"upscore{'' if factor == 32 else factor}", len(CLASSES), factor)
    loss(n, crop_to(n, up, n.data, "score"), n.label, normalize=True)
    return _finish(data, n, name, SCENE)


def solver(name: str, seed: int = SEED) -> Any:
    """The solver of a stage."""
    recipe = RECIPES[name]
    param = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        test_iter=[VAL_IMAGES // VAL_BATCH],
        test_interval=999999999,
        test_initialization=False,
        base_lr=recipe.base_lr,
        lr_policy="poly",
        power=1,
        max_iter=recipe.max_iter,
        momentum=0.9,
        weight_decay=5e-4,
        average_loss=20,
        display=50,
        snapshot=recipe.max_iter,
        snapshot_prefix=f"snapshot/{name}/train",
        random_seed=seed,
    )
    if recipe.starts_from:
        param.weights.append(f"weights/{recipe.starts_from}.caffemodel")
    return param


def shapes_files(seed: int = SEED) -> dict[str, Any]:
    """Nets and solvers by path from the repository's root, as tools/make_nets.py writes them.

    seed: of the fillers and the images trained on; the images scored on stay the same.
    """
    nets = {name: (classifier if name == "shapes-classifier" else fcn)(name, seed) for name in RECIPES}
    return {
        **{f"nets/{name}.prototxt": net for name, net in nets.items()},
        **{f"solvers/{name}.prototxt": solver(name, seed) for name in RECIPES},
    }
