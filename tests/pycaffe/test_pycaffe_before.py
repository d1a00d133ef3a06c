"""Names of before Caffe 1.0 say what replaced them; the C++ module's containers are there."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import input_layer, layer
from places import GOLDEN, ROOT

import fcn_caffe.pycaffe as caffe


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("before")
    net = folder / "deploy.prototxt"
    options = "convolution_param { num_output: 2 kernel_size: 1 }"
    net.write_text(input_layer("data", 1, 3, 4, 4) + layer("c", "Convolution", "data", more=options))
    caffe.Net(str(net), caffe.TEST).save(str(folder / "w.caffemodel"))
    return str(net), str(folder / "w.caffemodel")


@pytest.mark.parametrize("phase", ["test", "train"])
def test_the_phase_is_given_to_the_net(files: tuple[str, str], phase: str) -> None:
    said = rf"caffe\.Net\(file, weights, caffe\.{phase.upper()}\)"
    with pytest.raises(AttributeError, match=said):
        getattr(caffe, f"set_phase_{phase}")()
    with pytest.raises(AttributeError, match=said):
        getattr(caffe.Net(files[0], caffe.TEST), f"set_phase_{phase}")()
    with pytest.raises(TypeError, match=r"Net takes a phase, too: caffe\.Net\('.*', '.*\.caffemodel', caffe\.TEST\)"):
        caffe.Net(*files)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("set_mode_gpu", "caffe.set_mode_gpu()"),
        ("set_device", "caffe.set_device(number)"),
        ("set_mean", "transformer.set_mean('data', array)"),
        ("set_channel_swap", "transformer.set_channel_swap('data', (2, 1, 0))"),
        ("preprocess", "transformer.preprocess('data', image)"),
    ],
)
def test_methods_that_moved(files: tuple[str, str], name: str, said: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(caffe.Net(files[0], caffe.TEST), name)
    assert said in str(caught.value)
    with pytest.raises(AttributeError, match=r"has no attribute 'fly'\.$"):
        caffe.Net(files[0], caffe.TEST).fly  # noqa: B018


@pytest.mark.parametrize("kind", [caffe.Classifier, caffe.Detector])
@pytest.mark.parametrize(
    ("option", "said"),
    [("gpu", r"caffe\.set_mode_gpu\(\)"), ("mean_file", r"mean=numpy\.load\(file\)"), ("phase", "always in its TEST")],
)
def test_options_that_went(files: tuple[str, str], kind: type, option: str, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        kind(*files, **{option: True})
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        kind(*files, speed=1)


def test_containers(files: tuple[str, str]) -> None:
    net = caffe.Net(*files, caffe.TEST)
    assert type(net.params["c"]) is caffe._caffe.BlobVec
    assert caffe.pycaffe is caffe._caffe is caffe
    assert issubclass(caffe._caffe.RawBlobVec, list)
    assert np.shape(net.params["c"][0].data) == (2, 3, 1, 1)


def test_the_script_that_compares_containers_runs() -> None:
    folder = GOLDEN / "reports" / "blobvec_name"
    command = [sys.executable, "-m", "fcn_caffe.pycaffe", "script.py"]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
