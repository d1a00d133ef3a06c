"""How a data layer makes batches of its images: how many, in which order, changed how, loaded by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fcn_caffe.data.augmentation import Augmentation
from fcn_caffe.data.sets.options import is_whole
from fcn_caffe.errors import DataError

__all__ = ["SampleOptions"]


@dataclass(frozen=True)
class SampleOptions:
    """The options of param_str that all data layers of images share, checked.

    Attributes:
        batch_size: images in a forward.
        fit: "pad" or "crop": how images of a batch get one size.
        buckets: whether a batch has images of similar sizes.
        epochs: whether each image comes once before any comes again, where the order is random.
        augmentation: what may happen to an image in training; None for nothing.
        workers: processes that load images; 0 for a thread.
        prefetch: batches read ahead; None where the layer decides.
    """

    batch_size: int = 1
    fit: str = "pad"
    buckets: bool = False
    epochs: bool = False
    augmentation: Augmentation | None = None
    workers: int = 0
    prefetch: int | None = None

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "batch_size": 1,
        "fit": "pad",
        "buckets": False,
        "order": "draws",
        "augment": None,
        "workers": 0,
        "prefetch": None,
    }

    @classmethod
    def read(cls, options: Mapping[str, Any], who: str) -> SampleOptions:
        """Check the options of a layer; others than these are not looked at.

        Raises:
            DataError: for a value that makes no sense.
        """
        _check_whole(options, "batch_size", 1, who)
        _check_whole(options, "workers", 0, who)
        if options["prefetch"] is not None:
            _check_whole(options, "prefetch", 0, who)
        for key, known in (("fit", ("pad", "crop")), ("order", ("draws", "epochs")), ("buckets", (False, True))):
            if options[key] not in known or isinstance(options[key], bool) != isinstance(known[0], bool):
                raise DataError(f"{who}: {key} should be {known[0]!r} or {known[1]!r}, got {options[key]!r}.")
        if options["buckets"] and options["order"] != "epochs":
            raise DataError(f"{who}: buckets are of epochs, in which each image comes once: set 'order': 'epochs' too.")
        augment = options["augment"]
        return cls(
            batch_size=options["batch_size"],
            fit=options["fit"],
            buckets=options["buckets"],
            epochs=options["order"] == "epochs",
            augmentation=None if augment is None else Augmentation.read(augment, who),
            workers=options["workers"],
            prefetch=options["prefetch"],
        )


def _check_whole(options: Mapping[str, Any], key: str, least: int, who: str) -> None:
    value = options[key]
    if not is_whole(value, least):
        raise DataError(f"{who}: {key} should be a whole number from {least}, got {value!r}.")
