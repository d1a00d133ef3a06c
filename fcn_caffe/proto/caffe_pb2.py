"""The messages of caffe.proto, in a descriptor pool of their own.

Another package's `caffe.proto` may be loaded in the same process: the default pool is never touched. Works with
protobuf 4.21 and newer, compiled or pure Python.
"""

from __future__ import annotations

import base64
import zlib

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.descriptor import (  # type: ignore[import-untyped]
    Descriptor,
    EnumDescriptor,
    EnumValueDescriptor,
    FieldDescriptor,
    FileDescriptor,
)
from google.protobuf.message import Message  # type: ignore[import-untyped]

from .descriptor import PACKED

__all__ = ["Descriptor", "EnumDescriptor", "EnumValueDescriptor", "FieldDescriptor", "FileDescriptor", "Message"]

_pool = descriptor_pool.DescriptorPool()
_serialized = zlib.decompress(base64.b85decode(PACKED))
_pool.AddSerializedFile(_serialized)
_file = descriptor_pb2.FileDescriptorProto.FromString(_serialized)


def _message_class(name: str) -> type[Message]:
    descriptor = _pool.FindMessageTypeByName(f"{_file.package}.{name}")
    if hasattr(message_factory, "GetMessageClass"):
        message_class: type[Message] = message_factory.GetMessageClass(descriptor)
    else:  # protobuf 4.21
        message_class = message_factory.MessageFactory(_pool).GetPrototype(descriptor)
    return message_class


for _message in _file.message_type:
    globals()[_message.name] = _message_class(_message.name)
    __all__ += [_message.name]
for _enum in _file.enum_type:
    for _value in _enum.value:
        globals()[_value.name] = _value.number
        __all__ += [_value.name]
