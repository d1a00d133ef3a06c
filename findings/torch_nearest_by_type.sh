#!/bin/sh
# A good guess: resizing a label picture by mode="nearest" picks pixel floor(k * in / out) for pixel k; the labels' type has no
# say, since nearest copies and computes nothing.
# What happens: torch computes the place in the precision of the image. For float32 (and uint8) it falls short of a whole number
# at some sizes and takes the pixel before: from 500 to 480 rows, at 6 of the 20 places where a new row begins where an old one
# does. The same labels as float64 come right. But where height and width of the result add up to 128 or less, another kernel
# computes in float32 whatever the type. To twice the size all are right.
# What we do about it: labels are resized by Pillow or by places computed in float64, not by interpolate.
# Source: aten/src/ATen/native/cpu/UpSampleKernel.cpp (the two kernels, and the 128 between them); the page on interpolate warns
# that nearest follows OpenCV's faulty INTER_NEAREST, and says nothing of types. Seen with torch 2.13.0 (CPU).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
from torch.nn.functional import interpolate


def wrong(rows, wanted, columns, type):
    """The rows that are not floor(k * in / out), where each row holds its own number."""
    labels = torch.arange(rows).to(type).view(1, 1, rows, 1).expand(1, 1, rows, columns).contiguous()
    picked = interpolate(labels, size=(wanted, columns), mode="nearest")[0, 0, :, 0].long()
    right = torch.tensor([row * rows // wanted for row in range(wanted)])
    assert ((right - picked) * (picked != right) <= 1).all()
    return [int(row) for row in (picked != right).nonzero()]


print(f"torch {torch.__version__}")
found = {}
for rows, wanted, columns in ((500, 480, 480), (250, 240, 240), (112, 96, 96), (112, 96, 32), (240, 480, 480)):
    types = [torch.float32, torch.float64, *([torch.uint8] if rows < 256 else [])]
    found[rows, wanted, columns] = lines = [wrong(rows, wanted, columns, type) for type in types]
    for type, line in zip(types, lines):
        print(f"{rows} to {wanted} rows, {columns} columns, {type}: {len(line)} rows from elsewhere {line}")
assert len(found[500, 480, 480][0]) == 6 and not found[500, 480, 480][1], "other rows: the finding no longer holds"
assert found[250, 240, 240][0] == found[250, 240, 240][2] and found[250, 240, 240][0] and not found[250, 240, 240][1]
assert found[112, 96, 96][0] and not found[112, 96, 96][1], "the same by type: the finding no longer holds"
assert found[112, 96, 32][0] == found[112, 96, 32][1] != [], "128 is no bound any more: the finding no longer holds"
assert not any(found[240, 480, 480])
PYTHON
