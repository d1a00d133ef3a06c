"""The base of data layers that give one image in each step: options, order, tops, reading ahead, state."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from fcn_caffe.data.prefetch import Batch, Prefetch
from fcn_caffe.data.sets.options import read_options
from fcn_caffe.data.sets.sampling import Draws
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.layers.python import Blob, PythonLayer

__all__ = ["OneImageLayer"]

Array = npt.NDArray[Any]
AHEAD = 4  # images read ahead, as many as Caffe's own data layers prefetch


class OneImageLayer(PythonLayer):
    """A Python data layer that gives one image, and what belongs to it, in each forward; tops take its size.

    A subclass says which options it knows, opens its data set in `open()`, which returns the names of the images, and
    reads image and label of a name in `load_image(idx)` and `load_label(idx)`, without the batch axis.

    Public, as in the reference layers: `split`, `seed`, `random` (drawn at random or in order), `indices` (the names of
    the split), `idx` (the place in it of the next image), and after reshape `data` and `label`, which forward copies
    into the tops. All of them may be set.
    Order: a split whose name holds "train" is drawn at random with replacement from `seed`, unless `randomize` is
    False; others run in order. One draw in setup, one after each forward, as the reference layers do.
    Reading ahead: images are read in a thread, `prefetch` of them at most (param_str, 4; 0 for none), from the first
    forward on. The order and what a snapshot holds are the same with or without. A class of the user's that loads in
    its own way is read without a thread unless its param_str says `prefetch`: it may draw random numbers as it loads.
    Complete: `class Mine(OneImageLayer, complete=True)` says that `required` and `defaults` are all its options, so
    that another is an error, and that its load methods may run in a thread. A class that is not complete may take other
    options, and is read ahead only where all its load methods are those of a complete class.
    Raises: DataError for wrong options, missing files and bad images.
    """

    complete: ClassVar[bool] = False
    leaves_out_absent: ClassVar[bool] = False  # whether the means of a score leave out classes the labels never show
    required: ClassVar[Sequence[str]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    top_names: Sequence[str] = ("data", "label")

    split: str = ""
    seed: Any = None
    random: bool = True
    indices: Sequence[str] = ()
    idx: int = 0
    data: Any
    label: Any

    _loaders: ClassVar[Mapping[str, Any]] = {}  # the load methods of the last complete class, which a thread may run
    # Set here, not in setup: a class of the user's may have a setup of its own.
    _depth: int | None = None
    _draws: Draws | None = None
    _held: tuple[int, str, Sequence[Array]] | None = None
    _feed: Prefetch | None = None
    _finalizer: Any = None
    _last: str | None = None
    share: Share = Share()
    _first: _Order | None = None  # with a share of several: where the order is for all of them together

    def __init_subclass__(cls, *, complete: bool = False) -> None:
        super().__init_subclass__()
        cls.complete = complete
        if complete:
            cls._loaders = _load_methods(cls)

    def open(self) -> Sequence[str]:
        """Open the data set; return the names of the split's images."""
        raise NotImplementedError

    def load_image(self, idx: str) -> Array:
        """Read the image called `idx`, (C, H, W)."""
        raise NotImplementedError

    def load_label(self, idx: str) -> Array:
        """Read the label of the image called `idx`, (1, H, W)."""
        raise NotImplementedError

    def load_tops(self, idx: str) -> Sequence[Array]:
        """Read an array for each top of the image `idx`, without the batch axis."""
        return self.load_image(idx), self.load_label(idx)

    def largest_image(self) -> tuple[str, int, int] | None:
        """Return the name, height and width of the image with the most pixels; None where that is not known at once."""
        return None

    def show(self, arrays: Sequence[Array]) -> None:
        """Set `data` and `label` to the arrays of `load_tops`."""
        self.data, self.label = arrays

    def top_arrays(self) -> Sequence[Array]:
        """Return the arrays that forward copies into the tops."""
        return self.data, self.label

    @property
    def who(self) -> str:
        return type(self).__name__

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        common = {"randomize": True, "seed": None, "prefetch": None}
        self.options = read_options(
            self.param_str,
            self.who,
            required=("split", *self.required),
            defaults={**common, **self.defaults},
            others=not self.complete,
        )
        self.check_options()
        if len(bottom):
            raise DataError(f"{self.who}: takes no bottoms, the net gives {len(bottom)}. It is a data layer.")
        if len(top) != len(self.top_names):
            raise DataError(
                f"{self.who}: gives {len(self.top_names)} tops ({', '.join(self.top_names)}), the net has {len(top)}."
            )
        self.split, self.seed = str(self.options["split"]), self.options["seed"]
        depth = self.options["prefetch"]
        if depth is not None and (not isinstance(depth, int) or depth < 0):
            raise DataError(f"{self.who}: prefetch should be a whole number from 0, got {depth!r}.")
        self.indices, self._depth = self.open(), depth
        self.random = "train" in str(self.options["split"]) and bool(self.options["randomize"])
        self.idx, self._draws, self._held, self._last = 0, None, None, None
        self._stop()
        if self.random:
            self._draws = self._seeded()
            self.idx = self._draws.next(len(self.indices))

    def check_options(self) -> None:
        """Check the options that decide how many tops there are. Runs before `open`."""

    def _seeded(self) -> Draws:
        try:
            return Draws(self.seed)
        except TypeError as error:
            raise DataError(f"{self.who}: seed should be a number or None, got {self.seed!r}.") from error

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def name(self) -> str:
        """Return the name of the image that the next forward gives; after a forward, of the image it gave."""
        return self.indices[self.idx] if self._last is None else self._last

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        place, name = self.idx, self.indices[self.idx]
        if self._held is None or self._held[:2] != (place, name):
            self._held = place, name, self._read(place, name)
        self._last = None
        self.show([array.copy() for array in self._held[2]])  # copies: a user may change them and reshape again
        for blob, array in zip(top, self.top_arrays(), strict=True):
            blob.reshape(1, *array.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, array in zip(top, self.top_arrays(), strict=True):
            blob.data[...] = array
        self._last, self._held = self.indices[self.idx], None
        self._go_on(self.share.count)
        if self._first is not None:
            self._first.go_on(self.share.count)
        if self._feed is None and self._ahead():
            order = _Order(self.idx, len(self.indices), self._drawn().copy() if self.random else None)
            images = _read_ahead(weakref.ref(self), list(self.indices), order, self.share.count)
            self._feed = Prefetch(images, self._ahead(), self.who)
            self._finalizer = weakref.finalize(self, self._feed.close)

    def _drawn(self) -> Draws:
        """Return the stream of places, behind the draw of `idx`."""
        if self._draws is None:  # a setup of the user's own, which made the first draw
            self._draws = self._seeded()
            self._draws.next(len(self.indices))
        return self._draws

    def _go_on(self, images: int) -> None:
        order = _Order(self.idx, len(self.indices), self._drawn() if self.random else None)
        order.go_on(images)
        self.idx = order.place

    def take_share(self, share: Share) -> None:
        """Give every share.count-th image of the order from now on, from the share.rank-th."""
        self._stop()
        self._held = self._last = None
        if self._first is not None:
            self.idx, self._draws = self._first.place, self._first.draws
        self.share, self._first = share, None
        if share.count > 1:
            draws = self._drawn().copy() if self.random else None
            self._first = _Order(self.idx, len(self.indices), draws)
            self._go_on(share.rank)

    def skip(self, passes: int) -> None:
        """Go on behind the images of so many passes."""
        share = self.share
        self.take_share(Share())
        self._go_on(passes)
        self.take_share(share)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Data has no gradient."""

    def _ahead(self) -> int:
        if self._depth is not None:
            return self._depth
        methods = _load_methods(type(self))
        return AHEAD if methods == self._loaders and not methods.keys() & vars(self).keys() else 0

    def _read(self, place: int, name: str) -> Sequence[Array]:
        if self._feed is not None and self._feed.is_usable:
            try:
                arrays, position = self._feed.get()
            except BaseException:
                self._stop()  # the next pass tries the same image again
                raise
            if (position["idx"], position["name"]) == (place, name):
                return arrays
        self._stop()  # nothing was read ahead, or a user changed the order: forward starts anew
        return self.load_tops(name)

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._feed = self._finalizer = None

    def get_state(self) -> dict[str, Any]:
        """Return the data order for a snapshot, as JSON can hold it."""
        place, draws = (self.idx, self._draws) if self._first is None else (self._first.place, self._first.draws)
        state: dict[str, Any] = {"index": place, "count": len(self.indices)}
        if self.random:
            state["random"] = (draws or self._seeded()).get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with the data order of a snapshot.

        Raises:
            DataError: when the split has changed since.
        """
        if state.get("count") != len(self.indices) or ("random" in state) != bool(self.random):
            raise DataError(
                f"the snapshot's data order is for a split of {state.get('count')} images, this one has "
                f"{len(self.indices)}. Resume with the split it was trained on."
            )
        if state == self.get_state():
            return  # the images that were read ahead still fit
        share = self.share
        self.take_share(Share())
        self.idx = int(state["index"])
        if self.random:
            self._draws = Draws(0)
            self._draws.set_state(state["random"])
        self.take_share(share)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": None, "_finalizer": None}


def _load_methods(cls: type[OneImageLayer]) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if name.startswith("load")}


@dataclass
class _Order:
    """A place in the order of `count` images, and the stream that the next is drawn from; None for the one behind."""

    place: int
    count: int
    draws: Draws | None

    def go_on(self, images: int) -> None:
        for _ in range(images):
            self.place = (self.place + 1) % self.count if self.draws is None else self.draws.next(self.count)


def _read_ahead(
    layer: weakref.ref[OneImageLayer], names: Sequence[str], order: _Order, step: int
) -> Generator[Batch, None, None]:
    """Yield images in the order that the layer asks for them. A weak reference, so that no thread keeps it alive."""
    while True:
        place = order.place
        arrays = _load(layer, names[place])
        if arrays is None:
            return
        yield arrays, {"idx": place, "name": names[place]}
        order.go_on(step)


def _load(layer: weakref.ref[OneImageLayer], name: str) -> list[Array] | None:
    alive = layer()
    return None if alive is None else list(alive.load_tops(name))
