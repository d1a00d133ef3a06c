"""tools/device_query.py and the names of devices. What needs a GPU is run with what torch would say of one."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from fcn_caffe import FcnCaffeError
from fcn_caffe.commands import device_query
from fcn_caffe.host.devices import gpu_numbers, torch_device


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (1 << 30, 4 << 30))
    properties = SimpleNamespace(name="Card", major=9, minor=0, multi_processor_count=132, warp_size=32)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)


def test_without_cuda_one_line_says_so(no_gpu, capsys):
    for arguments in ([], ["-gpu", "0"]):
        assert device_query.main(arguments) == 0
        out = capsys.readouterr().out
        assert out.startswith("No CUDA device: torch ") and torch.__version__ in out and out.count("\n") == 1


def test_all_devices_or_those_named(two_gpus, capsys):
    assert device_query.main([]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"Device id: +(\d)", out) == ["0", "1"]
    assert re.search(r"Compute capability: +9\.0", out) and re.search(r"Total memory: +4096 MiB", out)
    assert re.search(r"Warp size: +32\n", out)
    assert device_query.main(["--gpu", "1"]) == 0
    assert re.findall(r"Device id: +(\d)", capsys.readouterr().out) == ["1"]
    assert device_query.main(["--gpu", "2"]) == 1
    assert capsys.readouterr().err == "error: device 'cuda:2': there are 2 CUDA devices, cuda:0 to cuda:1.\n"


def test_names_of_devices(two_gpus):
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("gpu") == torch.device("cuda", 0)
    assert torch_device("cuda:1") == torch.device("cuda", 1)
    assert gpu_numbers("all") == [0, 1] and gpu_numbers("1, 0") == [1, 0]


@pytest.mark.parametrize("text", ["", "one", "0,,1", "-1"])
def test_what_is_no_list_of_devices(two_gpus, text):
    with pytest.raises(FcnCaffeError, match="wanted device numbers"):
        gpu_numbers(text)


def test_a_device_twice(two_gpus):
    with pytest.raises(FcnCaffeError, match="names a device twice"):
        gpu_numbers("0,0")


def test_a_device_without_cuda(no_gpu):
    with pytest.raises(FcnCaffeError, match="device 'cuda' was asked for, but torch"):
        torch_device("cuda")
