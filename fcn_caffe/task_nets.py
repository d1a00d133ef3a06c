"""The files of a task on your own data: nets and solvers of three stages, lists, class card.

The nets are the paper's VGG nets for N classes (see reference-nets.md). Where fc6 and fc7 must be learned they are
narrow, and no convolution needs the padding of 100 in front: small images would be mostly padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcn_caffe import vis
from fcn_caffe.atomic import atomic_write
from fcn_caffe.data.labels import LabelMap
from fcn_caffe.data.task_folder import Splits
from fcn_caffe.errors import DataError
from fcn_caffe.proto import caffe_pb2, write_text
from fcn_caffe.weights import load_weights

__all__ = ["STAGES", "TRUNKS", "Task", "Training", "Trunk", "learned_layers", "task_net", "task_solver", "write_task"]

STAGES = ("32s", "16s", "8s")


@dataclass(frozen=True)
class Trunk:
    """Convolutions a block, outputs a block, and the fc6 and fc7 that go with the trunk's own classifier."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    fc_width: int
    fc_kernel: int


TRUNKS = {
    "vgg16": Trunk((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), 4096, 7),
    "narrow": Trunk((2, 2, 2, 2, 2), (16, 32, 64, 96, 128), 256, 3),
}

# fc6 and fc7 when they are learned from the task's images alone: as wide as conv5, and quick.
LEARNED_FC = (512, 3)

# lr_mult of the score layers on skips, see Training.
SKIP_LR = {"score_pool4": 0.1, "score_pool3": 0.02}


@dataclass(frozen=True)
class Training:
    """How the stages are trained; every number new_task can be told on the command line has its default here.

    The loss is normalised over labelled pixels, one image a pass. Rates are per stage. `head_lr` multiplies the rate of
    fc6 and fc7 where they start from nothing, and of score_fr. The skips' score layers see blobs of far larger
    magnitude (pool3 more than pool4) and must be slower, which the paper does by dropping the whole rate a hundredfold;
    `SKIP_LR` slows them alone, so that the trunk goes on learning.
    """

    base_lr: dict[str, float] = field(default_factory=lambda: {"32s": 1e-3, "16s": 2e-4, "8s": 1e-4})
    max_iter: dict[str, int] = field(default_factory=lambda: {"32s": 1200, "16s": 600, "8s": 600})
    momentum: float = 0.9
    weight_decay: float = 5e-4
    iter_size: int = 1
    lr_policy: str = "poly"
    power: float = 0.9
    head_lr: float = 1.0
    snapshot: int | None = None
    seed: int = 1337


@dataclass(frozen=True)
class Task:
    """Everything a task's files are made from. `splits` and `classes` are checked already; folders are absolute."""

    name: str
    out: Path
    images: Path
    labels: Path
    splits: Splits
    classes: int
    mean: tuple[float, float, float]
    label_suffix: str = ""
    class_names: list[str] | None = None
    ignore: int = 255
    mapping: LabelMap | None = None
    trunk: str = "vgg16"
    weights: Path | None = None
    learned: frozenset[str] = frozenset()  # layers that start from nothing
    fc_width: int | None = None
    fc_kernel: int | None = None
    pad: int | None = None

    @property
    def geometry(self) -> str:
        """ "same" or "paper", see `task_net`: the paper's where fc6 comes from a classifier, unless `pad` says."""
        if self.pad is None:
            return "same" if "fc6" in self.learned else "paper"
        return "same" if self.pad == 1 else "paper"

    @property
    def fc(self) -> tuple[int, int]:
        """Outputs of fc6 and fc7, and the kernel of fc6."""
        trunk = TRUNKS[self.trunk]
        own = LEARNED_FC if "fc6" in self.learned and self.trunk != "narrow" else (trunk.fc_width, trunk.fc_kernel)
        return self.fc_width or own[0], self.fc_kernel or own[1]

    def stage(self, stage: str) -> str:
        """A stage's name, which its net, solver and weights carry."""
        return f"{self.name}-fcn{stage}"

    def commands(self) -> str:
        """What to type next."""
        finest = self.stage("8s")
        stage = " --stage test" if self.splits.test else ""
        root = Path(__file__).resolve().parent.parent
        tools = f"{root}/tools" if (root / "tools").is_dir() else ""
        solve, score, infer = (
            f"python {tools}/{tool}.py" if tools else f"fcn-caffe {tool}" for tool in ("solve", "score", "infer")
        )
        return (
            f"\nnow train all three stages, each starting from the one before:\n"
            f"  cd {self.out} && {solve} solvers/{finest}.prototxt\n"
            f"then, there, score and look:\n"
            f"  {score} nets/{finest}.prototxt --weights weights/{finest}.caffemodel{stage}\n"
            f"  {infer} IMAGE_OR_FOLDER --net nets/{finest}.prototxt --weights weights/{finest}.caffemodel"
        )


def learned_layers(trunk: str, weights: Path | None) -> frozenset[str]:
    """The layers of a trunk, fc6 and fc7 among them, that a weights file lacks and that must be learned.

    Raises: WeightsError when the file cannot be read; DataError when it has no layer of the trunk.
    """
    layers = [f"conv{block}_{n}" for block, depth in enumerate(TRUNKS[trunk].depths, 1) for n in range(1, depth + 1)]
    if weights is None:
        return frozenset([*layers, "fc6", "fc7"])
    known = load_weights(weights)
    if not known.keys() & set(layers):
        raise DataError(f"{weights}: has no layer of the {trunk} trunk (it has {', '.join(list(known)[:5])} …).")
    return frozenset(name for name in [*layers, "fc6", "fc7"] if name not in known)


class _Builder:
    """Adds layers to a NetParameter one after the other."""

    def __init__(self, task: Task, head_lr: float) -> None:
        self.task, self.head_lr = task, head_lr
        self.net: Any = caffe_pb2.NetParameter()

    def layer(self, kind: str, name: str, bottoms: tuple[str, ...] = (), tops: tuple[str, ...] = ()) -> Any:
        return self.net.layer.add(name=name, type=kind, bottom=bottoms, top=tops or (name,))

    def conv(self, name: str, bottom: str, outputs: int, kernel: int, pad: int = 0) -> str:
        """A convolution; layers that start from nothing learn faster and, unless scores, start from noise."""
        layer = self.layer("Convolution", name, (bottom,))
        from_nothing = len(self.task.learned) > 2  # the trunk too: there is nothing to go easy on
        rate = self.head_lr if name == "score_fr" or (name in self.task.learned and not from_nothing) else 1
        rate = SKIP_LR.get(name, rate)
        layer.param.add(lr_mult=rate, decay_mult=1)
        layer.param.add(lr_mult=2 * rate, decay_mult=0)
        options = layer.convolution_param
        options.num_output = outputs
        if pad:
            options.pad.append(pad)
        options.kernel_size.append(kernel)
        if name in self.task.learned:
            # VGG's blobs are large: fc6 and fc7 on a trained trunk start small, or score_fr's first steps overshoot.
            options.weight_filler.type = "msra" if from_nothing else "gaussian"
            if not from_nothing:
                options.weight_filler.std = 0.01
        return name

    def relu(self, name: str, blob: str) -> None:
        self.layer("ReLU", name, (blob,), (blob,))

    def pool(self, name: str, bottom: str) -> str:
        options = self.layer("Pooling", name, (bottom,)).pooling_param
        options.pool, options.kernel_size, options.stride = caffe_pb2.PoolingParameter.MAX, 2, 2
        return name

    def dropout(self, name: str, blob: str) -> None:
        layer = self.layer("Dropout", name, (blob,), (blob,))
        layer.dropout_param.dropout_ratio = 0.5
        layer.include.add(not_stage=["deploy"])

    def upsample(self, name: str, bottom: str, factor: int) -> str:
        """Fixed bilinear interpolation; the solve tool fills its diagonal."""
        layer = self.layer("Deconvolution", name, (bottom,))
        layer.param.add(lr_mult=0)
        options = layer.convolution_param
        options.num_output, options.bias_term = self.task.classes, False
        options.kernel_size.append(2 * factor)
        options.stride.append(factor)
        return name

    def scale(self, bottom: str) -> str:
        """Divide by 64: a trunk filled at random would make activations as large as colours are."""
        layer = self.layer("Scale", "scale_data", (bottom,))
        layer.param.add(lr_mult=0)
        layer.scale_param.filler.type, layer.scale_param.filler.value = "constant", 1 / 64
        return "scale_data"

    def crop(self, name: str, bottom: str, reference: str, offset: int) -> str:
        options = self.layer("Crop", name, (bottom, reference)).crop_param
        options.axis = 2
        options.offset.append(offset)
        return name

    def add(self, name: str, upsampled: str, skip: str) -> str:
        options = self.layer("Eltwise", name, (upsampled, skip)).eltwise_param
        options.operation = caffe_pb2.EltwiseParameter.SUM
        return name

    def data(self, split: str, phase: int, stage: tuple[str, ...] = (), not_stage: tuple[str, ...] = ()) -> None:
        task = self.task
        layer = self.layer("Python", "data", (), ("data", "label"))
        layer.include.add(phase=phase, stage=stage, not_stage=("deploy", *not_stage))
        options: dict[str, Any] = {
            "images": str(task.images),
            "labels": str(task.labels),
            "split": str(task.out.resolve() / f"{split}.txt"),
            "mean": task.mean,
            "classes": task.classes,
            "ignore": task.ignore,
            "seed": 1337,
        }
        if task.label_suffix:
            options["label_suffix"] = task.label_suffix
        if task.mapping is not None:
            options["mapping"] = str(task.out.resolve() / "mapping.txt")
        layer.python_param.module, layer.python_param.layer = "folder_layers", "FolderSegData"
        layer.python_param.param_str = repr(options)

    def all_data(self) -> None:
        """The training, validation, test and deploy inputs, each under its rule."""
        tested = ("test",) if self.task.splits.test else ()
        self.data("train", caffe_pb2.TRAIN)
        self.data("val", caffe_pb2.TEST, not_stage=tested)
        if tested:
            self.data("test", caffe_pb2.TEST, stage=tested)
        layer = self.layer("Input", "data")
        layer.include.add(stage=["deploy"])
        layer.input_param.shape.add(dim=[1, 3, 500, 500])


def task_net(task: Task, stage: str, head_lr: float = Training.head_lr) -> Any:
    """The net of a stage, as one NetParameter for training, testing (stage "test": the test list) and deploy.

    Crop offsets follow from centre coordinates. In the paper's geometry, with k x k fc6 and 16 (k - 1) + 4 of padding,
    the skips are the larger side and are cropped, and the last crop is at 19, 27 or 31. In the "same" geometry every
    convolution keeps its size and the upsampled scores, one row larger all round, are cropped to the skips; the
    last crop is at half the upsampling factor.
    Raises: DataError for an fc6 kernel the geometry does not fit.
    """
    trunk, (fc_width, kernel) = TRUNKS[task.trunk], task.fc
    same = task.geometry == "same"
    if kernel % 2 == 0 or kernel < (1 if same else 5):
        raise DataError(f"--fc-kernel should be odd{'' if same else ' and at least 5 with --pad 100'}, got {kernel}.")
    build = _Builder(task, head_lr)
    build.net.name = task.stage(stage)
    build.all_data()
    blob = "data" if task.weights else build.scale("data")
    for block, (depth, width) in enumerate(zip(trunk.depths, trunk.widths, strict=True), 1):
        for number in range(1, depth + 1):
            in_front = 16 * (kernel - 1) + 4 if (block, number) == (1, 1) and not same else 1
            blob = build.conv(f"conv{block}_{number}", blob, width, 3, in_front)
            build.relu(f"relu{block}_{number}", blob)
        blob = build.pool(f"pool{block}", blob)
    for number, size in ((6, kernel), (7, 1)):
        blob = build.conv(f"fc{number}", blob, fc_width, size, size // 2 if same else 0)
        build.relu(f"relu{number}", blob)
        build.dropout(f"drop{number}", blob)
    blob = build.conv("score_fr", blob, task.classes, 1)
    factor = 32
    for pool, up, finest in ((4, "upscore2", "16s"), (3, "upscore_pool4", "8s")):
        if stage == "32s" or (stage == "16s" and pool == 3):
            break
        factor //= 2
        up = build.upsample(up, blob, 2)
        skip = build.conv(f"score_pool{pool}", f"pool{pool}", task.classes, 1)
        if same:
            up = build.crop(f"{up}c", up, skip, 1)
        else:
            skip = build.crop(f"{skip}c", skip, up, kernel - 2 if finest == "16s" else 2 * kernel - 5)
        blob = build.add(f"fuse_pool{pool}", up, skip)
    up = build.upsample("upscore" if factor == 32 else f"upscore{factor}", blob, factor)
    build.crop("score", up, "data", factor // 2 if same else {32: 19, 16: 27, 8: 31}[factor])
    loss = build.layer("SoftmaxWithLoss", "loss", ("score", "label"))
    loss.include.add(not_stage=["deploy"])
    loss.loss_param.ignore_label, loss.loss_param.normalize = task.ignore, True
    return build.net


def task_solver(task: Task, stage: str, training: Training) -> Any:
    """The solver of a stage; `weights:` names what it starts from."""
    name, place = task.stage(stage), STAGES.index(stage)
    iterations = training.max_iter[stage]
    every = training.snapshot or max(iterations // 4, 1)
    solver = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        test_iter=[len(task.splits.val)],
        test_interval=999999999,
        test_initialization=False,
        base_lr=training.base_lr[stage],
        lr_policy=training.lr_policy,
        max_iter=iterations,
        iter_size=training.iter_size,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        average_loss=20,
        display=20,
        snapshot=min(every, iterations),
        snapshot_prefix=f"snapshot/{name}/train",
        random_seed=training.seed,
    )
    if training.lr_policy == "poly":
        solver.power = training.power
    before = f"weights/{task.stage(STAGES[place - 1])}.caffemodel" if place else task.weights
    if before is not None:
        solver.weights.append(str(before))
    return solver


def _class_card(task: Task) -> str:
    names = task.class_names or [f"class {index}" for index in range(task.classes)]
    colours = vis.palette(task.classes)
    lines = ["# index: name  # colour in pictures, red green blue"]
    for index, (name, colour) in enumerate(zip(names, colours.tolist(), strict=True)):
        lines.append(f"{index}: {name}  # {colour[0]} {colour[1]} {colour[2]}")
    return "\n".join(lines) + f"\n# {task.ignore} is void: neither learned nor scored\n"


def _colour_card(task: Task) -> vis.UInt8:
    """A picture of the classes' colours with their names."""
    names = task.class_names or [f"class {index}" for index in range(task.classes)]
    swatches = [np.full((32, 96, 3), colour, np.uint8) for colour in vis.palette(task.classes)]
    titles = [f"{index} {name}" for index, name in enumerate(names)]
    canvases = [vis.panel([[swatch]], [title]) for swatch, title in zip(swatches, titles, strict=True)]
    return vis.panel([canvases[start : start + 6] for start in range(0, len(canvases), 6)])


def write_task(task: Task, training: Training) -> list[Path]:
    """Write the task's folder; returns what was written. Files of the same name are replaced, others stay."""
    texts = {f"{split}.txt": "".join(f"{name}\n" for name in names) for split, names in task.splits.named().items()}
    if task.mapping is not None:
        texts["mapping.txt"] = task.mapping.write()
    texts["nets/classes.txt"] = _class_card(task)
    for stage in STAGES:
        name = task.stage(stage)
        texts[f"nets/{name}.prototxt"] = write_text(task_net(task, stage, training.head_lr))
        texts[f"solvers/{name}.prototxt"] = write_text(task_solver(task, stage, training))
    written = []
    (task.out / "weights").mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        path = task.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "w") as stream:
            stream.write(text)
        written.append(path)
    vis.save_image(task.out / "classes.png", _colour_card(task))
    return [*written, task.out / "classes.png"]
