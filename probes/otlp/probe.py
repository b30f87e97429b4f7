"""The OTLP probe: receives the server's own trace spans while recording.

The server is started with ``--otlp-traces-endpoint`` (docs/otlp.md) and cannot be told later.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import socket
from typing import Final

from collectors.errors import ProbeUnavailable
from collectors.manifest import ProbeRecord
from probes.base import Capability, Context, Level
from probes.otlp import LOOPBACK
from probes.otlp.grpc_receiver import GrpcReceiver
from probes.otlp.http_receiver import PATH, HttpReceiver
from probes.otlp.intake import Intake
from probes.target import Process, Target

GRPC_PORT: Final = 4317  # the registered ones: https://opentelemetry.io/docs/specs/otlp/
HTTP_PORT: Final = 4318
_MODULES: Final = ("grpc", "google.protobuf", "opentelemetry.proto")


class OtlpProbe:
    """Writes a row of ``requests`` for every request that the server reports as finished."""

    name = "otlp"

    def __init__(self, grpc_port: int = GRPC_PORT, http_port: int = HTTP_PORT) -> None:
        """Prepare a probe for these ports; 0 takes any that is free."""
        self._ports = {"gRPC": grpc_port, "HTTP": http_port}
        self._target_pids: set[int] = set()  # as the processes themselves see them
        self._context: Context
        self._intake: Intake
        self._receivers: tuple[GrpcReceiver, HttpReceiver]

    @property
    def kept_count(self) -> int:
        """How many requests were kept so far: a driver can wait here for its last ones."""
        return self._intake.counts.kept_count

    @property
    def grpc_endpoint(self) -> str:
        """What ``--otlp-traces-endpoint`` is to be for gRPC, once started."""
        return f"http://{LOOPBACK}:{self._receivers[0].port}"

    @property
    def http_endpoint(self) -> str:
        """What ``--otlp-traces-endpoint`` is to be for HTTP, once started."""
        return f"http://{LOOPBACK}:{self._receivers[1].port}{PATH}"

    def check(self, target: Target) -> Capability:
        """Look for the packages and the ports. Whether the server sends shows only later."""
        missing = [name for name in _MODULES if not _is_installed(name)]
        if missing:
            return Capability(
                self.name, Level.UNAVAILABLE, f"not installed: {', '.join(missing)}",
                "pip install 'cputax[otlp]'",
            )  # fmt: skip
        for transport, port in self._ports.items():
            reason = _refusal(port)
            if reason is not None:
                return self._unavailable(f"the {transport} port {LOOPBACK}:{port} {reason}")
        return Capability(self.name, Level.WORKS)

    def start(self, context: Context) -> None:
        """Listen.

        Raises:
            ProbeUnavailable: a port was taken since `check`.
        """
        self._context = context
        for process in context.target.processes.values():
            self.add(process)
        self._intake = Intake(
            context.recorder, self.name, self._target_pids.__contains__, self._show
        )
        try:
            http = HttpReceiver(self._ports["HTTP"], self._intake)
        except OSError as error:
            raise self._lost("HTTP") from error
        try:
            self._receivers = (GrpcReceiver(self._ports["gRPC"], self._intake), http)
        except RuntimeError as error:
            http.close()
            raise self._lost("gRPC") from error
        for receiver in self._receivers:
            receiver.serve()
        self._show(0)

    def add(self, process: Process) -> None:
        """Take the spans of this process, too."""
        with contextlib.suppress(ProcessLookupError):
            status = self._context.target.procfs.status(process.pid)
            self._target_pids.add(status.inner_pids[-1])

    def stop(self) -> ProbeRecord:
        """Stop listening and say what came."""
        endpoints = {"grpc_endpoint": self.grpc_endpoint, "http_endpoint": self.http_endpoint}
        for receiver in self._receivers:
            receiver.close()
        self._intake.close()
        record = Capability(self.name, Level.WORKS).record()
        record.detail = {**endpoints, **self._intake.counts.to_json()}
        return record

    def _show(self, kept_count: int) -> None:
        text = f"{kept_count} requests; gRPC at {self.grpc_endpoint}, HTTP at {self.http_endpoint}"
        self._context.on_status(self.name, text)

    def _unavailable(self, reason: str) -> Capability:
        return Capability(
            self.name, Level.UNAVAILABLE, reason,
            "end what listens there, or take others: --otlp-grpc-port 0 --otlp-http-port 0",
        )  # fmt: skip

    def _lost(self, transport: str) -> ProbeUnavailable:
        reason = f"the {transport} port {LOOPBACK}:{self._ports[transport]} cannot be had"
        return ProbeUnavailable(reason, self._unavailable(reason).remedy or "")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not
        return False


def _refusal(port: int) -> str | None:
    """Why this port cannot be listened on; None when it can."""
    with socket.socket() as probe:
        # As the receivers do: a port where old connections linger can be had, one in use cannot.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "is taken"
            return f"is refused ({errno.errorcode.get(error.errno or 0, 'unknown')})"
    return None
