"""The memory behind a blob: layers compute in it, and scripts see it as NumPy arrays.

On the CPU both are the same memory. On a GPU a script has an array on the host; once handed out it counts as newer
than the device's tensor, as in Caffe, and is copied when a layer reads. The states of a blob's data or diff:

| state     | flag                      | set by                     | meaning                                       |
|-----------|---------------------------|----------------------------|-----------------------------------------------|
| unwritten | no `_tensor`              | new, `release`, `clear`    | every number is `rest`; nothing is allocated  |
| written   | `_tensor`                 | `adopt`, `tensor`, `array` | it has the numbers                            |
| roomy     | `_room`                   | `reshape` to fewer numbers | `_tensor` is its beginning; the numbers after |
|           |                           |                            | it come back when the blob grows again        |
| lent      | `_lent`                   | `lend`, `adopt(lent=True)` | another blob has the same memory: `array`     |
|           |                           |                            | copies it first and ends the state            |
| watched   | `_views.root` is alive    | `array`                    | a script holds an array: `adopt` and `clear`  |
|           |                           |                            | write into it, `release` does nothing         |
| newer     | `_views.newer` (on a GPU) | `array`, `prefer_array`    | the array on the host is the newest: `tensor` |
|           |                           |                            | copies it to the device and ends the state    |

`SharedMemory` is another memory in a shape of its own and has that one's states.
A parameter's data and diff are the module's own tensors (`ParamData`, `ParamDiff`), so only the last two rows are
theirs; several nets may share a parameter, and then share its arrays too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]


def can_be_array(tensor: Tensor) -> bool:
    """Whether an array can be the tensor's own memory."""
    return tensor.device.type == "cpu"


class _Views:
    """The NumPy views handed out for one buffer."""

    def __init__(self) -> None:
        self.root: weakref.ref[Array] | None = None  # every array that was handed out is a view of this
        self.host: Array | None = None  # on a GPU: the numbers as scripts see them
        self.newer = False  # on a GPU: whether `host` is newer than the tensor


class Memory:
    """The numbers of a blob's data or diff: a tensor for layers, an array for scripts. The module has its states.

    An array that a script holds shows what later forwards write, as long as the shape stays.
    """

    def __init__(self, shape: Iterable[int] = (), rest: float = 0.0) -> None:
        self._shape = tuple(shape)
        self._tensor: Tensor | None = None
        self._room: Tensor | None = None  # larger memory, of which the tensor is the beginning
        self._own_views = _Views()
        self._lent = False  # another blob has the tensor's memory too
        self.rest = rest

    # -- the tensor, which parameters keep elsewhere --------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        return self._shape

    def _get(self) -> Tensor | None:
        return self._tensor

    def _put(self, tensor: Tensor | None) -> None:
        self._tensor = tensor

    @property
    def _views(self) -> _Views:
        return self._own_views

    def current(self) -> Tensor | None:
        """Return the tensor as it is, None if unwritten; compare by `is` to see whether it was replaced."""
        return self._get()

    # -- for layers -----------------------------------------------------------------------------------------------

    @property
    def is_written(self) -> bool:
        """Whether there can be other numbers than `rest`."""
        return self._get() is not None or self._views.newer

    @property
    def is_watched(self) -> bool:
        """Whether a script holds an array of it."""
        root = self._views.root
        return root is not None and root() is not None

    @property
    def is_pinned(self) -> bool:
        """Whether what it adopts is copied into the memory that is there."""
        return self.is_watched

    def tensor(self, device: torch.device) -> Tensor:
        """Return the newest numbers as a tensor on a device."""
        tensor, views = self._get(), self._views
        if tensor is None:
            tensor = self._allocate(device)
        elif tensor.device != device:
            tensor = tensor.to(device)
            self._put(tensor)
        if views.newer and views.host is not None:
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(views.host).reshape(tensor.shape))
            views.newer = False
        return tensor

    def _allocate(self, device: torch.device) -> Tensor:
        # zeros takes fresh pages from the system, which cost nothing until they are written
        tensor = torch.zeros(self._shape, device=device)
        if self.rest:
            tensor.fill_(self.rest)
        self._put(tensor)
        return tensor

    def adopt(self, top: Tensor, lent: bool = False) -> None:
        """Take a layer's result: the tensor itself, or its numbers where a script watches.

        lent: another blob has the same memory.
        """
        if top.dtype != torch.float32:
            top = top.float()
        held, views = self._get(), self._views
        views.newer = False
        if held is not None and held is not top and self._is_seen_on_cpu(held) and held.shape == top.shape:
            if held.data_ptr() != top.data_ptr() or held.stride() != top.stride():
                held.copy_(top)
            return
        if self._shape != top.shape:
            self._shape = tuple(top.shape)
            views.host = None
        self._room, self._lent = None, lent
        self._put(top)

    def _is_seen_on_cpu(self, held: Tensor) -> bool:
        return can_be_array(held) and self.is_watched

    def release(self) -> None:
        """Forget the numbers, which a layer is about to make anew, unless a script watches."""
        if not self.is_watched:
            self._put(None)
            self._room, self._views.newer = None, False

    def clear(self) -> None:
        """Set every number to zero."""
        held, views = self._get(), self._views
        if held is not None and self._is_seen_on_cpu(held):
            held.zero_()
            return
        self._put(None)
        views.newer = False
        if self.is_watched and views.host is not None:
            views.host[...] = 0
        if self.rest:
            self._put(torch.zeros(self._shape))

    def lend(self) -> None:
        """Say that another blob has the same memory now."""
        self._lent = True

    def prefer_array(self) -> None:
        """On a GPU: let the array that a script holds be the newest. For blobs that no layer makes."""
        if self._views.host is not None and self.is_watched:
            self._views.newer = True

    # -- for scripts ----------------------------------------------------------------------------------------------

    def array(self, device: torch.device) -> Array:
        """Return a writable float32 array of the numbers; on the CPU without a copy."""
        tensor = self._get()
        if tensor is None:
            tensor = self._allocate(device)
        return self._array_of(tensor) if can_be_array(tensor) else self._array_on_host(tensor)

    def _array_of(self, tensor: Tensor) -> Array:
        views = self._views
        if self._lent or not tensor.is_contiguous():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            self._put(tensor)
            self._lent = False
        root = views.root() if views.root is not None else None
        if root is None or root.ctypes.data != tensor.data_ptr() or root.shape != tensor.shape:
            root = tensor.detach().numpy()
            views.root = weakref.ref(root)
        view: Array = root.view()
        return view

    def _array_on_host(self, tensor: Tensor) -> Array:
        views = self._views
        if not views.newer:
            if views.host is None or views.host.shape != tensor.shape:
                views.host = np.empty(tuple(tensor.shape), np.float32)
            torch.from_numpy(views.host).copy_(tensor.detach())
            views.newer = True
        assert views.host is not None
        root = views.root() if views.root is not None else None
        if root is None:
            # Through torch: NumPy makes views of a view refer to what that is of, so that none would keep it.
            root = torch.from_numpy(views.host).reshape(tensor.shape).numpy()
            views.root = weakref.ref(root)
        view: Array = root.view()
        return view

    def reshape(self, shape: Shape) -> None:
        """Take a shape. The numbers stay in their order as far as both shapes go; larger memory starts at `rest`."""
        if shape == self.shape:
            return
        count, tensor = prod(shape), self._get()
        if tensor is not None:
            device = tensor.device
            tensor = self.tensor(device)
            if self._lent or not tensor.is_contiguous():
                tensor, self._lent = tensor.clone(memory_format=torch.contiguous_format), False
            room = self._room if self._room is not None and self._room.device == device else tensor.reshape(-1)
            if count <= room.numel():
                self._room = room
                self._put(room[:count].view(shape))
            else:
                self._room = None
                self._put(None)
        self._shape, self._views.host, self._views.newer = shape, None, False


class SharedMemory(Memory):
    """Another memory's numbers in a shape of its own: what is written to one is in both.

    Where the other has been reshaped to another count, this one shows as many of its numbers as it has, then zeros,
    until it is shared anew.
    """

    def __init__(self, source: Memory, shape: Iterable[int]) -> None:
        super().__init__(shape, source.rest)
        self.source = source

    @property
    def _is_whole(self) -> bool:
        return prod(self._shape) == prod(self.source.shape)

    def current(self) -> Tensor | None:
        return self.source.current()

    @property
    def is_written(self) -> bool:
        return self.source.is_written

    @property
    def is_watched(self) -> bool:
        return self.source.is_watched

    @property
    def is_pinned(self) -> bool:
        return self.source.is_pinned

    def tensor(self, device: torch.device) -> Tensor:
        tensor = self.source.tensor(device)
        if self._is_whole:
            return tensor.reshape(self._shape)
        count = prod(self._shape)
        part = tensor.reshape(-1)[:count]
        return torch.cat([part, part.new_zeros(count - len(part))]).view(self._shape)

    def adopt(self, top: Tensor, lent: bool = False) -> None:
        self._shape = tuple(top.shape)
        self.source.adopt(top.reshape(self.source.shape) if self._is_whole else top, lent)

    def release(self) -> None:
        self.source.release()

    def clear(self) -> None:
        self.source.clear()

    def lend(self) -> None:
        self.source.lend()

    def prefer_array(self) -> None:
        self.source.prefer_array()

    def array(self, device: torch.device) -> Array:
        if self._is_whole:
            return self.source.array(device).reshape(self._shape)
        view: Array = self.tensor(device).cpu().numpy()
        return view

    def reshape(self, shape: Shape) -> None:
        self._shape = shape


# The views of a parameter's data and of its diff: a parameter may be in several nets.
_VIEWS_OF_PARAMETERS: Any = WeakIdKeyDictionary()


def _views_of(owner: torch.nn.Parameter, which: int) -> _Views:
    views: tuple[_Views, _Views] | None = _VIEWS_OF_PARAMETERS.get(owner)
    if views is None:
        views = _VIEWS_OF_PARAMETERS[owner] = (_Views(), _Views())
    return views[which]


def owner_of(layer: Layer, name: str) -> torch.nn.Parameter:
    """Return the module's parameter; another layer's where it is shared in another shape."""
    view = layer.blob_views.get(name)
    owner: torch.nn.Parameter = getattr(view[0], view[1]) if view else getattr(layer, name)
    return owner


class ParamData(Memory):
    """A parameter's numbers, which are the module's own."""

    def __init__(self, layer: Layer, name: str) -> None:
        super().__init__()
        self._layer, self._name = layer, name

    @property
    def shape(self) -> Shape:
        return tuple(getattr(self._layer, self._name).shape)

    def _get(self) -> Tensor:
        tensor: Tensor = getattr(self._layer, self._name).detach()
        return tensor

    def _put(self, tensor: Tensor | None) -> None:
        raise ValueError(f"the memory of parameter '{self._name}' is its module's.")

    @property
    def _views(self) -> _Views:
        return _views_of(owner_of(self._layer, self._name), 0)

    @property
    def is_pinned(self) -> bool:
        return True

    def adopt(self, top: Tensor, lent: bool = False) -> None:
        """Overwrite the module's numbers: a layer works in place on the top of a Parameter layer."""
        with torch.no_grad():
            self.tensor(top.device).copy_(top.reshape(self.shape))

    def flush(self) -> None:
        """On a GPU: bring what a script wrote to the module."""
        if self._views.newer:
            self.tensor(self._get().device)

    def reshape(self, shape: Shape) -> None:
        if shape != self.shape:
            raise ValueError(
                f"a parameter blob of {show(self.shape)} cannot be reshaped to {show(shape)}: its layer computes with "
                "it. Change num_output or the bottom's shape in the net."
            )


class ParamDiff(Memory):
    """A parameter's gradient: its `.grad`, seen in the blob's shape.

    After a solver's update it is what the update took away, as in Caffe. That is computed when it is asked for, by
    `_taken_away`.
    """

    def __init__(self, layer: Layer, name: str) -> None:
        super().__init__()
        self._layer, self._name = layer, name
        self._taken_away: Callable[[Tensor], Tensor] | None = None

    def owner(self) -> torch.nn.Parameter:
        """Return the module's parameter; another layer's where it is shared in another shape."""
        return owner_of(self._layer, self._name)

    @property
    def _views(self) -> _Views:
        return _views_of(self.owner(), 1)

    @property
    def shape(self) -> Shape:
        return tuple(getattr(self._layer, self._name).shape)

    def _get(self) -> Tensor | None:
        owner = self.owner()
        if self._taken_away is not None and owner.grad is not None:
            owner.grad, self._taken_away = self._taken_away(owner), None
        return None if owner.grad is None else owner.grad.view(self.shape)

    def _put(self, tensor: Tensor | None) -> None:
        owner = self.owner()
        owner.grad = None if tensor is None else tensor.view(owner.shape)

    def _allocate(self, device: torch.device) -> Tensor:
        owner = self.owner()
        owner.grad = torch.zeros_like(owner)
        return owner.grad.view(self.shape)

    def clear(self) -> None:
        self._taken_away = None
        super().clear()

    def show_update(self, taken_away: Callable[[Tensor], Tensor]) -> None:
        """Become what an update took away from the parameter: at once if a script watches, else when asked for.

        taken_away: gives it for the module's parameter.
        """
        owner = self.owner()
        if self.is_watched and owner.grad is not None:
            owner.grad.copy_(taken_away(owner))
        else:
            self._taken_away = taken_away

    def add(self, gradient: Tensor) -> None:
        """Add a gradient of the owner's shape."""
        owner = self.owner()
        self.flush()
        if owner.grad is None and not self.is_watched:
            owner.grad = gradient if gradient.is_contiguous() else gradient.contiguous()
        else:
            diff = self._get()
            diff = self._allocate(owner.device) if diff is None else diff
            diff.view(owner.shape).add_(gradient)

    def adopt(self, top: Tensor, lent: bool = False) -> None:
        """Become a gradient: of the top of a Parameter layer, whose memory this is."""
        self.replace(top.clone() if lent else top)

    def replace(self, gradient: Tensor) -> None:
        """Take the place of what is there; as `add`."""
        self.clear()
        self.add(gradient.reshape(self.owner().shape))

    def flush(self) -> None:
        """On a GPU: bring what a script wrote to `.grad`."""
        if self._views.newer:
            self.tensor(self.owner().device)

    def reshape(self, shape: Shape) -> None:
        """Do nothing: it has the data's shape, which refuses another."""
