"""An exported file is right if its engine gives the plain net's numbers, at sizes that it was not traced at."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.errors import GraphError
from fcn_caffe.export.engines import Array, Engine
from fcn_caffe.export.places import PlacesRunner, mask_blobs
from fcn_caffe.export.program import Program
from fcn_caffe.export.sizes import TakenSizes
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Runner, Shape, label_blobs
from fcn_caffe.weights.record import Preprocessing

__all__ = ["EXACT", "HALF_TOLERANCE", "TOLERANCE", "Proof", "prove"]

TOLERANCE = 1e-4  # of the largest value of an output
HALF_TOLERANCE = 1e-2  # with float16 weights, which have 11 bits
EXACT = 1e-5  # from here on the net in float64 says whose rounding it is: some nets let it grow from layer to layer
_SPREAD = 64.0  # the standard deviation of photographs less their mean

Numbers = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Proof:
    """What a comparison has found.

    engine: what ran the file. sizes: the inputs that it ran. absolute, relative: the largest difference, and as a share
    of the largest value of its output. same: of outputs that are classes, the share of places that are the same,
    without those where two classes are equal within the tolerance; None where there are none. moved: of pooling masks,
    the places that are not the net's own. lower: how far their values are below the largest of their windows, as a
    share of the blob's largest value. exact: the largest difference of the file, and of the plain net, from the plain
    net in float64, as shares of the largest value; none where file and net differ by no more than `EXACT`.
    """

    engine: str
    sizes: list[str]
    absolute: float
    relative: float
    same: float | None
    moved: int = 0
    lower: float = 0.0
    exact: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.same is None:
            said = f"largest difference {self.absolute:.2g}, {self.relative:.2g} of the largest value"
        else:
            said = f"{self.same:.4%} of the classes are the same, without those that tie"
        if self.exact:
            said += "; from the net in float64 the file is {:.2g}, the net in float32 {:.2g}".format(*self.exact)
        if self.moved:
            said += f"; {self.moved} maxima are taken at another place of their window, {self.lower:.2g} lower at most"
        return f"checked in {self.engine} at {' and '.join(self.sizes)}: {said}"


def prove(
    net: Net,
    program: Program,
    engine: Engine,
    taken: TakenSizes | None = None,
    made_by: Preprocessing | None = None,
    *,
    classes: bool = False,
    half: bool = False,
    witness: Engine | None = None,
) -> Proof:
    """Run a file on random inputs of two sizes and compare it with the plain net; raise where it is off.

    Args:
        net: the plain net.
        program: what the file was made of.
        engine: it, with the file loaded.
        taken: the sizes that the net takes; without them it is run at the declared one.
        made_by: how the file makes a photograph the net's input; None where it takes that itself.
        classes: whether the outputs are classes.
        half: whether the weights are float16.
        witness: of a net with pooling masks, a file of the same format that gives these; the net is run with them.

    Raises:
        GraphError: an output is off, not finite or of another shape; or a mask's place has no largest value.
    """
    tolerance, shapes = HALF_TOLERANCE if half else TOLERANCE, _shapes(net, program, taken)
    worst, same, moved, lower = (0.0, 0.0), 1.0, 0, 0.0
    exact: list[tuple[float, float]] = []
    for seed, sizes in enumerate(shapes):
        inputs = _inputs(net, sizes, seed, photographs=made_by is not None)
        places = _places(net, witness, inputs)
        runner = PlacesRunner(net, places, tolerance)
        wanted = _answers(runner, inputs, program.outputs, made_by)
        moved, lower = moved + runner.moved, max(lower, runner.lower)
        found = dict(zip(wanted, engine.run(inputs), strict=True))
        if classes:
            same = min(same, *(_same_classes(name, wanted[name], found[name], tolerance) for name in wanted))
            continue
        apart = _difference(wanted, found)
        worst = max(worst, apart, key=lambda pair: pair[1])
        if not half and EXACT < apart[1] <= tolerance:
            deep = PlacesRunner(copy.deepcopy(net).double(), places, tolerance)
            truth = _answers(deep, inputs, program.outputs, made_by, np.float64)
            exact.append((_difference(truth, found)[1], _difference(truth, wanted)[1]))
    ran = [", ".join(map(show, sizes.values())) for sizes in shapes]
    shares = tuple(map(max, zip(*exact, strict=True)))
    proof = Proof(engine.name, ran, *worst, same if classes else None, moved, lower, shares)
    _refuse_inexact(net, proof, tolerance, 0.999 if half else 1)
    return proof


def _refuse_inexact(net: Net, proof: Proof, tolerance: float, share: float) -> None:
    """Refuse a file that is off by more than the tolerance, or of whose classes less than a share are the same."""
    if proof.relative > tolerance or (proof.same is not None and proof.same < share):
        raise GraphError(
            f"net '{net.name}': the file is not exact enough, within {tolerance:g}: {proof}. Nothing was written. "
            "Please report this net."
        )


def _places(net: Net, witness: Engine | None, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Return the pooling masks that a file gives, by blob; none without such a file."""
    masks = witness.run(inputs) if witness else []
    return dict(zip(mask_blobs(net), map(torch.tensor, masks), strict=False))


def _answers(
    runner: Runner,
    inputs: Mapping[str, Array],
    outputs: Iterable[str],
    made_by: Preprocessing | None,
    kind: type[np.floating[Any]] = np.float32,
) -> dict[str, Numbers]:
    """Return the net's outputs; `kind`: what it computes in."""
    blobs = inputs if made_by is None else {name: prepare(blob, made_by) for name, blob in inputs.items()}
    blobs = {name: blob.astype(kind) for name, blob in blobs.items()}
    with torch.no_grad():
        found = runner.run(blobs, frozenset(outputs))
    answers = {name: found[name].detach().numpy() for name in outputs}
    for name, blob in answers.items():
        if not np.isfinite(blob).all():
            raise GraphError(
                f"net '{runner.net.name}': '{name}' is not finite on random inputs. Are the weights this net's?"
            )
    return answers


def prepare(photographs: Array, made_by: Preprocessing) -> Array:
    """Make RGB photographs a net's input with NumPy: what a file that does it is compared with."""
    ordered = photographs[:, ::-1] if made_by.channel_order == "BGR" else photographs
    mean = np.array(made_by.mean or (0.0,), np.float32).reshape(1, -1, 1, 1)
    scale = 1.0 if made_by.scale is None else made_by.scale
    return np.ascontiguousarray((ordered.astype(np.float32) - mean) * np.float32(scale))


def _shapes(net: Net, program: Program, taken: TakenSizes | None) -> list[dict[str, Shape]]:
    """Return two sets of sizes that the net takes, other than the traced; the declared sizes where none is free."""
    free = {
        size: net.blob_shapes[name][axis]
        for name, sizes in program.inputs.items()
        for axis, size in enumerate(sizes)
        if isinstance(size, str)
    }
    if taken is None or not free or not free.keys() <= set(program.letters.values()):  # a size is computed from others
        return [{name: net.blob_shapes[name] for name in program.inputs}]
    found = []
    for index in range(2):
        values = {size: count + index for size, count in free.items()} | {"N": 1 + index}
        if len(taken.pairs) == 2:
            values.update(zip("HW", taken.pairs[index], strict=True))
        found.append(
            {
                name: tuple(values[size] if isinstance(size, str) else size for size in sizes)
                for name, sizes in program.inputs.items()
            }
        )
    return found


def _inputs(net: Net, shapes: Mapping[str, Shape], seed: int, photographs: bool) -> dict[str, Array]:
    """Return random inputs: photographs, or such less their mean, or indices that are all 0."""
    numbers, labels = np.random.default_rng(seed), label_blobs(net.steps)
    inputs: dict[str, Array] = {}
    for name, shape in shapes.items():
        if photographs:
            inputs[name] = numbers.integers(0, 256, shape, np.uint8)
        elif name in labels:
            inputs[name] = np.zeros(shape, np.float32)
        else:
            spread = _SPREAD if shape[1:2] == (3,) else 1.0
            inputs[name] = np.asarray(numbers.standard_normal(shape, np.float32) * np.float32(spread))
    return inputs


def _check_shape(name: str, wanted: Sequence[int], found: Array) -> None:
    if tuple(wanted) != found.shape:
        raise GraphError(
            f"the file's '{name}' is {show(found.shape)}, the net's {show(wanted)}. Please report this net."
        )


def _difference(wanted: Mapping[str, Numbers], found: Mapping[str, Array]) -> tuple[float, float]:
    """Return the largest difference of all outputs, and as a share of its output's largest value."""
    apart = (_difference_of(name, blob, found[name]) for name, blob in wanted.items())
    return max(apart, key=lambda pair: pair[1])


def _difference_of(name: str, wanted: Numbers, found: Array) -> tuple[float, float]:
    _check_shape(name, wanted.shape, found)
    if not wanted.size:
        return 0.0, 0.0
    apart = float(np.abs(wanted - found.astype(np.float64)).max())
    largest = float(np.abs(wanted).max())
    if apart != apart:
        return float("inf"), float("inf")
    return apart, apart / largest if largest else apart


def _same_classes(name: str, scores: Numbers, found: Array, tolerance: float) -> float:
    """Return the share of places of the same class, without those where the best two scores tie."""
    _check_shape(name, (*scores.shape[:1], *scores.shape[2:]), found)
    best = np.sort(scores, 1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > tolerance * np.abs(scores).max()
    return float((scores.argmax(1) == found)[clear].mean()) if clear.any() else 1.0
