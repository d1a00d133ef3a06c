"""Which layers give the same bits again, and with one thread as with two: a Markdown table of those that do not.

python tests/reliability/determinism.py [--deterministic]

Each case of tests/layer_cases.py runs forward and backward on bottoms so large that PyTorch shares the work out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from layer_cases import CASES, WITHOUT_GRADIENT, build  # noqa: E402

from fcn_caffe.errors import FcnCaffeError  # noqa: E402

Shapes = tuple[tuple[int, ...], ...]
Bits = dict[str, torch.Tensor]
SIDE = 12  # how many times as high and as wide
LARGE = 8  # how many times as many images, or rows


def enlarge(shapes: Shapes) -> Shapes:
    """Return shapes that are larger along the axes that a layer's options leave free."""
    return tuple(
        (shape[0] * LARGE, shape[1], *(size * SIDE for size in shape[2:])) if len(shape) >= 3 else shape
        for shape in shapes
    )


def bits(type: str, shapes: Shapes, options: str, threads: int) -> Bits:
    """Run a layer forward and backward in so many threads; return its tops and gradients."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, bottoms = build(type, shapes, options)
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


def differing(first: Bits, second: Bits) -> list[str]:
    """Return what differs, with the largest difference as a share of the largest number."""
    lines = []
    for name, blob in first.items():
        if not torch.equal(blob, second[name]):
            apart = (blob.double() - second[name].double()).abs().max() / blob.double().abs().max()
            lines.append(f"{name} ({apart:.0e})")
    return lines


def cases() -> Iterator[tuple[str, Shapes, str]]:
    """Yield each case, enlarged where the layer takes it."""
    for type, group in sorted({**CASES, **WITHOUT_GRADIENT}.items()):
        for shapes, options in group:
            try:
                build(type, enlarge(shapes), options)
                yield type, enlarge(shapes), options
            except (FcnCaffeError, RuntimeError, ValueError):
                yield type, shapes, options


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where two runs of one kind differ."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--deterministic", action="store_true", help="ask PyTorch for deterministic ways")
    torch.use_deterministic_algorithms(options.parse_args(argv).deterministic)
    count, unequal = 0, 0
    print("| layer | options | two runs differ in | 1 and 2 threads differ in |\n|---|---|---|---|")
    for type, shapes, text in cases():
        one, two = (bits(type, shapes, text, threads) for threads in (1, 2))
        again = [differing(first, bits(type, shapes, text, threads)) for first, threads in ((one, 1), (two, 2))]
        apart = differing(one, two)
        count, unequal = count + 1, unequal + any(again)
        if apart or any(again):
            print(f"| {type} | {text[:60]} | {', '.join(again[0] + again[1]) or '–'} | {', '.join(apart) or '–'} |")
    print(f"\n{count} cases, PyTorch {torch.__version__}; two runs differ in {unequal}.")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
