"""What a layer is, and the registry of Caffe types."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fcn_caffe.errors import LayerError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.text import did_you_mean, show
from fcn_caffe.proto import caffe_pb2

Count = int | tuple[int, int | None]


class Layer(nn.Module):
    """One Caffe layer as a module: options and parameters in `__init__`, arithmetic in `forward`.

    A subclass takes the LayerParameter and its bottoms as meta tensors (shapes only), creates its blobs with
    `add_blob`, and computes tops from bottoms in `forward`. Shape inference is `forward` run on the meta device.
    A layer that reads files asks `self.surroundings` for their paths: Net sets it before `__init__` runs.

    Raises: LayerError, when building, for options or shapes that do not fit.
    """

    layer_type: ClassVar[str] = ""
    bottoms: ClassVar[Count] = 1
    tops: ClassVar[Count] = 1
    restrictions: ClassVar[str] = ""  # what README's support table says of it
    fresh_top: ClassVar[bool] = False  # the top is a new tensor which this layer's backward does not read
    loss: ClassVar[bool] = False  # loss_weight defaults to 1 on the first top, which need not be named
    untraced: ClassVar[str] = ""  # why torch.compile and torch.export do not see through it, where they do not
    takes_in_place: ClassVar[bool] = True  # whether a top may be a bottom
    undifferentiable: ClassVar[tuple[int, ...]] = ()  # bottoms that never get a gradient (labels)

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__()
        self.param = param
        self.name: str = param.name
        self.top_count = len(param.top)
        self.inplace = False  # set by Net where overwriting the bottom is safe
        self.blob_names: list[str] = []
        self.blob_fillers: list[caffe_pb2.FillerParameter | None] = []
        self.blob_views: dict[str, tuple[Layer, str, tuple[int, ...]]] = {}

    @cached_property
    def surroundings(self) -> Surroundings:
        """Where the layer finds its files; for a layer made without a net, from the working directory."""
        return Surroundings()

    def add_blob(self, name: str, shape: Sequence[int], filler: caffe_pb2.FillerParameter | None = None) -> None:
        """Add a parameter blob on the meta device; `filler` is a FillerParameter, None fills with zero.

        Raises:
            LayerError: for a shape with a dimension below 1.
        """
        if any(size < 1 for size in shape):
            raise self.error(f"blob {len(self.blob_names)} ({name}) would be {show(shape)}: sizes must be positive.")
        self.register_parameter(name, nn.Parameter(torch.empty(tuple(shape), device="meta")))
        self.blob_names.append(name)
        self.blob_fillers.append(filler)

    def view_blob(self, name: str, owner: Layer, owner_name: str, shape: tuple[int, ...]) -> None:
        """Let a blob be another layer's, seen in another shape: a new view at each access, so gradients reach it."""
        del self._parameters[name]
        self.blob_views[name] = owner, owner_name, shape

    def __getattr__(self, name: str) -> Any:
        views = self.__dict__.get("blob_views")
        if views and name in views:
            owner, owner_name, shape = views[name]
            return getattr(owner, owner_name).view(shape)
        return super().__getattr__(name)

    @property
    def blobs(self) -> list[nn.Parameter]:
        """The parameter blobs in Caffe's order."""
        return [getattr(self, name) for name in self.blob_names]

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tops on the meta device for bottoms on the meta device: shapes, without arithmetic.

        This is `forward` unless a layer knows its shapes by a rule. The common layers do: several of PyTorch's meta
        kernels load its compiler when first called, which takes over a second.
        """
        return self.forward(*bottoms)  # type: ignore[no-any-return]

    def is_repeatable(self) -> bool:
        """Whether another forward on the same bottoms gives the same tops and changes no state.

        A layer that draws random numbers, or goes on from its last forward, says no. The `caffe` face then keeps the
        graph of its forward, where it would run the layer again for backward.
        """
        return True

    def data_state(self) -> dict[str, Any] | None:
        """What a data layer must remember to continue in the same order (JSON-able), or None."""
        return None

    def load_data_state(self, state: dict[str, Any]) -> None:
        """Continue from what `data_state` returned."""

    def error(self, message: str) -> LayerError:
        """A LayerError that names this layer."""
        return LayerError(message, self.name, self.layer_type)

    def axis(self, axis: int, bottom: Tensor, *, end: bool = False) -> int:
        """Caffe's CanonicalAxisIndex: negative axes count from the end; `end` allows one past the last.

        Raises:
            LayerError: when out of range.
        """
        axes = bottom.ndim + end
        if not -axes <= axis < axes:
            raise self.error(f"axis {axis} is out of range for a {bottom.ndim}-D bottom of shape {show(bottom.shape)}.")
        return axis + axes if axis < 0 else axis

    def extra_repr(self) -> str:
        return repr(self.name)


class SameShapeLayer(Layer):
    """A layer whose top has the shape of its first bottom."""

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms[0]


def of_shape(*shape: int) -> Tensor:
    """A float32 tensor of this shape on the meta device."""
    return torch.empty(shape, device="meta")


REGISTRY: dict[str, type[Layer]] = {}


LayerClass = TypeVar("LayerClass", bound=type[Layer])


def register(
    type: str, bottoms: Count = 1, tops: Count = 1, restrictions: str = "", *, replace: bool = False
) -> Callable[[LayerClass], LayerClass]:
    """Make a Layer class known as a Caffe layer type.

    Args:
        type: the name that a net's `type:` gives.
        bottoms: how many bottoms the layer takes: a number, or (least, most), where a `most` of None means any.
        tops: how many tops it has, written alike.
        restrictions: what the layer does not do that Caffe's does, for the table of layers.
        replace: take the place of the class that has this type.

    Returns:
        A decorator of the class, which it leaves as it is.

    Raises:
        LayerError: : where another class has the type, and `replace` is False.
    """

    def enter(cls: LayerClass) -> LayerClass:
        known = REGISTRY.get(type)
        if known is not None and not replace:
            raise LayerError(
                f"layer type {type!r} is registered already, as {_full_name(known)}; {_full_name(cls)} cannot have it "
                f"too. Give the class a type of its own, or write @register({type!r}, replace=True)."
            )
        cls.layer_type, cls.bottoms, cls.tops, cls.restrictions = type, bottoms, tops, restrictions
        REGISTRY[type] = cls
        return cls

    return enter


def _full_name(cls: type[Layer]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def import_families(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that a new file's layers are known by being there.

    Call it in the package's `__init__` as `import_families(__name__, __path__)`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def known_types() -> list[str]:
    """The Caffe layer types this package runs, sorted."""
    return sorted(REGISTRY)


def layer_class(param: caffe_pb2.LayerParameter) -> type[Layer]:
    """The class of a LayerParameter's type, its numbers of bottoms and tops checked.

    Raises:
        LayerError: for an unknown type or a wrong number of bottoms or tops.
    """
    cls = REGISTRY.get(param.type)
    if cls is None:
        hint = did_you_mean(param.type, REGISTRY) or f" Known types: {', '.join(known_types())}."
        raise LayerError(f"unknown layer type {param.type!r}.{hint}", param.name, param.type)
    for kind, count, names in (("bottom", cls.bottoms, param.bottom), ("top", cls.tops, param.top)):
        least, most = (count, count) if isinstance(count, int) else count
        if len(names) < least or (most is not None and len(names) > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}".removesuffix(f" to {least}")
            listed = f" ({', '.join(names)})" if names else ""
            raise LayerError(f"takes {wanted} {kind} blob(s), got {len(names)}{listed}.", param.name, param.type)
    if not cls.takes_in_place and set(param.bottom) & set(param.top):
        raise LayerError("does not allow in-place computation: give the top its own name.", param.name, param.type)
    return cls


def create_layer(param: caffe_pb2.LayerParameter, bottoms: Sequence[Tensor], surroundings: Surroundings) -> Layer:
    """Make the layer of a LayerParameter.

    Args:
        param: The LayerParameter.
        bottoms: Its bottoms as meta tensors.
        surroundings: Where the layer finds its files.

    Raises:
        LayerError: : As `layer_class` says; and whatever the layer raises for its options and shapes.
    """
    kind = layer_class(param)
    layer = kind.__new__(kind)
    layer.surroundings = surroundings  # set here, so that a user's `__init__` takes LayerParameter and bottoms alone
    kind.__init__(layer, param, *bottoms)
    return layer


def check_indices(layer: Layer, index: Tensor, size: int, what: str) -> None:
    """Raise LayerError for an index outside [0, size), `size` being that of `what`."""
    if index.numel() and not index.is_meta and not torch.compiler.is_compiling():  # a compiled graph checks nothing
        least, most = (int(bound) for bound in torch.aminmax(index))
        if least < 0 or most >= size:
            raise layer.error(f"index {least if least < 0 else most} is outside {what}, 0 to {size - 1}.")
