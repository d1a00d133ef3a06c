"""The memory behind a blob: what layers compute in and what people look at, one and the same on the CPU."""

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


def direct(tensor: Tensor) -> bool:
    """Whether an array can be the tensor's own memory."""
    return tensor.device.type == "cpu"


class _Shown:
    """What people were given of some numbers."""

    def __init__(self) -> None:
        self.root: weakref.ref[Array] | None = None  # what every array that was handed out is a view of
        self.host: Array | None = None  # on a GPU: the array that people see
        self.newer = False  # on a GPU: whether it counts as the newest


class Memory:
    """The numbers of a blob's data or diff: a tensor where layers compute, an array where people look.

    Nothing is allocated before somebody writes; until then every number is `rest`. On the CPU both are the same
    memory. On a GPU an array that was handed out counts as the newest, as in Caffe, and is copied when a layer reads.
    An array that somebody still holds is written into by later forwards as long as the shape stays.
    """

    def __init__(self, shape: Iterable[int] = (), rest: float = 0.0) -> None:
        self._shape = tuple(shape)
        self._tensor: Tensor | None = None
        self._room: Tensor | None = None  # larger memory, of which the tensor is the beginning
        self._own_shown = _Shown()
        self._lent = False  # the tensor's memory is another blob's too: an array is made of a copy
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
    def _shown(self) -> _Shown:
        return self._own_shown

    def held(self) -> Tensor | None:
        """The tensor as it is, None while nothing was written; to tell whether it is still the same."""
        return self._get()

    # -- for layers -----------------------------------------------------------------------------------------------

    @property
    def written(self) -> bool:
        """Whether there can be other numbers than `rest`."""
        return self._get() is not None or self._shown.newer

    @property
    def watched(self) -> bool:
        """Whether somebody holds an array of it."""
        root = self._shown.root
        return root is not None and root() is not None

    def tensor(self, device: torch.device) -> Tensor:
        """The numbers on a device, newest first."""
        tensor, shown = self._get(), self._shown
        if tensor is None:
            tensor = self._made(device)
        elif tensor.device != device:
            tensor = tensor.to(device)
            self._put(tensor)
        if shown.newer and shown.host is not None:
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(shown.host).reshape(tensor.shape))
            shown.newer = False
        return tensor

    def _made(self, device: torch.device) -> Tensor:
        # zeros takes fresh pages from the system, which cost nothing until they are written
        tensor = torch.zeros(self._shape, device=device)
        if self.rest:
            tensor.fill_(self.rest)
        self._put(tensor)
        return tensor

    def adopt(self, made: Tensor, lent: bool = False) -> None:
        """Take what a layer made: the tensor itself, unless somebody watches; lent: it is part of another blob."""
        if made.dtype != torch.float32:
            made = made.float()
        held, shown = self._get(), self._shown
        shown.newer = False
        if held is not None and held is not made and self._seen_on_cpu(held) and held.shape == made.shape:
            if held.data_ptr() != made.data_ptr() or held.stride() != made.stride():
                held.copy_(made)
            return
        if self._shape != made.shape:
            self._shape = tuple(made.shape)
            shown.host = None
        self._room, self._lent = None, lent
        self._put(made)

    def _seen_on_cpu(self, held: Tensor) -> bool:
        return direct(held) and self.watched

    def release(self) -> None:
        """Forget the numbers, which are about to be made anew; not where somebody watches."""
        if not self.watched:
            self._put(None)
            self._room, self._shown.newer = None, False

    def clear(self) -> None:
        """Set every number to zero."""
        held, shown = self._get(), self._shown
        if held is not None and self._seen_on_cpu(held):
            held.zero_()
            return
        self._put(None)
        shown.newer = False
        if self.watched and shown.host is not None:
            shown.host[...] = 0
        if self.rest:
            self._put(torch.zeros(self._shape))

    def lend(self) -> None:
        """Say that another blob has the same memory, so that people get arrays of their own."""
        self._lent = True

    def uploaded(self) -> None:
        """Let an array that somebody holds count as the newest: on a GPU, for blobs that no layer makes."""
        if self._shown.host is not None and self.watched:
            self._shown.newer = True

    # -- for people -----------------------------------------------------------------------------------------------

    def array(self, device: torch.device) -> Array:
        """A writable float32 array of it, without a copy on the CPU."""
        tensor, shown = self._get(), self._shown
        if tensor is None:
            tensor = self._made(device)
        if direct(tensor):
            if self._lent or not tensor.is_contiguous():
                tensor = tensor.clone(memory_format=torch.contiguous_format)
                self._put(tensor)
                self._lent = False
            root = shown.root() if shown.root is not None else None
            if root is None or root.ctypes.data != tensor.data_ptr() or root.shape != tensor.shape:
                root = tensor.detach().numpy()
                shown.root = weakref.ref(root)
            found: Array = root.view()
            return found
        if not shown.newer:
            if shown.host is None or shown.host.shape != tensor.shape:
                shown.host = np.empty(tuple(tensor.shape), np.float32)
            torch.from_numpy(shown.host).copy_(tensor.detach())
            shown.newer = True
        assert shown.host is not None
        root = shown.root() if shown.root is not None else None
        if root is None:
            # Through torch: NumPy makes views of a view refer to what that is of, so that none would keep it.
            root = torch.from_numpy(shown.host).reshape(tensor.shape).numpy()
            shown.root = weakref.ref(root)
        seen: Array = root.view()
        return seen

    def reshape(self, shape: Shape) -> None:
        """Take a shape. Numbers stay in their order as far as both shapes go; larger memory starts at `rest`."""
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
        self._shape, self._shown.host, self._shown.newer = shape, None, False


# A parameter may be in several nets: what people were given of it is one and the same.
_OF_PARAMETERS: Any = WeakIdKeyDictionary()


def _shown_of(owner: torch.nn.Parameter, which: int) -> _Shown:
    found: tuple[_Shown, _Shown] | None = _OF_PARAMETERS.get(owner)
    if found is None:
        found = _OF_PARAMETERS[owner] = (_Shown(), _Shown())
    return found[which]


def owner_of(layer: Layer, name: str) -> torch.nn.Parameter:
    """The module's parameter, another layer's where it is shared in another shape."""
    view = layer.blob_views.get(name)
    found: torch.nn.Parameter = getattr(view[0], view[1]) if view else getattr(layer, name)
    return found


class ParamData(Memory):
    """A parameter's numbers, which are the module's own."""

    def __init__(self, layer: Layer, name: str) -> None:
        super().__init__()
        self._layer, self._name = layer, name

    @property
    def shape(self) -> Shape:
        return tuple(getattr(self._layer, self._name).shape)

    def _get(self) -> Tensor:
        found: Tensor = getattr(self._layer, self._name).detach()
        return found

    def _put(self, tensor: Tensor | None) -> None:
        raise ValueError(f"the memory of parameter '{self._name}' is its module's.")

    @property
    def _shown(self) -> _Shown:
        return _shown_of(owner_of(self._layer, self._name), 0)

    def flush(self) -> None:
        """On a GPU: bring what people wrote to the module."""
        if self._shown.newer:
            self.tensor(self._get().device)

    def reshape(self, shape: Shape) -> None:
        if shape != self.shape:
            raise ValueError(
                f"a parameter blob of {show(self.shape)} cannot be reshaped to {show(shape)}: its layer computes with "
                "it. Change num_output or the bottom's shape in the net."
            )


class ParamDiff(Memory):
    """A parameter's gradient: its `.grad`, seen in the blob's shape.

    After a solver's update it is what the update took away, as in Caffe; `updated` then tells it.
    """

    def __init__(self, layer: Layer, name: str) -> None:
        super().__init__()
        self._layer, self._name = layer, name
        self.updated: Callable[[Tensor], Tensor] | None = None

    def owner(self) -> torch.nn.Parameter:
        """The module's parameter, another layer's where it is shared in another shape."""
        return owner_of(self._layer, self._name)

    @property
    def _shown(self) -> _Shown:
        return _shown_of(self.owner(), 1)

    @property
    def shape(self) -> Shape:
        return tuple(getattr(self._layer, self._name).shape)

    def _get(self) -> Tensor | None:
        owner = self.owner()
        if self.updated is not None and owner.grad is not None:
            owner.grad, self.updated = self.updated(owner), None
        return None if owner.grad is None else owner.grad.view(self.shape)

    def _put(self, tensor: Tensor | None) -> None:
        owner = self.owner()
        owner.grad = None if tensor is None else tensor.view(owner.shape)

    def _made(self, device: torch.device) -> Tensor:
        owner = self.owner()
        owner.grad = torch.zeros_like(owner)
        return owner.grad.view(self.shape)

    def clear(self) -> None:
        self.updated = None
        super().clear()

    def after_update(self, taken: Callable[[Tensor], Tensor]) -> None:
        """Be what an update took away, told by `taken`; at once where somebody watches, else when it is asked for."""
        owner = self.owner()
        if self.watched and owner.grad is not None:
            owner.grad.copy_(taken(owner))
        else:
            self.updated = taken

    def add(self, gradient: Tensor) -> None:
        """Add a gradient of the owner's shape."""
        owner = self.owner()
        self.flush()
        if owner.grad is None and not self.watched:
            owner.grad = gradient if gradient.is_contiguous() else gradient.contiguous()
        else:
            held = self._get()
            held = self._made(owner.device) if held is None else held
            held.view(owner.shape).add_(gradient)

    def flush(self) -> None:
        """On a GPU: bring what people wrote to `.grad`."""
        if self._shown.newer:
            self.tensor(self.owner().device)

    def reshape(self, shape: Shape) -> None:
        """The data refuses other shapes."""
