"""`import caffe` means the face, and scripts run as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

FACE = [sys.executable, "-m", "fcn_caffe.pycaffe"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*FACE, str(script), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, cwd=script.parent.parent, capture_output=True, text=True)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    return folder / "script.py"


def test_every_form_of_import_gives_the_face(script: Path) -> None:
    script.write_text(
        """
import sys
import caffe
import fcn_caffe.pycaffe as face
assert caffe is face and "caffe.io" not in sys.modules
from caffe import layers as L, params as P, NetSpec, to_proto
from caffe.proto import caffe_pb2
from caffe.coord_map import crop, coord_map_from_to
from caffe.pycaffe import Net, SGDSolver
from caffe._caffe import Layer
import caffe.proto.caffe_pb2
import caffe.io
import caffe.draw, caffe.net_spec, caffe.classifier, caffe.detector
import fcn_caffe.pycaffe.io
assert caffe.io is fcn_caffe.pycaffe.io is sys.modules["caffe.io"] and caffe.io.__spec__.name == "fcn_caffe.pycaffe.io"
assert Net is caffe.Net is face.Net and Layer is caffe.Layer and caffe.pycaffe.Net is Net
assert caffe_pb2 is caffe.proto.caffe_pb2 and caffe_pb2.TEST == caffe.TEST
assert caffe.net_spec.NetSpec is NetSpec and caffe.draw and caffe.Classifier and caffe.Detector
assert all(hasattr(caffe, name) for name in caffe.__all__)
try:
    import caffe.nothing
except ModuleNotFoundError as error:
    assert "caffe.nothing" in str(error)
else:
    raise AssertionError
print("fine")
"""
    )
    done = run(script)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_a_script_sees_its_own_name_arguments_and_folder(script: Path) -> None:
    (script.parent / "beside.py").write_text("NUMBER = 7")
    script.write_text(
        "import sys, beside\nprint(__name__, sys.argv[1:], beside.NUMBER, sys.argv[0] == __file__)\n"
        "print(sys.path[0])\nimport __main__\nprint(__main__.beside is beside)\nsys.exit(5)"
    )
    done = run(script, "--net", "a b")
    assert done.stdout.splitlines() == ["__main__ ['--net', 'a b'] 7 True", str(script.parent), "True"], done.stderr
    assert done.returncode == 5


@pytest.mark.slow
def test_errors_and_wrong_uses_end_as_pythons_do(script: Path) -> None:
    script.write_text("raise ValueError('broken')")
    done = run(script)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("ValueError: broken")
    done = run(script.parent / "gone.py")
    assert done.returncode == 1 and "gone.py: no such script" in done.stderr
    assert subprocess.run(FACE, env=ENVIRONMENT, capture_output=True).returncode == 2
    assert b"SCRIPT ARGS" in subprocess.run([*FACE, "--help"], env=ENVIRONMENT, capture_output=True).stdout


@pytest.mark.slow
def test_ctrl_c_ends_a_script_that_trains(script: Path) -> None:
    folder = script.parent
    (folder / "net.prototxt").write_text(
        """layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }"""
    )
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 100000000 '
        f'snapshot_prefix: "{folder}/s"'
    )
    script.write_text(
        f"import caffe\nsolver = caffe.get_solver('{folder}/solver.prototxt')\nprint('begun', flush=True)\n"
        "try:\n    solver.solve()\nexcept KeyboardInterrupt:\n    print('interrupted', solver.iter > 0)\n    raise"
    )
    with subprocess.Popen(
        [*FACE, str(script)], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert out == "interrupted True\n" and process.returncode in (130, -signal.SIGINT)


def test_a_python_layers_module_finds_caffe_without_install(script: Path) -> None:
    (script.parent / "mine.py").write_text(
        "import caffe\nclass L(caffe.Layer):\n  def setup(self, b, t): pass\n"
        "  def reshape(self, b, t): t[0].reshape(1)\n  def forward(self, b, t): t[0].data[...] = 4\n"
    )
    net = script.parent / "net.prototxt"
    net.write_text('layer { name: "l" type: "Python" top: "l" python_param { module: "mine" layer: "L" } }')
    code = f"import fcn_caffe.pycaffe as c; print(c.Net({str(net)!r}, c.TEST).forward()['l'].tolist())"
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{script.parent}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "[4.0]\n", done.stderr


def test_install_hides_another_caffe(tmp_path: Path) -> None:
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("OTHER = True")
    (tmp_path / "caffe" / "io.py").write_text("OTHER = True")
    code = (
        "import caffe, caffe.io; assert caffe.OTHER and caffe.io.OTHER\n"
        "from fcn_caffe.pycaffe import install; made = install(); assert install() is made\n"
        "import caffe, caffe.io; assert caffe is made and hasattr(caffe.io, 'Transformer')"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_layer_may_be_in_the_script_itself(script: Path) -> None:
    net = script.parent.parent / "net.prototxt"
    net.write_text('layer { name: "l" type: "Python" top: "l" python_param { module: "__main__" layer: "Own" } }')
    script.write_text(
        "import caffe\nclass Own(caffe.Layer):\n  def setup(self, b, t): pass\n"
        "  def reshape(self, b, t): t[0].reshape(1)\n  def forward(self, b, t): t[0].data[...] = 3\n"
        f"net = caffe.Net({str(net)!r}, caffe.TEST)\nprint(net.forward()['l'].tolist(), type(net.layers[0]) is Own)"
    )
    done = run(script)
    assert done.stdout == "[3.0] True\n", done.stderr
