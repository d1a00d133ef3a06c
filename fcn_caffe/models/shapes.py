"""The paper's recipe in miniature, on the generated data set `shapes`: a narrow classifier and the FCNs made of it.

The trunk is VGG's: five blocks of 3x3 convolutions, five pools, fc6, fc7. The classifier sees crops of 64 pixels,
of which pool5 leaves 2x2, so fc6 becomes a 2x2 convolution in the FCNs. The stages, each starting from the one before:
classifier, 32s-fixed (only the last layer learns), 32s, 16s, 8s; 32s starts from the classifier too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_caffe.data.shapes import CLASSES, VOID
from fcn_caffe.proto import caffe_pb2

# Outputs of the convolutions of each block.
BLOCKS = ((16,), (24,), (32, 32), (48, 48), (64, 64))
FC = 128
CROP, SCENE, PAD = 64, 112, 17
SCORE_RATE = 3  # lr_mult of the score layers, which start at zero and have few iterations to catch up
SEED = 1337
VAL_IMAGES, VAL_BATCH = 100, 10


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained: its rate, iterations, images a pass, and the stage it starts from."""

    base_lr: float
    max_iter: int
    batch: int
    starts_from: str | None = None


RECIPES = {
    "shapes-classifier": Recipe(0.02, 800, 32),
    "shapes-fcn32s-fixed": Recipe(0.01, 60, 8, "shapes-classifier"),
    "shapes-fcn32s": Recipe(0.03, 350, 8, "shapes-fcn32s-fixed"),
    "shapes-fcn16s": Recipe(0.025, 300, 8, "shapes-fcn32s"),
    "shapes-fcn8s": Recipe(0.02, 350, 8, "shapes-fcn16s"),
}


class _Builder:
    """Adds layers to a NetParameter; each method returns the name of the blob it made."""

    def __init__(self, name: str) -> None:
        self.net: Any = caffe_pb2.NetParameter(name=name)

    def layer(self, kind: str, name: str, *bottoms: str, top: str | None = None, **options: Any) -> str:
        self.net.layer.add(name=name, type=kind, bottom=bottoms, top=[top or name], **options)
        return top or name

    def data(self, layer: str, phase: int, **options: Any) -> None:
        self.net.layer.add(
            name="data",
            type="Python",
            top=["data", "label"],
            include=[{"phase": phase, "not_stage": ["deploy"]}],
            python_param={"module": "shapes_layers", "layer": layer, "param_str": repr(options)},
        )

    def both_data(self, layer: str, batch: int, size: int, seed: int) -> None:
        self.data(layer, caffe_pb2.TRAIN, split="train", batch=batch, size=size, seed=seed)
        self.data(layer, caffe_pb2.TEST, split="val", batch=VAL_BATCH, size=size, seed=SEED, count=VAL_IMAGES)
        deploy = [{"dim": [1, 3, size, size]}]
        self.layer("Input", "data", include=[{"stage": ["deploy"]}], input_param={"shape": deploy})

    def scale(self, bottom: str) -> str:
        """Divide by 64: filled at random, the trunk would make nothing of colours as large as they come."""
        options = {"filler": {"type": "constant", "value": 1 / 64}, "bias_term": False}
        return self.layer("Scale", "scale_data", bottom, param=[{"lr_mult": 0}], scale_param=options)

    def learned(self, kind: str, name: str, bottom: str, *, rate: int, filled: bool = True, **options: Any) -> str:
        """A Convolution or InnerProduct with lr_mult `rate`. Unfilled, as the score layers are, it starts at zero."""
        field = "convolution_param" if kind == "Convolution" else "inner_product_param"
        if filled:
            options["weight_filler"] = {"type": "msra"}
        rates: Any = [{"lr_mult": rate, "decay_mult": 1}, {"lr_mult": 2 * rate, "decay_mult": 0}]
        blocks: dict[str, Any] = {"param": rates, field: options}
        return self.layer(kind, name, bottom, **blocks)

    def relu(self, blob: str) -> str:
        return self.layer("ReLU", blob.replace("conv", "relu").replace("fc", "relu"), blob, top=blob)

    def trunk(self, pad: int, rate: int) -> str:
        """From data to pool5."""
        blob = self.scale("data")
        for block, widths in enumerate(BLOCKS, 1):
            for number, width in enumerate(widths, 1):
                name, edge = f"conv{block}_{number}", pad if (block, number) == (1, 1) else 1
                options: Any = {"num_output": width, "kernel_size": [3], "pad": [edge]}
                blob = self.relu(self.learned("Convolution", name, blob, rate=rate, **options))
            pooling = {"pool": caffe_pb2.PoolingParameter.MAX, "kernel_size": 2, "stride": 2}
            blob = self.layer("Pooling", f"pool{block}", blob, pooling_param=pooling)
        return blob

    def score(self, name: str, bottom: str) -> str:
        options: Any = {"num_output": len(CLASSES), "kernel_size": [1], "pad": [0]}
        return self.learned("Convolution", name, bottom, rate=SCORE_RATE, filled=False, **options)

    def upsample(self, name: str, bottom: str, factor: int) -> str:
        """A fixed Deconvolution, which surgery sets to bilinear interpolation."""
        options = {"num_output": len(CLASSES), "bias_term": False, "kernel_size": [2 * factor], "stride": [factor]}
        return self.layer("Deconvolution", name, bottom, param=[{"lr_mult": 0}], convolution_param=options)

    def crop(self, name: str, bottom: str, reference: str, offset: int) -> str:
        return self.layer("Crop", name, bottom, reference, crop_param={"axis": 2, "offset": [offset]})

    def add(self, name: str, upsampled: str, skip: str) -> str:
        options = {"operation": caffe_pb2.EltwiseParameter.SUM}
        return self.layer("Eltwise", name, upsampled, skip, eltwise_param=options)

    def loss(self, score: str) -> None:
        options = {"ignore_label": VOID, "normalize": True}
        self.layer("SoftmaxWithLoss", "loss", score, "label", include=[{"not_stage": ["deploy"]}], loss_param=options)


def classifier(name: str = "shapes-classifier", seed: int = SEED) -> Any:
    """The net that classifies crops; its inner products become the FCNs' convolutions."""
    build = _Builder(name)
    build.both_data("ShapesClassData", RECIPES[name].batch, CROP, seed)
    blob = build.trunk(1, 1)
    for layer in ("fc6", "fc7"):
        blob = build.relu(build.learned("InnerProduct", layer, blob, rate=1, num_output=FC))
    build.loss(build.learned("InnerProduct", "fc8", blob, rate=1, filled=False, num_output=len(CLASSES)))
    return build.net


def fcn(name: str, seed: int = SEED) -> Any:
    """The FCN of stride 32, 16 or 8 that `name` speaks of, for training, testing and deploy.

    Offsets: with a pad of P, pool5's and fc6's windows put pixel u of the 32s upsampling at u - (P - 1), of the 16s
    at u - (P + 7), of the 8s at u - (P + 3); fc6's even kernel shifts by whole steps of pool4 and by one of pool3.
    It is the upsampled side that is cropped before a sum: it is never the smaller one, whatever the image's size.
    """
    build, rate = _Builder(name), 0 if name.endswith("-fixed") else 1
    build.both_data("ShapesSegData", RECIPES[name].batch, SCENE, seed)
    blob = build.trunk(PAD, rate)
    for layer, kernel in (("fc6", 2), ("fc7", 1)):
        options: Any = {"num_output": FC, "kernel_size": [kernel], "pad": [0]}
        blob = build.relu(build.learned("Convolution", layer, blob, rate=rate, **options))
    up, offset, factor = build.score("score_fr", blob), PAD - 1, 32
    if "32s" not in name:
        up = build.upsample("upscore2", up, 2)
        skip = build.score("score_pool4", "pool4")
        up = build.add("fuse_pool4", build.crop("upscore2c", up, skip, 0), skip)
        offset, factor = PAD + 7, 16
    if "8s" in name:
        up = build.upsample("upscore_pool4", up, 2)
        skip = build.score("score_pool3", "pool3")
        up = build.add("fuse_pool3", build.crop("upscore_pool4c", up, skip, 1), skip)
        offset, factor = PAD + 3, 8
    up = build.upsample(f"upscore{'' if factor == 32 else factor}", up, factor)
    build.loss(build.crop("score", up, "data", offset))
    return build.net


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
