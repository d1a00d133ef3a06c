"""Data: batches of Datums from LMDB or LevelDB."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.prefetch import Batch, State, draws, fill_batch, own_samples
from fcn_caffe.data.readers.databases import read_records
from fcn_caffe.data.readers.datum import array_of_datum, parse_datum
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2

_TRANSFORM, _SKIP = 0, 1  # streams of random numbers, see `draws`


class DatumSource:
    """Makes batches of transformed Datums in the order of their keys; after the last key the first comes again."""

    share = Share()

    def __init__(
        self, path: str, backend: str, options: caffe_pb2.DataParameter, transformer: Transformer, seed: int
    ) -> None:
        self.path, self.backend, self.transformer, self.seed = path, backend, transformer, seed
        self.size, self.rand_skip = int(options.batch_size), int(options.rand_skip)
        self.force_color = bool(options.force_encoded_color)

    def start(self) -> State:
        return {"seed": self.seed, "batch": 0, "key": None}

    def read_state(self, state: State) -> State:
        bytes.fromhex(state["key"] or "")
        return {"seed": int(state["seed"]), "batch": int(state["batch"]), "key": state["key"]}

    def first(self) -> npt.NDArray[np.float32]:
        """Return the first image, transformed: the batch has its shape."""
        with closing(self._forever(None)) as records:
            _, name, value = next(records)
        return self._image(value, name, draws(0))[0]

    def batches(self, state: State) -> Generator[Batch, None, None]:
        seed, batch = int(state["seed"]), int(state["batch"])
        with closing(self._records(state)) as records:
            while True:
                random = draws(seed, _TRANSFORM, batch + self.share.rank)
                taken = _Last(islice(records, self.share.count * self.size))
                own = own_samples(iter(taken), self.size, self.share)
                arrays = fill_batch(self.size, ((self._image(value, name, random), name) for _, name, value in own))
                batch += self.share.count
                yield arrays, {"seed": seed, "batch": batch, "key": taken.key.hex()}

    def state_behind(self, state: State, batches: int) -> State:
        if batches == 0:
            return state
        with closing(self._records(state)) as records:
            ((key, _, _),) = deque(islice(records, batches * self.size), maxlen=1)
        return {**state, "batch": state["batch"] + batches, "key": key.hex()}

    def _records(self, state: State) -> Generator[tuple[bytes, str, bytes], None, None]:
        """Yield the records behind a state without end."""
        key = state["key"]
        records = self._forever(None if key is None else bytes.fromhex(key))
        if state["batch"] == 0 and self.rand_skip:
            self._skip(records, int(draws(state["seed"], _SKIP).integers(self.rand_skip)))
        return records

    def _skip(self, records: Iterator[tuple[bytes, str, bytes]], count: int) -> None:
        """Skip `count` records. A second visit of the first key tells the database's size, and saves further rounds."""
        first, taken = None, 0
        while taken < count:
            key = next(records)[0]
            if key == first:  # `taken` is the database's size, and this is its first record again
                count = taken + 1 + (count - taken - 1) % taken
            first = key if first is None else first
            taken += 1

    def _forever(self, after: bytes | None) -> Generator[tuple[bytes, str, bytes], None, None]:
        while True:
            empty = after is None
            with closing(read_records(self.path, self.backend, after)) as records:
                for key, value in records:
                    empty = False
                    yield key, f"{self.path}: record '{key.decode(errors='replace')}'", value
            if empty:
                raise DataError(f"{self.path}: the database is empty. Write it again.")
            after = None

    def _image(self, value: bytes, name: str, random: np.random.Generator) -> tuple[npt.NDArray[np.float32], int]:
        datum = parse_datum(value, name)
        encoded = bool(datum.encoded)
        colour = "color" if encoded and self.force_color else self.transformer.colour(encoded)
        return self.transformer(array_of_datum(datum, name, colour), random, name), datum.label


class _Last:
    """Passes records on and remembers the key of the last one."""

    def __init__(self, records: Iterator[tuple[bytes, str, bytes]]) -> None:
        self.records, self.key = records, b""

    def __iter__(self) -> Iterator[tuple[bytes, str, bytes]]:
        for record in self.records:
            self.key = record[0]
            yield record


@register("Data", bottoms=0, tops=(1, 2))
class Data(PrefetchedLayer):
    """Images and labels of an LMDB or LevelDB of Datum, raw or encoded, in the order of their keys.

    Shapes: () -> (batch_size, C, H or crop, W or crop), (batch_size,); with batch_size 1 each image has its own size.
    Units: transform_param's, (pixel - mean) * scale, BGR. rand_skip skips a random number of first records below it.
    Raises: DataError for a missing or damaged database, a missing package, or images of two sizes in a batch.
    Source: Caffe DataLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.data_param
        size = self.batch_size(options.batch_size)
        path = self.surroundings.find_source(options.source, "database")
        backend = caffe_pb2.DataParameter.DB.Name(options.backend).lower()
        transformer = Transformer(param.transform_param, param.phase, self.surroundings)
        seed = self.seed() if transformer.is_random or options.rand_skip else 0
        source = DatumSource(str(path), backend, options, transformer, seed)
        self.begin(source, [(size, *source.first().shape), (size,)])
