"""Mean field of a fully connected CRF, as a layer: CRF-RNN's MultiStageMeanfield."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.forks.permutohedral import PixelFilter, bilateral_features, position_features
from fcn_caffe.proto import caffe_pb2

__all__ = ["filtering_bytes", "mean_field", "mean_field_bytes"]

_MOST_ITERATIONS = 10_000  # after hundreds no score changes any more; each is a walk through all pixels
_FARTHEST = 2**31  # of a feature: the lattice counts in whole numbers
_PUBLISHED = {"spatial.par": 3.0, "bilateral.par": 5.0}  # what CRF-RNN's own two files hold for each class


# Measured with torch 2.13, in bytes a pixel, for features of position and three colours.
_BUILT = 1120  # what it takes to build the lattices, few points
_BUILT_OF_MANY, _BUILT_POINT = 570, 307  # where there are many: and for each point
_LATTICES, _POINT = 250, 76  # what is kept of them while values are filtered
_ARRAYS = 7 * 4  # of each class: probabilities, what both filters make of them, scores
_BLURRED, _BLURRED_POINT = 5 * 4, 2 * 4  # while points are blurred
# The C library puts arrays of less than 32 MiB where others have left room, and leaves gaps.
_KEYS, _SMALL = 240, 32 << 20
_BUILT_GAPS, _KEPT_GAPS = 1.5, 500  # times; bytes a pixel


def mean_field_bytes(pixels: int, points: int, classes: int) -> int:
    """Return about how many bytes the mean field of one picture takes at its most, besides its scores and colours.

    Args:
        pixels: how many pixels it has.
        points: how many points its lattice of position and colours has.
        classes: how many classes the scores are of.
    """
    built = max(_BUILT * pixels, _BUILT_OF_MANY * pixels + _BUILT_POINT * points)
    if _KEYS * pixels < _SMALL:
        built = round(_BUILT_GAPS * built)
    return max(built, filtering_bytes(pixels, points, classes))


def filtering_bytes(pixels: int, points: int, classes: int) -> int:
    """Return about how many bytes are there while values are filtered; arguments as for `mean_field_bytes`."""
    arrays = max(_ARRAYS * pixels, _BLURRED * pixels + _BLURRED_POINT * points)
    kept = _LATTICES + (_KEPT_GAPS if _KEYS * pixels < _SMALL else 0)
    return kept * pixels + _POINT * points + classes * arrays


def mean_field(unary: Tensor, start: Tensor, message: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
    """Run mean field steps: scores = unary - message(softmax(scores)).

    Shapes: (pixels, classes), (pixels, classes) -> the same.

    Args:
        unary: each pixel's own scores.
        start: the scores of the first step.
        message: what the pixels' probabilities say to each other, as a penalty of each class.
        iterations: how many steps.
    """
    scores = start
    for _ in range(iterations):
        scores = unary - message(scores.softmax(1))
    return scores


@register("MultiStageMeanfield", bottoms=3, forks="CRF-RNN")
class MultiStageMeanfield(Layer):
    """Run mean field steps of a fully connected CRF over a picture: CRF-RNN's layer.

    A step: P = softmax of the scores (Q0 at first); S and B = P filtered by position, and by position and colour, each
    divided by the filtered ones; scores = unary - W2 (W0 S + W1 B), products over the classes. The filters are
    permutohedral lattices of the features (x / theta_gamma, y / theta_gamma) and (x / theta_alpha, y / theta_alpha,
    colours / theta_beta). They are not exact, and depend on where the colours' zero is: feed the picture that the net
    was trained with, mean subtracted.

    Shapes: unary (N, C, H, W), Q0 alike, image (N, 3, H, W) -> (N, C, H, W), scores without softmax; blobs (1, 1, C, C)
    spatial weights, bilateral weights, compatibility.
    Fillers: the files spatial.par and bilateral.par, of C numbers each, give the diagonals of the first two, as in the
    fork; where a file is not there, they are those that its authors published, 3 and 5. Compatibility is minus the unit
    matrix. The fork reads the thetas and num_iterations alone: the other fields change nothing.
    Gradient: exact, to unary, Q0 and the blobs; none to the image.
    Raises: LayerError for shapes that differ, fewer than 2 num_iterations or more than 10,000, a theta that is missing
    or not above 0, an image of other numbers than colours, or a .par file that does not hold C numbers.
    Source: CRF-RNN's MultiStageMeanfieldLayer (torrvision/caffe).
    """

    undifferentiable = (2,)
    takes_in_place = False
    untraced = "builds a lattice, whose size depends on the picture"

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.multi_stage_meanfield_param
        self.iterations: int = options.num_iterations
        if not 2 <= self.iterations <= _MOST_ITERATIONS:
            raise self.error(
                f"num_iterations is {self.iterations}: give 2 to {_MOST_ITERATIONS:,} (published: 5 or 10)."
            )
        self.thetas: tuple[float, float, float] = (options.theta_alpha, options.theta_beta, options.theta_gamma)
        for name, theta in zip(("theta_alpha", "theta_beta", "theta_gamma"), self.thetas, strict=True):
            if not (theta > 0 and options.HasField(name)):
                raise self.error(f"needs {name}, above 0 (published: 160, 3 and 3).")
        self._check(*bottoms)
        classes = bottoms[0].shape[1]
        for name, matrix in (
            ("spatial_weights", torch.diag(self._diagonal("spatial.par", classes))),
            ("bilateral_weights", torch.diag(self._diagonal("bilateral.par", classes))),
            ("compatibility", -torch.eye(classes)),
        ):
            self.add_blob(name, (1, 1, classes, classes))
            setattr(self, name, nn.Parameter(matrix[None, None]))
        self._position: tuple[tuple[int, int, torch.device], PixelFilter] | None = None

    def _diagonal(self, name: str, classes: int) -> Tensor:
        """Read the C numbers of a .par file, or repeat the published number where there is no file."""
        path: Path = self.surroundings.locate(name)
        if not path.is_file():
            return torch.full((classes,), _PUBLISHED[name])
        words = path.read_text(encoding="utf-8", errors="replace").split()
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise self.error(f"{path}: {error}. Write {classes} numbers, one for each class.") from None
        if len(values) != classes:
            raise self.error(f"{path} holds {len(values)} numbers for {classes} classes. Write one for each class.")
        return torch.tensor(values)

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(*bottoms[0].shape)

    def _check(self, unary: Tensor, start: Tensor, image: Tensor) -> None:
        if unary.ndim != 4 or unary.shape != start.shape:
            shapes = f"{show(unary.shape)} and {show(start.shape)}"
            raise self.error(f"the first two bottoms are {shapes}: give scores N x C x H x W twice.")
        wanted = (unary.shape[0], 3, *unary.shape[2:])
        if image.shape != wanted:
            raise self.error(
                f"the image is {show(image.shape)} for scores of {show(unary.shape)}: give {show(wanted)}."
            )

    def forward(self, unary: Tensor, start: Tensor, image: Tensor) -> Tensor:
        self._check(unary, start, image)
        spatial = self._position_filter(unary)
        tops = [
            self._run(scores, first, spatial, self._filter(bilateral_features(picture, *self.thetas[:2])))
            for scores, first, picture in zip(unary, start, image, strict=True)
        ]
        return torch.stack(tops)

    def _position_filter(self, unary: Tensor) -> PixelFilter:
        """Return the filter by position, which is kept for the next picture of this size."""
        height, width = unary.shape[2:]
        key = (height, width, unary.device)
        position = self._position  # another thread may need another size
        if position is None or position[0] != key:
            features = position_features(height, width, self.thetas[2], unary.device)
            position = self._position = (key, self._filter(features))
        return position[1]

    def _filter(self, features: Tensor) -> PixelFilter:
        if not bool((features.abs() < _FARTHEST).all()):  # nor if one is NaN
            raise self.error(
                f"the picture's places and colours, divided by the thetas, are NaN or beyond {_FARTHEST:,}. Give an "
                "image of colours from 0 to 255, and thetas as published: 160, 3 and 3."
            )
        return PixelFilter.of(features)

    def _run(self, unary: Tensor, start: Tensor, spatial: PixelFilter, bilateral: PixelFilter) -> Tensor:
        """Run the steps of one picture. Shapes: (C, H, W), (C, H, W) -> (C, H, W)."""
        # A row a pixel: the fork's W P is P times W transposed.
        weights = [blob[0, 0].T for blob in self.blobs]

        def message(probabilities: Tensor) -> Tensor:
            passed = spatial(probabilities) @ weights[0] + bilateral(probabilities) @ weights[1]
            return passed @ weights[2]

        scores = mean_field(unary.flatten(1).T, start.flatten(1).T.contiguous(), message, self.iterations)
        return scores.T.reshape(unary.shape)
