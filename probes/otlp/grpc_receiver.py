"""OTLP over gRPC: ``TraceService/Export`` on the loopback interface.

The protocol: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from probes.otlp import LOOPBACK
from probes.otlp.intake import Intake, IntakeClosed
from probes.otlp.messages import MAX_BODY_BYTES, MessageRefused

if TYPE_CHECKING:
    import grpc

THREADS: Final = 2  # a message takes milliseconds, and API servers send one every few seconds
MAX_CALLS: Final = 16  # at a time; the rest is told to come again
STOP_S: Final = 0.5
OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # by default a second receiver gets half of the messages
    # Also of what it inflates. A longer one is refused before we hear of it: it is not counted.
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
)


class GrpcReceiver:
    """Has its port from the beginning, answers from `serve` until `close`."""

    def __init__(self, port: int, intake: Intake) -> None:
        """Take the port; 0 takes any that is free.

        Raises:
            RuntimeError: the port cannot be had.
        """
        import grpc
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        self._intake = intake
        service = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"]
        # Bytes in, bytes out: the generated servicer parses before it calls us, and what it cannot
        # parse it prints to stderr and does not count.
        handlers = {"Export": grpc.unary_unary_rpc_method_handler(self._export)}
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="otlp-grpc"),
            options=OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        handler = grpc.method_handlers_generic_handler(service.full_name, handlers)
        self._server.add_generic_rpc_handlers((handler,))
        self.port: int = self._server.add_insecure_port(f"{LOOPBACK}:{port}")

    def serve(self) -> None:
        """Begin to answer."""
        self._server.start()

    def close(self) -> None:
        """Let the port go; calls in progress have half a second."""
        self._server.stop(STOP_S).wait(STOP_S)

    def _export(self, body: bytes, call: grpc.ServicerContext) -> bytes:
        import grpc

        try:
            return self._intake.take(body)
        except IntakeClosed:
            call.abort(grpc.StatusCode.UNAVAILABLE, "the recording has ended")
        except MessageRefused as error:
            self._intake.refuse(str(error))
            call.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        raise AssertionError("abort raises")
