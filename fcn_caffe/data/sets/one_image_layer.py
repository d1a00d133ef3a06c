"""The base of data layers that give images of any size: options, order, batches, tops, reading ahead, state."""

from __future__ import annotations

import math
import random
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.augmentation import fit_batch
from fcn_caffe.data.loading import Loaders, Request
from fcn_caffe.data.prefetch import Batch, Prefetch
from fcn_caffe.data.sets.options import is_whole, parse_param_str, read_options
from fcn_caffe.data.sets.sample_options import SampleOptions
from fcn_caffe.data.sets.sampling import Draws, Epochs, Order
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.trust import may_run_python_of
from fcn_caffe.layers.python import Blob, PythonLayer
from fcn_caffe.proto.phases import TEST, TRAIN

__all__ = ["OneImageLayer"]

Array = npt.NDArray[Any]
AHEAD = 4  # images read ahead, as many as Caffe's own data layers prefetch


class OneImageLayer(PythonLayer):
    """A Python data layer that gives one image, or a batch, and its labels in each forward; tops take its size.

    A subclass says which options it knows, opens its data set in `open()`, which returns the names of the images, and
    reads image and label of a name in `load_image(idx)` and `load_label(idx)`, without the batch axis.

    Public, as in the reference layers: `split`, `seed`, `random` (drawn at random or in order), `indices` (the names of
    the split), `idx` (the place in it of the next image), and after reshape `data` and `label`, which forward copies
    into the tops. All of them may be set.
    Order: a split whose name holds "train" is drawn at random with replacement from `seed`, unless `randomize` is
    False; others run in order. One draw in setup, one after each forward, as the reference layers do. With `order`
    "epochs" each image comes once before any comes again, in an order drawn from `seed` for each epoch.
    Batches: `batch_size` images (1) in each forward. Where they differ in size, images are filled up to the largest at
    the right and below with 0, the mean, and labels with the void value; with `fit` "crop" (instead of "pad") their
    middle is cut to the smallest. With `buckets` (False) a batch of epochs has images of similar height and width.
    Augmentation: `augment` (None), a dict of options of data.augmentation; nothing in TEST. What is drawn depends on
    the seed, the image and its epoch only; where there are no epochs, on how many images came before.
    Reading ahead: images are read in a thread, `prefetch` of them at most (param_str, 4; 0 for none), from the first
    forward on; with `workers` (0) they are loaded by so many processes, see data.loading. The order and what a snapshot
    holds are the same with or without. A class of the user's that loads in
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
    label_voids: ClassVar[Mapping[str, float]] = {"label": 255, "sem": 255, "geo": 255}  # void of tops that are labels

    split: str = ""
    seed: Any = None
    random: bool = True
    indices: Sequence[str] = ()
    idx: int = 0
    data: Any
    label: Any

    _loaders: ClassVar[Mapping[str, Any]] = {}  # the load methods of the last complete class, which a thread may run
    # Set here, not in setup: a class of the user's may have a setup of its own.
    samples: SampleOptions = SampleOptions()
    _draws: Draws | None = None
    _epochs: Epochs | None = None
    _position: int = 0  # images of the order before `idx`
    _stream: int = 0  # the seed of epochs and augmentation
    _held: tuple[list[Request], Sequence[Array]] | None = None
    _feed: Prefetch | None = None
    _finalizer: Any = None
    _last: str | None = None
    share: Share = Share()
    _first: Order | None = None  # with a share of several: where the order is for all of them together

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

    def size_of(self, idx: str) -> tuple[int, int]:
        """Return height and width of the image called `idx`; buckets ask for those of all images."""
        height, width = self.load_image(idx).shape[-2:]
        return height, width

    def largest_of(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width that an image may have at most when it is given."""
        augmentation = self.samples.augmentation
        if not self.augments or augmentation is None:
            return height, width
        return augmentation.largest(height, width)

    def voids(self) -> list[float | None]:
        """Return the void value of each top that is a label, None for an image."""
        return [self.label_voids.get(name) for name in self.top_names]

    def colour_mean(self) -> Array | None:
        """Return what was subtracted from the first image, blue, green, red; None where it is no photograph."""
        mean = getattr(self, "mean", None)
        return None if mean is None or np.size(mean) != 3 else np.asarray(mean)

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
        common = {"randomize": True, "seed": None, **SampleOptions.DEFAULTS}
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
                f"{self.who}: gives {len(self.top_names)} tops ({', '.join(self.top_names)}), the net has {len(top)}. "
                "Give the layer as many."
            )
        self.split, self.seed = str(self.options["split"]), self.options["seed"]
        self.samples = SampleOptions.read(self.options, self.who)
        self.indices = self.open()
        self.random = "train" in str(self.options["split"]) and bool(self.options["randomize"])
        self._stop()
        self.idx, self._position, self._draws, self._held, self._last = 0, 0, None, None, None
        self._set_up_samples()
        if self._is_drawn:
            self._draws = self._seeded()
            self.idx = self._draws.next(len(self.indices))

    def _set_up_samples(self) -> None:
        """Take what batches, epochs, augmentation and processes need; raise DataError where that is not there."""
        samples, self._epochs = self.samples, None
        if samples.workers and not self._is_as_loaded():
            raise DataError(
                f"{self.who}: loads images in its own way, which other processes may not do alike. Set workers to 0, "
                "or say `complete=True` where the class is made."
            )
        if self.augments and samples.augmentation and samples.augmentation.colour and self.colour_mean() is None:
            raise DataError(f"{self.who}: has no mean of blue, green and red: take colour out of augment.")
        if self._keeps_position:
            self._stream = self._number_seed()
        if samples.epochs and self.random:
            names = list(self.indices)
            buckets = (lambda: [_bucket(self.size_of(name)) for name in names]) if samples.buckets else None
            self._set_epochs(Epochs(self._stream, len(names), samples.batch_size, buckets))

    def _set_epochs(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self.idx = epochs.place(self._position)

    def _number_seed(self) -> int:
        if self.seed is None:
            return random.SystemRandom().randrange(2**31)
        if not is_whole(self.seed, 0):
            raise DataError(
                f"{self.who}: with epochs or augment the seed should be a whole number from 0, or None, got "
                f"{self.seed!r}."
            )
        return int(self.seed)

    @property
    def augments(self) -> bool:
        """Whether images are changed at random: in training only."""
        return self.samples.augmentation is not None and getattr(self, "phase", TRAIN) != TEST

    @property
    def _is_drawn(self) -> bool:
        return self.random and self._epochs is None

    @property
    def _keeps_position(self) -> bool:
        return self.augments or (self.samples.epochs and self.random)

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
        """Return the name of the image that the next forward gives; after a forward, of the image it gave.

        The names of a batch have commas between them.
        """
        return _names(self._coming()) if self._last is None else self._last

    def read_sample(self, name: str, place: int, turn: int) -> Sequence[Array]:
        """Return the arrays of an image, changed as the seed, its place in the split and its turn say."""
        arrays = self.load_tops(name)
        if not self.augments and self.samples.batch_size == 1:
            return arrays
        sizes = {np.shape(array)[-2:] for array in arrays}
        if len(sizes) > 1:
            raise DataError(
                f"{self.who}: image {name!r} and its label are of several sizes: {sorted(sizes)} (H, W). "
                "Make them of one size."
            )
        return self._changed(arrays, place, turn) if self.augments else arrays

    def _changed(self, arrays: Sequence[Array], place: int, turn: int) -> Sequence[Array]:
        assert self.samples.augmentation is not None
        voids = self.voids()
        at = [[place for place, void in enumerate(voids) if (void is None) == image] for image in (True, False)]
        changed = self.samples.augmentation.change(
            [arrays[place] for place in at[0]],
            [arrays[place] for place in at[1]],
            np.random.default_rng([self._stream, turn, place]),
            [void for void in voids if void is not None],
            self.colour_mean(),
        )
        by_place = dict(zip([*at[0], *at[1]], [*changed[0], *changed[1]], strict=True))
        return [by_place[place] for place in range(len(arrays))]

    def read_batch(self, coming: Sequence[Request]) -> list[Array]:
        """Return the arrays of a batch; of a single image they are without the batch axis."""
        samples = [self.read_sample(*request) for request in coming]
        return put_together(samples, self.fills(), self.samples.fit)

    def fills(self) -> list[float]:
        """Return what the border of a smaller image is filled with, for each top."""
        return [void or 0 for void in self.voids()]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        coming = self._coming()
        if self._held is None or self._held[0] != coming:
            self._held = coming, self._read(coming)
        self._last = None
        self.show([array.copy() for array in self._held[1]])  # copies: a user may change them and reshape again
        for blob, array in zip(top, self.top_arrays(), strict=True):
            blob.reshape(*(array.shape if len(coming) > 1 else (1, *array.shape)))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        for blob, array in zip(top, self.top_arrays(), strict=True):
            blob.data[...] = array
        self._last, self._held = _names(self._coming()), None
        images = self.share.count * self.samples.batch_size
        self._go_on(images)
        if self._first is not None:
            self._first.go_on(images)
        if self._feed is None and (self.reads_ahead() or self.samples.workers):
            order = self._order()
            order.draws = order.draws and order.draws.copy()
            plan = _Plan(list(self.indices), order, self._places(), images)
            batches = self._by_processes(plan) if self.samples.workers else _read_ahead(weakref.ref(self), plan)
            self._feed = Prefetch(batches, self.reads_ahead(), self.who)
            self._finalizer = weakref.finalize(self, self._feed.close)

    def _own_places(self) -> range:
        """Return where this process's batch lies in the images that all processes take together."""
        # Batches of a bucket stay whole: what all processes run in a pass is of one size then, or nearly.
        share = replace(self.share, whole=True) if self.samples.buckets else self.share
        return share.places(self.samples.batch_size)

    def _places(self) -> list[int]:
        """Return where the images of this process's batch lie in the order, from the first of them on."""
        places = self._own_places()
        return [place - places[0] for place in places]

    def _coming(self) -> list[Request]:
        batch = self._order().next_batch(self._places())
        return [(self.indices[place], place, turn) for place, turn in batch]

    def _drawn(self) -> Draws:
        """Return the stream of places, behind the draw of `idx`."""
        if self._draws is None:  # a setup of the user's own, which made the first draw
            self._draws = self._seeded()
            self._draws.next(len(self.indices))
        return self._draws

    def _order(self) -> Order:
        draws = self._drawn() if self._is_drawn else None
        return Order(self.idx, len(self.indices), draws, self._epochs, self._position)

    def _go_on(self, images: int) -> None:
        order = self._order()
        order.go_on(images)
        self.idx, self._position = order.place, order.position

    def take_share(self, share: Share) -> None:
        """Give the images of the order that are one process's from now on."""
        self._stop()
        self._held = self._last = None
        if self._first is not None:
            self.idx, self._draws, self._position = self._first.place, self._first.draws, self._first.position
        self.share, self._first = share, None
        if share.count > 1:
            self._first = self._order()
            self._first.draws = self._first.draws and self._first.draws.copy()
            self._go_on(self._own_places()[0])

    def skip(self, passes: int) -> None:
        """Go on behind the images of so many passes."""
        share = self.share
        self.take_share(Share())
        self._go_on(passes * self.samples.batch_size)
        self.take_share(share)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Data has no gradient."""

    def reads_ahead(self) -> int:
        """Return how many batches are read ahead."""
        if self.samples.prefetch is not None:
            return self.samples.prefetch
        return AHEAD if self._is_as_loaded() else 0

    def _is_as_loaded(self) -> bool:
        """Whether all that loads is of a complete class, which a thread or another process may run."""
        methods = _load_methods(type(self))
        return methods == self._loaders and not methods.keys() & vars(self).keys()

    def _read(self, coming: list[Request]) -> Sequence[Array]:
        if self._feed is not None and self._feed.is_usable:
            try:
                arrays, position = self._feed.get()
            except BaseException:
                self._stop()  # the next pass tries the same images again
                raise
            if position["images"] == coming:
                return arrays
        self._stop()  # nothing was read ahead, or a user changed the order: forward starts anew
        return self.read_batch(coming)

    def _by_processes(self, plan: _Plan) -> Generator[Batch, None, None]:
        """Yield batches that other processes load, from this layer made again."""
        own = {
            "workers": 0,
            "prefetch": 0,
            "buckets": False,
            "seed": self._stream if self._keeps_position else self.seed,
        }
        place = self.surroundings
        layer = {
            "module": type(self).__module__,
            "layer": type(self).__qualname__,
            "param_str": repr({**parse_param_str(self.param_str, self.who), **own}),
            "phase": getattr(self, "phase", TRAIN),
            "tops": len(self.top_names),
            "folder": None if place.folder is None else str(place.folder.absolute()),
            "allowed": place.folder is not None and may_run_python_of(place.folder),
            "root": str(place.paths.root.absolute()),
            "data": None if place.paths.data is None else str(place.paths.data),
        }
        return _load_ahead(self.samples, layer, self.who, self.fills(), plan)

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._feed = self._finalizer = None

    def get_state(self) -> dict[str, Any]:
        """Return the data order for a snapshot, as JSON can hold it."""
        order = Order(self.idx, 0, self._draws, None, self._position) if self._first is None else self._first
        state: dict[str, Any] = {"index": order.place, "count": len(self.indices)}
        if self._is_drawn:
            state["random"] = (order.draws or self._seeded()).get_state()
        if self._keeps_position:
            state |= {"position": order.position, "seed": self._stream}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue with the data order of a snapshot.

        Raises:
            DataError: when the split has changed since.
        """
        if state.get("count") != len(self.indices) or ("random" in state) != self._is_drawn:
            raise DataError(
                f"the snapshot's data order is for a split of {state.get('count')} images, this one has "
                f"{len(self.indices)}; or one of them is drawn at random, the other not. Resume with the split and the "
                "order it was trained on."
            )
        if self._epochs is not None and "seed" not in state:
            raise DataError("the snapshot's data are in order, these come by epochs. Resume with the net it is of.")
        if state == self.get_state():
            return  # the images that were read ahead still fit
        share = self.share
        self.take_share(Share())
        self.idx, self._position = int(state["index"]), int(state.get("position", 0))
        self._stream = int(state.get("seed", self._stream))
        if self._epochs is not None:
            self._epochs.reseed(self._stream)
            self._set_epochs(self._epochs)
        if self._is_drawn:
            self._draws = Draws(0)
            self._draws.set_state(state["random"])
        self.take_share(share)

    def close(self) -> None:
        """End what reads ahead; the next forward starts it again."""
        self._stop()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": None, "_finalizer": None}


def _load_methods(cls: type[OneImageLayer]) -> dict[str, Any]:
    return {name: getattr(cls, name) for name in dir(cls) if name.startswith("load")}


@dataclass
class _Plan:
    """What is to be read ahead: the images at `places` from `order` on, then the order goes on by `step`."""

    names: Sequence[str]
    order: Order
    places: Sequence[int]
    step: int

    def batches(self) -> Iterator[list[Request]]:
        """Yield the images of each batch, without end."""
        while True:
            yield [(self.names[place], place, turn) for place, turn in self.order.next_batch(self.places)]
            self.order.go_on(self.step)


def _read_ahead(layer: weakref.ref[OneImageLayer], plan: _Plan) -> Generator[Batch, None, None]:
    """Yield batches in the order that the layer asks for them. A weak reference, so that no thread keeps it alive."""
    for coming in plan.batches():
        arrays = _load(layer, coming)
        if arrays is None:
            return
        yield arrays, {"images": coming}


def _load(layer: weakref.ref[OneImageLayer], coming: Sequence[Request]) -> list[Array] | None:
    alive = layer()
    return None if alive is None else alive.read_batch(coming)


def _load_ahead(
    samples: SampleOptions, layer: dict[str, Any], who: str, fills: Sequence[float], plan: _Plan
) -> Generator[Batch, None, None]:
    """Yield batches whose images other processes load."""
    asked: deque[list[Request]] = deque()

    def requests() -> Iterator[Request]:
        for coming in plan.batches():
            asked.append(coming)
            yield from coming

    loaders = Loaders(samples.workers, layer, who)
    try:
        loaded = loaders.load(requests(), 2 * samples.workers)
        while True:
            first = next(loaded)
            batch = [first, *(next(loaded) for _ in asked[0][1:])]
            yield put_together(batch, fills, samples.fit), {"images": asked.popleft()}
    finally:
        loaders.close()


def put_together(samples: Sequence[Sequence[Array]], fills: Sequence[float], fit: str) -> list[Array]:
    """Make the arrays of a batch; of a single image they are without the batch axis."""
    return list(samples[0]) if len(samples) == 1 else fit_batch(samples, fills, fit)


def _names(coming: Sequence[Request]) -> str:
    return ", ".join(name for name, _, _ in coming)


def _bucket(size: tuple[int, int]) -> tuple[int, int]:
    """Return a number for height and for width, the same where they differ by less than a fifth or so."""
    height, width = (round(4 * math.log2(extent)) for extent in size)
    return height, width
