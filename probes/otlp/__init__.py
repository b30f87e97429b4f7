"""The server's own word on each request: a loopback receiver for its trace spans (OTLP).

grpcio and protobuf are an extra and take their time to load, so nothing here imports them before a
receiver starts.
"""

from __future__ import annotations

from typing import Final

LOOPBACK: Final = "127.0.0.1"  # where it listens, and nowhere else
