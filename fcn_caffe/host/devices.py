"""The devices torch sees: which of them a command means, and what they are."""

from __future__ import annotations

from typing import Any

import torch

from fcn_caffe.errors import FcnCaffeError

KIB, MIB = 1 << 10, 1 << 20


def torch_device(asked: str) -> torch.device:
    """Return the device that `cpu`, `cuda`, `gpu` or `cuda:N` names.

    Raises:
        FcnCaffeError: The name is another one, or there is no such device.
    """
    try:
        device = torch.device("cuda" if asked == "gpu" else asked)
    except RuntimeError:
        raise FcnCaffeError(f"device {asked!r} is unknown. Use cpu, cuda or cuda:N.") from None
    if device.type != "cuda":
        return _usable(device, asked)
    if not torch.cuda.is_available():
        raise FcnCaffeError(
            f"device {asked!r} was asked for, but {without_cuda()}. Use cpu, or install a CUDA build of torch."
        )
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        raise FcnCaffeError(f"device {asked!r}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}.")
    return torch.device("cuda", index)


def _usable(device: torch.device, asked: str) -> torch.device:
    """Return a device that is no CUDA device, if numbers can be put there. Raises: FcnCaffeError."""
    if device.type != "cpu":
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError, ImportError):
            raise FcnCaffeError(f"device {asked!r} is not usable here. Use cpu, cuda or cuda:N.") from None
    return device


def gpu_numbers(text: str) -> list[int]:
    """Return the numbers of the devices that Caffe's `--gpu` names: `all`, or numbers separated by commas.

    Raises:
        FcnCaffeError: The text is neither, names a device twice, or one that is not there.
    """
    if text == "all":
        return list(range(torch.cuda.device_count()))
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise FcnCaffeError(f"--gpu {text!r}: wanted device numbers separated by commas, or all.")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) < len(numbers):
        raise FcnCaffeError(f"--gpu {text!r} names a device twice. Name each once.")
    for number in numbers:
        torch_device(f"cuda:{number}")
    return numbers


def without_cuda() -> str:
    """Say why torch has no CUDA device here, as part of a sentence."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable NVIDIA driver or GPU"


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device computes in bfloat16 quickly; a CPU without AVX-512 takes many times as long as in float32.

    Where torch does not say, it is taken to.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ask is None or bool(ask())


def describe(number: int) -> dict[str, str]:
    """Return what torch knows of a CUDA device: titles and values, as far as this version of torch has them."""
    properties: Any = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    facts = {
        "Device id": str(number),
        "Name": properties.name,
        "Compute capability": f"{properties.major}.{properties.minor}",
        "Total memory": f"{total / MIB:.0f} MiB",
        "Free memory": f"{free / MIB:.0f} MiB",
        "Multiprocessors": str(properties.multi_processor_count),
    }
    more = {
        "Threads per multiprocessor": ("max_threads_per_multi_processor", 1, ""),
        "Warp size": ("warp_size", 1, ""),
        "Registers per multiprocessor": ("regs_per_multiprocessor", 1, ""),
        "Shared memory per block": ("shared_memory_per_block", KIB, " KiB"),
        "Shared memory per multiprocessor": ("shared_memory_per_multiprocessor", KIB, " KiB"),
        "L2 cache": ("L2_cache_size", KIB, " KiB"),
    }
    for title, (attribute, unit, suffix) in more.items():
        if hasattr(properties, attribute):
            facts[title] = f"{getattr(properties, attribute) / unit:.0f}{suffix}"
    integrated = getattr(properties, "is_integrated", None)
    if integrated is not None:
        facts["Integrated"] = "yes" if integrated else "no"
    return facts
