"""`caffe.proto.caffe_pb2`: every message and enum value of caffe.proto, and what protoc's own module has beside them.

The messages are those of fcn_caffe.proto, in a descriptor pool of their own: text_format and SerializeToString work on
them as on any, and another package's caffe.proto in the same process does not collide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper  # type: ignore[import-untyped]

from fcn_caffe.proto import caffe_pb2 as _messages

DESCRIPTOR: Any = _messages.NetParameter.DESCRIPTOR.file
__all__ = ["DESCRIPTOR"]

for _name, _descriptor in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = getattr(_messages, _name)
    globals()[f"_{_name.upper()}"] = _descriptor
    __all__ += [_name]
for _name, _enum in DESCRIPTOR.enum_types_by_name.items():
    globals()[_name] = EnumTypeWrapper(_enum)
    globals()[f"_{_name.upper()}"] = _enum
    globals().update({value.name: value.number for value in _enum.values})
    __all__ += [_name, *(value.name for value in _enum.values)]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...  # noqa: ANN401 (messages and enums, made at run time)
