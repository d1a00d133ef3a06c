"""Every claim has one check, the checks of files hold on ours, and each way to spoil a file is noticed and named."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from random import Random

import pytest
from needs import needs_data
from places import ROOT

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.models.classics import CLASSICS
from fcn_caffe.paper.audit import run as audit  # noqa: F401  (registers every check)
from fcn_caffe.paper.audit.claims import BEHAVIOURAL, CHECKS, STATIC, UNVERIFIED, read_claims
from fcn_caffe.paper.audit.differences import find_differences
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.locate import locate
from fcn_caffe.paper.audit.released.nets import DERIVED, RELEASED, released_net
from fcn_caffe.paper.experiments.registry import EXPERIMENTS
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN

STATIC_IDS = [name for name, check in CHECKS.items() if check.kind == STATIC]
# The claim that our nets do not bear out: the paper's 907 counts the pool that its FCN leaves out.
DIFFERING = {"T1.rf"}
# Checks that build nets; the others only read files.
BUILDING = {"REL.files", "REL.early", "REL.heads2", "T1.convlayers", "T1.params", "T1.rf", "T1.stride", "S4.3.sgd"}
READING = [name for name in STATIC_IDS if name not in BUILDING]


@pytest.fixture(scope="module")
def ours():
    return AuditedFiles(ROOT)


def linked(root):
    """Make a folder one whose files are ours; one that is written has to be unlinked first."""
    for folder in ("nets", "solvers"):
        (root / folder).mkdir()
        for path in (ROOT / folder).glob("*.prototxt"):
            (root / folder / path.name).symlink_to(path)
    return root


@pytest.fixture
def copy(tmp_path):
    return linked(tmp_path)


def write(path, text):
    path.unlink()
    path.write_text(text)


def spoil(root, file, old, new):
    """Replace `old`, which has to be there, once; None for `new` removes the file."""
    path = root / f"{file}.prototxt"
    if new is None:
        path.unlink()
        return
    text, count = re.subn(old, new, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1 and text != path.read_text(), (file, old)
    write(path, text)


def others(audited, file):
    """What was read and built before of all nets but that of a file."""
    return {key: value for key, value in audited.memory.items() if key[1] != Path(file).name}


def found_by(root, ids, known):
    """The failed rows of the checks that differ, by claim; what stops a check is a row."""
    audited, found = AuditedFiles(root), {}
    audited.memory |= known
    for name in ids:
        try:
            result = CHECKS[name].run(audited)
        except FcnCaffeError as error:
            found[name] = [str(error)]
            continue
        if result.verdict == DIFFERS:
            found[name] = [f"{row.what}: {row.value} {row.wanted}" for row in result.rows if row.holds is False]
    return found


def test_every_claim_has_a_check_and_every_check_a_claim():
    ids = [claim.id for claim in read_claims()]
    assert len(ids) == len(set(ids))
    assert set(CHECKS) == set(ids)
    assert {check.trains for check in CHECKS.values()} - {""} <= set(EXPERIMENTS)


def test_the_given_rows_are_the_first():
    given = needs_data("spec/paper-claims.tsv")
    rows = list(csv.reader(given.read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    assert [list(vars(claim).values()) for claim in read_claims()][: len(rows)] == rows
    assert {claim.status for claim in read_claims()} <= {"seen", UNVERIFIED}


def test_every_place_is_there():
    kinds = (STATIC, BEHAVIOURAL)
    places = {place for check in CHECKS.values() if check.kind in kinds for place in check.realised}
    assert all(check.realised for check in CHECKS.values())
    lost = [place for place in places if locate(place, ROOT).line is None]
    assert not lost


@pytest.mark.parametrize("name", STATIC_IDS)
def test_claims_about_files_on_ours(ours, name):
    result = CHECKS[name].run(ours)
    assert result.verdict == (DIFFERS if name in DIFFERING else HOLDS), str(result)
    assert all(row.wanted for row in result.rows if row.holds is not None)


def test_what_explains_our_counts(ours):
    told = " ".join(CHECKS["T1.params"].run(ours).remarks)
    assert "56,954,261" in told and "134,346,581" in told and "5,995,077" in told
    assert "907 - 715 = 192 pixels are 6 steps of 32" in " ".join(CHECKS["T1.rf"].run(ours).remarks)
    assert "58 convolutions" in CHECKS["T1.convlayers"].run(ours).remarks[0]


def layer(name, inside):
    """A pattern of a field in the layer of a name: what stands before it is kept as group 1."""
    return rf'(name: "{name}"\n(?:(?!\nlayer).)*?){inside}'


# File, what is replaced, by what; the claim that differs, and what its rows name.
BREAKS = [
    ("solvers/voc-fcn32s", "base_lr: 1e-10", "base_lr: 1e-9", "REL.rate", "voc-fcn32s, base_lr"),
    ("solvers/cvpr-fcn32s", "base_lr: 0.0001", "base_lr: 0.001", "S4.3.sgd", "cvpr-fcn32s, base_lr"),
    ("solvers/cvpr-fcn32s", "iter_size: 20", "iter_size: 1", "S4.3.sgd", "cvpr-fcn32s, images a step"),
    ("solvers/cvpr-fcn16s", "base_lr: 1e-06", "base_lr: 1e-05", "S4.3.nets", "cvpr-fcn16s, base_lr"),
    ("solvers/voc-fcn8s", "momentum: 0.99", "momentum: 0.9", "REL.momentum", "voc-fcn8s, momentum"),
    ("solvers/voc-fcn-alexnet", "iter_size: 20", "iter_size: 1", "REL.momentum", "voc-fcn-alexnet, iter_size"),
    ("solvers/siftflow-fcn8s", "weight_decay: 0.0005", "weight_decay: 0.005", "REL.decay", "siftflow-fcn8s"),
    ("solvers/voc-fcn16s", 'lr_policy: "fixed"', 'lr_policy: "step"\nstepsize: 9', "REL.policy", "stepsize"),
    ("solvers/voc-fcn16s", "momentum: ", "clip_gradients: 10\nmomentum: ", "REL.policy", "clip_gradients"),
    ("solvers/voc-fcn16s", "momentum: ", 'type: "Adam"\nmomentum: ', "REL.policy", "voc-fcn16s, type"),
    ("solvers/nyud-fcn32s-hha", "test_iter: 654", "test_iter: 65", "REL.test", "nyud-fcn32s-hha, test_iter"),
    ("solvers/voc-fcn8s-atonce", "max_iter: 300000", "max_iter: 1", "REL.length", "voc-fcn8s-atonce, max_iter"),
    ("solvers/voc-fcn32s", "average_loss: 20", "average_loss: 1", "REL.average", "voc-fcn32s"),
    ("solvers/voc-fcn16s", "voc-fcn32s.caffemodel", "vgg16fc.caffemodel", "REL.starts", "voc-fcn16s, weights"),
    ("solvers/voc-fcn8s", "voc-fcn16s.caffemodel", "voc-fcn32s.caffemodel", "REL.order", "voc-fcn8s, starts from"),
    ("nets/voc-fcn32s", layer("score_fr", "num_output: 21"),
     r'\1num_output: 21\n    weight_filler { type: "xavier" }', "REL.zero", "voc-fcn32s, score_fr"),
    ("nets/cvpr-fcn32s", layer("score_fr", "num_output: 21"),
     r'\1num_output: 21\n    weight_filler { type: "gaussian" std: 0.01 }', "S4.3.sgd", "cvpr-fcn32s, scores not"),
    ("nets/voc-fcn8s", layer("score", "offset: 31"), r"\1offset: 30", "REL.crop", "voc-fcn8s, score"),
    ("nets/pascalcontext-fcn8s", layer("score_pool3c", "offset: 9"), r"\1offset: 8", "REL.map", "score_pool3c"),
    ("nets/voc-fcn16s", layer("conv1_1", "pad: 100"), r"\1pad: 99", "REL.map", "voc-fcn16s, score"),
    ("nets/voc-fcn32s", r'layer \{\n  name: "relu3_2".*?\n\}\n', "", "REL.layers", "voc-fcn32s, relu3_2"),
    ("nets/voc-fcn32s", r'layer \{\n  name: "drop7".*?\n\}\n', "", "REL.layers", "voc-fcn32s, drop7"),
    ("nets/voc-fcn32s", r'layer \{\n  name: "drop7".*?\n\}\n', "", "REL.dropout", "voc-fcn32s, drop7"),
    ("nets/voc-fcn-alexnet", r'layer \{\n  name: "conv4".*?\n\}\n', "", "T1.convlayers", "conv4"),
    ("nets/voc-fcn32s", r'layer \{\n  name: "pool5".*?\n\}\n', "", "T1.stride", "pool5"),
    ("nets/voc-fcn32s", layer("conv1_1", "pad: 100"), r"\1pad: 1", "REL.trunk", "voc-fcn32s, conv1_1"),
    ("nets/voc-fcn32s", layer("fc6", "kernel_size: 7"), r"\1kernel_size: 5", "T1.rf", "voc-fcn32s, score_fr"),
    ("nets/voc-fcn32s", layer("pool4", "stride: 2"), r"\1stride: 1", "T1.stride", "voc-fcn32s"),
    ("nets/voc-fcn32s", layer("pool4", "pool: MAX"), r"\1pool: AVE", "REL.trunk", "voc-fcn32s, pool4"),
    ("nets/voc-fcn32s", layer("fc7", "num_output: 4096"), r"\1num_output: 2048", "T1.params", "voc-fcn32s"),
    ("nets/voc-fcn-alexnet", layer("conv2", "group: 2"), r"\1group: 1", "REL.alexnet", "voc-fcn-alexnet, conv2"),
    ("nets/voc-fcn-alexnet", layer("norm1", "alpha: 0.0001"), r"\1alpha: 0.001", "REL.alexnet", "norm1"),
    ("nets/voc-fcn32s", layer("conv2_1", "lr_mult: 2"), r"\1lr_mult: 1", "REL.bias", "voc-fcn32s, conv2_1"),
    ("nets/cvpr-fcn32s", layer("conv2_1", "lr_mult: 2"), r"\1lr_mult: 1", "S4.3.sgd", "conv2_1"),
    ("nets/voc-fcn8s", layer("upscore2", "lr_mult: 0"), r"\1lr_mult: 1", "REL.upsampling", "voc-fcn8s, upscore2"),
    ("nets/voc-fcn8s", layer("upscore2", "stride: 2"), r"\1stride: 2\n    group: 21", "REL.upsampling", "group 21"),
    ("nets/cvpr-fcn8s", layer("upscore2", "lr_mult: 1"), r"\1lr_mult: 0", "S4.3.nets", "cvpr-fcn8s, upscore2"),
    ("nets/voc-fcn32s", "normalize: false", "normalize: true", "REL.loss", "voc-fcn32s, loss"),
    ("nets/voc-fcn32s", "    normalize: false\n", "", "REL.loss", "voc-fcn32s, loss"),
    ("nets/voc-fcn32s", "ignore_label: 255", "ignore_label: 0", "REL.loss", "voc-fcn32s, loss"),
    ("nets/voc-fcn32s", "104.00699", "104.0", "REL.data", "voc-fcn32s, data"),
    ("nets/voc-fcn32s", "'split': 'seg11valid'", "'split': 'val'", "REL.data", "voc-fcn32s, data"),
    ("nets/nyud-fcn32s-hha", layer("score_fr", "num_output: 40"), r"\1num_output: 41", "REL.heads", "score_fr"),
    ("nets/siftflow-fcn16s", layer("score_fr_geo", "num_output: 3"), r"\1num_output: 4", "REL.heads2", "score_fr_geo"),
    ("nets/voc-fcn8s-atonce", "value: 0.01", "value: 1", "REL.atonce", "voc-fcn8s-atonce, scale_pool4"),
    ("nets/nyud-fcn32s-color-hha", "coeff: 0.5", "coeff: 0.6", "REL.fusion", "score_fused"),
    ("nets/voc-fcn16s", '(name: "fuse_pool4".*?)(  bottom: "upscore2"\n)(  bottom: "score_pool4c"\n)', r"\1\3\2",
     "REL.layers", "voc-fcn16s, fuse_pool4"),
    ("nets/nyud-fcn32s-color-d", "conv1_1_bgrd", "conv1_1", "REL.early", "conv1_1_bgrd"),
    ("nets/voc-fcn32s", layer("conv3_1", "num_output: 256"),
     r'\1num_output: 256\n    weight_filler { type: "msra" }', "REL.other", "voc-fcn32s, conv3_1"),
    ("nets/voc-fcn32s", "  loss_param", "  loss_weight: 2\n  loss_param", "S4.3.balance", "voc-fcn32s"),
    ("nets/voc-fcn8s", "", None, "REL.files", "voc-fcn8s"),
    ("nets/voc-fcn8s", "", None, "REL.layers", "no such net file"),
    ("nets/voc-fcn32s", "layer {", "layer { :", "REL.files", "voc-fcn32s.prototxt:3"),
    ("nets/voc-fcn32s", "layer {", "layer { :", "T1.params", "voc-fcn32s.prototxt:3"),
    ("solvers/voc-fcn32s", "base_lr: 1e-10", "base_lr: high", "REL.rate", "voc-fcn32s.prototxt"),
    ("solvers/voc-fcn8s", "", None, "REL.starts", "voc-fcn8s"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "claim", "named"), BREAKS, ids=[f"{one[3]}-{n}" for n, one in enumerate(BREAKS)]
)
def test_a_broken_file_is_noticed(ours, copy, file, old, new, claim, named):
    spoil(copy, file, old, new)
    found = found_by(copy, [claim], others(ours, file))
    assert claim in found, f"{claim} holds"
    assert any(named in row for row in found[claim]), found[claim]


NUMBER = re.compile(r"^( *(\w+): )([0-9][0-9.e+-]*)", re.MULTILINE)
EXEMPT = ("display",)  # how often a line is printed is no claim of the papers
EVERY_FILE = [f"{folder}/{name}" for name in RELEASED for folder in ("nets", "solvers")]


@pytest.mark.parametrize("seed", range(30))
def test_any_number_that_is_changed_is_noticed(ours, copy, seed):
    random = Random(seed)
    file = random.choice(EVERY_FILE)
    path = copy / f"{file}.prototxt"
    text = path.read_text()
    found = [one for one in NUMBER.finditer(text) if one[2] not in EXEMPT]
    one = random.choice(found)
    value = float(one[3])
    other = (
        str(int(value) + random.choice((1, 2, 5))) if one[3].isdigit() else repr(value * random.choice((0.1, 1.5, 3)))
    )
    write(path, text[: one.start()] + one[1] + other + text[one.end() :])
    broken = found_by(copy, READING, others(ours, file))
    assert any(Path(file).name in row for rows in broken.values() for row in rows), (file, one[0], other)


def test_the_table_of_nets_is_whole():
    names = {path.stem for path in (ROOT / "nets").glob("*.prototxt") if not path.stem.startswith("shapes")}
    assert names == {*RELEASED, *DERIVED, *CLASSICS}
    with pytest.raises(KeyError):
        released_net("shapes-fcn8s")


def test_differences_have_both_values_and_places(ours, copy):
    found = {one.what: one for one in find_differences(ours)}
    rate = found["voc-fcn32s: rate"]
    assert (rate.release, rate.cvpr) == ("1e-10", "0.0001")
    assert rate.where_release == {"path": "solvers/voc-fcn32s.prototxt", "line": 6}
    learned = found["voc-fcn16s, upscore2: rates of weights and bias"]
    assert (learned.release, learned.cvpr) == ("0", "1") and learned.where_cvpr["line"]
    assert found["voc-fcn32s, loss: loss averaged over pixels"].release == "false"
    spoil(copy, "solvers/voc-fcn32s", "base_lr: 1e-10", "base_lr: 0.0001")
    assert "voc-fcn32s: rate" not in {one.what for one in find_differences(AuditedFiles(copy))}
    spoil(copy, "nets/cvpr-fcn8s", layer("score", "offset: 31"), r"\1offset: 32")
    one = next(one for one in find_differences(AuditedFiles(copy)) if one.what == "voc-fcn8s, score: offset")
    assert (one.release, one.cvpr) == ("31", "32")


def test_times_are_not_run_without_the_card():
    quick = AuditedFiles(ROOT, quick=True)
    for name in ("T1.time", "T3.time", "S4.3.time"):
        result = CHECKS[name].run(quick)
        assert result.verdict == NOT_RUN and "K40c" in result.missing[0]
        assert all(row.holds is None for row in result.rows) and result.rows
