"""Segment photographs with a trained net: a palette PNG of class indices and an overlay for each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.data.readers.labels import read_classes
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.infer import Segmenter, find_images, net_mean, trained_net
from fcn_caffe.evaluation.net_inputs import check_preprocessing
from fcn_caffe.evaluation.predictions import VOC_LAYOUT, check_voc
from fcn_caffe.host import pictures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="infer", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them, of any size")
    parser.add_argument("--net", required=True, help="net prototxt; its deploy stage is run")
    parser.add_argument("--weights", required=True, help="weights trained with that net, in any form")
    parser.add_argument("--out", type=Path, default=Path("segmented"), help="folder to write to (default: segmented)")
    parser.add_argument(
        "--voc-results", type=Path, help=f"also write the answers as the VOC test server takes them: DIR/{VOC_LAYOUT}"
    )
    parser.add_argument("--mean", type=float, nargs=3, metavar=("B", "G", "R"), help="default: the net's data layer's")
    parser.add_argument("--score", default="score", help="blob of class scores (default: score)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs"
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    images = [path for place in arguments.images for path in find_images(place)]
    mean = arguments.mean or net_mean(arguments.net)
    if mean is None:
        raise DataError(
            f"{arguments.net}: the net does not say which mean its data layer subtracts. Give --mean B G R."
        )
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net, mean)
    net = trained_net(arguments.net, arguments.weights, stages=("deploy",), device=arguments.device)
    segment = Segmenter(net, mean, arguments.score)
    card = Path(arguments.net).parent / "classes.txt"
    names = read_classes(card) if card.is_file() else []
    folders = [arguments.out]
    if arguments.voc_results:
        check_voc(net, [arguments.score])
        folders.append(arguments.voc_results / VOC_LAYOUT)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
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


def _shares(label: pictures.UInt8, names: Sequence[str]) -> str:
    """What part of the picture each class takes, the largest first."""
    counts = {int(index): int((label == index).sum()) for index in set(label.ravel().tolist())}
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:5]
    return ", ".join(
        f"{names[index] if index < len(names) else index} {count / label.size:.1%}" for index, count in ranked
    )
