"""Claims about scores: nets scored as tools/score.py does, where data set and weights are there; else what is missing.

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
from fcn_caffe.evaluation.score import class_indices, data_layer, is_scored_without_absent, score_heads
from fcn_caffe.host.program import tool_call
from fcn_caffe.models.published import how_to_get
from fcn_caffe.paper.audit.claims import DATA, Claim, check, read_claims
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.released.solvers import released_solver
from fcn_caffe.paper.experiments.upper_bound import FACTORS, upper_bounds
from fcn_caffe.paper.result import DIFFERS, Result

__all__ = ["Scored", "published"]

ALL = tuple(NAMES)
MEAN_IU, PIXELS = ("mean_iu",), ("pixel_accuracy",)
CONTEXT_33 = "33_labels.txt"
# In points of per cent. A file of weights scores the same to some hundredths, whatever decodes the JPEGs; PAMI's tables
# have one decimal less; what is trained again, with other random numbers, differs by some tenths.
_TOLERANCE = {"released model": 0.1, "PAMI 2016": 0.15}
_TRAINED_AGAIN = 0.5
_BOUND_TOLERANCE = 1.0  # how the paper shrank and enlarged its labels is not told


@dataclass(frozen=True)
class Scored:
    """A net and what is scored of it.

    weights: the name under weights/, the net's own by default. change: what makes a training of it the claim's, for
    weights that no solver of ours makes. heads: metrics and label blob by score blob. only: 59 or 33 of PASCAL-Context.
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


def published(name: str) -> list[float]:
    """The numbers of a claim's value, in their order."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", _claim(name).value)]


def _claim(name: str) -> Claim:
    return next(claim for claim in read_claims() if claim.id == name)


# -- scores ------------------------------------------------------------------------------------------------------------

_scores: WeakKeyDictionary[AuditedFiles, dict[Scored, dict[str, Scores]]] = WeakKeyDictionary()


def _missing(audited: AuditedFiles, part: Scored) -> list[str]:
    """What has to be there before a net can be scored. Raises: FcnCaffeError for a net that is broken."""
    built, missing = audited.build(part.net), []
    weights = audited.weights_path(part.file)
    if not weights.is_file():
        missing.append(_how_to_train(part) if part.change else how_to_get(_below(audited, weights)))
    if built.data_error is not None:
        if not built.is_data_absent:
            raise built.data_error
        missing.append(str(built.data_error))
    elif part.only == 33 and not (list_33 := _context_list(built.net)).is_file():
        missing.append(f"{list_33} is not there: list the 33 classes, a name a line, as 59_labels.txt does")
    if not missing and audited.quick:
        command = f"{tool_call('score')} nets/{part.net}.prototxt --weights {_below(audited, weights)}"
        missing.append(f"scoring nets/{part.net}.prototxt is left out by --quick; `{command}` does it")
    return missing


def _images(net: str) -> int:
    """How many images the published number of a net is of."""
    return int(released_solver(net)["test_iter"][0])


def _other_count(audited: AuditedFiles, part: Scored) -> list[str]:
    """What to say where the split has not the images that the number was measured on."""
    source: Any = data_layer(audited.build(part.net).net)
    count, wanted = len(source.indices) if source is not None else 0, _images(part.net)
    if count == wanted:
        return []
    return [
        f"nets/{part.net}.prototxt tests on {count} images, the published number is of {wanted}: get the whole list"
    ]


def _below(audited: AuditedFiles, path: Path) -> Path:
    return path.relative_to(audited.root)


def _how_to_train(part: Scored) -> str:
    file = f"{part.net}.prototxt"
    return (
        f"weights/{part.weights}.caffemodel is not there, and no solver of ours makes it. In a folder of its own with "
        f"copies of nets/ and solvers/, {part.change}; `{tool_call('solve')} solvers/{file}`, run there, makes its "
        f"weights/{part.net}.caffemodel, which belongs here under the other name"
    )


def _context_list(net: Any) -> Path:
    return Path(data_layer(net).context_dir, CONTEXT_33)  # type: ignore[union-attr]  # the layer of PASCAL-Context


def _classes(net: Any, only: int | None) -> list[int] | None:
    """The outputs that count: all, or those of PASCAL-Context's tasks, which leave background (0) out."""
    if only is None:
        return None
    if only == 33:
        return class_indices(net, "score", [str(_context_list(net))])
    return list(range(1, net.blob_shapes["score"][1]))


def _score(audited: AuditedFiles, part: Scored) -> dict[str, Scores]:
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


def _measure(audited: AuditedFiles, *, name: str, parts: Sequence[Scored], remark: str = "") -> Result:
    """Score the nets of a claim, and compare with what is published."""
    claim, numbers = _claim(name), iter(published(name))
    tolerance = _TOLERANCE.get(claim.source, _TRAINED_AGAIN)
    result = Result(name, claim.where, claim.quantity)
    for part in parts:
        missing = _missing(audited, part)
        found: dict[str, Scores] = {}
        if not missing:
            try:
                found, missing = _score(audited, part), _other_count(audited, part)
            except DataError as error:
                if not Built(audited.build(part.net).net, error).is_data_absent:
                    raise
                missing = [f"the data set is not whole: {error}"]
        result.missing += [one for one in missing if one not in result.missing]
        _compare(result, part, found, numbers, tolerance)
    if part.only == 59 and not result.missing and result.verdict == DIFFERS:
        for part in parts:
            mean_iu = 100 * _score(audited, replace(part, only=None))["score"].mean_iu
            result.measure(f"{part.file}, mean IU with background, %", mean_iu)
    result.remarks += [remark] if remark else []
    if any(row.holds is False for row in result.rows):
        # What was measured and is wrong counts for more than what could not be measured.
        result.remarks += [f"Not measured: {one}" for one in result.missing]
        result.missing = []
    return result


def _compare(
    result: Result, part: Scored, found: Mapping[str, Scores], numbers: Iterator[float], tolerance: float
) -> None:
    for head, (_, metrics) in part.heads.items():
        for metric in metrics:
            wanted = next(numbers)
            what = f"{part.file}, {NAMES[metric]}{'' if head == 'score' else f' of {head}'}, %"
            if found:
                value = 100 * found[head].summary()[metric]
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


def _one(net: str, metrics: tuple[str, ...] = ALL, only: int | None = None) -> Scored:
    """A net with one head and weights of its own name."""
    return Scored(net, {"score": ("label", metrics)}, only=only)


def _sift(net: str) -> Scored:
    return Scored(net, {"score_sem": ("sem", ALL), "score_geo": ("geo", PIXELS)})


def _cvpr(part: Scored) -> Scored:
    """Trained as the text of CVPR 2015 says, where our solver is of the release's regime."""
    return replace(part, weights=f"cvpr-{part.net}", change=_REGIME.format(net=part.net))


def _voc_only(net: str) -> Scored:
    return replace(_one(net, MEAN_IU), weights=f"{net}-voctrain", change=_VOC_ONLY.format(net=net))


_STEPS = ("32s", "16s", "8s")
_LATER = "Weights of the release's regime are judged at {}."

_PARTS: dict[str, tuple[Scored, ...]] = {
    "T1.alexnet.miu": (_voc_only("cvpr-fcn-alexnet"),),
    "T1.vgg16.miu": (_voc_only("cvpr-fcn32s"),),
    "T1.googlenet.miu": (_voc_only("cvpr-fcn-googlenet"),),
    "S4.1.extra": (_one("cvpr-fcn32s", MEAN_IU), _one("cvpr-fcn-alexnet", MEAN_IU)),
    "T2.fixed": (replace(_one("cvpr-fcn32s"), weights="cvpr-fcn32s-fixed", change=_FIXED),),
    **{f"T2.{step}": (_one(f"cvpr-fcn{step}"),) for step in _STEPS},
    "T4.32s.rgb": (_cvpr(_one("nyud-fcn32s-color")),),
    "T4.32s.rgbd": (_cvpr(_one("nyud-fcn32s-color-d")),),
    "T4.32s.hha": (_cvpr(_one("nyud-fcn32s-hha")),),
    "T4.32s.rgbhha": (_cvpr(_one("nyud-fcn32s-color-hha")),),
    "T4.16s.rgbhha": (_cvpr(_one("nyud-fcn16s-rgb-hha")),),
    "T5.16s": (_cvpr(_sift("siftflow-fcn16s")),),
    **{f"T6.{only}": tuple(_cvpr(_one(f"pascalcontext-fcn{step}", only=only)) for step in _STEPS) for only in (59, 33)},
    **{f"R.{step}": (_one(f"voc-fcn{step}"),) for step in _STEPS},
    "R.atonce": (_one("voc-fcn8s-atonce"),),
    "R.alexnet": (_one("voc-fcn-alexnet", MEAN_IU),),
    "P.nyud": tuple(_one(f"nyud-fcn32s-{inputs}") for inputs in ("color", "color-d", "hha", "color-hha")),
    "P.sift": (_sift("siftflow-fcn8s"),),
    "P.context": tuple(_one(f"pascalcontext-fcn{step}", only=59) for step in _STEPS),
}
_REMARKS = {
    "T2.32s": _LATER.format("R.32s"),
    "T2.16s": _LATER.format("R.16s"),
    "T2.8s": _LATER.format("R.8s"),
    **{name: _LATER.format("P.nyud") for name in _PARTS if name.startswith("T4.32s")},
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

for _name, _parts in _PARTS.items():
    _where: tuple[str, ...] = tuple(f"nets/{part.net}.prototxt:{_LAYER.get(_name, 'score_fr')}" for part in _parts)
    if _name == "P.nyud":
        _where = tuple(
            place.replace("color-hha.prototxt:score_fr", "color-hha.prototxt:score_fused") for place in _where
        )
    _where = (*_where, f"solvers/{_parts[0].net}.prototxt:base_lr", "fcn_caffe/evaluation/score.py:score_heads")
    if _name == "T2.fixed":  # the generated data's own net of that kind
        _where = ("nets/shapes-fcn32s-fixed.prototxt:conv1_1.lr_mult", *_where)
    _run: Callable[[AuditedFiles], Result] = partial(_measure, name=_name, parts=_parts, remark=_REMARKS.get(_name, ""))
    check(_name, kind=DATA, realised=_where)(_run)


# -- the test server, and the bound ------------------------------------------------------------------------------------


def _test_server(audited: AuditedFiles, *, name: str, year: int) -> Result:
    """Nobody but the VOC test server can score its test split."""
    claim, net = _claim(name), "cvpr-fcn8s"
    audited.build(net)  # a broken net is said
    result = Result(name, claim.where, claim.quantity)
    result.measure(f"mean IU on the test split of VOC{year}, %", "not measured", str(published(name)[0]))
    weights = audited.weights_path(net)
    if not weights.is_file():
        result.missing.append(how_to_get(_below(audited, weights)))
    result.missing.append(
        f"the labels of the VOC{year} test split are secret: only the server (host.robots.ox.ac.uk:8080) scores it. "
        f"`{tool_call('infer')} nets/{net}.prototxt --weights weights/{net}.caffemodel --voc-results DIR …` writes "
        "the answers for images without labels in its layout, "
        f"`{tool_call('score')} --voc-results DIR` those of a split."
    )
    return result


for _name, _year in (("T3.2011", 2011), ("T3.2012", 2012)):
    _places = ("nets/cvpr-fcn8s.prototxt:score_pool3", "fcn_caffe/evaluation/predictions.py:voc_writer")
    check(_name, kind=DATA, realised=_places)(partial(_test_server, name=_name, year=_year))


@check(
    "A.bound",
    kind=DATA,
    realised=(
        "fcn_caffe/paper/experiments/upper_bound.py:coarse_label",
        "fcn_caffe/paper/experiments/upper_bound.py:upper_bounds",
    ),
)
def _bound(audited: AuditedFiles) -> Result:
    """The upper bounds on the labels of seg11valid; where they are not there generated ones are told."""
    claim, wanted = _claim("A.bound"), published("A.bound")
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
        value, told = 100 * bounds[factor], f"{number} within {_BOUND_TOLERANCE}"
        result.measure(f"mean IU at factor {factor}, %", value, told, abs(value - number) <= _BOUND_TOLERANCE)
    result.remarks.append("Labels are shrunk to the middle of each square; how the paper did it is not told.")
    return result
