#!/bin/sh
# A good guess: torchmetrics' segmentation.MeanIoU is the mean IU of segmentation papers: IU of each class over all pixels of the
# data set, then the mean over classes. And with per_class=True it gives the numbers whose mean is the one without.
# What happens: it is neither. IUs are made for each image and class, and all that are defined are averaged in one heap, so that
# classes of many images weigh more; per_class=True averages over images first. On two images of two classes the three numbers are
# 0.722, 0.667 and 0.679. A class that no image has is -1 in the list, for who averages it, and 0 in MulticlassJaccardIndex with
# average="none", whose "macro" leaves it out again.
# What we do about it: fcn_caffe's mean IU is that of the paper, and names the classes that it leaves out.
# Source: torchmetrics' page on MeanIoU, which says "per class" and -1, not what is averaged first. Seen with torchmetrics 1.9.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

truth = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
answer = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [0, 0]]])


def measure(metric):
    metric.update(answer, truth)
    return [round(value, 4) for value in metric.compute().reshape(-1).tolist()]


mean = measure(MeanIoU(2, input_format="index"))
classes = measure(MeanIoU(2, per_class=True, input_format="index"))
pixels = measure(MulticlassJaccardIndex(2, average="macro"))
print(f"torchmetrics {torchmetrics.__version__}")
print(f"MeanIoU {mean}; per class {classes}, of mean {sum(classes) / 2:.3f}; over all pixels {pixels}")
four = measure(MeanIoU(4, per_class=True, input_format="index"))
none, macro = (measure(MulticlassJaccardIndex(4, average=average)) for average in ("none", "macro"))
print(f"with two classes that are nowhere: MeanIoU {four}, MulticlassJaccardIndex {none}, macro {macro}")
assert (mean, classes, pixels) == ([0.7222], [0.8333, 0.5], [0.6786]), "other numbers: look again"
assert four[2:] == [-1, -1] and none[2:] == [0, 0] and macro == pixels
PYTHON
