"""Write nets in Python and get a NetParameter: `n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3)`.

The name that a top gets in a NetSpec is its layer's and its blob's; a top without a name is called by its type and a
number. An option goes to the layer type's own message if that has it (`num_output` of ConvolutionParameter). An option
that ends in `param`, and any other, goes to the LayerParameter.

Source: the interface of pycaffe's net_spec. Its scripts catch Python's own errors, so the errors here are those too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fcn_caffe.errors import GraphError
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.proto import caffe_pb2

__all__ = [
    *("BadValue", "Function", "Layers", "NetSpec", "NoSuchOption", "NoSuchTop", "NotATop", "Parameters", "Top"),
    *("assign_proto", "layers", "param_name_dict", "params", "to_proto"),
]

_LAYER_FIELDS = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
# Layer type -> the field of LayerParameter that is its own: ConvolutionParameter is convolution_param.
_OWN_FIELD = {
    field.message_type.name.removesuffix("Parameter"): field.name
    for field in _LAYER_FIELDS.values()
    if field.name.endswith("_param") and field.message_type is not None
}


class NotATop(GraphError, TypeError):
    """A value that should be a top, and is none."""


class NoSuchTop(GraphError, KeyError, AttributeError):
    """A NetSpec has no top of that name."""

    __str__ = Exception.__str__  # KeyError's shows the text in quotes


class NoSuchOption(GraphError, AttributeError):
    """Neither the layer type's own message nor LayerParameter has that option."""


class BadValue(GraphError, TypeError, ValueError):
    """A value that a field does not take."""


class Top:
    """One blob that a Function makes. `name` is the name that a NetSpec gave it last, for messages."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn, self.n = fn, n
        self.name = ""

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Return the net that makes this blob."""
        return to_proto(self)


class Function:
    """One layer: its type, the tops it reads (`inputs`), its options (`params`), and its own `tops`.

    Two options are not Caffe's: `ntop`, how many tops, and `in_place`: the tops take the names of all bottoms, as in
    pycaffe.

    Raises:
        NotATop: an input is no top.
        GraphError: a layer in place has more tops than inputs.
    """

    def __init__(self, type_name: str, inputs: Iterable[object], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        bottoms = []
        for place, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                # The sentence is pycaffe's, which scripts compare.
                raise NotATop(f"{type_name} input {place} is not a Top (type is {type(bottom)})")
            bottoms.append(bottom)
        self.inputs = tuple(bottoms)
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.name = ""
        if self.in_place and not 0 < self.ntop <= len(self.inputs):
            raise GraphError(f"{type_name}: a layer in place has an input for each top, and at least one.")
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    @property
    def fn(self) -> Function:
        """Itself: in a NetSpec a layer without tops is its own value."""
        return self


Named = Top | Function


class _Writer:
    """Writes the layers that tops need, each once, after those it reads."""

    def __init__(self, names: Mapping[Named, str]) -> None:
        self.names = dict(names)
        self.numbers: Counter[str] = Counter()
        self.layers: dict[Function, caffe_pb2.LayerParameter] = {}

    def write(self, last: Function) -> None:
        # No recursion: nets are deeper than Python's stack allows.
        waiting = [last]
        open_ = set[Function]()  # those whose inputs are being written
        while waiting:
            fn = waiting[-1]
            below = [top.fn for top in reversed(fn.inputs) if top.fn not in self.layers]
            if fn not in self.layers and not below:
                self.layers[fn] = self._layer(fn)
            if fn in self.layers:
                waiting.pop()
            elif fn in open_:
                raise GraphError(f"{fn.type_name}: its inputs are made of its own top. A net has no loops.")
            else:
                open_.add(fn)
                waiting += below

    def blob(self, top: Top) -> str:
        """Return the blob name of a top whose layer is written."""
        return self.layers[top.fn].top[top.n]

    def _layer(self, fn: Function) -> caffe_pb2.LayerParameter:
        layer = caffe_pb2.LayerParameter(type=fn.type_name)
        layer.bottom.extend(self.blob(top) for top in fn.inputs)
        names = [self._name(top) for top in fn.tops]
        layer.name = names[0] if names else self._name(fn)
        layer.top.extend(layer.bottom if fn.in_place else names)
        for key, value in fn.params.items():
            _assign_option(layer, key, value)
        return layer

    def _name(self, thing: Named) -> str:
        if thing not in self.names:
            kind = thing.fn.type_name
            self.numbers[kind] += 1
            self.names[thing] = f"{kind}{self.numbers[kind]}"
        return self.names[thing]


class NetSpec:
    """Tops by name, in the order of assignment: `n.conv1 = …`, `n["conv1"]`, `n.to_proto()`."""

    def __init__(self) -> None:
        object.__setattr__(self, "tops", OrderedDict())
        self.tops: OrderedDict[str, Named]

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 (else mypy reads every top as an object)
        if not isinstance(value, (Top, Function)):
            kind = type(value).__name__
            raise NotATop(f"'{name}' is assigned a {kind}, wanted a top. A layer of several tops gives a tuple.")
        self.tops[name] = value
        value.name = value.name or name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (a script knows whether it asks for a top)
        if name.startswith("__"):  # what copy and pickle ask for
            raise AttributeError(name)
        return self[name]

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __setitem__(self, name: str, value: object) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 (as above)
        try:
            return self.tops[name]
        except KeyError:
            raise NoSuchTop(f"the net has no top '{name}'.{did_you_mean(name, self.tops)}") from None

    def __delitem__(self, name: str) -> None:
        self[name]  # raises where there is none
        del self.tops[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tops

    def __iter__(self) -> Iterator[str]:
        return iter(self.tops)

    def keys(self) -> list[str]:
        """The names, in order."""
        return list(self.tops)

    def vals(self) -> list[Named]:
        """The tops, in order."""
        return list(self.tops.values())

    def update(self, name: str | Mapping[str, Any], params: Mapping[str, Any] | None = None) -> None:
        """Change options of the layer of a name; or, given only a mapping of names to tops, assign those."""
        if isinstance(name, str):
            self[name].fn.params.update(params or {})
        else:
            for other, top in name.items():
                self[other] = top

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Return the net of all layers: each after those it reads, else in the order of assignment."""
        return _net(_Writer({top: name for name, top in self.tops.items()}), self.tops.values())


def to_proto(*tops: Named) -> caffe_pb2.NetParameter:
    """Return the net that makes some tops, all named by their type and a number."""
    return _net(_Writer({}), tops)


def named_net(*tops: Top) -> tuple[caffe_pb2.NetParameter, list[str]]:
    """Return the net that makes some tops, with the names that a NetSpec gave so far, and the tops' blob names."""
    writer = _Writer({})
    names: set[str] = set()
    waiting = [top.fn for top in tops]
    reached: dict[Function, None] = {}
    while waiting:
        fn = waiting.pop()
        if fn in reached:
            continue
        reached[fn] = None
        for top in fn.tops:
            if top.name and top.name not in names:
                writer.names[top] = top.name
                names.add(top.name)
        waiting += [bottom.fn for bottom in fn.inputs]
    return _net(writer, tops), [writer.blob(top) for top in tops]


def _net(writer: _Writer, tops: Iterable[Named]) -> caffe_pb2.NetParameter:
    for top in tops:
        writer.write(top.fn)
    net = caffe_pb2.NetParameter()
    net.layer.extend(writer.layers.values())
    return net


def _assign_option(layer: caffe_pb2.LayerParameter, key: str, value: object) -> None:
    own = _OWN_FIELD.get(layer.type)
    options = _LAYER_FIELDS[own].message_type if own else None
    own_fields = options.fields_by_name if options else {}
    if not key.endswith("param") and key in own_fields:
        _assign(getattr(layer, own or ""), key, value, layer)
    elif key in _LAYER_FIELDS:
        _assign(layer, key, value, layer)
    else:
        nested = (
            f" Write it as Caffe does: {own}=dict({key}=…)." if key in own_fields else did_you_mean(key, own_fields)
        )
        raise NoSuchOption(f"layer '{layer.name}' ({layer.type}): no option '{key}'.{nested}")


def _assign(message: caffe_pb2.Message, key: str, value: object, layer: caffe_pb2.LayerParameter) -> None:
    try:
        assign_proto(message, key, value)
    except GraphError as error:
        raise error.named(f"layer '{layer.name}' ({layer.type})") from error.__cause__


def assign_proto(proto: caffe_pb2.Message, name: str, val: object) -> None:
    """Set a field of a message from a number, string or dict, or a list of those.

    A repeated field takes a single value as a list of one.

    Raises:
        NoSuchOption: the message has no such field.
        BadValue: the field does not take the value.
    """
    fields = proto.DESCRIPTOR.fields_by_name
    if name not in fields:
        raise NoSuchOption(f"{proto.DESCRIPTOR.name} has no field '{name}'.{did_you_mean(name, fields)}")
    target = getattr(proto, name)
    try:
        if hasattr(target, "extend"):
            for item in val if isinstance(val, (list, tuple, np.ndarray)) else [val]:
                if isinstance(item, Mapping):
                    _assign_all(target.add(), item)
                else:
                    target.append(_plain(item))
        elif isinstance(val, Mapping):
            _assign_all(target, val)
        else:
            setattr(proto, name, _plain(val))
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, GraphError):
            raise
        raise BadValue(f"{name} cannot be {val!r} ({error}).") from error


def _plain(value: object) -> object:
    """Turn a NumPy number into Python's: older protobuf takes no other."""
    return value.item() if isinstance(value, np.generic) else value


def _assign_all(message: caffe_pb2.Message, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        assign_proto(message, name, value)


def param_name_dict() -> dict[str, str]:
    """Return, by layer type, the stem of its own field in LayerParameter: `{"Convolution": "convolution", …}`."""
    return {kind: field.removesuffix("_param") for kind, field in _OWN_FIELD.items()}


class Layers:
    """`layers.TYPE(*bottoms, **options)` makes a layer; returns its top, a tuple of several, or itself if none."""

    def __getattr__(self, type_name: str) -> Callable[..., Any]:
        if type_name.startswith("__"):
            raise AttributeError(type_name)

        def make(*inputs: object, **options: object) -> Top | tuple[Top, ...] | Function:
            fn = Function(type_name, inputs, options)
            return fn.tops[0] if fn.ntop == 1 else fn.tops or fn

        return make


class _Enum:
    def __init__(self, message: type[caffe_pb2.Message]) -> None:
        self._message = message

    def __getattr__(self, value: str) -> int:
        try:
            number: int = getattr(self._message, value)
        except AttributeError:
            name = self._message.DESCRIPTOR.name
            known = [value for enum in self._message.DESCRIPTOR.enum_types for value in enum.values_by_name]
            raise AttributeError(f"{name} has no value '{value}'.{did_you_mean(value, known)}") from None
        return number


class Parameters:
    """The enum values of a parameter message: `params.Pooling.MAX`."""

    def __getattr__(self, type_name: str) -> _Enum:
        if not hasattr(caffe_pb2, f"{type_name}Parameter"):
            raise AttributeError(f"there is no {type_name}Parameter.")
        return _Enum(getattr(caffe_pb2, f"{type_name}Parameter"))


layers = Layers()
params = Parameters()
