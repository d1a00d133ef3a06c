#!/bin/sh
# A good guess: an engine that takes an ONNX file's Resize either does what its attributes say, or refuses the file.
# What happens: OpenVINO and OpenCV 5 read antialias: 1, by which an image shrinks as in Pillow and which torch.onnx.export
# writes for interpolate(antialias=True), and shrink without it: pixels are off by a quarter of the range. OpenVINO drops
# exclude_outside of cubic, too. No error and no warning; ONNX Runtime does both. A net that resizes within sees other images
# than in training.
# What we do about it: images are resized before the net, never within an exported one.
# Source: ONNX's operator Resize; OpenVINO's issue 35893 on one of the modes. Seen with openvino 2026.4.1, OpenCV 5.0.0.93 (new
# engine) and onnxruntime 1.32.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import io
from importlib.metadata import version

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

IMAGE = np.random.default_rng(0).random((1, 2, 5, 7), dtype=np.float32)


def answers(size, **attributes):
    """What ONNX's own evaluator and three engines make of an image."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, *to]) for name, to in (("x", (5, 7)), ("y", size)))
    sizes = numpy_helper.from_array(np.array([1, 2, *size], np.int64), "sizes")
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    graph = helper.make_graph([node], "resize", [x], [y], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data, core = model.SerializeToString(), openvino.Core()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8), cv2.dnn.ENGINE_NEW)
    net.setInput(IMAGE, "x")
    return {
        "right": ReferenceEvaluator(model).run(None, {"x": IMAGE})[0],
        "onnxruntime": session.run(None, {"x": IMAGE})[0],
        "openvino": core.compile_model(core.read_model(io.BytesIO(data)), "CPU")(IMAGE)[0],
        "OpenCV": net.forward(),
    }


def compare(size, wrong, left_out, **attributes):
    """Assert that these engines answer as if an attribute were not there, and the others right."""
    found, without = answers(size, **attributes), answers(size, **{k: v for k, v in attributes.items() if k != left_out})
    right = found.pop("right")
    off = {engine: float(np.abs(answer - right).max()) for engine, answer in found.items()}
    print(f"{attributes} to {size}: off by {', '.join(f'{share:.2f} ({engine})' for engine, share in off.items())}")
    for engine, share in off.items():
        assert (share > 0.02) == (engine in wrong), f"{engine} differs from what it was: the finding no longer holds"
        assert engine not in wrong or np.allclose(found[engine], without[engine], atol=1e-5)


print(f"onnxruntime {version('onnxruntime')}, openvino {version('openvino')}, OpenCV {cv2.__version__}")
for mode in ("linear", "cubic"):
    compare((3, 4), {"openvino", "OpenCV"}, "antialias", mode=mode, antialias=1)
compare((10, 14), {"openvino"}, "exclude_outside", mode="cubic", exclude_outside=1)
PYTHON
