"""What must hold on every protobuf runtime: `python tests/protobuf_runtime.py`, with protobuf and numpy alone.

`sh tests/protobuf_runtimes.sh` and test_proto.py run it under other runtimes; torch is not there, so the package's
own __init__ is stepped over.
"""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if "fcn_caffe" not in sys.modules:
    package = types.ModuleType("fcn_caffe")
    package.__path__ = [str(ROOT / "fcn_caffe")]
    sys.modules["fcn_caffe"] = package

import google.protobuf  # type: ignore[import-untyped]  # noqa: E402
import numpy as np  # noqa: E402
from google.protobuf.internal import api_implementation  # type: ignore[import-untyped]  # noqa: E402

from fcn_caffe.errors import PrototxtError  # noqa: E402
from fcn_caffe.proto import caffe_pb2, parse_text, read_text, wire, wire_writer, write_text  # noqa: E402
from fcn_caffe.proto.upgrade import upgrade_net  # noqa: E402

FORMATS = Path(__file__).parent / "golden" / "formats"


def main() -> int:
    """Read, upgrade, write and reread every form; print the runtime."""
    for form in ("modern", "input", "v1", "v0"):
        net = upgrade_net(read_text(FORMATS / f"{form}.prototxt", caffe_pb2.NetParameter))
        assert [layer.name for layer in net.layer][1:] == ["conv", "relu", "pool", "norm", "drop", "ip", "prob"], form
        assert parse_text(write_text(net), caffe_pb2.NetParameter) == net, form
        assert caffe_pb2.NetParameter.FromString(net.SerializeToString()) == net, form
    solver = parse_text("base_lr: 1e-10 gamma: 1e50 random_seed: -1 solver_mode: 0", caffe_pb2.SolverParameter)
    assert write_text(solver) == "base_lr: 1e-10\ngamma: inf\nsolver_mode: CPU\nrandom_seed: -1\n"
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST, caffe_pb2.PoolingParameter.AVE) == (0, 1, 1)
    assert caffe_pb2.PoolingParameter.PoolMethod.Name(1) == "AVE"
    for bad in ("layer { nmae: 1 }", "layer { clip_param { min: 1 } }", "input_dim: 3000000000"):
        try:
            parse_text(bad, caffe_pb2.NetParameter)
        except PrototxtError:
            continue
        raise AssertionError(bad)
    weights = {layer.name: layer.blobs for layer in wire.read_net(FORMATS / "modern.caffemodel").layers}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.caffemodel"
        with open(path, "wb") as file:
            wire_writer.write_net(file, "small", [(name, "", blobs, ()) for name, blobs in weights.items()])
        message = caffe_pb2.NetParameter.FromString(path.read_bytes())
    for layer in message.layer:
        for blob, array in zip(layer.blobs, weights[layer.name]):  # noqa: B905
            assert np.array_equal(np.array(blob.data, np.float32), array.ravel())
    print(f"protobuf {google.protobuf.__version__} ({api_implementation.Type()}): ok")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
