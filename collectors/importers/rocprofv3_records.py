"""Records of rocprofv3's JSON, as far as they are read.

The fields are those of the structs in ``rocprofiler-sdk/buffer_tracing.h`` (0.5 to 1.x), as the
tool's cereal archives write them: a handle is an object with one member.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from collectors.importers.trace import MAX_TIME_NS

GPU_AGENT: Final = 2  # rocprofiler_agent_type_t: 1 is a CPU

# Lists of calls of the runtimes and libraries, by their key in ``buffer_records``.
CALL_LISTS: Final = frozenset({"hip_api", "hsa_api", "rccl_api", "rocdecode_api", "rocjpeg_api"})
MARKER_LIST: Final = "marker_api"

Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TIME_NS)]


class Handle(msgspec.Struct, gc=False):
    """A reference to something, by an id that means something in its file only."""

    handle: int = 0


class Correlation(msgspec.Struct, gc=False):
    """What joins a call with its effects."""

    internal: int = 0


class Dispatch(msgspec.Struct, gc=False):
    """Where a kernel ran, and which."""

    agent_id: Handle
    queue_id: Handle
    kernel_id: int


class KernelDispatch(msgspec.Struct, gc=False):
    """One run of a kernel; ``stream_id`` from 1.0 on."""

    thread_id: int
    correlation_id: Correlation
    start_timestamp: Time
    end_timestamp: Time
    dispatch_info: Dispatch
    stream_id: Handle = msgspec.field(default_factory=Handle)


class MemoryCopy(msgspec.Struct, gc=False):
    """One copy; ``bytes`` from 0.6 on."""

    kind: int
    operation: int
    thread_id: int
    correlation_id: Correlation
    start_timestamp: Time
    end_timestamp: Time
    dst_agent_id: Handle
    src_agent_id: Handle
    bytes: int = -1
    stream_id: Handle = msgspec.field(default_factory=Handle)


class Call(msgspec.Struct, gc=False):
    """One call of a traced library, or a marked range."""

    kind: int
    operation: int
    thread_id: int
    correlation_id: Correlation
    start_timestamp: Time
    end_timestamp: Time


class Agent(msgspec.Struct, gc=False):
    """A processor: a GPU, or a CPU socket."""

    id: Handle
    type: int
    gpu_index: int = -1  # among GPUs; from 1.0 on
    logical_node_type_id: int = -1
    product_name: str = ""
    name: str = ""


class KernelSymbol(msgspec.Struct, gc=False):
    """What a kernel is called."""

    kernel_id: int
    formatted_kernel_name: str = ""
    demangled_kernel_name: str = ""
    kernel_name: str = ""


class Operations(msgspec.Struct, gc=False):
    """What the operations of one kind of record are called, by their numbers."""

    operations: list[str] = []


class Marker(msgspec.Struct, gc=False):
    """The message of a marked range, by its correlation id."""

    key: int
    value: str


class Strings(msgspec.Struct, gc=False):
    """Texts that records refer to."""

    buffer_records: list[Operations] = []
    marker_api: list[Marker] = []


class Node(msgspec.Struct, gc=False):
    """The machine."""

    hostname: str = ""
    release: str = ""
    hardware_name: str = ""


class Metadata(msgspec.Struct, gc=False):
    """The process."""

    pid: int
    node: Node = msgspec.field(default_factory=Node)
