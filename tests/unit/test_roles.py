"""Roles from titles and command lines."""

from __future__ import annotations

import pytest

from probes import roles


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("VLLM::APIServer_3", roles.API_SERVER),
        ("VLLM::EngineCore", roles.ENGINE_CORE),
        ("VLLM::EngineCore_DP1", roles.ENGINE_CORE),
        ("VLLM::Worker", roles.WORKER),
        ("VLLM::Worker_PP1_TP0", roles.WORKER),
        ("VLLM::DPCoordinator", roles.DP_COORDINATOR),
        ("a.b-c_d::EngineCore_0", roles.ENGINE_CORE),
    ],
)
def test_a_title_tells_the_role(title, role):
    assert roles.classify([title]) == (role, "vllm")


@pytest.mark.parametrize("title", ["VLLM::", "VLLM::Nonsense", "::Worker", "VLLM:Worker", "Worker"])
def test_what_is_no_title_has_no_role(title):
    assert roles.classify([title])[0] is None


def test_a_kernel_thread_is_something_else():
    assert roles.classify([]) == (None, roles.OTHER)


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("VLLM::Worker", ()),
        ("VLLM::Worker_TP3", (("TP", 3),)),
        ("VLLM::Worker_DP1_PP2_TP10", (("DP", 1), ("PP", 2), ("TP", 10))),
        ("VLLM::Worker_DP0_TP0_EP0", (("DP", 0), ("TP", 0), ("EP", 0))),
    ],
)
def test_ranks_are_read_from_a_workers_title(title, key):
    assert roles.rank_key([title]) == key


@pytest.mark.parametrize(
    ("cmdline", "model"),
    [
        (["vllm", "serve", "a/b"], "a/b"),
        (["vllm", "serve", "a/b", "--served-model-name", "nice"], "nice"),
        (["vllm", "serve", "--model=a/b"], "a/b"),
        (["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "a/b"], "a/b"),
        (["vllm", "serve", "--port", "1"], None),
        (["vllm", "serve"], None),
        (["x", "--model"], None),
    ],
)
def test_the_model_is_what_it_is_served_as(cmdline, model):
    assert roles.served_model(cmdline) == model
