#!/bin/sh
# A good guess: enlarging an image by bilinear interpolation adds nothing up across threads, so that the numbers are the same
# with one thread as with two; and each channel is treated like every other, whatever their number.
# What happens: with one thread, and with exactly 3 channels, torch takes another kernel, which rounds elsewhere: over a third
# of an RGB image's numbers have other bits than with two threads, or than the same channels within an image of 4. A worker of a
# DataLoader has one thread: the data set's own image, enlarged there, is another one than in the main process.
# What we do about it: docs/reliability.md names the operation; runs are compared with as many threads.
# Source: aten/src/ATen/native/cpu/UpSampleKernel.cpp, upsample_bilinear2d_kernel_impl_float, whose comment gives speed as the
# reason; the page on interpolate speaks of CUDA alone. Seen with torch 2.13.0 (CPU).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
cat >enlarge.py <<'PYTHON'
import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    """One image, enlarged as it is asked for."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return enlarge(draw(3))


def draw(channels):
    return torch.rand(1, channels, 33, 33, generator=torch.Generator().manual_seed(0))


def enlarge(image, threads=None):
    if threads:
        torch.set_num_threads(threads)
    return interpolate(image, size=(70, 70), mode="bilinear")


if __name__ == "__main__":
    print(f"torch {torch.__version__}")
    others = {}
    for channels in (1, 2, 3, 4):
        one, two = (enlarge(draw(channels), threads) for threads in (1, 2))
        others[channels] = int((one != two).sum())
        print(f"{channels} channels: {others[channels]} of {one.numel()} numbers differ with one thread and two")
    image = draw(4)
    alone, within = enlarge(image[:, :3], 1), enlarge(image, 1)[:, :3]
    print(f"one thread: {int((alone != within).sum())} numbers of 3 channels are others alone than within 4 channels")
    assert others[3] > 1000 and not any(others[channels] for channels in (1, 2, 4)), "the finding no longer holds"
    assert not torch.equal(alone, within)
    torch.set_num_threads(2)
    here, there = (next(iter(DataLoader(Images(), num_workers=number))) for number in (0, 1))
    print(f"two threads: {int((here != there).sum())} numbers are others from a worker of a DataLoader")
    assert not torch.equal(here, there)
PYTHON
"$folder/venv/bin/python" enlarge.py 2>/dev/null
