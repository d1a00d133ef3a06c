"""Weight files that others published: what they are, and how to get them. weights/MANIFEST.toml lists them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fcn_caffe.host.program import tool_call
from fcn_caffe.models.nets import NETS
from fcn_caffe.models.recipes import RECIPES

__all__ = ["PUBLISHED", "Published", "how_to_get", "manifest"]

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
    """A file of weights/, the file that it comes from, and where that was published.

    Attributes:
        file: its name in weights/.
        what: what it is.
        source: the address of the published file.
        layers: the layers that are used.
        preprocessing: the images that it was trained on.
        net: a net that has these layers.
        is_classifier: whether it is one, whose last layers nets do not use.
        convert: whether its inner products become convolutions.
        sha256: the published file's SHA-256, empty where it is not known.
        sha1: its SHA-1, likewise.
        size: its bytes, 0 where that is not known.
    """

    file: str
    what: str
    source: str
    layers: str
    preprocessing: str
    net: str
    is_classifier: bool = False
    convert: bool = False
    sha256: str = ""
    sha1: str = ""
    size: int = 0

    @property
    def published(self) -> str:
        """The name it was published under."""
        return self.source.rpartition("/")[2]

    @property
    def origin(self) -> str:
        """What to do to get the file."""
        remark = ", under either name: its inner products become convolutions when a net starts from it"
        return f"download {self.source} and put it there{remark if self.convert else ''}"


# Sources of checksums and sizes: the readme of each of BVLC Caffe's own models; download_models.py of opencv_extra;
# model.yml of VGG-16, CaffeNet and GoogLeNet in OpenVINO's Open Model Zoo.
_SHA1 = {
    "voc-fcn32s": "05eb922d7829c39448f57e5ab9d8cd75d6c0be6d",
    "voc-fcn8s": "c449ea74dd7d83751d1357d6a8c323fcf4038962",
}
_CLASSIFIERS = (
    Published(
        "vgg16fc.caffemodel",
        "VGG-16, the classifier of ILSVRC that the VGG nets start from",
        "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel",
        "conv1_1 to conv5_3, fc6, fc7; fc8 is not used",
        _BGR,
        "voc-fcn32s",
        is_classifier=True,
        convert=True,
        sha256="a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197",
        sha1="9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24",
        size=553432081,
    ),
    Published(
        "caffenetfc.caffemodel",
        "CaffeNet, the classifier of ILSVRC that voc-fcn-alexnet starts from",
        _BERKELEY + "bvlc_reference_caffenet.caffemodel",
        "conv1 to conv5, fc6, fc7; fc8 is not used",
        _BGR,
        "voc-fcn-alexnet",
        is_classifier=True,
        convert=True,
        sha1="4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        size=243862418,
    ),
    Published(
        "googlenetfc.caffemodel",
        "BVLC GoogLeNet, the classifier of ILSVRC that voc-fcn-googlenet starts from",
        _BERKELEY + "bvlc_googlenet.caffemodel",
        "conv1/7x7_s2 to inception_5b; the three classifiers are not used",
        "BGR, mean 104 117 123, no scaling",
        "voc-fcn-googlenet",
        is_classifier=True,
        sha256="6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
        sha1="405fc5acd08a3bb12de8ee5e23a96bec22f08204",
        size=53533754,
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
                name,
                sha1=_SHA1.get(name, ""),
            )
            for name, published in _TRAINED.items()
        ),
    )
}


def how_to_get(path: str | os.PathLike[str]) -> str:
    """Return one sentence that says how to get or make a weight file that is not there. Its name tells which it is."""
    path = Path(path)
    entry, ways = PUBLISHED.get(path.name), []
    if entry is not None:
        ways.append(entry.origin)
    if path.stem in RECIPES:
        ways.append(f"train it with `{tool_call('solve')} solvers/{path.stem}.prototxt`")
    if not ways:
        return f"{path} is not there, and no solver makes it. Put it there, or start from another file with --from FILE"
    what = f" ({entry.what})" if entry is not None else ""
    sentence = "; or ".join(ways)
    return f"{path}{what} is not there. {sentence[0].upper()}{sentence[1:]}."


def manifest() -> str:
    """Return the text of weights/MANIFEST.toml."""
    lines = [
        "# The files that nets and solvers look for in this folder; the files themselves are not kept in git.",
        "# Written by tools/make_nets.py from models/published.py. Checksums and sizes are the published file's;",
        "# those that are not known are left out. `fcn-caffe get_data weights --verify` compares.",
    ]
    for entry in PUBLISHED.values():
        fields = {
            "file": entry.file,
            "what": entry.what,
            "source": entry.source,
            "get": entry.origin,
            "layers": entry.layers,
            "preprocessing": entry.preprocessing,
            "sha256": entry.sha256,
            "sha1": entry.sha1,
        }
        lines += ["", "[[weights]]", *(f'{key} = "{value}"' for key, value in fields.items() if value)]
        lines += [f"bytes = {entry.size}"] if entry.size else []
    return "\n".join(lines) + "\n"
