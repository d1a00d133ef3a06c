#!/bin/sh
# A good guess: a net that leaves out options of DetectionOutput which stand at their defaults runs in OpenCV as in SSD's Caffe,
# and gives a row for each detection.
# What happens: share_location, background_label_id, code_type and keep_top_k have defaults in SSD's caffe.proto (true, 0,
# CORNER, -1), and OpenCV's importer refuses a layer that does not write one of them, each with another error at load time.
# With all of them the answer is filled up to keep_top_k rows with rows of zeros, which read as detections of class 0 in
# image 0: take out the rows whose score is 0.
# What we do about it: fcn_caffe has SSD's defaults and rows; docs/layers.md says what OpenCV does with the layer.
# Source: SSD's caffe.proto, message DetectionOutputParameter; seen with OpenCV 4.14.0, the last that reads Caffe's files.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==4.14.0.94
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import cv2
import numpy as np

NET = """
input: "loc" input_shape { dim: 1 dim: 8 }
input: "conf" input_shape { dim: 1 dim: 6 }
input: "prior" input_shape { dim: 1 dim: 2 dim: 8 }
layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "found"
  detection_output_param { num_classes: 3 confidence_threshold: 0.2 %s nms_param { nms_threshold: 0.4 top_k: 10 } } }
"""
OPTIONS = ("share_location: true", "background_label_id: 0", "code_type: CORNER", "keep_top_k: 5")


def detect(options):
    net = cv2.dnn.readNetFromCaffe(np.frombuffer((NET % " ".join(options)).encode(), np.uint8))
    net.setInput(np.zeros((1, 8), np.float32), "loc")
    net.setInput(np.array([[0.1, 0.8, 0.1, 0.1, 0.1, 0.8]], np.float32), "conf")
    net.setInput(np.array([[[0.1, 0.1, 0.4, 0.4, 0.5, 0.5, 0.9, 0.9], [0.1] * 8]], np.float32), "prior")
    return net.forward().reshape(-1, 7)


print(f"OpenCV {cv2.__version__}")
rows = detect(OPTIONS)
print(f"all options written: {len(rows)} rows, {int((rows[:, 2] > 0).sum())} of them detections")
assert len(rows) == 5 and (rows[:2, 2] > 0).all() and not rows[2:].any(), "no rows of zeros: the finding no longer holds"
for left_out in OPTIONS:
    try:
        detect([option for option in OPTIONS if option != left_out])
    except cv2.error as error:
        print(f"without {left_out}: {error.err.splitlines()[0]}")
    else:
        raise SystemExit(f"runs without {left_out}: the finding no longer holds")
PYTHON
