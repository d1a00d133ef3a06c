"""Segment photographs and films with a trained net: palette PNGs of class indices and overlays."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    add_crf_options,
    add_deterministic_option,
    add_reading_options,
    add_speed_options,
    add_tile_option,
    batch_size,
    finite,
    make_faster,
    net_or_solver,
    new_parser,
    requested_crf,
    share,
    use_deterministic,
    use_reading_options,
    whole,
)
from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host import interrupts

if TYPE_CHECKING:
    import torch

    from fcn_caffe.evaluation.answer_run import AnswerRun
    from fcn_caffe.evaluation.answers import AnswerFiles, ImageFile, Picture
    from fcn_caffe.evaluation.average import Average
    from fcn_caffe.evaluation.crf import DenseCrf
    from fcn_caffe.evaluation.infer import Answer, Segmenter
    from fcn_caffe.host.ranks import Ranks

VOC_LAYOUT = "results/VOC2012/Segmentation/comp6_test_cls"  # where the VOC test server looks for answers


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("infer", __doc__)
    add = options.add_argument
    add("images", nargs="+", type=Path, help="image files of any size, films, or folders of images")
    add("--net", required=True, type=net_or_solver, help="net prototxt; its deploy stage is run")
    add("--weights", required=True, help="weights trained with that net, in any form")
    add("--out", type=Path, default=Path("segmented"), help="folder to write to (default: segmented)")
    add("--voc-results", type=Path, help=f"also write the answers as the VOC test server takes them: DIR/{VOC_LAYOUT}")
    add("--mean", type=finite, nargs=3, metavar=("B", "G", "R"), help="default: the net's data layer's")
    add("--score", default="score", help="blob of class scores (default: score)")
    _add_image_options(options)
    _add_answer_options(options)
    add_tile_option(options)
    add(
        "--batch",
        type=batch_size,
        default=1,
        metavar="N",
        help="run up to N images of one size in one go, size by size",
    )
    add("--workers", type=whole, default=0, metavar="N", help="threads that read ahead, and write (default: 0)")
    add_speed_options(options)
    add_deterministic_option(options)
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add_crf_options(options)
    add_reading_options(options)
    return options


def _add_image_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--recursive", action="store_true", help="search sub-folders too; answers lie in sub-folders of the same names")
    add(
        "--frames",
        action="store_true",
        help="run all frames and pages of GIF, TIFF, WebP and PNG files, not the first alone, and films in folders",
    )
    add("--skip-existing", action="store_true", help="leave out images whose answers are all there")


def _add_answer_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--probabilities", choices=["npz", "png"], help="also write all probabilities: an array, or 16-bit PNGs")
    add("--confidence", choices=["grey", "colour"], help="also write a picture of the largest probability")
    add("--legend", action="store_true", help="put the classes' names and colours under overlays")
    add("--scales", type=share, nargs="+", metavar="S", help="average the probabilities of the image in these sizes")
    add("--mirror", action="store_true", help="average with the probabilities of the image mirrored left to right")


def _check_options(arguments: argparse.Namespace, crf: DenseCrf | None) -> None:
    """Refuse options that exclude each other, before anything is loaded. Raises: DataError."""
    from fcn_caffe.data.readers.frames import is_film
    from fcn_caffe.evaluation.crf import refuse_tile

    if crf is not None:
        refuse_tile(arguments.tile)
    if arguments.tile and arguments.batch > 1:
        raise DataError(
            f"--tile {arguments.tile}: images in parts are run one at a time. Leave out --tile, or --batch."
        )
    if arguments.voc_results:
        for option in ("recursive", "frames"):
            if getattr(arguments, option):
                raise DataError(
                    f"--voc-results: the VOC test server takes one answer for each image of one folder. Leave out "
                    f"--{option}, or --voc-results."
                )
        films = [path for path in arguments.images if is_film(path)]
        if films:
            raise DataError(f"--voc-results: {films[0]} is a film, which the VOC test server does not take.")


def _segmenter(
    arguments: argparse.Namespace, device: torch.device, crf: DenseCrf | None, average: Average
) -> Segmenter:
    """Load the net. Raises: DataError where its mean is not known, or the weights were made for other inputs."""
    from fcn_caffe.evaluation.infer import Segmenter, net_mean, trained_net
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.evaluation.predictions import check_voc

    mean = arguments.mean or net_mean(arguments.net)
    if mean is None:
        raise DataError(
            f"{arguments.net}: the net does not say which mean its data layer subtracts. Give --mean B G R."
        )
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net, arguments.mean)
    net = trained_net(arguments.net, arguments.weights, stages=("deploy",), device=str(device))
    segment = Segmenter(make_faster(net, arguments), mean, arguments.score, arguments.tile, crf, average)
    if arguments.voc_results:
        check_voc(net, [arguments.score])
    return segment


def _outputs(arguments: argparse.Namespace) -> AnswerFiles:
    """Say what is written; make no folder yet."""
    from fcn_caffe.evaluation.answers import AnswerFiles

    return AnswerFiles(
        arguments.out,
        arguments.voc_results and arguments.voc_results / VOC_LAYOUT,
        arguments.confidence,
        arguments.probabilities,
        arguments.legend,
    )


def _shares(answer: Answer, names: Sequence[str]) -> str:
    """What part of the picture each class takes, the largest first."""
    from fcn_caffe.evaluation.answers import count_labels

    counts = count_labels(answer.labels)
    ranked = sorted(((index, count) for index, count in enumerate(counts) if count), key=lambda item: -item[1])[:5]
    return ", ".join(
        f"{names[index] if index < len(names) else index} {count / answer.labels.size:.1%}" for index, count in ranked
    )


def _answer_run(arguments: argparse.Namespace, segment: Segmenter, outputs: AnswerFiles) -> AnswerRun:
    """Make the run, which prints a line for each image and film."""
    from fcn_caffe.evaluation.answer_run import AnswerRun

    def say_answer(picture: Picture, answer: Answer, seconds: float) -> None:
        size = f"{picture.rgb.shape[1]}x{picture.rgb.shape[0]}"
        page = f" {picture.page}" if picture.page else ""
        print(f"{picture.path}{page}: {size}, {seconds:.2f} s, {_shares(answer, outputs.names)}")

    def say_film(file: ImageFile, frames: int, seconds: float) -> None:
        print(f"{file.path}: {frames} frames, {seconds / max(1, frames):.2f} s each")

    def say_failure(path: Path, error: FcnCaffeError) -> None:
        print(f"error: {error}", file=sys.stderr)

    return AnswerRun(segment, outputs, arguments.batch, arguments.workers, say_answer, say_film, say_failure)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    use_deterministic(arguments)

    from fcn_caffe.host.ranks import joined_ranks

    with joined_ranks() as ranks:
        with ranks.all_or_none():
            run, wanted = _prepare(arguments, ranks)
        # Every process has looked what is answered before one of them writes.
        own = wanted[ranks.rank :: ranks.count]
        try:
            run.run(own)
        except KeyboardInterrupt:
            left = len(own) - run.done - len(run.failed)
            far = f"{run.done} of {len(own)} files{' of rank 0' if ranks.count > 1 else ''} are done"
            number = interrupts.ended_by()
            print(f"{interrupts.message(number)}: {far}. --skip-existing runs the other {left}.", file=sys.stderr)
            return interrupts.exit_status(number)
        every = ranks.gather([run.pictures, [str(file) for file in run.failed]])
        failed = [file for _, files in every for file in files]
        print(f"wrote {sum(pictures for pictures, _ in every)} label PNGs and overlays to {arguments.out}")
        if failed:
            listed = ", ".join(failed[:5]) + (" …" if len(failed) > 5 else "")
            print(f"error: {len(failed)} of {len(wanted)} files have no answer: {listed}", file=sys.stderr)
        return 1 if failed else 0


def _prepare(arguments: argparse.Namespace, ranks: Ranks) -> tuple[AnswerRun, list[ImageFile]]:
    """Check all that can be checked, load the net; return what runs, and the files that are to be answered."""
    from fcn_caffe.evaluation.answers import find_files, names_and_colours
    from fcn_caffe.evaluation.average import Average
    from fcn_caffe.host.devices import torch_device

    # What can be refused is refused before the net is loaded, which takes longest.
    device, crf = ranks.device(torch_device(arguments.device)), requested_crf(arguments)
    average = Average(arguments.scales or (1.0,), arguments.mirror)
    _check_options(arguments, crf)
    outputs = _outputs(arguments)
    files = find_files(
        arguments.images, recursive=arguments.recursive, frames=arguments.frames, leave_out=[arguments.out]
    )
    outputs.check(files)
    with ranks.first_before_others():  # what --fast has measured is kept in a file
        segment = _segmenter(arguments, device, crf, average)
    outputs.names, outputs.colours = names_and_colours(arguments.net, arguments.weights, segment.classes)
    wanted = [file for file in files if not (arguments.skip_existing and outputs.is_done(file, segment.classes))]
    if len(wanted) < len(files):
        print(f"{len(files) - len(wanted)} of {len(files)} files are answered already")
    return _answer_run(arguments, segment, outputs), wanted
