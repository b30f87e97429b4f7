"""vLLM's command line, read as its own parser reads it."""

from __future__ import annotations

import pytest
from doctor_evidence import server

from profiler.doctor import settings
from profiler.doctor.arguments import parse_arguments
from profiler.doctor.evidence import CannotTell


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--enforce-eager"], True),
        (["--enforce_eager"], True),
        (["--no-enforce-eager"], False),
        (["--enforce-eager", "--no-enforce-eager"], False),
        (["--no-enforce-eager", "--enforce-eager"], True),
        ([], None),
    ],
)
def test_switches(words: list[str], expected: bool | None) -> None:
    assert parse_arguments(["vllm", "serve", "m", *words]).switch("enforce-eager") is expected


@pytest.mark.parametrize(
    "words",
    [
        ["--tensor-parallel-size", "4"],
        ["--tensor-parallel-size=4"],
        ["--tensor_parallel_size=4"],
        ["-tp", "4"],
        ["-tp=4"],
    ],
)
def test_values(words: list[str]) -> None:
    assert parse_arguments(["vllm", "serve", *words]).value("tensor-parallel-size") == "4"


@pytest.mark.parametrize(
    "words",
    [
        ["--compilation-config", '{"cudagraph_mode": "NONE", "mode": 3}'],
        ["--compilation_config.cudagraph_mode=NONE", "--compilation-config.mode", "3"],
        ["-cc.cudagraph_mode", "NONE", "-cc.mode=3"],
        ["-O.cudagraph_mode=NONE", "-O.mode=3"],
        ["-cc", '{"mode": 3}', "-cc.cudagraph_mode=NONE"],
    ],
)
def test_objects(words: list[str]) -> None:
    arguments = parse_arguments(["vllm", "serve", *words])

    assert arguments.object("compilation-config") == {"cudagraph_mode": "NONE", "mode": 3}


def test_nested_keys() -> None:
    words = ["--profiler-config.a.b", "1", "--profiler-config.a.c=x", "--profiler-config.a.b.d=2"]

    assert parse_arguments(words).object("profiler-config") == {"a": {"b": 1, "c": "x"}}


def test_what_is_no_object_is_refused() -> None:
    evidence = server("--kv-transfer-config", "[1]")

    with pytest.raises(CannotTell, match="no JSON object"):
        settings.connectors(evidence)


def test_the_command_line_outranks_the_file() -> None:
    file = {"enforce-eager": "true", "port": "8000", "enable-prefix-caching": "False"}
    arguments = parse_arguments(["vllm", "serve", "m", "--no-enforce-eager"], file)

    assert arguments.switch("enforce-eager") is False
    assert arguments.switch("enable-prefix-caching") is False
    assert arguments.value("port") == "8000"


@pytest.mark.parametrize(
    ("words", "version", "mode"),
    [
        ([], "0.11.0", "FULL_AND_PIECEWISE"),
        ([], "v0.10.1", "PIECEWISE"),
        (["-O3"], "0.32.0+cu129", "FULL_AND_PIECEWISE"),
        (["-O", "1"], "0.32.0", "PIECEWISE"),
        (["-O=0"], "0.32.0", "NONE"),
        (["--optimization-level", "0"], "0.32.0", "NONE"),
        (["-O0", "-cc.cudagraph_mode=full"], "0.32.0", "FULL"),
    ],
)
def test_graph_modes_by_version(words: list[str], version: str, mode: str) -> None:
    assert settings.graph_mode(server(*words, version=version)) == mode


def test_connectors_behind_offloading() -> None:
    native = server("--kv-offloading-size", "8")
    lmcache = server("--kv-offloading-size", "8", "--kv-offloading-backend", "lmcache")

    assert [one.name for one in settings.connectors(native)] == ["OffloadingConnector"]
    assert [one.name for one in settings.connectors(lmcache)] == ["LMCacheMPConnector"]
