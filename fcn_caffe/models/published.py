"""Weight files that others published: what they are and where they come from. weights/MANIFEST.toml lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fcn_caffe.models.nets import NETS

__all__ = ["PUBLISHED", "Published", "manifest"]

_BERKELEY = "http://dl.caffe.berkeleyvision.org/"
_BGR = "BGR, mean 104.00699 116.66877 122.67892, no scaling"
_PREPROCESSING = {
    "voc": _BGR,
    "nyud-fcn32s-color": "BGR, mean 116.190 97.203 92.318",
    "nyud-fcn32s-hha": "HHA as stored, mean 132.431 94.076 118.477",
    "nyud-fcn32s-color-d": "BGR, mean 116.190 97.203 92.318; log depth, mean 7.844",
    "nyud-fcn32s-color-hha": "BGR, mean 116.190 97.203 92.318; HHA as stored, mean 132.431 94.076 118.477",
    "siftflow": "BGR, mean 114.578 115.294 108.353",
    "pascalcontext": "BGR, mean 104.007 116.669 122.679",
}


@dataclass(frozen=True)
class Published:
    """A file for weights/, and where it was published.

    makes: the file that the schedule makes of it where the nets want convolutions for its inner products.
    sha256: empty where not known.
    """

    file: str
    what: str
    source: str
    layers: str
    preprocessing: str
    makes: str = ""
    sha256: str = ""


_CLASSIFIERS = (
    Published(
        "VGG_ILSVRC_16_layers.caffemodel",
        "VGG-16, the classifier of ILSVRC that the VGG nets start from",
        "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
        "conv1_1 to conv5_3, fc6, fc7; fc8 is not used",
        _BGR,
        "vgg16fc.caffemodel",
    ),
    Published(
        "bvlc_reference_caffenet.caffemodel",
        "CaffeNet, the classifier of ILSVRC that voc-fcn-alexnet starts from",
        _BERKELEY + "bvlc_reference_caffenet.caffemodel",
        "conv1 to conv5, fc6, fc7; fc8 is not used",
        _BGR,
        "caffenetfc.caffemodel",
    ),
    Published(
        "bvlc_googlenet.caffemodel",
        "BVLC GoogLeNet, the classifier of ILSVRC that voc-fcn-googlenet starts from",
        _BERKELEY + "bvlc_googlenet.caffemodel",
        "conv1/7x7_s2 to inception_5b; the three classifiers are not used",
        "BGR, mean 104 117 123, no scaling",
        "googlenetfc.caffemodel",
    ),
)
# The authors' trained nets, by the names they were published under.
_TRAINED = {
    "voc-fcn32s": "fcn32s-heavy-pascal",
    "voc-fcn16s": "fcn16s-heavy-pascal",
    "voc-fcn8s": "fcn8s-heavy-pascal",
    "voc-fcn8s-atonce": "fcn8s-atonce-pascal",
    "voc-fcn-alexnet": "fcn-alexnet-pascal",
    **{name: f"{name}-heavy" for name in NETS if name.startswith(("nyud-fcn32s", "siftflow", "pascalcontext"))},
}


def _preprocessing(name: str) -> str:
    return _PREPROCESSING.get(name) or _PREPROCESSING[name.split("-")[0]]


PUBLISHED: dict[str, Published] = {
    entry.file: entry
    for entry in (
        *_CLASSIFIERS,
        *(
            Published(
                f"{name}.caffemodel",
                f"{name} as its authors trained it",
                f"{_BERKELEY}{published}.caffemodel",
                f"those of nets/{name}.prototxt",
                _preprocessing(name),
            )
            for name, published in _TRAINED.items()
        ),
    )
}


def manifest() -> str:
    """The text of weights/MANIFEST.toml."""
    lines = [
        "# The files that nets and solvers look for in this folder; the files themselves are not kept in git.",
        "# Written by tools/make_nets.py from fcn_caffe/models/published.py. Checksums that are not known are left out.",
    ]
    for entry in PUBLISHED.values():
        get = (
            f"download it from `source`; the schedule makes {entry.makes} of it"
            if entry.makes
            else (f"download it from `source` under this name, or train it: solvers/{Path(entry.file).stem}.prototxt")
        )
        fields = {
            "file": entry.file,
            "what": entry.what,
            "source": entry.source,
            "get": get,
            "layers": entry.layers,
            "preprocessing": entry.preprocessing,
            "sha256": entry.sha256,
        }
        lines += ["", "[[weights]]", *(f'{key} = "{value}"' for key, value in fields.items() if value)]
    return "\n".join(lines) + "\n"
