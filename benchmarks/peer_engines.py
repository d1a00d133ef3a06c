"""Other engines for `benchmarks/peers.py`: each reads the model files that it is given, and runs an image.

It imports NumPy and the engine alone, so that any Python can run it: Caffe's own, or one with another OpenCV.

    python benchmarks/peer_engines.py ENGINE FOLDER THREADS REPEAT

FOLDER has net.onnx, net.prototxt, net.caffemodel, net.ncnn.param, net.ncnn.bin, image.npy. Prints a line of JSON:
seconds, bytes and the version; writes FOLDER/ENGINE.npy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Array = np.ndarray
Run = Callable[[Array], Array]


def onnxruntime(folder: Path, threads: int) -> tuple[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return onnxruntime.__version__, lambda image: session.run(None, {name: image})[0]


def openvino(folder: Path, threads: int) -> tuple[str, Run]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(folder / "net.onnx"), "CPU", settings)
    request = model.create_infer_request()
    return openvino.__version__.split("-")[0], lambda image: request.infer([image])[0]


def ncnn(folder: Path, threads: int) -> tuple[str, Run]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    # 32-bit numbers throughout, as all others have them.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(str(folder / "net.ncnn.param"))
    net.load_model(str(folder / "net.ncnn.bin"))

    def run(image: Array) -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image[0]).clone())
        _, top = extractor.extract("out0")
        return np.array(top)[None]

    return ncnn.__version__, run


def opencv(folder: Path, threads: int) -> tuple[str, Run]:
    import cv2

    cv2.setNumThreads(threads)
    if int(cv2.__version__.split(".")[0]) < 5:
        net = cv2.dnn.readNetFromCaffe(str(folder / "net.prototxt"), str(folder / "net.caffemodel"))
    else:  # OpenCV 5 reads Caffe's files no more
        net = cv2.dnn.readNetFromONNX(str(folder / "net.onnx"))

    def run(image: Array) -> Array:
        net.setInput(image)
        return net.forward()

    return cv2.__version__, run


def caffe(folder: Path, threads: int) -> tuple[str, Run]:
    import caffe

    caffe.set_mode_cpu()
    net = caffe.Net(str(folder / "net.prototxt"), str(folder / "net.caffemodel"), caffe.TEST)

    def run(image: Array) -> Array:
        net.blobs["data"].reshape(*image.shape)
        net.blobs["data"].data[...] = image
        return next(iter(net.forward().values()))

    return getattr(caffe, "__version__", "1.0"), run


ENGINES: dict[str, Callable[[Path, int], tuple[str, Run]]] = {
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "ncnn": ncnn,
    "OpenCV": opencv,
    "Caffe": caffe,
}


def resident(key: str) -> int:
    """Return bytes: VmRSS, what the process has now, or VmHWM, the most since `forget_peak`."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def forget_peak() -> None:
    """Let VmHWM start from what the process has now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(run: Callable[[], object], repeat: int) -> dict[str, float]:
    """Run once to warm up, then `repeat` times; return seconds of a run, and how far the first raised the memory.

    repeat: 0 takes the seconds of the first run.
    """
    forget_peak()
    before = resident("VmRSS")
    wall, processor = time.perf_counter(), time.process_time()
    run()
    peak = resident("VmHWM") - before
    if repeat:
        wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        run()
    count = max(1, repeat)
    return {
        "processor_s": (time.process_time() - processor) / count,
        "wall_s": (time.perf_counter() - wall) / count,
        "peak_bytes": peak,
    }


def main() -> None:
    engine, folder, threads, repeat = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    version, run = ENGINES[engine](folder, threads)
    image = np.load(folder / "image.npy")
    figures = measure(lambda: run(image), repeat)
    np.save(folder / f"{engine}.npy", np.ascontiguousarray(run(image)))
    print("\n" + json.dumps({**figures, "version": version}))


if __name__ == "__main__":
    main()
