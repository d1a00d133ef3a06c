"""The reference's data layers in scripts: imported by name, made into classes of one's own, driven by a solver."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fcn_caffe.data.sets import voc_layers
from fcn_caffe.data.sets.by_name import MODULES, offer

NAMES = [f"n{index}" for index in range(4)]


@pytest.fixture
def folder(tmp_path):
    """An SBD and a VOC of four images, a net over them, a solver."""
    sbd, voc = tmp_path / "sbdd", tmp_path / "VOC2011"
    for path in (sbd / "img", sbd / "cls", *(voc / sub for sub in ("JPEGImages", "SegmentationClass"))):
        path.mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (sbd / "train.txt").write_text("\n".join(NAMES))
    (voc / "ImageSets" / "Segmentation" / "seg11valid.txt").write_text("\n".join(NAMES))
    for index, name in enumerate(NAMES):
        label = np.full((6, 5 + index), index, np.uint8)
        image = Image.new("RGB", label.shape[::-1], (40 * index, 9, 200))
        image.save(sbd / "img" / f"{name}.jpg")
        image.save(voc / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(label).save(voc / "SegmentationClass" / f"{name}.png")
        scipy.io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": label}})
    for phase, layer, options in (
        ("TRAIN", "SBDDSegDataLayer", {"sbdd_dir": str(sbd), "split": "train", "seed": 1337, "mean": (1, 2, 3)}),
        ("TEST", "VOCSegDataLayer", {"voc_dir": str(voc), "split": "seg11valid", "seed": 1337, "mean": (1, 2, 3)}),
    ):
        (tmp_path / f"{phase.lower()}.prototxt").write_text(
            'layer { name: "data" type: "Python" top: "data" top: "label" python_param { module: "voc_layers" '
            f'layer: "{layer}" param_str: "{options}" }} }}\n'
            'layer { name: "score" type: "Convolution" bottom: "data" top: "score" '
            "convolution_param { num_output: 21 kernel_size: 1 } }\n"
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" '
            "loss_param { ignore_label: 255 normalize: false } }\n"
        )
    (tmp_path / "solver.prototxt").write_text(
        'train_net: "train.prototxt" test_net: "test.prototxt" test_iter: 4 test_interval: 999999999 base_lr: 1e-10 '
        'lr_policy: "fixed" momentum: 0.99 max_iter: 100 snapshot_prefix: "s" test_initialization: false display: 0\n'
    )
    return tmp_path


def run_script(folder, text):
    (folder / "script.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "fcn_caffe.pycaffe", "script.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_solver_sees_the_references_order(folder):
    printed = run_script(
        folder,
        """
        import random
        import caffe
        import voc_layers
        solver = caffe.SGDSolver('solver.prototxt')
        layer = solver.net.layers[0]
        assert isinstance(layer, voc_layers.SBDDSegDataLayer) and layer.type == 'Python', layer
        seen = []
        for _ in range(8):
            seen.append(layer.indices[layer.idx])
            solver.step(1)
            assert solver.net.blobs['label'].data[0, 0, 0, 0] == int(seen[-1][1]), seen
            assert solver.net.blobs['data'].data.shape == (1, 3, 6, 5 + int(seen[-1][1]))
        random.seed(1337)
        print(seen == ['n%d' % int(random.random() * 4) for _ in range(8)])
        test = solver.test_nets[0]
        test.share_with(solver.net)
        for name in test.layers[0].indices:
            test.forward()
            assert test.blobs['label'].data.max() == int(name[1])
        print(test.layers[0].load_label('n3').shape, test.layers[0].load_image('n3').dtype)
        """,
    )
    assert printed[-2:] == ["True", "(1, 6, 8) float32"]


def test_a_class_of_ones_own_beside_the_net(folder):
    (folder / "own_layers.py").write_text(
        textwrap.dedent(
            """
            import caffe
            from voc_layers import VOCSegDataLayer

            class MirroredLayer(VOCSegDataLayer):
                def setup(self, bottom, top):
                    super(MirroredLayer, self).setup(bottom, top)
                    self.times = eval(self.param_str)['times']

                def load_image(self, idx):
                    return self.times * super(MirroredLayer, self).load_image(idx)[:, :, ::-1]
            """
        )
    )
    text = (folder / "test.prototxt").read_text()
    text = text.replace('"voc_layers"', '"own_layers"').replace("VOCSegDataLayer", "MirroredLayer")
    (folder / "own.prototxt").write_text(text.replace("{'voc_dir'", "{'times': 2, 'voc_dir'"))
    printed = run_script(
        folder,
        """
        import caffe, numpy as np
        own, plain = caffe.Net('own.prototxt', caffe.TEST), caffe.Net('test.prototxt', caffe.TEST)
        for _ in range(6):
            own.forward(), plain.forward()
            assert np.array_equal(own.blobs['data'].data, 2 * plain.blobs['data'].data[..., ::-1])
        print('same')
        """,
    )
    assert printed[-1] == "same"


def test_modules_of_ones_own_come_first(folder):
    (folder / "voc_layers.py").write_text("WHOSE = 'mine'\n")
    assert run_script(folder, "import voc_layers, nyud_layers\nprint(voc_layers.WHOSE, nyud_layers.__name__)") == [
        "mine fcn_caffe.data.sets.nyud_layers"
    ]


def test_one_module_under_both_names(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    offer()
    before = len(sys.meta_path)
    offer()
    assert len(sys.meta_path) == before
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = __import__(name)
        assert (
            module is sys.modules[f"fcn_caffe.data.sets.{name}"]
            and module.__spec__.name == f"fcn_caffe.data.sets.{name}"
        )
        monkeypatch.delitem(sys.modules, name)
    assert sys.modules["fcn_caffe.data.sets.voc_layers"] is voc_layers
    with pytest.raises(ModuleNotFoundError):
        __import__("camvid_layers")
