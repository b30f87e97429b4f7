"""What the OTLP probe says before it starts, and what it costs those who do not use it."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from probes.base import Level
from probes.otlp.probe import OtlpProbe
from probes.target import find_target
from tests.unit.test_imports import modules_after


def check(probe: OtlpProbe):
    return probe.check(find_target(os.getpid()))


def test_naming_the_probe_does_not_load_its_packages():
    loaded = modules_after("import probes.otlp, probes.otlp.probe")

    assert "probes" in loaded
    assert not loaded & {"grpc", "google", "opentelemetry"}


def test_with_free_ports_it_works():
    assert check(OtlpProbe(0, 0)).level is Level.WORKS


@pytest.mark.parametrize("package", ["grpc", "google.protobuf", "opentelemetry.proto"])
def test_without_its_packages_it_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)

    capability = check(OtlpProbe(0, 0))

    assert capability.level is Level.UNAVAILABLE
    assert capability.reason == f"not installed: {package}"
    assert capability.remedy == "pip install 'cputax[otlp]'"


@pytest.mark.parametrize("transport", ["gRPC", "HTTP"])
def test_a_taken_port_is_named(transport):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        capability = check(OtlpProbe(port, 0) if transport == "gRPC" else OtlpProbe(0, port))

    assert capability.level is Level.UNAVAILABLE
    assert capability.reason == f"the {transport} port 127.0.0.1:{port} is taken"
    assert "-port 0" in (capability.remedy or "")
