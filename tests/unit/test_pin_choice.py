"""Masks that a user names: on the command line, and in a file."""

from __future__ import annotations

import json

import pytest

from probes import roles
from profiler.pin.choice import ChoiceInvalid, PlanFileInvalid, from_file, with_choices
from profiler.pin.plan import Member, Placement, Plan
from profiler.pin.plan_tables import commands, plan_document

ALLOWED = frozenset(range(4))


@pytest.fixture
def plan() -> Plan:
    api = Member(10, 1, roles.API_SERVER, "api", ALLOWED, (10, 11))
    workers = [
        Member(
            pid, 10, roles.WORKER, "worker", ALLOWED, (pid, pid + 1),
            bound=frozenset({3}), bound_count=1,
        )
        for pid in (30, 40)
    ]  # fmt: skip
    return Plan(
        (
            Placement(api, frozenset({0}), "because"),
            *(Placement(one, None, "as it is") for one in workers),
        ),
        ("a note",),
    )


def proposed(plan: Plan) -> dict[int, list[int]]:
    return {one.member.pid: sorted(one.proposed or ()) for one in plan.placements}


def test_a_role_names_all_its_processes_and_a_pid_one(plan):
    assert proposed(with_choices(plan, ["worker=1-2"], ALLOWED)) == {
        10: [0],
        30: [1, 2],
        40: [1, 2],
    }
    assert proposed(with_choices(plan, ["40=3"], ALLOWED)) == {10: [0], 30: [], 40: [3]}


def test_the_last_choice_wins(plan):
    chosen = with_choices(plan, ["worker=1", "30=2"], ALLOWED)
    assert proposed(chosen) == {10: [0], 30: [2], 40: [1]}


@pytest.mark.parametrize("choice", ["worker=4", "worker=0-9", "worker=", "worker", "worker=x"])
def test_cpus_that_are_none_or_not_the_servers_are_refused(plan, choice):
    with pytest.raises(ChoiceInvalid, match="0-3"):
        with_choices(plan, [choice], ALLOWED)


def test_a_process_that_is_none_of_the_server_is_refused_and_the_roles_are_named(plan):
    with pytest.raises(ChoiceInvalid, match="scheduler") as caught:
        with_choices(plan, ["scheduler=1"], ALLOWED)
    assert "api_server, worker" in caught.value.remedy


def test_a_plan_that_was_printed_is_read_back(plan, tmp_path):
    path = tmp_path / "plan.json"
    document = plan_document(plan, 10, ALLOWED)
    document["placements"][1]["proposed"] = "2-3"
    path.write_text(json.dumps(document))
    assert proposed(from_file(plan, path, ALLOWED)) == {10: [0], 30: [2, 3], 40: []}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"placements": [{"pid": 10}]}', '{"placements": 3}', "\0"]
)
def test_a_file_that_holds_no_plan_is_refused(plan, tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanFileInvalid, match="holds no plan"):
        from_file(plan, path, ALLOWED)


def test_a_plan_of_another_server_is_refused(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"placements": [{"pid": 99, "proposed": "0"}]}))
    with pytest.raises(PlanFileInvalid, match="other processes"):
        from_file(plan, path, ALLOWED)


def test_a_file_that_names_cpus_of_others_is_refused(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"placements": [{"pid": 10, "proposed": "77"}]}))
    with pytest.raises(ChoiceInvalid, match="77"):
        from_file(plan, path, ALLOWED)


def test_commands_carry_the_plan_out_and_take_it_back(plan):
    assert commands(plan) == ["taskset -apc 0 10"]
    assert commands(plan, undo=True) == ["taskset -apc 0-3 10"]


def test_commands_leave_threads_alone_that_were_bound_on_purpose(plan):
    chosen = with_choices(plan, ["40=1"], ALLOWED)
    assert commands(chosen)[1] == "for t in 40 41; do taskset -pc 1 $t; done"
