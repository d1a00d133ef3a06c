"""Layers of Caffe's forks against the nearest thing there is: processor time, in one run.

    python benchmarks/fork_layers.py [--rounds 7]

OpenCV runs the same Caffe nets (ROIPooling, DetectionOutput, Interp); torchvision's operators, PyTorch's own and
pydensecrf do the same arithmetic. What is not installed is left out. Times are interleaved, round by round; the figure
is the median of the rounds' ratios, ours to theirs. Outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fcn_caffe import Net  # noqa: E402
from fcn_caffe.evaluation import DenseCrf  # noqa: E402
from fcn_caffe.proto import caffe_pb2, parse_text  # noqa: E402

Run = Callable[[], Any]


def one_layer(type: str, options: str, **inputs: Tensor) -> tuple[Net, str]:
    """A net of one layer `l` over Input layers of these shapes, and its text."""
    text = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in blob.shape)} }} }} }}"
        for name, blob in inputs.items()
    ]
    bottoms = " ".join(f'bottom: "{name}"' for name in inputs)
    text.append(f'layer {{ name: "l" type: "{type}" {bottoms} top: "l" {options} }}')
    return Net(parse_text("\n".join(text), caffe_pb2.NetParameter)), "\n".join(text)


def optional(name: str) -> ModuleType | None:
    """A package, or None where it is not installed or its compiled part does not load."""
    if find_spec(name) is None:
        return None
    try:
        return __import__(name)
    except (ImportError, RuntimeError):
        return None


def in_opencv(text: str, inputs: dict[str, Tensor]) -> Run | None:
    """The same net in OpenCV, if its version reads Caffe's files."""
    cv2: Any = optional("cv2")
    if cv2 is None or not hasattr(cv2.dnn, "readNetFromCaffe"):
        return None
    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))

    def run() -> Any:
        for name, blob in inputs.items():
            net.setInput(blob.numpy(), name)
        return net.forward("l")

    return run


def roi_pooling() -> Iterator[tuple[str, Run, Run]]:
    """300 regions of a 512 x 38 x 63 map into 7 x 7 bins: Fast R-CNN with VGG-16 at 600 x 1000."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(1, 512, 38, 63, generator=generator)
    corner = torch.rand(300, 2, generator=generator) * torch.tensor([700.0, 400.0])
    size = torch.rand(300, 2, generator=generator) * torch.tensor([300.0, 200.0]) + 16
    rois = torch.cat((torch.zeros(300, 1), corner, corner + size), 1)
    options = "roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 }"
    net, text = one_layer("ROIPooling", options, data=data, rois=rois)
    ours = net(data=data, rois=rois)["l"]
    theirs = in_opencv(text, {"data": data, "rois": rois})
    if theirs is not None:
        assert np.array_equal(ours.numpy(), theirs()), "OpenCV's differs"
        yield "ROIPooling, OpenCV", lambda: net(data=data, rois=rois), theirs
    vision: Any = optional("torchvision")
    if vision is not None:
        pool = vision.ops.roi_pool
        torch.testing.assert_close(ours, pool(data, rois, 7, 0.0625))
        yield "ROIPooling, torchvision", lambda: net(data=data, rois=rois), lambda: pool(data, rois, 7, 0.0625)


def detection_output() -> Iterator[tuple[str, Run, Run]]:
    """1,917 prior boxes of 21 classes: MobileNet-SSD at 300 x 300."""
    generator = torch.Generator().manual_seed(0)
    boxes, classes = 1917, 21
    centre, size = torch.rand(boxes, 2, generator=generator), torch.rand(boxes, 2, generator=generator) * 0.3 + 0.05
    variances = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(boxes)
    priors = torch.stack((torch.cat((centre - size / 2, centre + size / 2), 1).flatten(), variances))[None]
    loc = torch.randn(1, boxes * 4, generator=generator)
    conf = (torch.randn(boxes, classes, generator=generator) * 2).softmax(1).view(1, -1)
    options = """detection_output_param { num_classes: 21 background_label_id: 0 code_type: CENTER_SIZE keep_top_k: 100
        share_location: true
        confidence_threshold: 0.25 nms_param { nms_threshold: 0.45 top_k: 100 } }"""
    blobs = {"loc": loc, "conf": conf, "priors": priors}
    net, text = one_layer("DetectionOutput", options, **blobs)
    theirs = in_opencv(text, blobs)
    if theirs is not None:
        ours, other = net(blobs)["l"][0, 0], torch.from_numpy(theirs())[0, 0]
        torch.testing.assert_close(ours[ours[:, 2].argsort()], other[other[:, 2].argsort()])
        yield "DetectionOutput, OpenCV", lambda: net(blobs), theirs


def mean_field() -> Iterator[tuple[str, Run, Run]]:
    """10 steps over 21 classes: 500 x 500 pixels against pydensecrf, 64 x 64 against all pairs of pixels in PyTorch."""
    crf = DenseCrf()

    def picture(size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, size // 25, size // 25, generator=generator) * 255
        image = F.interpolate(coarse, (size, size), mode="bicubic") + torch.randn(1, 3, size, size, generator=generator)
        scores = torch.randn(1, 21, size // 25, size // 25, generator=generator) * 3
        return F.interpolate(scores, (size, size), mode="bilinear"), image.clamp(0, 255).round()

    scores, image = picture(64)

    def all_pairs() -> Tensor:
        kernels, unary = _gaussians(crf, image), scores[0].log_softmax(0).flatten(1).T
        current = unary
        for _ in range(crf.iterations):
            probabilities = current.softmax(1)
            current = unary + sum(kernel @ probabilities for kernel in kernels)
        return current

    agreement = (crf(scores, image)[0].argmax(0).flatten() == all_pairs().argmax(1)).float().mean()
    assert agreement > 0.95, f"all pairs give other classes: {agreement}"
    yield "mean field 64x64, all pairs in PyTorch", lambda: crf(scores, image), all_pairs
    theirs = _in_pydensecrf(crf, *picture(500))
    if theirs is not None:
        large = picture(500)
        same = (crf(*large)[0].argmax(0).numpy() == theirs().argmax(0)).mean()
        assert same > 0.99, f"pydensecrf gives other classes: {same}"
        yield "mean field 500x500, pydensecrf", lambda: crf(*large), theirs


def _gaussians(crf: DenseCrf, image: Tensor) -> list[Tensor]:
    """The weights of all pairs of pixels, each kernel's rows of sum 1 times its weight."""
    _, _, height, width = image.shape
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    place, colour = torch.stack((x.flatten(), y.flatten()), 1), image[0].flatten(1).T
    kernels = []
    for weight, features in (
        (crf.pos_w, place / crf.pos_xy_std),
        (crf.bi_w, torch.cat((place / crf.bi_xy_std, colour / crf.bi_rgb_std), 1)),
    ):
        kernel = (-0.5 * torch.cdist(features, features).square()).exp()
        kernels.append(weight * kernel / kernel.sum(1, keepdim=True))
    return kernels


def _in_pydensecrf(crf: DenseCrf, scores: Tensor, image: Tensor) -> Run | None:
    if optional("pydensecrf") is None:
        return None
    from pydensecrf import densecrf

    _, classes, height, width = scores.shape
    unary = np.ascontiguousarray(-scores[0].log_softmax(0).flatten(1).numpy())
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy().astype(np.uint8))

    def run() -> Any:
        model = densecrf.DenseCRF2D(width, height, classes)
        model.setUnaryEnergy(unary)
        after = densecrf.NORMALIZE_AFTER
        model.addPairwiseGaussian(crf.pos_xy_std, crf.pos_w, normalization=after)
        model.addPairwiseBilateral(crf.bi_xy_std, crf.bi_rgb_std, pixels, crf.bi_w, normalization=after)
        return np.asarray(model.inference(crf.iterations)).reshape(classes, height, width)

    return run


def interp() -> Iterator[tuple[str, Run, Run]]:
    """21 classes from 63 x 63 to 500 x 500."""
    data = torch.randn(1, 21, 63, 63)
    net, text = one_layer("Interp", "interp_param { height: 500 width: 500 }", data=data)
    ours = net(data=data)["l"]

    def plain() -> Tensor:
        return F.interpolate(data, (500, 500), mode="bilinear", align_corners=True)

    torch.testing.assert_close(ours, plain(), rtol=1e-4, atol=1e-4)
    yield "Interp, PyTorch", lambda: net(data=data), plain
    theirs = in_opencv(text, {"data": data})
    if theirs is not None:
        yield "Interp, OpenCV", lambda: net(data=data), theirs


def upsample() -> Iterator[tuple[str, Run, Run]]:
    """64 channels from 180 x 240 to 360 x 480 by a mask: SegNet's last."""
    data = torch.randn(1, 64, 360, 480)
    values, places = F.max_pool2d(data, 2, 2, return_indices=True)
    mask = places.float()
    net, _ = one_layer("Upsample", "upsample_param { scale: 2 }", data=values, mask=mask)

    def plain() -> Tensor:
        return F.max_unpool2d(values, mask.long(), 2, 2)

    torch.testing.assert_close(net(data=values, mask=mask)["l"], plain())
    yield "Upsample, PyTorch", lambda: net(data=values, mask=mask), plain


PARTS = (roi_pooling, detection_output, mean_field, interp, upsample)


def compare(ours: Run, theirs: Run, rounds: int) -> tuple[float, float, float]:
    """Median processor seconds of ours and theirs, and the median of the rounds' ratios."""
    pairs = []
    for round in range(rounds):
        seconds = {}
        runs = [("ours", ours), ("theirs", theirs)]
        for key, run in runs if round % 2 else reversed(runs):
            repeat, start = 0, time.process_time()
            while not repeat or time.process_time() - start < 0.05:
                run()
                repeat += 1
            seconds[key] = (time.process_time() - start) / repeat
        pairs.append((seconds["ours"], seconds["theirs"]))
    ratio = statistics.median(mine / other for mine, other in pairs)
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for part in PARTS:
            if arguments.only and part.__name__ not in arguments.only:
                continue
            for name, ours, theirs in part():
                mine, other, ratio = compare(ours, theirs, arguments.rounds)
                print(f"{name}: ours {mine * 1e3:.2f} ms, theirs {other * 1e3:.2f} ms, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
