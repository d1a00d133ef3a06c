"""Compile caffe.proto into descriptor.py and caffe_pb2.pyi: `python fcn_caffe/proto/compile.py`.

Needs `grpcio-tools` (a protoc that pip installs); only whoever edits caffe.proto does.
protoc's own Python output is not used: it refuses runtimes older than itself and registers its messages in the
process-wide pool, where a second `caffe.proto` collides.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

FOLDER = Path(__file__).parent
PACKAGE = "caffe"


def compile_descriptor() -> bytes:
    """Return the serialized FileDescriptorProto of caffe.proto. Raises RuntimeError with protoc's message."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "caffe.desc"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={target}"]
        done = subprocess.run([*command, "caffe.proto"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"protoc failed; `pip install grpcio-tools` if it is missing:\n{done.stderr}")
        files = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    return bytes(files.file[0].SerializeToString(deterministic=True))


def descriptor_module(serialized: bytes) -> str:
    """Return the text of descriptor.py."""
    # Level and strategy do not matter to the reader, so a newer zlib that packs differently is no error.
    packed = base64.b85encode(zlib.compress(serialized, 9)).decode()
    lines = "\n".join(f'    b"{line}"' for line in textwrap.wrap(packed, 110))
    return (
        '"""caffe.proto as a compressed FileDescriptorProto. Written by compile.py; do not edit."""\n\n'
        f"PACKED = (\n{lines}\n)\n"
    )


# What every message, container and descriptor has, whichever protobuf runtime makes it.
STUB_HEAD = """# Written by compile.py; do not edit.
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any, ClassVar, SupportsIndex, TypeVar, overload

from typing_extensions import Self

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)

class Message:
    DESCRIPTOR: ClassVar[Descriptor]
    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...
    def ByteSize(self) -> int: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: str, /) -> None: ...
    def CopyFrom(self, other: Self, /) -> None: ...
    def HasField(self, name: str, /) -> bool: ...
    def IsInitialized(self) -> bool: ...
    def ListFields(self) -> list[tuple[FieldDescriptor, Any]]: ...
    def MergeFrom(self, other: Self, /) -> None: ...
    def DiscardUnknownFields(self) -> None: ...
    def MergeFromString(self, data: bytes, /) -> int: ...
    def ParseFromString(self, data: bytes, /) -> int: ...
    def SerializePartialToString(self, *, deterministic: bool = ...) -> bytes: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    def SetInParent(self) -> None: ...
    def WhichOneof(self, name: str, /) -> str | None: ...

class _Scalars(MutableSequence[_T]):
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> _T: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[_T]: ...
    @overload
    def __setitem__(self, key: SupportsIndex, value: _T, /) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: Iterable[_T], /) -> None: ...
    def __delitem__(self, key: SupportsIndex | slice, /) -> None: ...
    def __len__(self) -> int: ...
    def insert(self, key: SupportsIndex, value: _T, /) -> None: ...
    def MergeFrom(self, other: Self, /) -> None: ...

class _Messages(Sequence[_M]):
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> _M: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[_M]: ...
    def __delitem__(self, key: SupportsIndex | slice, /) -> None: ...
    def __len__(self) -> int: ...
    def add(self, **fields: object) -> _M: ...
    def append(self, value: _M, /) -> None: ...
    def extend(self, values: Iterable[_M], /) -> None: ...
    def insert(self, key: SupportsIndex, value: _M, /) -> None: ...
    def pop(self, key: SupportsIndex = ..., /) -> _M: ...
    def remove(self, value: _M, /) -> None: ...
    def reverse(self) -> None: ...
    def MergeFrom(self, other: Self, /) -> None: ...

class _Enum:
    DESCRIPTOR: EnumDescriptor
    def Name(self, number: int, /) -> str: ...
    def Value(self, name: str | None, /) -> int: ...
    def keys(self) -> list[str]: ...
    def values(self) -> list[int]: ...
    def items(self) -> list[tuple[str, int]]: ...

class Descriptor:
    name: str
    full_name: str
    file: FileDescriptor
    fields: Sequence[FieldDescriptor]
    fields_by_name: Mapping[str, FieldDescriptor]
    enum_types: Sequence[EnumDescriptor]
    enum_types_by_name: Mapping[str, EnumDescriptor]

class FieldDescriptor:
    name: str
    number: int
    type: int
    default_value: Any
    containing_type: Descriptor
    message_type: Descriptor | None
    enum_type: EnumDescriptor | None

class EnumDescriptor:
    name: str
    values: Sequence[EnumValueDescriptor]
    values_by_name: Mapping[str, EnumValueDescriptor]
    values_by_number: Mapping[int, EnumValueDescriptor]

class EnumValueDescriptor:
    name: str
    number: int

class FileDescriptor:
    name: str
    package: str
    message_types_by_name: Mapping[str, Descriptor]
    enum_types_by_name: Mapping[str, EnumDescriptor]
    def CopyToProto(self, proto: object, /) -> None: ...
"""

FIELD = descriptor_pb2.FieldDescriptorProto
PYTHON_TYPES = {
    FIELD.TYPE_DOUBLE: "float",
    FIELD.TYPE_FLOAT: "float",
    FIELD.TYPE_INT64: "int",
    FIELD.TYPE_UINT64: "int",
    FIELD.TYPE_INT32: "int",
    FIELD.TYPE_UINT32: "int",
    FIELD.TYPE_ENUM: "int",
    FIELD.TYPE_BOOL: "bool",
    FIELD.TYPE_STRING: "str",
    FIELD.TYPE_BYTES: "bytes",
}


def type_stub(serialized: bytes) -> str:
    """Return the text of caffe_pb2.pyi: every message with its fields, every enum with its values."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    parts = [STUB_HEAD, "".join(f"{value.name}: int\n" for enum in file.enum_type for value in enum.value)]
    return "\n".join(parts + [message_stub(message) for message in file.message_type])


def message_stub(message: descriptor_pb2.DescriptorProto) -> str:
    """Return the class of one message, as a type checker sees it."""
    lines = [f"class {message.name}(Message):"]
    for enum in message.enum_type:
        lines.append(f"    {enum.name}: ClassVar[_Enum]")
        lines += [f"    {value.name}: ClassVar[int]" for value in enum.value]
    arguments = []
    for field in message.field:
        single = PYTHON_TYPES.get(field.type) or field.type_name.removeprefix(f".{PACKAGE}.")
        is_message, repeated = field.type == FIELD.TYPE_MESSAGE, field.label == FIELD.LABEL_REPEATED
        if repeated or is_message:  # no value may be assigned to these
            container = ("_Messages" if is_message else "_Scalars") + f"[{single}]"
            lines += ["    @property", f"    def {field.name}(self) -> {container if repeated else single}: ..."]
        else:
            lines.append(f"    {field.name}: {single}")
        accepted = f"{single} | str" if field.type == FIELD.TYPE_ENUM else single
        arguments.append(f"{field.name}: {f'Iterable[{accepted}]' if repeated else accepted} | None = ...")
    if arguments:
        lines += ["    def __init__(", "        self,", "        *,"]
        lines += [*(f"        {argument}," for argument in arguments), "    ) -> None: ..."]
    return "\n".join(lines if len(lines) > 1 else [f"{lines[0]} ..."]) + "\n"


def main() -> int:
    """Rewrite both generated files."""
    serialized = compile_descriptor()
    (FOLDER / "descriptor.py").write_text(descriptor_module(serialized), encoding="utf-8")
    (FOLDER / "caffe_pb2.pyi").write_text(type_stub(serialized), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
