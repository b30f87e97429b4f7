"""Scenarios: the study's eight, scaling, and what cannot be run."""

from __future__ import annotations

import json

import pytest

from collectors.errors import ExitCode
from profiler.load.scenario import STUDY, Arrivals, Kind, Scenario, ScenarioInvalid, WarmUp
from profiler.load.scenario_file import choose, from_json, read_scenarios


def write(tmp_path, text):
    path = tmp_path / "load.toml"
    path.write_text(text)
    return path


def test_the_study_is_as_it_was_run():
    # Users, prompt tokens, batches: the arguments of the study's own script
    expected = {
        "single_1k": (1, 1_000, 5),
        "single_8k": (1, 8_000, 5),
        "single_32k": (1, 32_000, 3),
        "single_100k": (1, 100_000, 3),
        "conc4_8k": (4, 8_000, 5),
        "conc16_32k": (16, 32_000, 3),
        "conc32_32k": (32, 32_000, 3),
        "conc32_100k": (32, 100_000, 2),
    }

    scenarios = read_scenarios(STUDY)

    assert {one.name: (one.users, one.prompt_tokens, one.batches) for one in scenarios} == expected
    assert {one.max_tokens for one in scenarios} == {64}
    assert {one.warm_up for one in scenarios} == {WarmUp(3, 1_000, 16)}
    assert not any(one.shared_prompt for one in scenarios)


def test_scaling_shortens_prompts_and_answers_and_spares_the_users():
    whole = Scenario(
        "a", users=32, prompt_tokens=1_000, max_tokens=64, batches=2, warm_up=WarmUp(3, 100, 16)
    )

    scaled = whole.scaled(0.1)

    assert (scaled.prompt_tokens, scaled.max_tokens) == (100, 6)
    assert scaled.warm_up == WarmUp(3, 10, 2)
    assert (scaled.users, scaled.batches) == (32, 2)


def test_scaling_leaves_at_least_one_token():
    scaled = Scenario("a", users=1, prompt_chars=10, max_tokens=4, requests=1).scaled(0.001)

    assert (scaled.prompt_chars, scaled.prompt_tokens, scaled.max_tokens) == (1, None, 1)


def test_a_file_with_defaults_and_all_fields(tmp_path):
    path = write(
        tmp_path,
        """
        [defaults]
        prompt_tokens = 10
        warm_up = 2
        [[scenario]]
        name = "open"
        kind = "completion"
        rate_hz = 20
        arrivals = "burst"
        burst_count = 5
        seconds = 2.5
        shared_prompt = true
        ignore_eos = false
        timeout_s = 3
        seed = -1
        [[scenario]]
        name = "closed"
        users = 2
        requests = 7
        warm_up = { requests = 1, max_tokens = 4 }
        """,
    )

    opened, closed = read_scenarios(path)

    assert (opened.kind, opened.arrivals) == (Kind.COMPLETION, Arrivals.BURST)
    assert (opened.is_open, opened.request_count) == (True, None)
    assert opened.warm_up == WarmUp(2)
    assert (closed.is_open, closed.request_count) == (False, 7)
    assert closed.warm_up == WarmUp(1, None, 4)


@pytest.mark.parametrize("scenario", read_scenarios(STUDY), ids=lambda scenario: scenario.name)
def test_a_scenario_survives_json(scenario):
    assert from_json(json.loads(json.dumps(scenario.to_json()))) == scenario


GOOD = {"name": "a", "users": 1, "prompt_tokens": 10, "requests": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no/directory"},
        {"name": "warm-up"},
        {"name": ""},
        {"name": 3},
        {"users": None},
        {"rate_hz": 3.0},
        {"prompt_chars": 10},
        {"prompt_tokens": None},
        {"requests": None},
        {"seconds": 3.0},
        {"users": None, "rate_hz": 1.0, "requests": None, "batches": 1},
        {"users": 0},
        {"users": True},
        {"users": 1.5},
        {"users": "1"},
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"max_tokens": -1},
        {"kind": "telepathy"},
        {"arrivals": "never"},
        {"shared_prompt": 1},
        {"colour": "red"},
        {"warm_up": -1},
        {"warm_up": "some"},
        {"warm_up": {"colour": "red"}},
        {"warm_up": {"requests": 1, "prompt_tokens": 0}},
    ],
)
def test_what_cannot_be_run_is_refused(change):
    table = {name: value for name, value in (GOOD | change).items() if value is not None}

    with pytest.raises(ScenarioInvalid):
        from_json(table)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "scenario = 3",
        "scenario = [1]",
        "[[scenario]]\nname = 'a'",
        "not toml",
        "[other]\n[[scenario]]\nname='a'\nusers=1\nprompt_tokens=1\nrequests=1",
        2 * "[[scenario]]\nname='a'\nusers=1\nprompt_tokens=1\nrequests=1\n",
    ],
)
def test_a_file_that_holds_no_scenarios_is_a_bad_input(tmp_path, text):
    with pytest.raises(ScenarioInvalid) as refused:
        read_scenarios(write(tmp_path, text))

    assert refused.value.exit_code == ExitCode.BAD_INPUT


def test_scenarios_are_chosen_by_name():
    chosen = choose(read_scenarios(STUDY), ["conc4_8k"], scale=0.5, shared_prompt=True)

    assert [(one.name, one.prompt_tokens) for one in chosen] == [("conc4_8k", 4_000)]
    assert chosen[0].shared_prompt


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ScenarioInvalid, match="single_1k"):
        choose(read_scenarios(STUDY), ["single_2k"], scale=1.0, shared_prompt=False)
