"""Made images for the examples: noise in which patches with level or upright stripes lie. No download, no files."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

CLASSES = ("background", "level stripes", "upright stripes")


def striped_patch(random: np.random.Generator, size: int, label: int) -> npt.NDArray[np.float32]:
    """Return a patch (3, size, size) of one class: noise, and stripes 4 pixels apart where it is not background."""
    patch = random.normal(0, 0.5, (3, size, size)).astype(np.float32)
    if label:
        wave = np.sin(np.pi / 2 * np.arange(size) + random.uniform(0, 2 * np.pi)).astype(np.float32)
        patch += wave[:, None] if label == 1 else wave[None, :]
    return patch


class Patches(Dataset[tuple[Tensor, int]]):
    """Patches (3, 16, 16) with their class: what a classifier learns from."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = index % len(CLASSES)
        return torch.from_numpy(striped_patch(np.random.default_rng((self.seed, index)), 16, label)), label


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, 64, 64) of two patches on noise, with labels (1, 64, 64): what a segmentation net learns from."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self.seed, index))
        image, label = striped_patch(random, 64, 0), np.zeros((1, 64, 64), np.float32)
        for kind in random.permutation([1, 2]):
            size = int(random.integers(20, 36))
            top, left = random.integers(0, 64 - size, 2)
            image[:, top : top + size, left : left + size] = striped_patch(random, size, int(kind))
            label[:, top : top + size, left : left + size] = kind
        return torch.from_numpy(image), torch.from_numpy(label)
