"""The tracer inside a server: contexts, buffers, kernel names, and buffers passed on to the spool.

Two contexts: one that learns kernels' names and runs from the start, since a kernel is named only
when it is loaded; one for what ran, which runs while somebody records. Standard library only (see
the package).

Why LOSSLESS: with DISCARD the library has one half of a buffer, not two; once that was delivered,
records have no place until somebody flushes again, and are not counted as dropped
(rocprofiler-sdk, ``buffer.cpp`` and ``buffer.hpp``, 0.5 to 1.3). With LOSSLESS a thread of the
HSA runtime waits when both halves are full, which is why they are large and the callback is short.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_int32, cast, sizeof
from typing import Any, NamedTuple

from . import _abi, wire
from ._abi import BufferPolicy, CallbackPhase, Status
from ._library import (
    AGENT_CALLBACK,
    BUFFER_CALLBACK,
    CONFIGURE,
    INITIALIZE,
    Library,
    SdkError,
    code_object_callback,
)
from .spool_writer import SpoolWriter

TOOL_NAME = b"cputax"
KERNEL_BUFFER_BYTES = 1 << 19  # each half: 2849 kernels of 184 bytes
OTHER_BUFFER_BYTES = 1 << 17
DRAIN_S = 0.1  # kernels that were launched before the end may still run
NAME_BATCH = 256  # names of kernels that may wait for the next frame
# What the library calls the kinds of records.
KERNEL_DISPATCH = "KERNEL_DISPATCH"
MEMORY_COPY = "MEMORY_COPY"
HIP_RUNTIME_API = "HIP_RUNTIME_API"


class Options(NamedTuple):
    """What to trace, and how."""

    is_hip_traced: bool = False  # every call of HIP's runtime: dear
    policy: int = BufferPolicy.LOSSLESS
    kernel_buffer_bytes: int = KERNEL_BUFFER_BYTES


class Totals:
    """What was delivered so far."""

    def __init__(self) -> None:
        self.delivery_count = 0
        self.record_count = 0
        self.unwritten_count = 0  # records for which the spool had no room
        self.unreadable_count = 0  # records in buffers that made no sense
        self.held_ns = 0  # while a callback had the GIL
        self.longest_held_ns = 0

    def note(self, held_ns: int, record_count: int) -> None:
        """Count one delivery."""
        self.delivery_count += 1
        self.record_count += record_count
        self.held_ns += held_ns
        self.longest_held_ns = max(self.longest_held_ns, held_ns)


class Tracer:
    """One process's use of rocprofiler-sdk, from before its first HIP call to its end.

    Every callback object lives as long as this one, which lives as long as the process: the library
    may call late.
    """

    def __init__(
        self, library: Library, spool: SpoolWriter, options: Options | None = None
    ) -> None:
        self.library = library
        self.totals = Totals()
        self._spool = spool
        self._options = options or Options()
        self._blocks: Callable[[int, int], Iterator[Any]]
        self._names_context = _abi.ContextId()
        self._context = _abi.ContextId()
        self._buffers: list[_abi.BufferId] = []
        self._names: list[tuple[int, str]] = []
        self._names_lock = threading.Lock()
        self._is_configured = self._is_started = self._is_closed = False
        self._client: Any = None
        self._finalise: int | None = None
        self._configure_callback = CONFIGURE(self._on_configure)
        self._initialize_callback = INITIALIZE(self._on_initialize)
        self._deliver_callback = BUFFER_CALLBACK(self._on_delivery)
        self._symbol_callback = code_object_callback(library.layout)(self._on_symbol)
        self._agent_callback = AGENT_CALLBACK(self._on_agents)
        self._agents: list[dict[str, object]] = []
        # No finalizer: the library would call it after Python's end. See `close`.
        self._answer = _abi.ToolConfigureResult(
            sizeof(_abi.ToolConfigureResult), cast(self._initialize_callback, ctypes.c_void_p)
        )

    def configure(self) -> bool:
        """Become a tool of this process; say whether that went well. Why not is in the spool."""
        try:
            self.library.call("rocprofiler_force_configure", self._configure_callback)
        except SdkError as error:
            self._report(error)
        return self._is_configured

    def start(self) -> None:
        """Begin to record what is launched from now on."""
        try:
            # Late: numpy is the server's, which may not have imported it when it began.
            from . import payloads
        except ImportError as error:
            self._report(error)
            return
        self._blocks = payloads.blocks
        if self._is_started or self._is_closed:
            return
        if self._switch("rocprofiler_start_context", self._context):
            self._is_started = True
            self._spool.tell(wire.STARTED, {"monotonic_ns": time.monotonic_ns()})

    def stop(self) -> None:
        """Record no more, and pass on what is there. What runs on for longer will be missing."""
        if self._is_started and not self._is_closed:
            self._is_started = False
            self._switch("rocprofiler_stop_context", self._context)
            self._flush()
            time.sleep(DRAIN_S)
            self._flush()
            self._send_names()
            self._spool.tell(wire.TOTALS, vars(self.totals))
            self._spool.tell(wire.STOPPED, {"monotonic_ns": time.monotonic_ns()})

    def close(self) -> None:
        """End for good, while Python still runs: a callback after its end would crash."""
        if self._is_closed:
            return
        self.stop()
        self._is_closed = True
        if self._is_configured:
            self._switch("rocprofiler_stop_context", self._names_context)
            if self._finalise:
                ctypes.CFUNCTYPE(None, type(self._client))(self._finalise)(self._client)
        self._spool.close()

    def abandon(self) -> None:
        """In a forked child: the library's threads are not here, so nothing may wait for them."""
        if not self._is_closed:
            self._is_closed = True
            self._spool.abandon()
            if self._is_started:
                self._switch("rocprofiler_stop_context", self._context)

    def _switch(self, function: str, context: _abi.ContextId) -> bool:
        try:
            self.library.call(function, context)
        except SdkError as error:
            self._report(error)
            return False
        return True

    def _flush(self) -> None:
        for buffer in self._buffers:
            try:
                self.library.call("rocprofiler_flush_buffer", buffer)
            except SdkError as error:
                if error.status not in (Status.BUFFER_BUSY, Status.FINALIZED):
                    self._report(error)

    def _report(self, error: Exception) -> None:
        refusal = error if isinstance(error, SdkError) else None
        text = str(error) if refusal else f"{type(error).__name__}: {error}"
        status = refusal.status if refusal else None
        self._spool.tell(wire.PROBLEM, {"status": status, "text": text})

    # What the library calls. Nothing may be raised into it.

    def _on_configure(self, _version: int, _text: bytes, _priority: int, client_at: int) -> int:
        client = cast(client_at, POINTER(self.library.layout.client_id)).contents
        client.name = TOOL_NAME
        # A copy: the library may move its own.
        self._client = type(client).from_buffer_copy(client)
        return ctypes.addressof(self._answer)

    def _on_initialize(self, finalise: int, _data: object) -> int:
        try:
            self._finalise = finalise
            self._set_up()
            self._is_configured = True
        except Exception as error:
            self._report(error)
            return -1
        return 0

    def _set_up(self) -> None:
        """Make the contexts and buffers, which is allowed only now."""
        library, options = self.library, self._options
        library.call(
            "rocprofiler_query_available_agents", _abi.AgentVersion.INFO_VERSION_0,
            self._agent_callback, sizeof(_abi.Agent), None,
        )  # fmt: skip
        library.call("rocprofiler_create_context", byref(self._names_context))
        symbols = (c_int32 * 1)(_abi.CodeObjectOperation.DEVICE_KERNEL_SYMBOL_REGISTER)
        library.call(
            "rocprofiler_configure_callback_tracing_service", self._names_context,
            _abi.CallbackKind.CODE_OBJECT, symbols, len(symbols), self._symbol_callback, None,
        )  # fmt: skip
        library.call("rocprofiler_create_context", byref(self._context))
        thread = _abi.CallbackThread()
        library.call("rocprofiler_create_callback_thread", byref(thread))
        kinds = library.buffer_kinds()
        wanted = {KERNEL_DISPATCH: options.kernel_buffer_bytes, MEMORY_COPY: OTHER_BUFFER_BYTES}
        if options.is_hip_traced:
            wanted[HIP_RUNTIME_API] = options.kernel_buffer_bytes
        for kind, size_bytes in wanted.items():
            self._add_buffer(kinds[kind], size_bytes, thread)
        marks = {name: wire.mark_of(_abi.BufferCategory.TRACING, kinds[name]) for name in wanted}
        calls = library.operation_names(kinds[HIP_RUNTIME_API]) if options.is_hip_traced else {}
        self._spool.tell(
            wire.HELLO,
            {
                "pid": os.getpid(), "library": str(library.path), "version": library.version,
                "agents": self._agents, "marks": marks, "policy": options.policy,
                "calls": sorted(calls.items()),
            },
        )  # fmt: skip
        library.call("rocprofiler_start_context", self._names_context)

    def _add_buffer(self, kind: int, size_bytes: int, thread: _abi.CallbackThread) -> None:
        buffer = _abi.BufferId()
        self.library.call(
            "rocprofiler_create_buffer", self._context, size_bytes, size_bytes // 8 * 7,
            self._options.policy, self._deliver_callback, None, byref(buffer),
        )  # fmt: skip
        self._buffers.append(buffer)
        self.library.call(
            "rocprofiler_configure_buffer_tracing_service", self._context, kind, None, 0, buffer
        )
        self.library.call("rocprofiler_assign_callback_thread", buffer, thread)

    def _on_agents(self, _version: int, agents: Any, count: int, _data: object) -> int:
        for agent in (agents[number].contents for number in range(count)):
            self._agents.append(
                {
                    "id": agent.id,
                    "is_gpu": agent.type == _abi.AgentType.GPU,
                    "index": agent.logical_node_type_id,
                    "name": (agent.product_name or agent.name or b"").decode("utf-8", "replace"),
                }
            )
        return Status.SUCCESS

    def _on_symbol(self, record: Any, _user_data: object, _data: object) -> None:
        if self._is_closed or record.phase != CallbackPhase.LOAD:
            return
        symbol = cast(record.payload, POINTER(_abi.KernelSymbol)).contents
        name = (symbol.kernel_name or b"").decode("utf-8", "replace")
        with self._names_lock:
            self._names.append((symbol.kernel_id, name))
            is_full = len(self._names) >= NAME_BATCH
        if is_full:
            self._send_names()

    def _send_names(self) -> None:
        with self._names_lock:
            names, self._names = self._names, []
        if names:
            self._spool.tell(wire.KERNELS, names)

    def _on_delivery(
        self, _context: int, _buffer: int, headers: int, count: int, _data: object,
        drop_count: int,
    ) -> None:  # fmt: skip
        entered_ns, free_ns = time.monotonic_ns(), self._spool.free_ns
        if self._is_closed:
            return
        if self._names:
            self._send_names()  # before the records that need them
        try:
            for block in self._blocks(headers, count):
                head = wire.RECORDS.pack(block.mark, block.stride, block.record_count, drop_count)
                if not self._spool.write(wire.DATA, head, block.memory):
                    self.totals.unwritten_count += block.record_count
        except ValueError:
            self.totals.unreadable_count += count
        spent_ns = time.monotonic_ns() - entered_ns
        self.totals.note(spent_ns - (self._spool.free_ns - free_ns), count)
