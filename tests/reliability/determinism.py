"""Which layers give the same bits again, and with one thread as with two: a Markdown table of those that do not.

python tests/reliability/determinism.py [--deterministic] [TYPE ...]

Each case of tests/layer_cases.py runs forward and backward on bottoms so large that PyTorch shares the work out. Where
bits differ, the operations of PyTorch are named that made other bits out of the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or a thread that waits keeps the core that the other one needs

import torch  # noqa: E402
from layer_cases import CASES, WITHOUT_GRADIENT, build  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from fcn_caffe.errors import FcnCaffeError  # noqa: E402

Shapes = tuple[tuple[int, ...], ...]
Case = tuple[str, Shapes, str]
Bits = dict[str, torch.Tensor]
Step = tuple[str, list[torch.Tensor], list[torch.Tensor]]  # an operation, what went in and what came out
SIDE = 12  # how many times as high and as wide
LARGE = 8  # how many times as many images
ROWS = 1 << 13  # how many times as many rows, where a bottom has rows alone
LIMIT = 30  # seconds of processor time that a case may take

# Cases of more channels, and of layers that none of the ways to enlarge fits.
MORE: dict[str, list[tuple[Shapes, str]]] = {
    "Convolution": [(((4, 32, 40, 36),), "convolution_param { num_output: 64 kernel_size: 3 pad: 1 }")],
    "Deconvolution": [(((4, 21, 20, 18),), "convolution_param { num_output: 21 kernel_size: 4 stride: 2 group: 21 }")],
    "InnerProduct": [(((64, 2048),), "inner_product_param { num_output: 512 }")],
    "LSTM": [(((6, 64, 128), (6, 64)), "recurrent_param { num_output: 96 }")],
    "RNN": [(((6, 64, 128), (6, 64)), "recurrent_param { num_output: 96 }")],
}


class Steps(TorchDispatchMode):
    """Keeps every operation of PyTorch with copies of what goes in and of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Sequence[object] = (), kwargs: object = None
    ) -> object:
        """Run an operation and keep it."""
        options: dict[str, object] = kwargs if isinstance(kwargs, dict) else {}
        given = copies((args, options))
        result = func(*args, **options)
        self.steps.append((str(func).removesuffix(".default"), given, copies(result)))
        return result


def copies(values: object) -> list[torch.Tensor]:
    """Return copies of the tensors among values that have numbers."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))
    return [tensor.detach().clone() for tensor in tensors if not tensor.is_meta]


def enlarge(shapes: Shapes, rows: int) -> Shapes:
    """Return shapes that are larger along the axes that a layer's options leave free."""
    return tuple(
        (shape[0] * LARGE, shape[1], *(size * SIDE for size in shape[2:]))
        if len(shape) >= 3
        else (shape[0] * rows, *shape[1:])
        for shape in shapes
    )


def run(case: Case, threads: int) -> Bits:
    """Run a layer forward and backward in so many threads; return its tops and gradients."""
    type = case[0]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, bottoms = build(*case)
    for blob in bottoms.values():
        if type in CASES:
            blob.requires_grad_()
    found: Bits = net(bottoms)
    if type in WITHOUT_GRADIENT:
        return found
    sum((top * torch.linspace(0.1, 1, top.numel()).view(top.shape)).sum() for top in found.values()).backward()
    found = {f"top {name}": top.detach() for name, top in found.items()}
    gradients = {**bottoms, **{f"blob {index}": blob for index, blob in enumerate(net.layer("l").blobs)}}
    found.update({f"gradient of {name}": blob.grad for name, blob in gradients.items() if blob.grad is not None})
    return found


def are_same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Say whether tensors have the same bits; a NaN is as good as another."""
    return len(first) == len(second) and all(
        torch.equal(one.nan_to_num(), two.nan_to_num()) and torch.equal(one.isnan(), two.isnan())
        for one, two in zip(first, second, strict=True)
    )


def differing(first: Bits, second: Bits) -> list[str]:
    """Return what differs, with the largest difference as a share of the largest number."""
    lines = []
    for name, blob in first.items():
        if not are_same([blob], [second[name]]):
            apart = (blob.double() - second[name].double()).abs().max() / blob.double().abs().max()
            lines.append(f"{name} ({apart:.0e})")
    return lines


def causes(case: Case, threads: tuple[int, int]) -> list[str]:
    """Return the operations that make other bits out of the same with these numbers of threads."""
    runs = []
    for number in threads:
        with Steps() as kept:
            run(case, number)
        runs.append(kept.steps)
    return sorted(
        {
            name
            for (name, given, made), (_, others_given, others_made) in zip(*runs, strict=False)
            if are_same(given, others_given) and not are_same(made, others_made)
        }
    )


def compare(case: Case) -> tuple[list[str], list[str], list[str]]:
    """Return what differs between two runs of one kind, between 1 and 2 threads, and the operations that make it so."""
    one, two = run(case, 1), run(case, 2)
    again = differing(one, run(case, 1)) + differing(two, run(case, 2))
    apart = differing(one, two)
    return again, apart, causes(case, (1, 2) if apart else (2, 2)) if apart or again else []


def cases(types: Sequence[str]) -> Iterator[Case]:
    """Yield each case, enlarged as far as the layer takes it."""
    for type, group in sorted({**CASES, **WITHOUT_GRADIENT}.items()):
        for shapes, text in group if not types or type in types else ():
            for larger in (enlarge(shapes, ROWS), enlarge(shapes, LARGE), enlarge(shapes, 1), shapes):
                try:
                    net, bottoms = build(type, larger, text)
                    net(bottoms)
                except (FcnCaffeError, RuntimeError, ValueError):
                    continue
                yield type, larger, text
                break
        yield from ((type, *more) for more in MORE.get(type, ()) if not types or type in types)


def stop(number: int, frame: FrameType | None) -> None:
    """End a case that takes too long."""
    raise TimeoutError


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where two runs of one kind differ, or a case takes too long."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("types", nargs="*", metavar="TYPE", help="types of layers (default: all)")
    options.add_argument("--deterministic", action="store_true", help="ask PyTorch for deterministic ways")
    arguments = options.parse_args(argv)
    torch.use_deterministic_algorithms(arguments.deterministic)
    signal.signal(signal.SIGPROF, stop)
    count, unequal, late, types = 0, 0, 0, set()
    print("| layer | options | two runs differ in | 1 and 2 threads differ in | operation |\n|---|---|---|---|---|")
    for case in cases(arguments.types):
        count += 1
        types.add(case[0])
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            again, apart, operations = compare(case)
            signal.setitimer(signal.ITIMER_PROF, 0)
        except TimeoutError:
            again, apart, operations = [], [f"not compared: more than {LIMIT} s"], []
            late += 1
        unequal += any(again)
        if apart or again:
            cells = (", ".join(cell) or "–" for cell in (again, apart, operations))
            print(f"| {case[0]} | {case[2][:60]} | {' | '.join(cells)} |", flush=True)
    print(f"\n{count} cases of {len(types)} types, PyTorch {torch.__version__}.")
    print(f"Two runs differ in {unequal}, {late} took too long.")
    return 1 if unequal or late else 0


if __name__ == "__main__":
    sys.exit(main())
