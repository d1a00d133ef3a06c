"""Claims about scores: nets are scored as tools/score.py does where data set and weights are there.

The published numbers are those of claims.tsv, read from left to right: nets, their heads, their metrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from fcn_caffe.doctor.subject import Built
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.infer import trained_net
from fcn_caffe.evaluation.metrics import NAMES, Scores
from fcn_caffe.evaluation.net_inputs import check_preprocessing
from fcn_caffe.evaluation.predictions import voc_writer
from fcn_caffe.evaluation.score import class_indices, data_layer, is_scored_without_absent, score_heads
from fcn_caffe.host.program import tool_call
from fcn_caffe.models.published import how_to_get
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.claims import DATA, Claim, check, read_claims
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import Code
from fcn_caffe.paper.audit.released.solvers import released_solver
from fcn_caffe.paper.experiments.upper_bound import FACTORS, coarse_label, upper_bounds
from fcn_caffe.paper.result import DIFFERS, Result

__all__ = ["SCORED_NETS", "ScoredNet", "count_images", "published_numbers"]

ALL = tuple(NAMES)
MEAN_IU, PIXELS = ("mean_iu",), ("pixel_accuracy",)
CONTEXT_33 = "33_labels.txt"
# In points of per cent. A file of weights scores the same to some hundredths, whatever decodes the JPEGs; PAMI's tables
# have one decimal less; a net trained again, with other random numbers, differs by some tenths.
_TOLERANCE = {"released model": 0.1, "PAMI 2016": 0.15}
_TRAINED_AGAIN = 0.5
_BOUND_TOLERANCE = 1.0  # the paper does not say how it shrank and enlarged its labels


@dataclass(frozen=True)
class ScoredNet:
    """A net and what is scored of it.

    Attributes:
        net: its name.
        heads: by score blob, the label blob and the metrics.
        weights: the name under weights/, the net's own by default.
        change: for weights that no solver of ours makes, how to change the training so that it makes them.
        only: 59 or 33, the classes of PASCAL-Context that count.
    """

    net: str
    heads: Mapping[str, tuple[str, tuple[str, ...]]]
    weights: str = ""
    change: str = ""
    only: int | None = None

    @property
    def file(self) -> str:
        """The name of the weights, without its ending."""
        return self.weights or self.net


def published_numbers(name: str) -> list[float]:
    """Read the numbers of a claim's value, in their order."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", _claim(name).value)]


def _claim(name: str) -> Claim:
    return next(claim for claim in read_claims() if claim.id == name)


# -- scores ------------------------------------------------------------------------------------------------------------

_scores: WeakKeyDictionary[AuditedFiles, dict[ScoredNet, dict[str, Scores]]] = WeakKeyDictionary()


def _missing(audited: AuditedFiles, part: ScoredNet) -> list[str]:
    """What has to be there before a net can be scored. Raises: FcnCaffeError for a net that is broken."""
    built, missing = audited.build(part.net), []
    weights = audited.weights_path(part.file)
    if not weights.is_file():
        missing.append(_how_to_train(part) if part.change else how_to_get(_from_root(audited, weights)))
    if built.data_error is not None:
        if not built.is_data_absent:
            raise built.data_error
        missing.append(str(built.data_error))
    elif part.only == 33 and not (list_33 := _context_list(built.net)).is_file():
        missing.append(f"{list_33} is not there: list the 33 classes, a name a line, as 59_labels.txt does")
    if not missing and audited.quick:
        command = f"{tool_call('score')} nets/{part.net}.prototxt --weights {_from_root(audited, weights)}"
        missing.append(f"scoring nets/{part.net}.prototxt is left out by --quick; `{command}` does it")
    return missing


def count_images(net: str) -> int:
    """Return how many images the published number of a net is of."""
    return int(released_solver(net)["test_iter"][0])


def _wrong_count(audited: AuditedFiles, part: ScoredNet) -> list[str]:
    """What to say where the split is not of as many images as the published number."""
    source: Any = data_layer(audited.build(part.net).net)
    count, wanted = len(source.indices) if source is not None else 0, count_images(part.net)
    if count == wanted:
        return []
    return [
        f"nets/{part.net}.prototxt tests on {count} images, the published number is of {wanted}: get the whole list"
    ]


def _from_root(audited: AuditedFiles, path: Path) -> Path:
    return path.relative_to(audited.root)


def _how_to_train(part: ScoredNet) -> str:
    file = f"{part.net}.prototxt"
    return (
        f"weights/{part.weights}.caffemodel is not there, and no solver of ours makes it. In a folder of its own with "
        f"copies of nets/ and solvers/, {part.change}; `{tool_call('solve')} solvers/{file}`, run there, makes its "
        f"weights/{part.net}.caffemodel, which belongs here under the other name"
    )


def _context_list(net: Net) -> Path:
    return Path(data_layer(net).context_dir, CONTEXT_33)  # type: ignore[union-attr]  # the layer of PASCAL-Context


def _classes(net: Net, only: int | None) -> list[int] | None:
    """The outputs that count: all, or those of PASCAL-Context's tasks, which leave background (0) out."""
    if only is None:
        return None
    if only == 33:
        return class_indices(net, "score", [str(_context_list(net))])
    return list(range(1, net.blob_shapes["score"][1]))


def _score(audited: AuditedFiles, part: ScoredNet) -> dict[str, Scores]:
    """Scores by head, each net and weights once an audit. Raises: FcnCaffeError."""
    known = _scores.setdefault(audited, {})
    key = replace(part, heads=_Heads(part.heads), change="")
    if key not in known:
        path, weights = audited.net_path(part.net), audited.weights_path(part.file)
        check_preprocessing(weights, path, paths=audited.paths)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net = trained_net(path, weights, device=device, paths=audited.paths)
        labels = {score: label for score, (label, _) in part.heads.items()}
        known[key] = score_heads(
            net, None, labels, leave_out_absent=is_scored_without_absent(net), only=_classes(net, part.only)
        )
    return known[key]


class _Heads(dict[str, tuple[str, tuple[str, ...]]]):
    """Heads as part of a key: the metrics that a claim takes of them do not matter."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Heads) and tuple(self) == tuple(other)


def _measure(audited: AuditedFiles, *, name: str, parts: Sequence[ScoredNet], remark: str = "") -> Result:
    """Score the nets of a claim, and compare with what is published."""
    claim, numbers = _claim(name), iter(published_numbers(name))
    tolerance = _TOLERANCE.get(claim.source, _TRAINED_AGAIN)
    result = Result(name, claim.where, claim.quantity)
    for part in parts:
        missing = _missing(audited, part)
        scores: dict[str, Scores] = {}
        if not missing:
            try:
                scores, missing = _score(audited, part), _wrong_count(audited, part)
            except DataError as error:
                if not Built(audited.build(part.net).net, error).is_data_absent:
                    raise
                missing = [f"the data set is not whole: {error}"]
        result.missing += [text for text in missing if text not in result.missing]
        _compare(result, part, scores, numbers, tolerance)
    if part.only == 59 and not result.missing and result.verdict == DIFFERS:
        for part in parts:
            mean_iu = 100 * _score(audited, replace(part, only=None))["score"].mean_iu
            result.measure(f"{part.file}, mean IU with background, %", mean_iu)
    result.remarks += [remark] if remark else []
    if any(row.holds is False for row in result.rows):
        # A wrong number counts for more than a number that could not be measured.
        result.remarks += [f"Not measured: {text}" for text in result.missing]
        result.missing = []
    return result


def _compare(
    result: Result, part: ScoredNet, scores: Mapping[str, Scores], numbers: Iterator[float], tolerance: float
) -> None:
    for head, (_, metrics) in part.heads.items():
        for metric in metrics:
            wanted = next(numbers)
            what = f"{part.file}, {NAMES[metric]}{'' if head == 'score' else f' of {head}'}, %"
            if scores:
                value = 100 * scores[head].summary()[metric]
                result.measure(what, value, f"{wanted} within {tolerance}", abs(value - wanted) <= tolerance)
            else:
                result.measure(what, "not measured", f"{wanted} within {tolerance}")


# -- which claim scores what -------------------------------------------------------------------------------------------

_VOC_ONLY = (
    "make the TRAIN data layer of nets/{net}.prototxt a VOCSegDataLayer: voc_dir as its TEST layer has it, split train"
)
_FIXED = "set lr_mult: 0 in every layer of nets/cvpr-fcn32s.prototxt but score_fr"
_REGIME = (
    "give solvers/{net}.prototxt, and those of what it starts from, iter_size: 20, momentum: 0.9 and base_lr: 0.0001 "
    "(1e-6 at stride 16, 1e-8 at 8), and their nets' losses normalize: true"
)


def _with_one_head(net: str, metrics: tuple[str, ...] = ALL, only: int | None = None) -> ScoredNet:
    """A net with one head and weights of its own name."""
    return ScoredNet(net, {"score": ("label", metrics)}, only=only)


def _sift(net: str) -> ScoredNet:
    return ScoredNet(net, {"score_sem": ("sem", ALL), "score_geo": ("geo", PIXELS)})


def _cvpr(part: ScoredNet) -> ScoredNet:
    """Trained as the text of CVPR 2015 says, where our solver is of the release's regime."""
    return replace(part, weights=f"cvpr-{part.net}", change=_REGIME.format(net=part.net))


def _voc_only(net: str) -> ScoredNet:
    return replace(_with_one_head(net, MEAN_IU), weights=f"{net}-voctrain", change=_VOC_ONLY.format(net=net))


_STEPS = ("32s", "16s", "8s")
_LATER = "Weights of the release's regime are judged at {}."

SCORED_NETS: dict[str, tuple[ScoredNet, ...]] = {
    "T1.alexnet.miu": (_voc_only("cvpr-fcn-alexnet"),),
    "T1.vgg16.miu": (_voc_only("cvpr-fcn32s"),),
    "T1.googlenet.miu": (_voc_only("cvpr-fcn-googlenet"),),
    "S4.1.extra": (_with_one_head("cvpr-fcn32s", MEAN_IU), _with_one_head("cvpr-fcn-alexnet", MEAN_IU)),
    "T2.fixed": (replace(_with_one_head("cvpr-fcn32s"), weights="cvpr-fcn32s-fixed", change=_FIXED),),
    **{f"T2.{step}": (_with_one_head(f"cvpr-fcn{step}"),) for step in _STEPS},
    "T4.32s.rgb": (_cvpr(_with_one_head("nyud-fcn32s-color")),),
    "T4.32s.rgbd": (_cvpr(_with_one_head("nyud-fcn32s-color-d")),),
    "T4.32s.hha": (_cvpr(_with_one_head("nyud-fcn32s-hha")),),
    "T4.32s.rgbhha": (_cvpr(_with_one_head("nyud-fcn32s-color-hha")),),
    "T4.16s.rgbhha": (_cvpr(_with_one_head("nyud-fcn16s-rgb-hha")),),
    "T5.16s": (_cvpr(_sift("siftflow-fcn16s")),),
    **{
        f"T6.{only}": tuple(_cvpr(_with_one_head(f"pascalcontext-fcn{step}", only=only)) for step in _STEPS)
        for only in (59, 33)
    },
    **{f"R.{step}": (_with_one_head(f"voc-fcn{step}"),) for step in _STEPS},
    "R.atonce": (_with_one_head("voc-fcn8s-atonce"),),
    "R.alexnet": (_with_one_head("voc-fcn-alexnet", MEAN_IU),),
    "P.nyud": tuple(_with_one_head(f"nyud-fcn32s-{inputs}") for inputs in ("color", "color-d", "hha", "color-hha")),
    "P.sift": (_sift("siftflow-fcn8s"),),
    "P.context": tuple(_with_one_head(f"pascalcontext-fcn{step}", only=59) for step in _STEPS),
}
_REMARKS = {
    "T2.32s": _LATER.format("R.32s"),
    "T2.16s": _LATER.format("R.16s"),
    "T2.8s": _LATER.format("R.8s"),
    **{name: _LATER.format("P.nyud") for name in SCORED_NETS if name.startswith("T4.32s")},
    "T5.16s": _LATER.format("P.sift, of the net of stride 8"),
    "T6.59": _LATER.format("P.context"),
    "R.8s": "67.2 on seg12test is of the VOC test server, whose labels are secret.",
}
# The layer of a net that its claim is about; the class scores where it is about no other.
_LAYER = {
    "T2.16s": "score_pool4",
    "T2.8s": "score_pool3",
    "R.16s": "score_pool4",
    "R.8s": "score_pool3",
    "R.atonce": "scale_pool4",
    "T4.32s.rgbd": "conv1_1_bgrd",
    "T4.32s.rgbhha": "score_fused",
    "T4.16s.rgbhha": "score_pool4",
    "T5.16s": "score_pool4_sem",
    "P.sift": "score_pool3_sem",
}


def _places(claim: str, parts: Sequence[ScoredNet]) -> Iterator[str | Code]:
    """Where a claim of scores becomes code."""
    if claim == "T2.fixed":  # the generated data's own net of that kind
        yield "nets/shapes-fcn32s-fixed.prototxt:conv1_1.lr_mult"
    for part in parts:
        is_late_fusion = claim == "P.nyud" and part.net.endswith("color-hha")
        layer = "score_fused" if is_late_fusion else _LAYER.get(claim, "score_fr")
        yield f"nets/{part.net}.prototxt:{layer}"
    yield f"solvers/{parts[0].net}.prototxt:base_lr"
    yield score_heads


for _id, _parts in SCORED_NETS.items():
    _run: Callable[[AuditedFiles], Result] = partial(_measure, name=_id, parts=_parts, remark=_REMARKS.get(_id, ""))
    check(_id, kind=DATA, realised=tuple(_places(_id, _parts)))(_run)


# -- the test server, and the bound ------------------------------------------------------------------------------------


def _test_server(audited: AuditedFiles, *, name: str, year: int) -> Result:
    """Nobody but the VOC test server can score its test split."""
    claim, net = _claim(name), "cvpr-fcn8s"
    audited.build(net)  # a broken net is said
    result = Result(name, claim.where, claim.quantity)
    result.measure(f"mean IU on the test split of VOC{year}, %", "not measured", str(published_numbers(name)[0]))
    weights = audited.weights_path(net)
    if not weights.is_file():
        result.missing.append(how_to_get(_from_root(audited, weights)))
    result.missing.append(
        f"the labels of the VOC{year} test split are secret: only the server (host.robots.ox.ac.uk:8080) scores it. "
        f"`{tool_call('infer')} nets/{net}.prototxt --weights weights/{net}.caffemodel --voc-results DIR …` writes "
        "the answers for images without labels in its layout, "
        f"`{tool_call('score')} --voc-results DIR` those of a split."
    )
    return result


for _id, _year in (("T3.2011", 2011), ("T3.2012", 2012)):
    _register = check(_id, kind=DATA, realised=("nets/cvpr-fcn8s.prototxt:score_pool3", voc_writer))
    _register(partial(_test_server, name=_id, year=_year))


@check(
    "A.bound",
    kind=DATA,
    realised=(
        coarse_label,
        upper_bounds,
    ),
)
def check_upper_bound(audited: AuditedFiles) -> Result:
    """Measure the upper bounds on the labels of seg11valid; where those are missing, on generated ones."""
    claim, wanted = _claim("A.bound"), published_numbers("A.bound")
    result = Result("A.bound", claim.where, claim.quantity)
    built = audited.build("cvpr-fcn32s")
    if built.data_error is not None:
        if not built.is_data_absent:
            raise built.data_error
        generated = audited.experiment("upper-bound")
        for row, number in zip(generated.rows, wanted, strict=True):
            result.measure(f"{row.what}, of generated labels", row.value, f"{number} on VOC")
        result.remarks += generated.remarks
        result.missing.append(str(built.data_error))
        return result
    source: Any = data_layer(built.net)
    assert source is not None  # or its data had been absent
    labels = (source.load_label(name)[0] for name in source.indices)
    bounds = upper_bounds(labels, classes=21)
    for factor, number in zip(FACTORS, wanted, strict=True):
        value, words = 100 * bounds[factor], f"{number} within {_BOUND_TOLERANCE}"
        result.measure(f"mean IU at factor {factor}, %", value, words, abs(value - number) <= _BOUND_TOLERANCE)
    result.remarks.append("Labels are shrunk to the middle of each square; how the paper did it is not told.")
    return result
