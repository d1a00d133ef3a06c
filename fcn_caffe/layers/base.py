"""`Layer`, the base of every layer, and the registry of layer types."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from fcn_caffe.errors import LayerError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.foreign import ForeignPart, describe, is_foreign, set_fork_fields, type_problem

Count = int | tuple[int, int | None]

NOT_IMPLEMENTED = "Not Implemented Yet"  # Caffe's words of a backward that a layer has not


class Layer(nn.Module):
    """One Caffe layer as a module: options and parameters in `__init__`, arithmetic in `forward`.

    A subclass takes the LayerParameter and its bottoms as meta tensors (shapes only), creates its blobs with
    `add_blob`, and computes tops from bottoms in `forward`. `register` makes it known to nets:

        >>> import torch
        >>> from fcn_caffe import Net
        >>> from fcn_caffe.layers import Layer, register
        >>> from fcn_caffe.proto import caffe_pb2, parse_text
        >>>
        >>> @register("Gain")
        ... class Gain(Layer):
        ...     def __init__(self, param, *bottoms):
        ...         super().__init__(param, *bottoms)
        ...         if bottoms[0].ndim != 4:
        ...             raise self.error(f"needs a bottom N x C x H x W, got {bottoms[0].ndim} axes.")
        ...         two = caffe_pb2.FillerParameter(type="constant", value=2)
        ...         self.add_blob("gain", bottoms[0].shape[1:2], two)
        ...
        ...     def forward(self, bottom):
        ...         return bottom * self.gain[:, None, None]
        >>>
        >>> text = '''
        ... layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 5 } } }
        ... layer { name: "gain" type: "Gain" bottom: "x" top: "y" }
        ... '''
        >>> net = Net(parse_text(text, caffe_pb2.NetParameter))
        >>> net.blob_shapes["y"]
        (1, 3, 4, 5)
        >>> net(x=torch.ones(1, 3, 4, 5))["y"].max().item()
        2.0

    Shape inference is `forward` run on the meta device; `infer` may say the shapes without it. Autograd finds the
    gradient. The class attributes below tell Net what it may do with the layer.
    A layer that reads files asks `self.surroundings` for their paths: Net sets it before `__init__` runs.

    Raises: LayerError, when building, for options or shapes that do not fit.
    """

    layer_type: ClassVar[str] = ""
    bottoms: ClassVar[Count] = 1
    tops: ClassVar[Count] = 1
    forks: ClassVar[str] = ""  # whose Caffe has the layer, where BVLC's 1.0 has not
    restrictions: ClassVar[str] = ""  # what the layer does not do that Caffe's does, for the table of layers
    fresh_top: ClassVar[bool] = False  # the top is a new tensor which this layer's backward does not read
    loss: ClassVar[bool] = False  # loss_weight defaults to 1 on the first top, which need not be named
    untraced: ClassVar[str] = ""  # why torch.compile and torch.export cannot look into it; empty where they can
    takes_in_place: ClassVar[bool] = True  # whether a top may be a bottom
    undifferentiable: ClassVar[tuple[int, ...]] = ()  # bottoms that never get a gradient (labels)
    never_forced: ClassVar[tuple[int, ...]] = ()  # bottoms that force_backward leaves alone
    remembers: ClassVar[bool] = False  # whether a pass changes what the next one gives: threads take turns
    may_write: ClassVar[bool] = False  # whether it may change the numbers of its bottoms: what a person gives is copied
    asks_backward: bool = False  # whether Caffe runs its backward although nothing in it learns
    # Caffe's words where its backward aborts because a bottom's gradient is wanted: by the bottom's position.
    refused_gradients: ClassVar[Mapping[int, str]] = {}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__()
        self.param = param
        self.name: str = param.name
        self.top_count = len(param.top)
        self.inplace = False  # set by Net where overwriting the bottom is safe
        self.follows_caffe = False  # set by the `caffe` face: gradients that are wrong in Caffe are so here
        self.blob_names: list[str] = []
        self.blob_fillers: list[caffe_pb2.FillerParameter | None] = []
        self.blob_views: dict[str, tuple[Layer, str, tuple[int, ...]]] = {}

    @cached_property
    def surroundings(self) -> Surroundings:
        """Where the layer finds its files; for a layer made without a net, from the working directory."""
        return Surroundings()

    def __call__(self, *bottoms: Tensor) -> Any:  # noqa: ANN401 (as nn.Module has it)
        """Run forward; by way of nn.Module's call, which shows in small nets, only where there are hooks to call."""
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return super().__call__(*bottoms)
        if (
            _global_forward_hooks
            or _global_forward_pre_hooks
            or _global_backward_hooks
            or _global_backward_pre_hooks
            or is_compiling()
        ):
            return super().__call__(*bottoms)
        return self.forward(*bottoms)

    def add_blob(self, name: str, shape: Sequence[int], filler: caffe_pb2.FillerParameter | None = None) -> None:
        """Add a parameter blob, on the meta device until the net fills it.

        Args:
            name: the attribute that holds it.
            shape: its sizes.
            filler: what fills it; None fills it with zeros.

        Raises:
            LayerError: for a shape with a dimension below 1.
        """
        if any(size < 1 for size in shape):
            raise self.error(f"blob {len(self.blob_names)} ({name}) would be {show(shape)}: sizes must be positive.")
        self.register_parameter(name, nn.Parameter(torch.empty(tuple(shape), device="meta")))
        self.blob_names.append(name)
        self.blob_fillers.append(filler)

    def view_blob(self, name: str, owner: Layer, owner_name: str, shape: tuple[int, ...]) -> None:
        """Share another layer's blob in another shape: each access is a new view, so that gradients reach the owner."""
        del self._parameters[name]
        self.blob_views[name] = owner, owner_name, shape

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (as nn.Module has it)
        parameters = self.__dict__.get("_parameters")
        if parameters and name in parameters:  # asked for in each pass
            return parameters[name]
        views = self.__dict__.get("blob_views")
        if views and name in views:
            owner, owner_name, shape = views[name]
            return getattr(owner, owner_name).view(shape)
        return super().__getattr__(name)

    @property
    def blobs(self) -> list[nn.Parameter]:
        """Return the parameter blobs in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def adapt_arrays(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return the arrays of a weight file as this layer's blobs: a fork may keep them in another form."""
        return arrays

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the tops' shapes: meta tensors for bottoms that are meta tensors.

        This runs `forward` unless a layer has a rule for its shapes. The common layers have one: several of PyTorch's
        meta kernels load its compiler when first called, which takes over a second.
        """
        return self.forward(*bottoms)  # type: ignore[no-any-return]

    def is_repeatable(self) -> bool:
        """Whether another forward on the same bottoms gives the same tops and changes no state.

        A layer that draws random numbers, or goes on from its last forward, says no. The `caffe` face then keeps the
        graph of its forward, where it would run the layer again for backward.
        """
        return True

    def data_state(self) -> dict[str, Any] | None:
        """Return what a data layer needs to continue in the same order, as JSON can hold it; None for other layers."""
        return None

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Continue in the order that `data_state` returned."""

    def take_share(self, share: Share) -> None:
        """Give only the samples that are this process's from now on; what the layer's state says is for all of them."""

    def skip(self, passes: int) -> None:
        """Go on behind the samples of so many passes, without giving them."""

    def error(self, message: str) -> LayerError:
        """Make a LayerError that names this layer; the caller raises it."""
        return LayerError(message, self.name, self.layer_type)

    def ask_fork(self, *meanings: str) -> LayerError:
        """Make the error of a layer whose fork the net does not say; the caller raises it.

        Args:
            meanings: the forks that it may be of, each with what tells it: "segnet (2 blobs)".
        """
        first = meanings[0].split()[0]
        return self.error(
            f"forks of Caffe mean different things by this type, and the file does not say whose it is: "
            f'{" or ".join(meanings)}. Say it: --fork {first}, Net(…, fork="{first}"), or fork: "{first}" in the layer.'
        )

    def axis(self, axis: int, bottom: Tensor, *, end: bool = False) -> int:
        """Return an axis counted from 0.

        Source: Caffe Blob::CanonicalAxisIndex.

        Args:
            axis: the axis; a negative one counts from the end.
            bottom: the blob it is an axis of.
            end: whether one past the last axis is allowed.

        Raises:
            LayerError: where the bottom has no such axis.
        """
        axes = bottom.ndim + end
        if not -axes <= axis < axes:
            raise self.error(f"axis {axis} is out of range for a {bottom.ndim}-D bottom of shape {show(bottom.shape)}.")
        return axis + axes if axis < 0 else axis

    def extra_repr(self) -> str:
        return repr(self.name)


class SameShapeLayer(Layer):
    """Base of layers whose top has the shape of their first bottom."""

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms[0]


def of_shape(*shape: int) -> Tensor:
    """Make a float32 tensor of this shape on the meta device."""
    return torch.empty(shape, device="meta")


REGISTRY: dict[str, type[Layer]] = {}
VARIANTS: dict[tuple[str, str], type[Layer]] = {}  # (type, `fork` of the layer) -> what that fork means by the type


LayerClass = TypeVar("LayerClass", bound=type[Layer])


def register(
    type: str,
    bottoms: Count = 1,
    tops: Count = 1,
    restrictions: str = "",
    *,
    replace: bool = False,
    forks: str = "",
) -> Callable[[LayerClass], LayerClass]:
    """Make a Layer class known as a Caffe layer type.

    Args:
        type: the name that a net's `type:` gives.
        bottoms: how many bottoms the layer takes: a number, or (least, most), where a `most` of None means any.
        tops: how many tops it has, written alike.
        restrictions: what the layer does not do that Caffe's does, for the table of layers.
        replace: whether to take the place of the class that has this type. A type of a fork of Caffe gives way to a
            class of one's own without it.
        forks: whose Caffe has the layer, where BVLC's 1.0 has not: "SegNet, ENet".

    Returns:
        A decorator of the class, which it leaves as it is.

    Raises:
        LayerError: where another class has the type, and `replace` is False.
    """

    def enter(cls: LayerClass) -> LayerClass:
        known = REGISTRY.get(type)
        if known is not None and not replace and not (known.forks and not forks):
            raise LayerError(
                f"layer type {type!r} is registered already, as {_full_name(known)}; {_full_name(cls)} cannot have it "
                f"too. Give the class a type of its own, or write @register({type!r}, replace=True)."
            )
        cls.layer_type, cls.bottoms, cls.tops, cls.restrictions = type, bottoms, tops, restrictions
        cls.forks = forks
        if known is not None:  # the new class is what every net means by the type
            for key in [key for key in VARIANTS if key[0] == type]:
                del VARIANTS[key]
        REGISTRY[type] = cls
        return cls

    return enter


def variant(
    type: str, fork: str, forks: str, bottoms: Count = 1, tops: Count = 1, restrictions: str = ""
) -> Callable[[LayerClass], LayerClass]:
    """Make a Layer class known as what a fork of Caffe means by a type that others have, too.

    Args:
        type: the type; `register` knows its class for layers without a `fork`.
        fork: `fork` of the layer, as `choose_forks` writes it.
        forks: as in `register`.
        bottoms: as in `register`.
        tops: as in `register`.
        restrictions: as in `register`.

    Returns:
        A decorator of the class, which it leaves as it is.
    """

    def enter(cls: LayerClass) -> LayerClass:
        cls.layer_type, cls.bottoms, cls.tops, cls.restrictions, cls.forks = type, bottoms, tops, restrictions, forks
        VARIANTS[type, fork] = cls
        return cls

    return enter


def _full_name(cls: type[Layer]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_families(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's layers are registered because the file is there.

    Call it in the package's `__init__` as `import_families(__name__, __path__)`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def known_types() -> list[str]:
    """Return the registered layer types, sorted."""
    return sorted(REGISTRY)


def layer_class(param: caffe_pb2.LayerParameter) -> type[Layer]:
    """Return the class of a LayerParameter's type, and check how many bottoms and tops the layer has.

    Raises:
        LayerError: for an unknown type or a wrong number of bottoms or tops.
    """
    cls = (VARIANTS.get((param.type, param.fork)) if param.fork else None) or REGISTRY.get(param.type)
    if cls is None:
        raise LayerError(type_problem(param.type), param.name, param.type)
    for kind, count, names in (("bottom", cls.bottoms, param.bottom), ("top", cls.tops, param.top)):
        least, most = (count, count) if isinstance(count, int) else count
        if len(names) < least or (most is not None and len(names) > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}".removesuffix(f" to {least}")
            listed = f" ({', '.join(names)})" if names else ""
            raise LayerError(f"takes {wanted} {kind} blob(s), got {len(names)}{listed}.", param.name, param.type)
    if not cls.takes_in_place and set(param.bottom) & set(param.top):
        raise LayerError("does not allow in-place computation: give the top its own name.", param.name, param.type)
    return cls


def refuse_foreign_layers(layers: Iterable[caffe_pb2.LayerParameter], strict: bool = False) -> None:
    """Refuse the layers of a net whose types are of other Caffes and not registered, all of them in one message.

    Args:
        layers: The layers.
        strict: Whether those of forks that run here, and layers with fields of forks, are refused, too.

    Raises:
        LayerError: for such layers; says whose they are, and what to do.
    """
    foreign = []
    for layer in layers:
        kind = REGISTRY.get(layer.type)
        fields = set_fork_fields(layer) if strict else ()
        if fields or (is_foreign(layer.type, strict) and (kind is None or (strict and kind.forks))):
            foreign.append(ForeignPart(layer.name, layer.type, fields))
    if foreign:
        raise LayerError(describe(foreign))


def create_layer(param: caffe_pb2.LayerParameter, bottoms: Sequence[Tensor], surroundings: Surroundings) -> Layer:
    """Make the layer of a LayerParameter.

    Args:
        param: The LayerParameter.
        bottoms: Its bottoms as meta tensors.
        surroundings: Where the layer finds its files.

    Raises:
        LayerError: As `layer_class` says; and whatever the layer raises for its options and shapes.
    """
    kind = layer_class(param)
    layer = kind.__new__(kind)
    layer.surroundings = surroundings  # set here, so that a user's `__init__` takes LayerParameter and bottoms alone
    kind.__init__(layer, param, *bottoms)
    return layer


def check_indices(layer: Layer, index: Tensor, size: int, what: str) -> None:
    """Check that every index is in [0, size); `what` says of what, in the LayerError."""
    if index.numel() and not index.is_meta and not torch.compiler.is_compiling():  # a compiled graph checks nothing
        least, most = (int(bound) for bound in torch.aminmax(index))
        if least < 0 or most >= size:
            raise layer.error(
                f"index {least if least < 0 else most} is outside {what}, 0 to {size - 1}. Correct the indices."
            )
