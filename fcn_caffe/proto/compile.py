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


def type_stub(serialized: bytes) -> str:
    """Return the text of caffe_pb2.pyi: names and kinds only; fields are open, as protobuf's own stubs are extra."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    lines = [
        "# Written by compile.py; do not edit.",
        "from typing import Any",
        "",
        "class _Kind(type):",
        "    def __getattr__(cls, name: str) -> Any: ...",
        "",
        "class Message(metaclass=_Kind):",
        "    DESCRIPTOR: Any",
        "    def __init__(self, **fields: Any) -> None: ...",
        "    def __getattr__(self, name: str) -> Any: ...",
        "    def __setattr__(self, name: str, value: Any) -> None: ...",
        "    def HasField(self, name: str) -> bool: ...",
        "    def SerializeToString(self) -> bytes: ...",
        "",
    ]
    lines += [f"{value.name}: int" for enum in file.enum_type for value in enum.value] + [""]
    lines += [f"class {message.name}(Message): ..." for message in file.message_type]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrite both generated files."""
    serialized = compile_descriptor()
    (FOLDER / "descriptor.py").write_text(descriptor_module(serialized), encoding="utf-8")
    (FOLDER / "caffe_pb2.pyi").write_text(type_stub(serialized), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
