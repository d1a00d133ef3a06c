"""A net whose convolutions are computed in the quickest way that this machine has, within a bound."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.convolution_ways import PLAIN, WAYS, ConvolveBy, Way, Window, ways_for
from fcn_caffe.net.rewrite.convolutions import can_choose
from fcn_caffe.net.rewrite.frozen import freeze, fuse_relus
from fcn_caffe.net.runner import Runner, Step, label_blobs
from fcn_caffe.net.training_runner import keeping_statistics

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

_log = logging.getLogger("fcn_caffe.net")

_PART = 128  # a layer is timed on so many rows and columns of its bottom at most
_SMALL = 24  # and first on so many, which tells the hopeless
_ROUNDS = 2
_GAIN = 0.95  # another way than PyTorch's own has to take this share of its time, or less


@dataclass
class Choice:
    """The ways of one convolution, by name; error: the largest of theirs, as a share of the largest value."""

    layer: str
    forward: str = PLAIN
    bottom: str = PLAIN
    weight: str = PLAIN
    error: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether all is computed as PyTorch does."""
        return {self.forward, self.bottom, self.weight} == {PLAIN}


@dataclass
class Tuning:
    """What was chosen for a net, and what it costs.

    difference: the largest between the net and the plain one, as a share of the blob's largest value.
    classes: the share of places where both have the same largest channel; 1 where the net has no scores.
    gradient: likewise between the gradients of what it learns, found by the ways at the plain net's blobs; None for a
        net in eval(). whole_gradient: the same at its own blobs, of which a few are on the other side of a ReLU or
        have another maximum: that moves a gradient by more than any rounding, and no bound holds it.
    """

    within: float
    choices: list[Choice]
    difference: float = 0.0
    classes: float = 1.0
    gradient: float | None = None
    whole_gradient: float | None = None
    net: Net = field(repr=False, default=None)  # type: ignore[assignment] # filled by `tune`

    def __str__(self) -> str:
        changed = sum(not choice.is_plain for choice in self.choices)
        gradients = ""
        if self.gradient is not None:
            gradients = (
                f"; gradients differ by {self.gradient:.1e} of their largest (same bound) at the same blobs, by "
                f"{self.whole_gradient:.1e} at blobs of their own"
            )
        return (
            f"fast: {changed} of {len(self.choices)} convolutions in another way than PyTorch's; largest difference "
            f"{self.difference:.1e} of the largest score (bound {self.within:.0e}), {self.classes:.3%} of the places "
            f"have the same class{gradients}"
        )

    @property
    def is_within(self) -> bool:
        """Whether scores and gradients are within the bound."""
        return max(self.difference, self.gradient or 0.0) <= self.within


def tune(net: Net, shape: Sequence[int] | None = None, within: float = 1e-4) -> Tuning:
    """Choose the quickest way for each convolution of a net; see `Net.tuned`.

    Args:
        net: the net; in train() its gradients get ways too.
        shape: that of its first input; by default the one that it was built with.
        within: the bound.

    Returns:
        The choices, and the net that computes by them.

    Raises:
        GraphError: the bound is not above 0, or `shape` has other axes than the net's input.
    """
    if not within > 0:
        raise GraphError(f"net '{net.name}': the bound is {within:g}: give one above 0, such as 1e-4.")
    base = net if net.training else freeze(net)
    if net.debug is not None or net.device.type not in ("cpu", "cuda"):
        return Tuning(within, [], net=base)
    inputs = _sample_inputs(net, shape)
    place, key = _cache_place(net, inputs, within)
    choices, checks = _read_cache(place, key)
    if choices is None:
        choices = _choose(base, inputs, within)
    tuning, weights = Tuning(within, choices), _fingerprint(net)
    tuning.net = _with_choices(base, choices)
    if weights in checks:
        tuning.difference, tuning.classes, tuning.gradient, tuning.whole_gradient = checks[weights]
    else:
        _hold_bound(net, base, tuning, inputs)
        checks[weights] = (tuning.difference, tuning.classes, tuning.gradient, tuning.whole_gradient)
        _write_cache(place, key, choices, checks)
    return tuning


# -- choosing ----------------------------------------------------------------------------------------------------------


class _Choosing(Runner):
    """Runs a net and measures, at each convolution, the ways on the bottom that arrives."""

    def __init__(self, net: Net, within: float) -> None:
        super().__init__(net)
        self.within = within
        self.choices: list[Choice] = []

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        if can_choose(step.layer) and len(bottoms) == 1 and bottoms[0].ndim == 4:
            assert isinstance(step.layer, Convolution)
            is_first = any(step.bottoms[0] in other.tops for other in self.net.steps if not other.bottoms)
            self.choices.append(_choose_ways(step.layer, bottoms[0], self.within, self.net.training, is_first))
        return super().call_layer(step, bottoms)


@torch.no_grad()
def _choose(net: Net, inputs: Mapping[str, Tensor], within: float) -> list[Choice]:
    _log.info("net '%s': measuring the ways of its convolutions, once for this machine and shape", net.name)
    with _own_randomness(net), keeping_statistics(net.steps):
        runner = _Choosing(net, within)
        runner.run(inputs)
    return runner.choices


def _own_randomness(net: Net) -> AbstractContextManager[None]:
    """Put random states back after the block."""
    return torch.random.fork_rng(devices=[net.device] if net.device.type == "cuda" else [])


def _choose_ways(layer: Convolution, bottom: Tensor, within: float, learns: bool, is_first: bool) -> Choice:
    """Measure the ways of one layer; learns: those of its gradients too; is_first: no gradient goes below it."""
    weight, bias, choice = _some_numbers(layer.weight.detach()), layer.bias, Choice(layer.name)
    bottom = _some_numbers(bottom)
    window = Window(layer.stride, layer.pad, layer.dilation, layer.group)
    parts = [_Part(bottom[..., :size, :size].contiguous(), weight, bias, window) for size in (_SMALL, _PART)]
    least = [reach + 1 - 2 * pad for reach, pad in zip(window.reach(weight), window.pad, strict=True)]
    if any(size < needed for size, needed in zip(parts[0].bottom.shape[2:], least, strict=True)):
        return choice
    for name in ("forward", "bottom", "weight") if learns else ("forward",):
        if name == "bottom" and is_first:
            continue
        ways = ways_for(bottom, weight, window, name, learns)
        for part in parts:
            ways, error = _quickest(ways, functools.partial(part.run, name), within, final=part is parts[-1])
        setattr(choice, name, ways[0].name)
        choice.error = max(choice.error, error)
    return choice


def _some_numbers(blob: Tensor) -> Tensor:
    """The blob; random numbers in its shape where it is all zeros, of which every way makes the same."""
    return blob if blob.any() else _random_like(blob)


def _random_like(blob: Tensor) -> Tensor:
    return torch.randn(blob.shape, generator=torch.Generator().manual_seed(0)).to(blob.device)


@dataclass
class _Part:
    """A piece of a layer's bottom, on which its ways are run."""

    bottom: Tensor
    weight: Tensor
    bias: Tensor | None
    window: Window

    @functools.cached_property
    def top(self) -> Tensor:
        """A gradient that could arrive at the top."""
        top = Way().convolve(self.bottom, self.weight, self.bias, self.window)
        return _random_like(top)

    def run(self, what: str, way: Way) -> Tensor:
        """Compute the top, or the gradient of `bottom` or `weight`."""
        if what == "forward":
            return way.convolve(self.bottom, self.weight, self.bias, self.window)
        gradient = way.bottom_gradient if what == "bottom" else way.weight_gradient
        return gradient(self.top, self.bottom, self.weight, self.window)


def _quickest(ways: Sequence[Way], run: Callable[[Way], Tensor], within: float, final: bool) -> tuple[list[Way], float]:
    """Return the ways that are exact enough and not slow, the quickest alone if `final`, with the largest error.

    Processor time, on a GPU the clock's, in turn: what else runs on the machine then slows all alike.
    """
    plain, wanted = ways[0], run(ways[0])
    errors = {way.name: largest_difference(run(way), wanted) for way in ways}  # this run packs and warms up
    left = [way for way in ways if errors[way.name] <= within]
    seconds = {way.name: float("inf") for way in left}
    for _ in range(_ROUNDS if len(left) > 1 else 0):
        for way in left:
            seconds[way.name] = min(seconds[way.name], _seconds(run, way, wanted.is_cuda))
    limit = seconds[plain.name]
    if final:
        best = min(left, key=lambda way: seconds[way.name])
        left = [best if seconds[best.name] < _GAIN * limit else plain]
    else:
        left = [way for way in left if seconds[way.name] <= 2.5 * limit]
    return left, max(errors[way.name] for way in left)


def _seconds(run: Callable[[Way], Tensor], way: Way, on_gpu: bool) -> float:
    clock = _gpu_clock if on_gpu else time.process_time
    start = clock()
    run(way).contiguous()  # a top in channels last costs the layers behind it that want another layout
    return clock() - start


def _gpu_clock() -> float:
    """Return the time when all that a GPU was given is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _with_choices(net: Net, choices: Sequence[Choice]) -> Net:
    """Return a net that computes by the choices."""
    by_layer = {choice.layer: choice for choice in choices}
    steps = []
    for step in net.steps:
        choice, layer = by_layer.get(step.node.name), step.layer
        if choice is None or choice.is_plain or not isinstance(layer, Convolution):
            steps.append(step)
            continue
        before = layer.convolve if isinstance(layer.convolve, ConvolveBy) else ConvolveBy(Way())
        chosen = before if choice.forward == PLAIN else replace(before, forward=WAYS[choice.forward]())
        if net.training:
            chosen = replace(chosen, bottom=WAYS[choice.bottom](), weight=WAYS[choice.weight]())
        steps.append(replace(step, layer=layer.with_convolve(chosen)))
    return net.with_steps(steps if net.training else fuse_relus(steps))


# -- the bound ---------------------------------------------------------------------------------------------------------


def largest_difference(ours: Tensor, plain: Tensor) -> float:
    """Return the largest difference between two tensors as a share of the largest value of the second."""
    if not plain.numel():
        return 0.0
    scale, apart = float(plain.abs().max()), float((ours - plain).abs().max())
    return apart / scale if scale and apart == apart else (0.0 if apart == 0 else float("inf"))


def _hold_bound(net: Net, base: Net, tuning: Tuning, inputs: Mapping[str, Tensor]) -> None:
    """Compare the whole net with the plain one; take choices back, the least exact first, until the bound holds."""
    plain = _answers(net, inputs)
    while True:
        ours = _answers(tuning.net, inputs)
        tuning.difference, tuning.classes = _compare(ours.blobs, plain.blobs)
        if net.training:
            tuning.whole_gradient = _gradient_difference(ours, plain)
            del ours  # gradients are as large as the weights
            same_blobs = [replace(choice, forward=PLAIN) for choice in tuning.choices]
            tuning.gradient = _gradient_difference(_answers(_with_choices(base, same_blobs), inputs), plain)
        changed = [choice for choice in tuning.choices if not choice.is_plain]
        if tuning.is_within or not changed:
            return
        worst = max(changed, key=lambda choice: choice.error)
        worst.forward = worst.bottom = worst.weight = PLAIN
        worst.error = 0.0
        tuning.net = _with_choices(base, tuning.choices)


class _Answers(NamedTuple):
    """The net's outputs, and the scores that its losses read; in train() the gradients of what it learns."""

    blobs: dict[str, Tensor]
    gradients: list[Tensor]


def _answers(net: Net, inputs: Mapping[str, Tensor]) -> _Answers:
    scores = {node.bottoms[0] for node in net.graph.nodes if net.layer(node).loss}
    learned = [item.blob for item in net.learnable_params if item.lr_mult]
    learns = bool(net.training and net.loss_weights and learned)
    with _own_randomness(net), keeping_statistics(net.steps), torch.set_grad_enabled(learns):
        torch.manual_seed(0)  # Dropout draws the same
        if not learns:
            return _Answers(net(inputs, keep=scores), [])
        loss, blobs = net.forward_loss(inputs, scores)
        found = torch.autograd.grad(loss, learned, allow_unused=True)
    blobs = {name: blob.detach() for name, blob in blobs.items()}
    return _Answers(blobs, [gradient for gradient in found if gradient is not None])


def _gradient_difference(ours: _Answers, plain: _Answers) -> float:
    pairs = zip(ours.gradients, plain.gradients, strict=True)
    return max((largest_difference(*pair) for pair in pairs), default=0.0)


def _compare(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> tuple[float, float]:
    difference, classes = 0.0, 1.0
    for name, blob in plain.items():
        if not blob.is_floating_point():
            continue
        difference = max(difference, largest_difference(ours[name], blob))
        if blob.ndim > 1 and blob.shape[1] > 1:
            classes = min(classes, float((ours[name].argmax(1) == blob.argmax(1)).float().mean()))
    return difference, classes


def _sample_inputs(net: Net, shape: Sequence[int] | None) -> dict[str, Tensor]:
    """Blobs for the layers without bottoms: numbers as of an image without its mean, labels of class 0."""
    sources = [(step, name) for step in net.steps if not step.bottoms for name in step.tops]
    if not sources:
        raise GraphError(f"net '{net.name}' has no input to measure it with: give it an Input or a data layer.")
    first = net.blob_shapes[sources[0][1]]
    if shape is not None and len(shape) != len(first):
        raise GraphError(
            f"net '{net.name}': its input '{sources[0][1]}' has {len(first)} axes, the shape to tune for has "
            f"{len(shape)}. Give a shape such as {', '.join(map(str, first))}."
        )
    generator, labels, blobs = torch.Generator().manual_seed(0), label_blobs(net.steps), {}
    for position, (_, name) in enumerate(sources):
        size = list(net.blob_shapes[name])
        if shape is not None and (position == 0 or size[2:] == list(first[2:])):
            size = [*(shape if position == 0 else (shape[0], *size[1:2], *shape[2:]))]
        blobs[name] = torch.zeros(size) if name in labels else torch.randn(size, generator=generator) * 50
    return blobs


# -- the cache ---------------------------------------------------------------------------------------------------------

_Check = tuple[float, float, float | None, float | None]


def cache_folder() -> Path:
    """Return the user's folder for what is found out once for a machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcn_caffe" / "ways"


def _cache_place(net: Net, inputs: Mapping[str, Tensor], within: float) -> tuple[Path, dict[str, Any]]:
    """The file of a net's choices, and what they hold for."""
    layers = [
        [step.node.name, list(step.layer.weight.shape), step.layer.stride, step.layer.pad, step.layer.dilation]
        for step in net.steps
        if isinstance(step.layer, Convolution)
    ]
    key = {
        "processor": processor_name() if net.device.type == "cpu" else torch.cuda.get_device_name(net.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "net": hashlib.sha256(net.param.SerializeToString(deterministic=True)).hexdigest(),
        "layers": hashlib.sha256(json.dumps(layers).encode()).hexdigest(),
        "training": net.training,
        "inputs": {name: list(blob.shape) for name, blob in inputs.items()},
        "within": within,
        "ways": sorted(WAYS),
        "measured": "with a contiguous top",
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / f"{name}.json", key


def processor_name() -> str:
    """Return the processor's name and what it can do, as PyTorch sees it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _fingerprint(net: Net) -> str:
    """Two sums of each blob: they change when the net's weights do."""
    sums = [
        float(part) for item in net.learnable_params for part in (item.blob.detach().sum(), item.blob.detach().norm())
    ]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:32]


def _read_cache(place: Path, key: Mapping[str, Any]) -> tuple[list[Choice] | None, dict[str, _Check]]:
    """What is known; nothing, where the file is not there, cannot be read or is of something else."""
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        refuse_endless(place)
        found = json.loads(place.read_text(encoding="utf-8"))
        if found["for"] == key:
            choices = [Choice(**choice) for choice in found["choices"]]
            checks = {name: _read_check(*check) for name, check in found["checks"].items()}
            if all({choice.forward, choice.bottom, choice.weight} <= WAYS.keys() for choice in choices):
                return choices, checks
    return None, {}


def _read_check(difference: float, classes: float, *gradients: float | None) -> _Check:
    first, second = (None if gradient is None else float(gradient) for gradient in gradients)
    return float(difference), float(classes), first, second


def _write_cache(place: Path, key: Mapping[str, Any], choices: Sequence[Choice], checks: dict[str, _Check]) -> None:
    """Write what is known; without a folder that can be written to it is measured again next time."""
    kept = dict(list(checks.items())[-20:])
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place, "w") as file:
            json.dump({"for": key, "choices": [asdict(choice) for choice in choices], "checks": kept}, file, indent=1)
            file.write("\n")
