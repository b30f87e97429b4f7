"""Which stage a stack belongs to."""

from __future__ import annotations

import re

import pytest
from captures import (
    DETOKENIZE,
    LOOP_IDLE,
    POOL_IDLE,
    SCHEDULE,
    SITE,
    SPIN,
    TOKENIZE,
    UNKNOWN,
    CaptureBuilder,
)
from hypothesis import given
from hypothesis import strategies as st

from analyzers.stages import StageMap, bare_pattern, classify, load_rules
from analyzers.timeline import Timeline
from profiler.oracle import stages as oracle

VLLM = StageMap(load_rules("vllm"))


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        (TOKENIZE, "tokenize"),
        (POOL_IDLE, "idle"),
        (SCHEDULE, "schedule"),
        (DETOKENIZE, "detokenize"),
        (LOOP_IDLE, "idle"),
        (SPIN, "spin_wait"),
        (UNKNOWN, "unknown"),
        ([], "unknown"),
        # A wait inside a stage is a wait, also when the file is in a namesake's path.
        ([*TOKENIZE, ("Condition.wait", "/usr/lib/python3.11/threading.py")], "idle"),
        ([("Condition.wait", "/srv/mythreading.py")], "unknown"),
        # A wait frame that is no leaf says nothing: its callee does.
        ([("Thread.run", "/usr/lib/python3.11/threading.py"), *UNKNOWN], "unknown"),
    ],
)
def test_the_frame_nearest_to_the_leaf_decides(frames: list[tuple[str, str]], stage: str) -> None:
    assert VLLM.stack(frames, "api_server") == stage


def test_a_rule_with_roles_holds_only_there() -> None:
    frames = [("Queue.put", "/usr/lib/python3.11/queue.py")]
    assert VLLM.stack([*frames, ("x", "/a.py")], "engine_core") == "ipc_send"
    assert VLLM.stack([*frames, ("x", "/a.py")], "worker") == "unknown"


def test_a_fallback_is_asked_only_when_nothing_else_matches() -> None:
    encoder = ("dumps", "/usr/lib/python3.11/json/__init__.py")
    assert VLLM.stack([encoder], "api_server") == "sse_write"
    assert VLLM.stack([*SCHEDULE, encoder], "engine_core") == "schedule"


def test_native_rules_leave_python_functions_of_the_same_name_alone() -> None:
    assert VLLM.stack([("epoll_wait", "/srv/app.py")], "worker") == "unknown"
    assert VLLM.stack([("epoll_wait", "/usr/lib/libc.so.6")], "worker") == "idle"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"Runner\.run", ["run"]),
        (r"(Condition|Event)\.wait|Thread\.(join|run)", ["wait", "join", "run"]),
        (r".*\.select", ["select"]),
        (r"WorkerProc\.(a|b)|_ops", ["a", "b", "_ops"]),
        (r".*", ["anything"]),
    ],
)
def test_old_pythons_show_no_class(pattern: str, names: list[str]) -> None:
    for name in names:
        assert re.fullmatch(bare_pattern(pattern), name)
    assert pattern == ".*" or not re.fullmatch(bare_pattern(pattern), "other")


def test_sending_stays_sending_without_a_class() -> None:
    bare = StageMap(load_rules("vllm"), has_qualified_names=False)
    assert bare.stack([("send", f"{SITE}/zmq/sugar/socket.py")], "api_server") == "ipc_send"
    assert bare.stack([("recv", f"{SITE}/zmq/sugar/socket.py")], "api_server") == "ipc_recv"


names = st.sampled_from(TOKENIZE + SCHEDULE + DETOKENIZE + SPIN + UNKNOWN)


@given(st.lists(st.lists(names, min_size=1, max_size=6), min_size=1, max_size=8))
def test_the_walk_over_the_tree_agrees_with_each_stack(stacks: list[list[tuple[str, str]]]) -> None:
    made = CaptureBuilder()
    process = made.process("api_server")
    thread = made.thread(process, tid=1)
    made.run(thread, 0, 1, [("a.b", "/has/qualified/names")])
    for frames in stacks:
        made.run(thread, 1, 2, frames)
    found = classify(Timeline(made.build()))
    for frames in stacks:
        leaf = made.stacks.stack([made.stacks.frame(*frame) for frame in frames])
        stage = found.map.stages[found.codes["api_server"][leaf]]
        assert stage == VLLM.stack(frames, "api_server")


def test_the_oracle_s_rules_say_what_the_oracle_says() -> None:
    rules = StageMap(load_rules("oracle"))
    for role, places in oracle.STAGES.items():
        for (function, file), stage in places.items():
            expected = "idle" if stage in oracle.WAITS else stage.value
            assert rules.stack([(function, f"/opt/{file}")], role) == expected, (role, function)
