#!/bin/sh
# A good guess: an image of labels with a palette of its classes (mode P, putpalette) keeps its pixels when it is saved without
# loss, and if a label has no colour the palette is filled up, or something complains.
# What happens: PNG gets as many bits a pixel as the palette's length needs, and what does not fit is cut: the label 255 that VOC
# calls void comes back as 1, 3 or 15 with a palette of 2, 3 to 4 or 5 to 16 colours, and is a class from then on. Of 17 colours and
# more it stays, so a set of 21 classes never shows it. GIF renumbers by what is used: labels 0, 5, 255 come back as 0, 1, 2. TIFF
# and BMP keep the pixels. Nothing is said.
# What we do about it: fcn_caffe writes label images with a palette of all 256 colours.
# Source: PngImagePlugin._save, which counts the palette's colours; the handbook's page on formats does not say it.
# Seen with Pillow 13.0.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import PIL
from PIL import Image

LABELS = [0, 1, 5, 255]


def saved(colours, suffix):
    image = Image.fromarray(np.array([LABELS], np.uint8))
    image.putpalette([value for index in range(colours) for value in (index, 255 - index, 0)])
    assert image.mode == "P" and np.asarray(image).tolist() == [LABELS]
    image.save(f"labels.{suffix}")
    with Image.open(f"labels.{suffix}") as read:
        return np.asarray(read)[0].tolist()


print(f"Pillow {PIL.__version__}, labels {LABELS}")
read = {(colours, suffix): saved(colours, suffix) for colours in (2, 4, 8, 16, 17, 256) for suffix in ("png", "gif", "tif")}
for (colours, suffix), labels in read.items():
    print(f"palette of {colours:3} colours, {suffix}: {labels}")
assert read[2, "png"] == [0, 1, 1, 1] and read[4, "png"][-1] == 3 and read[8, "png"][-1] == read[16, "png"][-1] == 15, (
    "other pixels: the finding no longer holds"
)
assert read[17, "png"] == read[256, "png"] == LABELS
assert all(labels == LABELS for (_, suffix), labels in read.items() if suffix == "tif")
assert read[256, "gif"] == [0, 1, 2, 3]
PYTHON
