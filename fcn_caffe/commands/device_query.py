"""Show the CUDA devices that torch sees, as `caffe device_query` does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.host.tables import Table, print_tables


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("device_query", __doc__)
    options.add_argument(
        "-gpu", "--gpu", default="all", help="device numbers separated by commas, or all (the default)"
    )
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 also where there is no device, for that is an answer."""
    arguments = parser().parse_args(argv)

    import torch

    from fcn_caffe.host.devices import describe, gpu_numbers, without_cuda

    if not torch.cuda.is_available():
        print(f"No CUDA device: {without_cuda()}. Nets run on the CPU, with {torch.get_num_threads()} threads.")
        return 0
    numbers = gpu_numbers(arguments.gpu)
    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn or 'none'}")
    for number in numbers:
        facts = describe(number)
        width = max(map(len, facts)) + 1
        plain = "\n" + "\n".join(f"{title + ':':{width}} {value}" for title, value in facts.items())
        print_tables(plain, [Table((f"cuda:{number}", ""), list(facts.items()))])
    return 0
