"""The C structs, handles and enums of rocprofiler-sdk that we use, as ctypes.

Layouts are those of x86_64 Linux. Each struct names its C type and the versions it holds for; a
test compares every field with figures that a compiler printed from AMD's headers
(``tests/data/rocprofiler_abi.json``). Fields that begin with an underscore only keep the room of
what we do not read. Records grow at their end, so a struct here may be a newer one's beginning.
"""

from __future__ import annotations

from ctypes import Structure, c_char_p, c_int32, c_size_t, c_uint8, c_uint32, c_uint64
from ctypes import c_void_p as pointer
from enum import IntEnum
from typing import ClassVar

V1 = ("1.0.0",)  # and, by AMD's change log, up to 1.3.5
V0 = ("0.5.0", "0.6.0")


class Status(IntEnum):
    """``rocprofiler_status_t``: those that we treat by themselves."""

    SUCCESS = 0
    BUFFER_BUSY = 14
    CONFIGURATION_LOCKED = 16
    INCOMPATIBLE_ABI = 18
    FINALIZED = 21


class RocattachStatus(IntEnum):
    """``rocattach_status_t``."""

    SUCCESS = 0
    ERROR = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    PTRACE_ERROR = 4
    PTRACE_OPERATION_NOT_PERMITTED = 5
    PTRACE_PROCESS_NOT_FOUND = 6


class BufferCategory(IntEnum):
    """``rocprofiler_buffer_category_t``."""

    TRACING = 1


class BufferPolicy(IntEnum):
    """``rocprofiler_buffer_policy_t``: what becomes of a record that finds the buffer full."""

    DISCARD = 1
    LOSSLESS = 2


class CallbackKind(IntEnum):
    """``rocprofiler_callback_tracing_kind_t``."""

    CODE_OBJECT = 10


class CallbackPhase(IntEnum):
    """``rocprofiler_callback_phase_t``."""

    LOAD = 1
    UNLOAD = 2


class CodeObjectOperation(IntEnum):
    """``rocprofiler_code_object_operation_t``."""

    DEVICE_KERNEL_SYMBOL_REGISTER = 2


class MemoryCopyOperation(IntEnum):
    """``rocprofiler_memory_copy_operation_t``."""

    NONE = 0
    HOST_TO_HOST = 1
    HOST_TO_DEVICE = 2
    DEVICE_TO_HOST = 3
    DEVICE_TO_DEVICE = 4


class AgentType(IntEnum):
    """``rocprofiler_agent_type_t``."""

    CPU = 1
    GPU = 2


class AgentVersion(IntEnum):
    """``rocprofiler_agent_version_t``."""

    INFO_VERSION_0 = 1


class ContextId(Structure):
    """A context's handle."""

    C_NAME: ClassVar = "rocprofiler_context_id_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("handle", c_uint64),)


class BufferId(Structure):
    """A buffer's handle."""

    C_NAME: ClassVar = "rocprofiler_buffer_id_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("handle", c_uint64),)


class CallbackThread(Structure):
    """The handle of a thread that delivers buffers."""

    C_NAME: ClassVar = "rocprofiler_callback_thread_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("handle", c_uint64),)


class AsyncCorrelationId(Structure):
    """Ties what ran on a GPU to the call that put it there."""

    C_NAME: ClassVar = "rocprofiler_async_correlation_id_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("internal", c_uint64), ("external", c_uint64))


class CorrelationId(Structure):
    """Likewise, of a call."""

    C_NAME: ClassVar = "rocprofiler_correlation_id_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("internal", c_uint64), ("external", c_uint64), ("ancestor", c_uint64))


class CorrelationIdV0(Structure):
    """Likewise, before 1.0: without the ancestor."""

    C_NAME: ClassVar = "rocprofiler_correlation_id_t"
    VERSIONS: ClassVar = V0
    _fields_ = (("internal", c_uint64), ("external", c_uint64))


class Dim3(Structure):
    """Work items or groups in three directions."""

    C_NAME: ClassVar = "rocprofiler_dim3_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("x", c_uint32), ("y", c_uint32), ("z", c_uint32))


class RecordHeader(Structure):
    """What a buffer's callback gets an array of pointers to."""

    C_NAME: ClassVar = "rocprofiler_record_header_t"
    VERSIONS: ClassVar = (*V0, *V1)
    _fields_ = (("category", c_uint32), ("kind", c_uint32), ("payload", pointer))


class KernelDispatchInfo(Structure):
    """Which kernel, where. Its ``size`` leaves out the reserved bytes: 72."""

    C_NAME: ClassVar = "rocprofiler_kernel_dispatch_info_t"
    VERSIONS: ClassVar = (*V0, *V1)
    _fields_ = (
        ("size", c_uint64),
        ("agent_id", c_uint64),
        ("queue_id", c_uint64),
        ("kernel_id", c_uint64),
        ("dispatch_id", c_uint64),
        ("private_segment_size", c_uint32),
        ("group_segment_size", c_uint32),
        ("workgroup_size", Dim3),
        ("grid_size", Dim3),
        ("reserved_padding", c_uint8 * 56),
    )


class KernelDispatchRecord(Structure):
    """One kernel's run. From 1.4 on 8 bytes longer, at its end."""

    C_NAME: ClassVar = "rocprofiler_buffer_tracing_kernel_dispatch_record_t"
    VERSIONS: ClassVar = (*V0, *V1)
    _fields_ = (
        ("size", c_uint64),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("correlation_id", AsyncCorrelationId),
        ("thread_id", c_uint64),
        ("start_timestamp", c_uint64),
        ("end_timestamp", c_uint64),
        ("dispatch_info", KernelDispatchInfo),
    )


class MemoryCopyRecordV0(Structure):
    """One copy, before 1.0. The beginning of `MemoryCopyRecord`."""

    C_NAME: ClassVar = "rocprofiler_buffer_tracing_memory_copy_record_t"
    VERSIONS: ClassVar = V0
    _fields_ = (
        ("size", c_uint64),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("correlation_id", AsyncCorrelationId),
        ("thread_id", c_uint64),
        ("start_timestamp", c_uint64),
        ("end_timestamp", c_uint64),
        ("dst_agent_id", c_uint64),
        ("src_agent_id", c_uint64),
        ("bytes", c_uint64),
    )


class MemoryCopyRecord(Structure):
    """One copy that a GPU made."""

    C_NAME: ClassVar = "rocprofiler_buffer_tracing_memory_copy_record_t"
    VERSIONS: ClassVar = V1
    _fields_ = (
        *MemoryCopyRecordV0._fields_,
        ("dst_address", c_uint64),
        ("src_address", c_uint64),
    )


class HipApiRecord(Structure):
    """One call of the HIP runtime."""

    C_NAME: ClassVar = "rocprofiler_buffer_tracing_hip_api_record_t"
    VERSIONS: ClassVar = V1
    _fields_ = (
        ("size", c_uint64),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("correlation_id", CorrelationId),
        ("start_timestamp", c_uint64),
        ("end_timestamp", c_uint64),
        ("thread_id", c_uint64),
    )


class HipApiRecordV0(Structure):
    """Likewise, before 1.0: the times stand 8 bytes earlier."""

    C_NAME: ClassVar = "rocprofiler_buffer_tracing_hip_api_record_t"
    VERSIONS: ClassVar = V0
    _fields_ = (
        ("size", c_uint64),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("correlation_id", CorrelationIdV0),
        ("start_timestamp", c_uint64),
        ("end_timestamp", c_uint64),
        ("thread_id", c_uint64),
    )


class CallbackRecord(Structure):
    """What a callback gets, by value."""

    C_NAME: ClassVar = "rocprofiler_callback_tracing_record_t"
    VERSIONS: ClassVar = V1
    _fields_ = (
        ("context_id", ContextId),
        ("thread_id", c_uint64),
        ("correlation_id", CorrelationId),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("phase", c_uint32),
        ("payload", pointer),
    )


class CallbackRecordV0(Structure):
    """Likewise, before 1.0."""

    C_NAME: ClassVar = "rocprofiler_callback_tracing_record_t"
    VERSIONS: ClassVar = V0
    _fields_ = (
        ("context_id", ContextId),
        ("thread_id", c_uint64),
        ("correlation_id", CorrelationIdV0),
        ("kind", c_uint32),
        ("operation", c_int32),
        ("phase", c_uint32),
        ("payload", pointer),
    )


class KernelSymbol(Structure):
    """A kernel that was loaded: the name of its id. The part that is alike in all versions."""

    C_NAME: ClassVar = "rocprofiler_callback_tracing_code_object_kernel_symbol_register_data_t"
    VERSIONS: ClassVar = (*V0, *V1)
    IS_BEGINNING: ClassVar = True
    _fields_ = (
        ("size", c_uint64),
        ("kernel_id", c_uint64),
        ("code_object_id", c_uint64),
        ("kernel_name", c_char_p),
    )


class ClientId(Structure):
    """A tool's identity."""

    C_NAME: ClassVar = "rocprofiler_client_id_t"
    VERSIONS: ClassVar = V1
    _fields_ = (("size", c_size_t), ("name", c_char_p), ("handle", c_uint32))


class ClientIdV0(Structure):
    """Likewise, before 1.0: without its size."""

    C_NAME: ClassVar = "rocprofiler_client_id_t"
    VERSIONS: ClassVar = V0
    _fields_ = (("name", c_char_p), ("handle", c_uint32))


class ToolConfigureResult(Structure):
    """What a tool answers when it is asked to configure itself."""

    C_NAME: ClassVar = "rocprofiler_tool_configure_result_t"
    VERSIONS: ClassVar = (*V0, *V1)
    _fields_ = (
        ("size", c_size_t),
        ("initialize", pointer),
        ("finalize", pointer),
        ("tool_data", pointer),
    )


class Agent(Structure):
    """A CPU or GPU: the part that is alike in all versions, up to its indexes."""

    C_NAME: ClassVar = "rocprofiler_agent_v0_t"
    VERSIONS: ClassVar = (*V0, *V1)
    IS_BEGINNING: ClassVar = True
    _fields_ = (
        ("size", c_uint64),
        ("id", c_uint64),
        ("type", c_uint32),
        ("_counts", c_uint8 * 228),  # cores, caches, clocks, memory
        ("name", c_char_p),
        ("vendor_name", c_char_p),
        ("product_name", c_char_p),
        ("model_name", c_char_p),
        ("node_id", c_uint32),
        ("logical_node_id", c_int32),
        ("logical_node_type_id", c_int32),
    )
