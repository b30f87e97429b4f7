"""What `_abi` and `_library` declare, field by field against what a compiler printed."""

from __future__ import annotations

import ctypes
import json
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from probes.rocprof import _abi, _library

FACTS = json.loads((Path(__file__).parents[1] / "data" / "rocprofiler_abi.json").read_text())
STRUCTS = [
    one
    for one in vars(_abi).values()
    if isinstance(one, type) and issubclass(one, ctypes.Structure) and hasattr(one, "C_NAME")
]
# Of each enum: its C name and what the names of its members begin with.
ENUMS: dict[type[IntEnum], tuple[str, str]] = {
    _abi.Status: ("rocprofiler_status_t", "ROCPROFILER_STATUS_"),
    _abi.RocattachStatus: ("rocattach_status_t", "ROCATTACH_STATUS_"),
    _abi.BufferCategory: ("rocprofiler_buffer_category_t", "ROCPROFILER_BUFFER_CATEGORY_"),
    _abi.BufferPolicy: ("rocprofiler_buffer_policy_t", "ROCPROFILER_BUFFER_POLICY_"),
    _abi.CallbackKind: ("rocprofiler_callback_tracing_kind_t", "ROCPROFILER_CALLBACK_TRACING_"),
    _abi.CallbackPhase: ("rocprofiler_callback_phase_t", "ROCPROFILER_CALLBACK_PHASE_"),
    _abi.CodeObjectOperation: ("rocprofiler_code_object_operation_t", "ROCPROFILER_CODE_OBJECT_"),
    _abi.MemoryCopyOperation: ("rocprofiler_memory_copy_operation_t", "ROCPROFILER_MEMORY_COPY_"),
    _abi.AgentType: ("rocprofiler_agent_type_t", "ROCPROFILER_AGENT_TYPE_"),
    _abi.AgentVersion: ("rocprofiler_agent_version_t", "ROCPROFILER_AGENT_"),
}
# Bytes that an argument of these C types takes; a pointer takes eight.
SIZES = {
    "int": 4, "uint32_t": 4, "uint64_t": 8, "size_t": 8, "rocprofiler_status_t": 4,
    "rocprofiler_tracing_operation_t": 4, "rocprofiler_agent_version_t": 4,
    "rocprofiler_buffer_policy_t": 4, "rocprofiler_buffer_tracing_kind_t": 4,
    "rocprofiler_callback_tracing_kind_t": 4, "rocprofiler_context_id_t": 8,
    "rocprofiler_buffer_id_t": 8, "rocprofiler_callback_thread_t": 8,
    "rocprofiler_callback_tracing_record_t": 64,
}  # fmt: skip


def disagreements(struct: type[Any]) -> list[str]:
    """Return what of a struct is not as in the facts, of all versions that it stands for."""
    found = []
    is_beginning = getattr(struct, "IS_BEGINNING", False)
    for version in struct.VERSIONS:
        facts = FACTS["records"][struct.C_NAME][version]
        size = ctypes.sizeof(struct)
        if size > facts["size"] if is_beginning else size != facts["size"]:
            found.append(f"{version}: size {size}, not {facts['size']}")
        if ctypes.alignment(struct) != facts.get("align", ctypes.alignment(struct)):
            found.append(f"{version}: alignment {ctypes.alignment(struct)}")
        names = [field[0] for field in struct._fields_ if not field[0].startswith("_")]
        for name in names:
            member = getattr(struct, name)
            declared = [member.offset, member.size][: len(facts["fields"].get(name, ()))]
            if declared != facts["fields"].get(name):
                found.append(f"{version}: {name} at {declared}, not {facts['fields'].get(name)}")
    return found


def size_of(c_type: str) -> int:
    if c_type.endswith(("*", "_cb_t", "_func_t", "_finalize_t")):
        return ctypes.sizeof(ctypes.c_void_p)
    return SIZES[c_type.removeprefix("const ")]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_a_struct_is_laid_out_as_the_compiler_does(struct):
    assert disagreements(struct) == []


def test_a_wrong_offset_or_size_is_found():
    class Swapped(ctypes.Structure):
        C_NAME = _abi.ClientId.C_NAME
        VERSIONS = _abi.V1
        _fields_ = (
            ("name", ctypes.c_char_p),
            ("size", ctypes.c_size_t),
            ("handle", ctypes.c_uint32),
        )

    class Shifted(ctypes.Structure):
        C_NAME = _abi.KernelDispatchRecord.C_NAME
        VERSIONS = _abi.V1
        _fields_ = (("_hole", ctypes.c_uint64), *_abi.KernelDispatchRecord._fields_)

    class Narrow(ctypes.Structure):
        C_NAME = _abi.ToolConfigureResult.C_NAME
        VERSIONS = _abi.V1
        _fields_ = (
            ("size", ctypes.c_uint32), ("initialize", ctypes.c_void_p),
            ("finalize", ctypes.c_void_p), ("tool_data", ctypes.c_void_p),
        )  # fmt: skip

    assert disagreements(Swapped) == [
        "1.0.0: name at [0, 8], not [8, 8]", "1.0.0: size at [8, 8], not [0, 8]",
    ]  # fmt: skip
    assert "1.0.0: start_timestamp at [48, 8], not [40, 8]" in disagreements(Shifted)
    assert "1.0.0: size 192, not 184" in disagreements(Shifted)
    assert disagreements(Narrow) == ["1.0.0: size at [0, 4], not [0, 8]"]


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_an_enum_has_the_values_of_every_version(enum):
    c_name, prefix = ENUMS[enum]
    facts = FACTS["enums"][c_name]
    declared = {member.name: member.value for member in enum}

    for name, value in declared.items():
        (found,) = [
            facts[full] for full in (prefix + name, f"{prefix}ERROR_{name}") if full in facts
        ]
        assert set(found.values()) == {value}, name


def test_every_enum_is_compared():
    declared = {
        one
        for one in vars(_abi).values()
        if isinstance(one, type) and issubclass(one, IntEnum) and one is not IntEnum
    }
    assert declared == set(ENUMS)


@pytest.mark.parametrize("name", _library.FUNCTIONS)
def test_a_function_takes_arguments_of_the_sizes_in_its_prototype(name):
    facts = FACTS["functions"][name]

    assert facts["returns"] == "rocprofiler_status_t"
    declared = [ctypes.sizeof(one) for one in _library.FUNCTIONS[name]]
    assert declared == list(map(size_of, facts["arguments"]))


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (_library.BUFFER_CALLBACK, "rocprofiler_buffer_tracing_cb_t"),
        (_library.AGENT_CALLBACK, "rocprofiler_query_available_agents_cb_t"),
        (_library.CONFIGURE, "rocprofiler_configure_func_t"),
        (_library.INITIALIZE, "rocprofiler_tool_initialize_t"),
        (_library.code_object_callback(_library.LAYOUT_V1), "rocprofiler_callback_tracing_cb_t"),
    ],
)
def test_a_callback_gets_arguments_of_the_sizes_in_its_prototype(callback, name):
    facts = FACTS["callbacks"][name]

    assert [ctypes.sizeof(one) for one in callback._argtypes_] == list(
        map(size_of, facts["arguments"])
    )
    if facts["returns"] == "void":
        assert callback._restype_ is None
    else:
        assert ctypes.sizeof(callback._restype_) == size_of(facts["returns"])
