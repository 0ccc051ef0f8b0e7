"""The compiled descriptors match the published interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_clara_client.wire import clara_pb2, common_pb2, jobs_pb2, payloads_pb2, pipelines_pb2

FACTS = Path(__file__).with_name("wire_facts.tsv")
PACKAGE = "nvidia.clara.platform."
# Names of the types of fields, by their numbers in a descriptor.
TYPES = {1: "double", 2: "float", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
TYPES |= {17: "sint32", 18: "sint64"}
MESSAGE, ENUM = 11, 14  # the types whose names are in the descriptor of the field
FILES = [module.DESCRIPTOR for module in (common_pb2, jobs_pb2, payloads_pb2, pipelines_pb2, clara_pb2)]


@pytest.fixture(params=["rpc", "enum", "field"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_descriptors_match_the_published_interface(kind: str) -> None:
    """The descriptors have exactly the published methods, enum values and fields, with number, type and label."""
    expected = sorted(line for line in FACTS.read_text().splitlines() if line.startswith(f"{kind}\t"))
    actual = sorted(line for file in FILES for line in _facts(file) if line.startswith(f"{kind}\t"))
    assert expected == actual


def test_all_files_have_the_package_of_the_platform() -> None:
    """Full names are part of the interface: they are the paths of the methods."""
    assert {"nvidia.clara.platform"} == {file.package for file in FILES}


def test_file_names_do_not_conflict_with_nvidias_packages() -> None:
    """The files are registered under this plugin's path, so that NVIDIA's client can be installed, too."""
    assert all(file.name.startswith("dicom_adapter_clara_client/wire/") for file in FILES)


def _facts(file: Any) -> Iterator[str]:
    for service in file.services_by_name.values():
        for method in service.methods:
            yield _line("rpc", service.name, "-", method.name, _types(method), _streams(method))
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            yield _line("enum", enum.name, value.number, value.name, "-", "-")
    for message in file.message_types_by_name.values():
        yield from _fields(message)


def _fields(message: Any) -> Iterator[str]:
    owner = message.full_name.removeprefix(PACKAGE)
    for field in message.fields:
        yield _line("field", owner, field.number, field.name, _type(field), _label(field))
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from _fields(nested)


def _line(*facts: object) -> str:
    return "\t".join(map(str, facts))


def _types(method: Any) -> str:
    return f"{method.input_type.name} -> {method.output_type.name}"


def _streams(method: Any) -> str:
    if method.client_streaming:
        return "both streams" if method.server_streaming else "client stream"
    return "server stream" if method.server_streaming else "unary"


def _type(field: Any) -> str:
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_type(key)}, {_type(value)}>"
    if field.type == MESSAGE:
        return str(field.message_type.full_name.removeprefix(PACKAGE))
    return str(field.enum_type.full_name.removeprefix(PACKAGE)) if field.type == ENUM else TYPES[field.type]


def _label(field: Any) -> str:
    if _is_map(field):
        return "map"
    label = "repeated" if _is_repeated(field) else "single"
    return f"{label}, deprecated" if field.GetOptions().deprecated else label


def _is_map(field: Any) -> bool:
    return bool(field.type == MESSAGE and field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    """Return whether a field is repeated. Older versions of protobuf have only `label`."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)
