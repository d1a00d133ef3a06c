"""Segment photographs with a trained net: a palette PNG of class indices and an overlay for each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    add_crf_options,
    add_fork_options,
    add_speed_options,
    add_tile_option,
    make_faster,
    net_or_solver,
    new_parser,
    requested_crf,
    use_fork,
)
from fcn_caffe.errors import DataError

if TYPE_CHECKING:
    from fcn_caffe.evaluation.infer import Segmenter
    from fcn_caffe.host.pictures import UInt8
    from fcn_caffe.net.net import Net

VOC_LAYOUT = "results/VOC2012/Segmentation/comp6_test_cls"  # where the VOC test server looks for answers


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("infer", __doc__)
    add = options.add_argument
    add("images", nargs="+", type=Path, help="image files, or folders of them, of any size")
    add("--net", required=True, type=net_or_solver, help="net prototxt; its deploy stage is run")
    add("--weights", required=True, help="weights trained with that net, in any form")
    add("--out", type=Path, default=Path("segmented"), help="folder to write to (default: segmented)")
    add("--voc-results", type=Path, help=f"also write the answers as the VOC test server takes them: DIR/{VOC_LAYOUT}")
    add("--mean", type=float, nargs=3, metavar=("B", "G", "R"), help="default: the net's data layer's")
    add("--score", default="score", help="blob of class scores (default: score)")
    add_tile_option(options)
    add_speed_options(options)
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add_crf_options(options)
    add_fork_options(options)
    return options


def _segmenter(arguments: argparse.Namespace) -> tuple[Segmenter, Net]:
    """Load the net. Raises: DataError where its mean is not known, or the weights were made for other inputs."""
    from fcn_caffe.evaluation.infer import Segmenter, net_mean, trained_net
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.host.devices import torch_device

    device = str(torch_device(arguments.device))
    mean = arguments.mean or net_mean(arguments.net)
    if mean is None:
        raise DataError(
            f"{arguments.net}: the net does not say which mean its data layer subtracts. Give --mean B G R."
        )
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net, mean)
    net = trained_net(arguments.net, arguments.weights, stages=("deploy",), device=device)
    net = make_faster(net, arguments)
    return Segmenter(net, mean, arguments.score, arguments.tile, requested_crf(arguments)), net


def _folders(arguments: argparse.Namespace, net: Net) -> list[Path]:
    """Make the folders that labels are written to."""
    from fcn_caffe.evaluation.predictions import check_voc

    folders: list[Path] = [arguments.out]
    if arguments.voc_results:
        check_voc(net, [arguments.score])
        folders.append(arguments.voc_results / VOC_LAYOUT)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def _class_names(net: str) -> list[str]:
    """The names of the class card beside a net; none where there is no card."""
    from fcn_caffe.data.readers.labels import read_classes

    card = Path(net).parent / "classes.txt"
    return read_classes(card) if card.is_file() else []


def _shares(label: UInt8, names: Sequence[str]) -> str:
    """What part of the picture each class takes, the largest first."""
    import numpy as np

    # By row, as bincount makes 8 bytes of each pixel.
    counts = np.sum([np.bincount(row, minlength=256) for row in label], 0).tolist()
    ranked = sorted(((index, count) for index, count in enumerate(counts) if count), key=lambda item: -item[1])[:5]
    return ", ".join(
        f"{names[index] if index < len(names) else index} {count / label.size:.1%}" for index, count in ranked
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_fork(arguments)

    from fcn_caffe.evaluation.infer import find_images
    from fcn_caffe.host import pictures

    images = [path for place in arguments.images for path in find_images(place)]
    segment, net = _segmenter(arguments)
    names = _class_names(arguments.net)
    folders = _folders(arguments, net)
    taken: dict[str, Path] = {}
    for path in images:
        if path.stem in taken:
            raise DataError(f"{path} and {taken[path.stem]} would be written to the same file. Run them one at a time.")
        taken[path.stem] = path
        start = time.perf_counter()
        image, label = segment.read(path)
        seconds = time.perf_counter() - start
        for folder in folders:
            pictures.save_labels(folder / f"{path.stem}.png", label)
        pictures.save_image(arguments.out / f"{path.stem}_overlay.jpg", pictures.overlay(image, label))
        print(f"{path}: {image.shape[1]}x{image.shape[0]}, {seconds:.2f} s, {_shares(label, names)}")
    print(f"wrote {len(images)} label PNGs and overlays to {arguments.out}")
    return 0
