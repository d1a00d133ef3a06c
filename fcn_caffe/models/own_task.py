"""The files of a task on your own data: nets and solvers of three stages, lists, class card.

The nets are the paper's VGG nets for N classes (see reference-nets.md). Where fc6 and fc7 must be learned they are
narrow, and no convolution needs the padding of 100 in front: small images would be mostly padding.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcn_caffe.data.augmentation import Augmentation
from fcn_caffe.data.own.splits import Splits
from fcn_caffe.data.readers.labels import LabelMap
from fcn_caffe.errors import DataError
from fcn_caffe.host import pictures
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.program import tool_call
from fcn_caffe.models import COLOUR_SCALE, DataSource, Vgg, fcn, without_defaults
from fcn_caffe.models.class_weights import weigh_classes
from fcn_caffe.models.classics.dilated import LearnedHead
from fcn_caffe.models.classics.encoder_decoder import Loss
from fcn_caffe.models.own_nets import OWN_NETS, OwnNet, Wanted
from fcn_caffe.models.own_start import TRUNKS
from fcn_caffe.models.trunks import rates
from fcn_caffe.proto import caffe_pb2, write_text
from fcn_caffe.proto.blob_file import write_blob

__all__ = [
    *("STAGES", "Task", "Training", "own_net", "own_solver", "task_net", "task_solver", "write_task"),
]

STAGES = ("32s", "16s", "8s")

# fc6 and fc7 when they are learned from the task's images alone: as wide as conv5, and quick.
LEARNED_FC = (512, 3)

# lr_mult of the score layers on skips, see Training.
SKIP_LR = {"score_pool4": 0.1, "score_pool3": 0.02}


@dataclass(frozen=True)
class Training:
    """How the stages are trained. The defaults of new_task's options are here.

    The loss is averaged over the labelled pixels of a batch. Each stage has a rate. `head_lr` multiplies
    the rate of score_fr, and of fc6 and fc7 where they start from nothing. The skips' score layers see blobs of far
    larger magnitude (pool3 more than pool4) and must learn more slowly. The paper divides the whole rate by 100;
    `SKIP_LR` slows those layers alone, so that the trunk goes on learning.
    """

    base_lr: dict[str, float] = field(default_factory=lambda: {"32s": 1e-3, "16s": 2e-4, "8s": 1e-4})
    max_iter: dict[str, int] = field(default_factory=lambda: {"32s": 1200, "16s": 600, "8s": 600})
    momentum: float = 0.9
    weight_decay: float = 5e-4
    solver_type: str = "SGD"
    iter_size: int = 1
    lr_policy: str = "poly"
    power: float = 0.9
    head_lr: float = 1.0
    snapshot: int | None = None
    seed: int = 1337
    given: frozenset[str] = frozenset()  # the settings that a person gave; a net of its own has others for the rest

    def of_one_stage(self, own: OwnNet) -> Training:
        """Return the settings for a net that is trained in one stage: its kind's, but for those that were given."""
        kinds: dict[str, Any] = {
            "base_lr": dict.fromkeys(STAGES, own.base_lr),
            "max_iter": dict.fromkeys(STAGES, own.max_iter),
            "momentum": own.momentum,
            "weight_decay": own.weight_decay,
            "solver_type": own.solver_type,
            "head_lr": own.head_lr or Training.head_lr,
        }
        return replace(self, **{name: value for name, value in kinds.items() if name not in self.given})


@dataclass(frozen=True)
class Task:
    """What a task's files are made from. `splits` and `classes` have been checked.

    Relative paths, of images, labels and weights too, start from the task's folder, so that it may be moved.
    """

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
    net: str = "fcn"  # or one of OWN_NETS
    size: tuple[int, int] = (0, 0)  # height and width of all images; 0 where they differ
    class_weights: tuple[float, ...] = ()
    width: int | None = None
    colors: list[tuple[int, int, int]] | None = None  # of the classes in pictures; None for the VOC palette
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 (it is frozen)
    batch_size: int = 1
    buckets: bool = False  # whether a batch has images of similar sizes
    workers: int = 0  # processes that load images; 0 for a thread

    @property
    def own_net(self) -> OwnNet | None:
        """The net that is trained in one stage; None for the FCNs."""
        return OWN_NETS.get(self.net)

    @property
    def finest(self) -> str:
        """The name of the last net that is trained."""
        return self.stage("8s") if self.own_net is None else f"{self.name}-{self.net}"

    @property
    def geometry(self) -> str:
        """ "same" or "paper", see `task_net`: the paper's where fc6 comes from a classifier, unless `pad` says."""
        if self.pad is None:
            return "same" if "fc6" in self.learned else "paper"
        return "same" if self.pad == 1 else "paper"

    @property
    def fc(self) -> tuple[int, int]:
        """The outputs of fc6 and fc7, and the kernel of fc6."""
        trunk = TRUNKS[self.trunk]
        own = LEARNED_FC if "fc6" in self.learned and self.trunk != "narrow" else (trunk.fc_width, trunk.fc_kernel)
        return self.fc_width or own[0], self.fc_kernel or own[1]

    @property
    def weights_of_loss(self) -> str:
        """The file of the loss's class weights, as a net names it; "" where it has none, or has them itself."""
        own = self.own_net
        is_in_loss = own is not None and own.weighs_classes
        return f"{self.name}-class-weights.binaryproto" if self.class_weights and not is_in_loss else ""

    def weigh(self, net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
        """Weigh the classes in the loss of a net's training, where the task does."""
        return weigh_classes(net, self.weights_of_loss, scored=True) if self.weights_of_loss else net

    def stage(self, stage: str) -> str:
        """Return a stage's name, which is that of its net, solver and weights."""
        return f"{self.name}-fcn{stage}"

    def commands(self) -> str:
        """Return the commands to type next, as text."""
        finest, own = self.finest, self.own_net
        place = f"./{self.out}" if str(self.out).startswith("-") else str(self.out)
        to_folder = shlex.join(["cd", place])
        net, solver, weights = (
            shlex.quote(f"{folder}/{finest}.{ending}")
            for folder, ending in (("nets", "prototxt"), ("solvers", "prototxt"), ("weights", "caffemodel"))
        )
        stage = " --stage test" if self.splits.test else ""
        names = ("solve", "score", "infer", "train", "score_edges")
        solve, score, infer, train, edges = (tool_call(tool, from_elsewhere=True) for tool in names)
        if own is not None and own.outlines:
            last = f"snapshot/{finest}/train_iter_*.caffemodel"
            return (
                f"\nnow train:\n  {to_folder} && {train} --solver {solver}\n"
                f"then, there, score and look, with the last of {last}:\n"
                f"  {edges} {net} --weights WEIGHTS --save edges{stage}"
            )
        how = "now train all three stages, each starting from the one before" if own is None else "now train"
        blob = "" if own is None or own.scores == "score" else f" --score {own.scores}"
        return (
            f"\n{how}:\n"
            f"  {to_folder} && {solve} {solver}\n"
            f"then, there, score and look:\n"
            f"  {score} {net} --weights {weights}{stage}\n"
            f"  {infer} IMAGE_OR_FOLDER --net {net} --weights {weights}{blob}"
        )


def _data(task: Task) -> DataSource:
    """Return the data layers for training, validation, test and deploy."""

    def split(name: str) -> tuple[str, dict[str, Any]]:
        options: dict[str, Any] = {
            "base": "..",  # the net lies in nets/
            "images": str(task.images),
            "labels": str(task.labels),
            "split": f"{name}.txt",
            "mean": task.mean,
            "classes": task.classes,
            "ignore": task.ignore,
            "seed": 1337,
        }
        if task.label_suffix:
            options["label_suffix"] = task.label_suffix
        if task.own_net is not None and task.own_net.outlines:
            options["outlines"] = True
        if task.mapping is not None:
            options["mapping"] = "mapping.txt"
        return "FolderSegData", options

    last = split("test") if task.splits.test else None
    layer, train = split("train")
    return DataSource("folder_layers", (layer, train | _samples(task)), split("val"), {"data": 3}, last=last)


def _samples(task: Task) -> dict[str, Any]:
    """Return the options of the training data layer that say how batches are made and images changed.

    Raises:
        DataError: the net takes images of one size only, and they would not be.
    """
    augmentation, own = task.augmentation, task.own_net
    if own is not None and own.needs_one_size and augmentation.crop not in (None, task.size):
        height, width = task.size
        raise DataError(f"--net {task.net} takes images of one size: {height}x{width}. Leave crop out of --augment.")
    if own is not None and own.needs_one_size and augmentation.scale != (1, 1):
        augmentation = replace(augmentation, crop=task.size)
    if task.buckets and task.batch_size == 1:
        raise DataError("--buckets puts images of similar sizes into a batch. Give --batch-size too.")
    options: dict[str, Any] = {}
    if augmentation.options():
        options["augment"] = augmentation.options()
    if task.batch_size > 1:
        options["batch_size"] = task.batch_size
    if task.buckets:
        options["buckets"] = True
    if options:
        options["order"] = "epochs"
    return options | ({"workers": task.workers} if task.workers else {})


def _trunk(task: Task, head_lr: float) -> Vgg:
    """Return the trunk in the task's geometry. Layers that start from nothing learn faster and start from noise."""
    width, kernel = task.fc
    from_nothing = len(task.learned) > 2  # the trunk too: there is nothing to go easy on
    # VGG's blobs are large: fc6 and fc7 on a trained trunk start small, or score_fr's first steps overshoot.
    filler = {"type": "msra"} if from_nothing else {"type": "gaussian", "std": 0.01}
    learned = {"weight_filler": filler, "param": rates(1 if from_nothing else head_lr)}
    same: dict[str, Any] = {"pad": 1, "fc_pad": kernel // 2} if task.geometry == "same" else {}
    special = dict.fromkeys(task.learned, learned)
    return replace(TRUNKS[task.trunk], fc_width=width, fc_kernel=kernel, special=special, **same)


def task_net(task: Task, stage: str, head_lr: float = Training.head_lr) -> caffe_pb2.NetParameter:
    """Build the net of a stage, for training, testing (stage "test": the test list) and deploy.

    In the paper's geometry the first convolution is padded so far that the skips are the larger side and are cropped.
    In the "same" geometry every convolution keeps its size. The upsampled scores are one row larger on each side, and
    are cropped to the skips.

    Raises:
        DataError: the geometry does not fit the kernel of fc6.
    """
    same, kernel = task.geometry == "same", task.fc[1]
    if kernel % 2 == 0 or kernel < (1 if same else 5):
        raise DataError(f"--fc-kernel should be odd{'' if same else ' and at least 5 with --pad 100'}, got {kernel}.")
    net = fcn(
        task.stage(stage),
        _data(task),
        task.classes,
        int(stage.removesuffix("s")),
        _trunk(task, head_lr),
        normalize=True,
        ignore=task.ignore,
        colour_scale=None if task.weights else COLOUR_SCALE,
        score_rates={"score_fr": head_lr, **SKIP_LR},
    )
    return _plain_rules(task.weigh(net))


def _plain_rules(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Write a net for its reader: one name for data, one form of rule, no option that is Caffe's default."""
    for layer in net.layer:
        if layer.type == "Input":
            layer.name = "data"  # as the layers that it stands for
        if layer.exclude:  # one form of rule throughout the file
            layer.ClearField("exclude")
            layer.include.add(not_stage=["deploy"])
    return without_defaults(net, pad=0, stride=1)


def task_solver(task: Task, stage: str, training: Training) -> caffe_pb2.SolverParameter:
    """Build the solver of a stage; `weights:` names what it starts from."""
    place = STAGES.index(stage)
    solver = _solver(task, task.stage(stage), training, training.base_lr[stage], training.max_iter[stage])
    before = f"weights/{task.stage(STAGES[place - 1])}.caffemodel" if place else task.weights
    if before is not None:
        solver.weights.append(str(before))
    return solver


def _solver(task: Task, name: str, training: Training, rate: float, iterations: int) -> caffe_pb2.SolverParameter:
    every = training.snapshot or max(iterations // 4, 1)
    solver = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        test_iter=[len(task.splits.val)],
        test_interval=999999999,
        test_initialization=False,
        base_lr=rate,
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
    if training.solver_type != "SGD":  # Caffe's default
        solver.type = training.solver_type
    if training.lr_policy == "poly":
        solver.power = training.power
    return solver


def own_net(task: Task, head_lr: float = Training.head_lr) -> caffe_pb2.NetParameter:
    """Build the net of a task that is trained in one stage.

    Raises:
        DataError: the net cannot take these images or options.
    """
    own = OWN_NETS[task.net]
    if own.needs_one_size and 0 in task.size:
        raise DataError(
            f"--net {task.net} takes images of one size, these differ: its upsampling writes each value back to the "
            "place that its pooling found. Resize images and labels, or take --net unet or an FCN."
        )
    if task.width is not None and not own.has_width:
        raise DataError(f"--width is not for --net {task.net}, whose widths are those of its paper. Leave it out.")
    loss = Loss(task.ignore, task.class_weights if own.weighs_classes else ())
    data = _data(task)
    if 0 not in task.size:
        data = replace(data, deploy_size=task.size)
    from_weights = task.weights is not None
    head = LearnedHead(task.fc_width or LearnedHead.width, head_lr)
    net = own.build(Wanted(task.finest, data, task.classes, loss, task.size, task.width, from_weights, head))
    if not from_weights:
        _fill_trunk(net)
    return _plain_rules(task.weigh(net))


def _fill_trunk(net: caffe_pb2.NetParameter) -> None:
    """Give VGG-16's convolutions a filler, as their own net has none: zeros behind a ReLU would never learn."""
    for layer in net.layer:
        if layer.name in TRUNKS["vgg16"].convolution_names and not layer.convolution_param.HasField("weight_filler"):
            layer.convolution_param.weight_filler.type = "msra"


def own_solver(task: Task, training: Training) -> caffe_pb2.SolverParameter:
    """Build the solver of such a net: one stage, by the settings of its kind where options do not say otherwise."""
    own = OWN_NETS[task.net]
    options = training.of_one_stage(own)
    solver = _solver(task, task.finest, options, options.base_lr["8s"], options.max_iter["8s"])
    if task.weights is not None:
        solver.weights.append(str(task.weights))
    return solver


def _colors(task: Task) -> list[tuple[int, int, int]]:
    """Return the colours that the classes have in pictures, by index."""
    return task.colors or [(red, green, blue) for red, green, blue in pictures.palette(task.classes).tolist()]


def _class_card(task: Task) -> str:
    names = task.class_names or [f"class {index}" for index in range(task.classes)]
    lines = ["# index: name  # colour in pictures, red green blue"]
    for index, (name, colour) in enumerate(zip(names, _colors(task), strict=True)):
        lines.append(f"{index}: {name}  # {colour[0]} {colour[1]} {colour[2]}")
    return "\n".join(lines) + f"\n# {task.ignore} is void: neither learned nor scored\n"


def _colour_card(task: Task) -> pictures.UInt8:
    """Draw the classes' colours with their names."""
    names = task.class_names or [f"class {index}" for index in range(task.classes)]
    swatches = [np.full((32, 96, 3), colour, np.uint8) for colour in _colors(task)]
    titles = [f"{index} {name}" for index, name in enumerate(names)]
    canvases = [pictures.panel([[swatch]], [title]) for swatch, title in zip(swatches, titles, strict=True)]
    return pictures.panel([canvases[start : start + 6] for start in range(0, len(canvases), 6)])


def write_task(task: Task, training: Training, folder: Path) -> list[Path]:
    """Write the task's files into a folder, which becomes the task's; return their paths from there.

    Images and labels are there already. Files of the same name are replaced.
    """
    texts = {f"{split}.txt": "".join(f"{name}\n" for name in names) for split, names in task.splits.non_empty().items()}
    if task.mapping is not None:
        texts["mapping.txt"] = task.mapping.write()
    texts["nets/classes.txt"] = _class_card(task)
    for stage in STAGES if task.own_net is None else ():
        name = task.stage(stage)
        texts[f"nets/{name}.prototxt"] = write_text(task_net(task, stage, training.head_lr))
        texts[f"solvers/{name}.prototxt"] = write_text(task_solver(task, stage, training))
    if task.own_net is not None:
        texts[f"nets/{task.finest}.prototxt"] = write_text(own_net(task, training.of_one_stage(task.own_net).head_lr))
        texts[f"solvers/{task.finest}.prototxt"] = write_text(own_solver(task, training))
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "w") as stream:
            stream.write(text)
    written = [Path(file) for file in texts]
    if task.weights_of_loss:
        written.append(Path("nets", task.weights_of_loss))
        write_blob(folder / written[-1], np.diag(np.array(task.class_weights, np.float32)))
    pictures.save_image(folder / "classes.png", _colour_card(task))
    return [*written, Path("classes.png")]
