"""The messages: their schema row by row, the committed descriptor, other runtimes, another caffe.proto beside ours."""

from __future__ import annotations

import ast
import base64
import csv
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from needs import needs_package
from places import TESTS

from fcn_caffe.proto import caffe_pb2, compile, descriptor
from fcn_caffe.proto.schema import FORKS

FILE = caffe_pb2.NetParameter.DESCRIPTOR.file
TYPE = descriptor_pb2.FieldDescriptorProto
FORK_MESSAGES = {
    *("BNParameter", "DenseImageDataParameter", "DetectionOutputParameter", "HappynearNormalizeParameter"),
    *("InterpParameter", "MultiStageMeanfieldParameter", "NonMaximumSuppressionParameter", "NormalizeParameter"),
    *("PSROIPoolingParameter", "PaddingParameter", "PermuteParameter", "PriorBoxParameter", "ROIPoolingParameter"),
    *("ReLU6Parameter", "SegAccuracyParameter", "ShuffleChannelParameter", "SmoothL1LossParameter"),
    *("SoftmaxLossParameter", "UnpoolingParameter", "UpsampleParameter"),
}
FORK_ENUMS = {"BatchNormEngine", "LabelType"}
OURS = {"BorderCopyParameter"}  # what Caffe does not have


def compiled_file() -> descriptor_pb2.FileDescriptorProto:
    made = descriptor_pb2.FileDescriptorProto()
    FILE.CopyToProto(made)
    return made


def schema_rows() -> set[tuple[str, ...]]:
    """The compiled messages in the columns of caffe_schema.tsv, but for what is of forks: their fields and messages."""
    rows = set()
    file = compiled_file()
    for message in list(file.message_type):
        if message.name in FORK_MESSAGES:
            file.message_type.remove(message)
    labels = {TYPE.LABEL_OPTIONAL: "optional", TYPE.LABEL_REPEATED: "repeated", TYPE.LABEL_REQUIRED: "required"}
    enums = [(enum.name, enum) for enum in file.enum_type]
    enums += [(f"{m.name}.{enum.name}", enum) for m in file.message_type for enum in m.enum_type]
    for scope, enum in enums:
        values = [value for value in enum.value if value.number < FORKS and enum.name not in FORK_ENUMS]
        rows |= {("enum", scope, value.name, str(value.number), "", "", "", "") for value in values}
    for message in file.message_type:
        for field in message.field:
            if field.number >= FORKS:
                continue
            kind = field.type_name.removeprefix(".caffe.") or TYPE.Type.Name(field.type)[len("TYPE_") :].lower()
            default = field.default_value
            if default and kind in ("float", "double"):
                default = f"{float(default):g}"
            packed = "packed" if field.options.packed else ""
            rows.add(("field", message.name, field.name, str(field.number), labels[field.label], kind, default, packed))
    return rows


def test_every_row_of_the_schema_both_ways() -> None:
    with open(TESTS / "golden" / "caffe_schema.tsv", encoding="utf-8") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(reader)
        wanted = {tuple(row) for row in reader}
    have = schema_rows()
    assert wanted - have == set()
    ours = have - wanted
    assert len(have) - len(ours) == 534
    # A layer of ours has its message, and a field above 1000 for it.
    messages = {row[5] for row in ours if row[1] == "LayerParameter" and int(row[3]) > 1000}
    assert messages == {row[1] for row in ours} - {"LayerParameter"} == OURS


def test_numbers_of_forks_are_in_their_range() -> None:
    """Messages of forks hang on fields of forks alone; the words of their one enum in a message of Caffe's, too."""
    file = compiled_file()
    rest = [message for message in file.message_type if message.name not in FORK_MESSAGES]
    assert {message.name for message in file.message_type} >= FORK_MESSAGES
    types = {field.type_name for message in rest for field in message.field if field.number < FORKS}
    assert not {kind.removeprefix(".caffe.").split(".")[0] for kind in types} & FORK_MESSAGES
    assert not any(kind.endswith(tuple(FORK_ENUMS)) for kind in types)
    forks = [field for message in rest for field in message.field if field.number >= FORKS]
    assert len(forks) > 60 and all(field.number < 2**29 - 1 for field in forks)


def test_the_committed_descriptor_is_that_of_caffe_proto() -> None:
    needs_package("grpc_tools")
    serialized = compile.compile_descriptor()
    # The bytes that were packed, not what the pool makes of them: it rewrites the text of float defaults.
    assert serialized == zlib.decompress(base64.b85decode(descriptor.PACKED))


def test_the_committed_stub_is_that_of_the_descriptor() -> None:
    stub = Path(caffe_pb2.__file__).with_suffix(".pyi")
    assert compile.type_stub(zlib.decompress(base64.b85decode(descriptor.PACKED))) == stub.read_text(encoding="utf-8")


def test_what_the_stub_promises_is_there_at_run_time() -> None:
    """Every name of the stub, looked up on the module, a message, a container and an enum."""
    net = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name="a")])
    pooling = caffe_pb2.PoolingParameter
    examples = {
        "Message": net,
        "_Scalars": net.input,
        "_Messages": net.layer,
        "_Enum": pooling.PoolMethod,
        "Descriptor": net.DESCRIPTOR,
        "FieldDescriptor": net.DESCRIPTOR.fields[0],
        "EnumDescriptor": pooling.PoolMethod.DESCRIPTOR,
        "EnumValueDescriptor": pooling.PoolMethod.DESCRIPTOR.values[0],
        "FileDescriptor": net.DESCRIPTOR.file,
    }
    stub = Path(caffe_pb2.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    names = 0
    for node in ast.parse(stub).body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(getattr(caffe_pb2, ast.unparse(node.target)), int)
        elif isinstance(node, ast.ClassDef):
            example = examples.pop(node.name) if node.name in examples else getattr(caffe_pb2, node.name)()
            for line in node.body:
                if isinstance(line, ast.Expr):
                    continue  # `...`, the body of a message without fields
                name = line.name if isinstance(line, ast.FunctionDef) else ast.unparse(line.target)  # type: ignore[attr-defined]
                assert hasattr(example, name), f"{node.name}.{name}"
                names += 1
    assert not examples and names > 600


def test_caffe_proto_lists_the_fields_of_the_descriptor() -> None:
    """Without protoc: every field line of caffe.proto, in order, is in the committed descriptor."""
    text = Path(descriptor.__file__).with_name("caffe.proto").read_text(encoding="utf-8")
    lines = [
        line.split() for line in text.splitlines() if line.strip().startswith(("optional", "repeated", "required"))
    ]
    wanted = [(line[0], line[2], int(line[4].rstrip(";"))) for line in lines]
    labels = {1: "optional", 2: "required", 3: "repeated"}
    have = [(labels[f.label], f.name, f.number) for m in compiled_file().message_type for f in m.field]
    assert have == wanted


def test_another_caffe_proto_in_the_process_does_not_collide() -> None:
    other = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    field = other.message_type.add(name="NetParameter").field.add(name="other", number=1)
    field.label, field.type = TYPE.LABEL_OPTIONAL, TYPE.TYPE_STRING
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(other.SerializeToString())
    theirs = pool.FindMessageTypeByName("caffe.NetParameter")
    assert [f.name for f in theirs.fields] == ["other"]
    assert "layer" in caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("kind", ["upb", "python"])
def test_compiled_and_pure_python_runtime(kind: str) -> None:
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": kind}
    command = [sys.executable, "-W", "error", str(TESTS / "protobuf_runtime.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"({kind}): ok")
