"""The paper's recipe in miniature, on the generated data set `shapes`: a narrow classifier and the FCNs made of it.

The trunk is VGG's: five blocks of 3x3 convolutions, five pools, fc6, fc7. The classifier sees crops of 64 pixels,
of which pool5 leaves 2x2, so fc6 becomes a 2x2 convolution in the FCNs. The stages, each starting from the one before:
classifier, 32s-fixed (only the last layer learns), 32s, 16s, 8s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fcn_caffe.data.sets.shapes_scenes import CLASSES
from fcn_caffe.models import nets
from fcn_caffe.models.heads import SKIPS, fuse, loss, to_image, upsample
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import Vgg, multiply, score, vgg
from fcn_caffe.proto import caffe_pb2

__all__ = ["CROP", "RECIPES", "SCENE", "ShapesRecipe", "classifier", "fcn", "shapes_files", "solver"]

CROP, SCENE = 64, 112  # pixels a side
# Of the first convolution: so much that fc6's first window is centred 16 pixels into the image, half a stride, as
# every next one is.
PAD = 17
TRUNK = Vgg((1, 1, 2, 2, 2), (16, 24, 32, 48, 64), 128, 2, dropout=0, filler="msra", pad=PAD)
SCORE_RATE = 3  # lr_mult of the score layers, which start at zero and have few iterations to catch up
SEED = 1337
VAL_IMAGES, VAL_BATCH = 100, 10


@dataclass(frozen=True)
class ShapesRecipe:
    """How one stage is trained: rate, iterations, images in a pass, and the stage that it starts from."""

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


def _finish(net: caffe_pb2.NetParameter, size: int) -> caffe_pb2.NetParameter:
    """Set the deploy form to the size of training, and clear strides of 1."""
    inputs = next(layer for layer in net.layer if layer.type == "Input")
    inputs.input_param.shape[0].dim[2:] = [size, size]
    return nets.without_defaults(net, stride=1)


def classifier(name: str = "shapes-classifier", seed: int = SEED) -> caffe_pb2.NetParameter:
    """Build the net that classifies crops; its inner products become the FCNs' convolutions."""
    data = _data("ShapesClassData", RECIPES[name].batch, CROP, seed)
    net = nets.classifier(name, data, len(CLASSES), TRUNK, score_name="fc8", colour_scale=nets.COLOUR_SCALE)
    return _finish(net, CROP)


def fcn(name: str, seed: int = SEED) -> caffe_pb2.NetParameter:
    """Build the FCN whose stride its name gives, for training, testing and deploy.

    The upsampled side is cropped before a sum, where the paper's nets crop the skip: with an fc6 of 2x2 it is never the
    smaller side, whatever the image's size.
    """
    data, classes = _data("ShapesSegData", RECIPES[name].batch, SCENE, seed), len(CLASSES)
    n, trunk = data.start(), replace(TRUNK, rate=0 if name.endswith("-fixed") else 1)
    features = vgg(n, multiply(n, n.data, "scale_data", nets.COLOUR_SCALE), trunk)
    scores, factor = score(n, features, "score_fr", classes, SCORE_RATE), 32
    stride = 32 if "32s" in name else 16 if "16s" in name else 8
    for pool, up_name in SKIPS:
        if factor == stride:
            break
        skip = score(n, n[f"pool{pool}"], f"score_pool{pool}", classes, SCORE_RATE)
        up = upsample(n, scores, up_name, classes, 2)
        scores = fuse(n, up, skip, f"fuse_pool{pool}", crop_up=True)
        factor //= 2
    loss(n, to_image(n, scores, n.data, classes, factor), n.label, normalize=True)
    return _finish(data.finish(n, name), SCENE)


def solver(name: str, seed: int = SEED) -> caffe_pb2.SolverParameter:
    """Build the solver of a stage."""
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


def shapes_files(seed: int = SEED) -> dict[str, caffe_pb2.NetParameter | caffe_pb2.SolverParameter]:
    """Build nets and solvers by their path from the repository's root, as tools/make_nets.py writes them.

    Args:
        seed: the seed of the fillers and of the images that are trained on; those that are scored stay the same.
    """
    nets_by_name = {name: (classifier if name == "shapes-classifier" else fcn)(name, seed) for name in RECIPES}
    return {
        **{f"nets/{name}.prototxt": net for name, net in nets_by_name.items()},
        **{f"solvers/{name}.prototxt": solver(name, seed) for name in RECIPES},
    }
