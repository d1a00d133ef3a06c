"""Claims about scores, on miniature data sets in the real layouts, with nets of one convolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from fcn_caffe import TEST, Net
from fcn_caffe.data.sets.siftflow_layers import SCENES
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.evaluation.score import score_heads, score_net
from fcn_caffe.host.paths import Paths
from fcn_caffe.paper.audit.checks import scores as data_checks
from fcn_caffe.paper.audit.claims import CHECKS, DATA, read_claims
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.run import audit
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN
from fcn_caffe.weights.transfer import net_weights, save_weights

SIZE = (9, 11)
NAMES = ("one", "two")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty checkout beside an empty ../data; what nets cost to tabulate is left out."""
    monkeypatch.setattr("fcn_caffe.paper.audit.run.net_tables", lambda audited: [])
    monkeypatch.delenv("FCN_CAFFE_DATA", raising=False)
    monkeypatch.setattr(data_checks, "count_images", lambda net: len(NAMES))
    for folder in ("nets", "solvers", "weights"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    return tmp_path / "root"


def image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def lists(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def mat(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)


def labels(seed, low, high, kind=np.uint8):
    return np.random.default_rng(seed).integers(low, high, SIZE).astype(kind)


def voc(data):
    folder = data / "pascal" / "VOC2011"
    for seed, name in enumerate(NAMES):
        image(folder / "JPEGImages" / f"{name}.jpg", seed)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(labels(seed, 0, 21)).save(folder / "SegmentationClass" / f"{name}.png")
    lists(folder / "ImageSets" / "Segmentation" / "seg11valid.txt", *NAMES)


def sift_flow(data):
    folder = data / "sift-flow"
    for seed, name in enumerate(NAMES):
        image(folder / "Images" / SCENES / f"{name}.jpg", seed)
        mat(folder / "SemanticLabels" / SCENES / f"{name}.mat", S=labels(seed, 0, 4))
        mat(folder / "GeoLabels" / SCENES / f"{name}.mat", S=labels(seed, 1, 4, np.int16))
    lists(folder / "test.txt", *NAMES)


def nyud(data):
    folder = data / "nyud"
    for seed, name in enumerate(NAMES):
        image(folder / "data" / "images" / f"img_{name}.png", seed)
        image(folder / "data" / "hha" / f"img_{name}.png", seed + 2)
        (folder / "data" / "depth").mkdir(exist_ok=True)
        Image.fromarray(labels(seed, 2000, 9000, np.uint16)).save(folder / "data" / "depth" / f"img_{name}.png")
        mat(folder / "segmentation" / f"img_{name}.mat", segmentation=labels(seed, 0, 41))
    lists(folder / "test.txt", *NAMES)


def context(data):
    folder, pascal = data / "pascal-context", data / "pascal" / "VOC2010"
    for seed, name in enumerate(NAMES):
        image(pascal / "JPEGImages" / f"{name}.jpg", seed)
        mat(folder / "trainval" / f"{name}.mat", LabelMap=labels(seed, 1, 62, np.uint16))
    lists(pascal / "ImageSets" / "Main" / "val.txt", *NAMES)
    lists(folder / "labels.txt", *(f"{number}: thing {number}" for number in range(1, 63)))
    lists(folder / "59_labels.txt", *(f"{number}: thing {number}" for number in range(1, 60)))


VOC = ("voc_layers", "VOCSegDataLayer", {"voc_dir": "../data/pascal/VOC2011", "split": "seg11valid"})
SIFT = ("siftflow_layers", "SIFTFlowSegDataLayer", {"siftflow_dir": "../data/sift-flow", "split": "test"})
CONTEXT = (
    *("pascalcontext_layers", "PASCALContextSegDataLayer"),
    {"voc_dir": "../data/pascal", "context_dir": "../data/pascal-context", "split": "val"},
)


def nyud_data(*tops):
    return "nyud_layers", "NYUDSegDataLayer", {"nyud_dir": "../data/nyud", "split": "test", "tops": [*tops, "label"]}


def net(root, name, source, heads, tops=("data", "label")):
    """Write a net of one 1x1 convolution a head, with its solver; heads: (score, label, classes)."""
    module, layer, options = source
    tops_text = " ".join(f'top: "{top}"' for top in tops)
    text = [
        f"""name: "{name}" layer {{ name: "data" type: "Python" {tops_text}
        python_param {{ module: "{module}" layer: "{layer}" param_str: "{options}" }} }}"""
    ]
    for score, label, classes in heads:
        text.append(f"""layer {{ name: "{score}" type: "Convolution" bottom: "{tops[0]}" top: "{score}"
          convolution_param {{ num_output: {classes} kernel_size: 1 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
        layer {{ name: "loss_{score}" type: "SoftmaxWithLoss" bottom: "{score}" bottom: "{label}" top: "loss_{score}"
          loss_param {{ ignore_label: 255 }} }}""")
    (root / "nets" / f"{name}.prototxt").write_text("\n".join(text))
    (root / "solvers" / f"{name}.prototxt").write_text(f'net: "nets/{name}.prototxt"\nbase_lr: 1\nlr_policy: "fixed"\n')


def train(root, name, weights=None, seed=0):
    """Write random weights for a net, and return the net that has them; its data has to be there."""
    torch.manual_seed(seed)
    made = Net(f"nets/{name}.prototxt", TEST, paths=Paths(root))
    save_weights(root / "weights" / f"{weights or name}.caffemodel", net_weights(made))
    return made


def publish(monkeypatch, name, *numbers):
    """Let a claim say other numbers."""
    value = " / ".join(f"{number:.2f}" for number in numbers)
    claims = [replace(claim, value=value) if claim.id == name else claim for claim in read_claims()]
    monkeypatch.setattr(data_checks, "read_claims", lambda: claims)


def asked(root, name, **options):
    (entry,) = audit(AuditedFiles(root, **options), only={name})["claims"]
    return entry


def per_cent(scores):
    return [100 * value for value in scores.summary().values()]


def test_what_is_measured_is_compared(root, monkeypatch):
    voc(root.parent / "data")
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    numbers = per_cent(score_net(train(root, "voc-fcn32s")))
    wrong = asked(root, "R.32s")
    assert wrong["verdict"] == DIFFERS
    assert f"voc-fcn32s, mean IU, %: {numbers[2]:.6g}, wanted 63.63 within 0.1" in wrong["reason"]
    publish(monkeypatch, "R.32s", *numbers)
    right = asked(root, "R.32s")
    assert right["verdict"] == HOLDS and [row["value"] for row in right["rows"]] == pytest.approx(numbers)
    publish(monkeypatch, "R.32s", *numbers[:3], numbers[3] + 0.2)
    assert [row["holds"] for row in asked(root, "R.32s")["rows"]] == [True, True, True, False]
    quick = asked(root, "R.32s", quick=True)
    assert quick["verdict"] == NOT_RUN and "is left out by --quick; `fcn-caffe score nets/" in quick["reason"]


def test_scores_of_part_of_the_images_do_not_hold(root, monkeypatch):
    voc(root.parent / "data")
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    publish(monkeypatch, "R.32s", *per_cent(score_net(train(root, "voc-fcn32s"))))
    assert asked(root, "R.32s")["verdict"] == HOLDS
    monkeypatch.setattr(data_checks, "count_images", lambda net: 736)
    entry = asked(root, "R.32s")
    assert entry["verdict"] == NOT_RUN and "tests on 2 images, the published number is of 736" in entry["reason"]
    assert all(row["holds"] for row in entry["rows"])


def test_what_is_missing_is_named_and_the_number_told(root, monkeypatch):
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    entry = asked(root, "R.32s")
    weights, data = entry["missing"]
    assert entry["verdict"] == NOT_RUN and [row["holds"] for row in entry["rows"]] == [None] * 4
    assert entry["rows"][2]["wanted"] == "63.63 within 0.1" and entry["rows"][2]["value"] == "not measured"
    assert weights.startswith("weights/voc-fcn32s.caffemodel (") and "fcn32s-heavy-pascal.caffemodel" in weights
    assert "voc_dir='../data/pascal/VOC2011' is not there" in data and "fcn-caffe get_data voc2011" in data
    voc(root.parent / "data")
    assert asked(root, "R.32s")["missing"] == [weights]
    train(root, "voc-fcn32s")
    (root.parent / "data" / "pascal" / "VOC2011" / "SegmentationClass" / "two.png").unlink()
    entry = asked(root, "R.32s")
    assert entry["verdict"] == NOT_RUN and "the data set is not whole: " in entry["reason"]
    assert "two.png" in entry["reason"]


def test_data_elsewhere(root, monkeypatch):
    voc(root.parent / "data")
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    train(root, "voc-fcn32s")
    (root.parent / "data").rename(root.parent / "elsewhere")
    assert asked(root, "R.32s")["verdict"] == NOT_RUN
    assert asked(root, "R.32s", data=root.parent / "elsewhere")["verdict"] == DIFFERS


@pytest.mark.parametrize("text", ["layer {", "layer { name: 'x' type: 'ReLU' bottom: 'none' top: 'x' }"])
def test_a_broken_net_differs_with_or_without_data(root, text):
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    (root / "nets" / "voc-fcn32s.prototxt").write_text(text)
    entry = asked(root, "R.32s")
    assert entry["verdict"] == DIFFERS and "voc-fcn32s.prototxt" in entry["reason"] + str(entry["realised"])


def test_weights_for_other_inputs_are_refused(root, monkeypatch):
    voc(root.parent / "data")
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    train(root, "voc-fcn32s")
    (root / "weights" / "voc-fcn32s.caffemodel.preprocessing.json").write_text('{"channel_order": "RGB"}')
    entry = asked(root, "R.32s")
    assert entry["verdict"] == DIFFERS and "channels RGB, not BGR" in entry["reason"]


def test_weights_of_another_training_have_their_own_name(root, monkeypatch):
    voc(root.parent / "data")
    net(root, "cvpr-fcn32s", VOC, [("score", "label", 21)])
    train(root, "cvpr-fcn32s", seed=1)
    for name, weights, change in (
        ("T1.vgg16.miu", "cvpr-fcn32s-voctrain", "VOCSegDataLayer"),
        ("T2.fixed", "cvpr-fcn32s-fixed", "lr_mult: 0"),
    ):
        entry = asked(root, name)
        assert entry["verdict"] == NOT_RUN and f"weights/{weights}.caffemodel is not there" in entry["reason"]
        assert change in entry["reason"] and "fcn-caffe solve solvers/cvpr-fcn32s.prototxt" in entry["reason"]
        numbers = per_cent(score_net(train(root, "cvpr-fcn32s", weights, seed=2)))
        publish(monkeypatch, name, *(numbers if name == "T2.fixed" else numbers[2:3]))
        assert asked(root, name)["verdict"] == HOLDS


def test_a_wrong_number_counts_for_more_than_a_missing_one(root, monkeypatch):
    voc(root.parent / "data")
    for name in ("cvpr-fcn32s", "cvpr-fcn-alexnet"):
        net(root, name, VOC, [("score", "label", 21)])
    numbers = per_cent(score_net(train(root, "cvpr-fcn32s")))
    entry = asked(root, "S4.1.extra")
    assert entry["verdict"] == DIFFERS and entry["rows"][1]["value"] == "not measured"
    assert "Not measured: weights/cvpr-fcn-alexnet.caffemodel" in entry["reason"]
    publish(monkeypatch, "S4.1.extra", numbers[2], 48.0)
    assert asked(root, "S4.1.extra")["verdict"] == NOT_RUN


def test_sift_flow_both_heads_and_absent_classes(root, monkeypatch):
    sift_flow(root.parent / "data")
    heads = [("score_sem", "sem", 33), ("score_geo", "geo", 3)]
    net(root, "siftflow-fcn8s", SIFT, heads, ("data", "sem", "geo"))
    made = train(root, "siftflow-fcn8s")
    found = score_heads(made, None, {"score_sem": "sem", "score_geo": "geo"}, leave_out_absent=True)
    numbers = [*per_cent(found["score_sem"]), 100 * found["score_geo"].pixel_accuracy]
    publish(monkeypatch, "P.sift", *numbers)
    entry = asked(root, "P.sift")
    assert entry["verdict"] == "unverified source" and entry["found"] == HOLDS
    assert entry["rows"][4]["what"] == "siftflow-fcn8s, pixel acc. of score_geo, %"
    counted = score_heads(made, None, {"score_sem": "sem"})["score_sem"].mean_iu * 100
    publish(monkeypatch, "P.sift", *numbers[:2], counted, *numbers[3:])
    assert asked(root, "P.sift")["found"] == DIFFERS  # absent classes must not count


def test_nyud_in_all_four_inputs(root, monkeypatch):
    nyud(root.parent / "data")
    numbers = []
    for name, tops in (
        ("color", ("color",)),
        ("color-d", ("color", "depth")),
        ("hha", ("hha",)),
        ("color-hha", ("color", "hha")),
    ):
        net(root, f"nyud-fcn32s-{name}", nyud_data(*tops), [("score", "label", 40)], (*tops, "label"))
        numbers += per_cent(score_net(train(root, f"nyud-fcn32s-{name}", seed=len(name))))
    publish(monkeypatch, "P.nyud", *numbers)
    assert asked(root, "P.nyud")["found"] == HOLDS
    entry = asked(root, "T4.32s.rgbd")
    assert entry["verdict"] == NOT_RUN and "weights/cvpr-nyud-fcn32s-color-d.caffemodel" in entry["reason"]
    assert "iter_size: 20" in entry["reason"]


def test_pascal_context_59_and_33_classes(root, monkeypatch):
    context(root.parent / "data")
    numbers, fewer, wanted = [], [], [*range(1, 33), 59]
    for step in ("32s", "16s", "8s"):
        name = f"pascalcontext-fcn{step}"
        net(root, name, CONTEXT, [("score", "label", 60)])
        made = train(root, name, f"cvpr-{name}", seed=int(step[:-1]))
        for into, only in ((numbers, range(1, 60)), (fewer, wanted)):
            into += per_cent(score_heads(made, None, only=list(only))["score"])
    publish(monkeypatch, "T6.59", *numbers)
    assert asked(root, "T6.59")["verdict"] == HOLDS
    publish(monkeypatch, "T6.59", 0, *numbers[1:])
    wrong = asked(root, "T6.59")
    assert wrong["verdict"] == DIFFERS and wrong["rows"][-1]["what"].endswith("mean IU with background, %")
    publish(monkeypatch, "T6.33", *fewer)
    entry = asked(root, "T6.33")
    assert entry["verdict"] == NOT_RUN and "33_labels.txt is not there: list the 33 classes" in entry["reason"]
    path = root.parent / "data" / "pascal-context" / "33_labels.txt"
    lists(path, *(f"{number}: thing {number}" for number in wanted))
    assert asked(root, "T6.33")["verdict"] == HOLDS
    lists(path, "1: unicorn")
    entry = asked(root, "T6.33")
    assert entry["verdict"] == DIFFERS and "33_labels.txt:1: '1: unicorn' is no class of 'score'" in entry["reason"]


def test_the_test_server_alone_knows(root):
    voc(root.parent / "data")
    net(root, "cvpr-fcn8s", VOC, [("score", "label", 21)])
    (root / "weights" / "cvpr-fcn8s.caffemodel").touch()
    for name, number in (("T3.2011", "62.7"), ("T3.2012", "62.2")):
        entry = asked(root, name)
        assert entry["verdict"] == NOT_RUN and entry["rows"][0]["wanted"] == number
        (missing,) = entry["missing"]
        assert "test split are secret" in missing and "--voc-results" in missing


def test_bound_on_voc_labels_and_on_generated_ones(root, monkeypatch):
    net(root, "cvpr-fcn32s", VOC, [("score", "label", 21)])
    entry = asked(root, "A.bound")
    assert entry["verdict"] == NOT_RUN and len(entry["rows"]) == 6 and "fcn-caffe get_data voc2011" in entry["reason"]
    assert all(row["holds"] is None and row["value"] > 0 for row in entry["rows"])
    voc(root.parent / "data")
    assert asked(root, "A.bound")["verdict"] == DIFFERS
    whole = root.parent / "data" / "pascal" / "VOC2011" / "SegmentationClass"
    bounds = {}
    for factor in (128, 64, 32, 16, 8, 4):
        matrix = ConfusionMatrix(21)
        for name in NAMES:
            label = np.asarray(Image.open(whole / f"{name}.png"))
            rows, columns = (np.arange(size) // factor * factor for size in SIZE)
            middles = [
                np.minimum(start + np.minimum(factor, size - start) // 2, size - 1)
                for start, size in zip((rows, columns), SIZE, strict=True)
            ]
            matrix.add(label, label[np.ix_(*middles)])
        bounds[factor] = 100 * matrix.scores().mean_iu
    publish(monkeypatch, "A.bound", *bounds.values())
    assert asked(root, "A.bound")["verdict"] == HOLDS


@pytest.mark.parametrize("spoiled", [b"", b"<html>", bytes(range(256)), "half", "nan"])
def test_spoiled_weights_never_hold(root, monkeypatch, spoiled):
    voc(root.parent / "data")
    net(root, "voc-fcn32s", VOC, [("score", "label", 21)])
    made = train(root, "voc-fcn32s")
    path = root / "weights" / "voc-fcn32s.caffemodel"
    if spoiled == "nan":
        save_weights(path, {name: [blob * np.nan for blob in blobs] for name, blobs in net_weights(made).items()})
    else:
        path.write_bytes(path.read_bytes()[:200] if spoiled == "half" else spoiled)
    entry = asked(root, "R.32s")
    assert entry["verdict"] == DIFFERS and "failed" not in entry["reason"]


def test_every_claim_of_scores_knows_its_count_of_images(monkeypatch):
    counts = {
        part.net.partition("-")[0]: data_checks.count_images(part.net)
        for one in data_checks.SCORED_NETS.values()
        for part in one
    }
    assert counts == {"voc": 736, "cvpr": 736, "nyud": 654, "siftflow": 200, "pascalcontext": 5105}


def test_every_number_of_a_claim_is_compared():
    for name, parts in data_checks.SCORED_NETS.items():
        count = sum(len(metrics) for part in parts for _, metrics in part.heads.values())
        assert len(data_checks.published_numbers(name)) == count, name
        assert CHECKS[name].kind == DATA
