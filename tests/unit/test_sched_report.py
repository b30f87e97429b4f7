"""The scheduling sections of the document, whole and with parts missing."""

from __future__ import annotations

import json

import pytest
from captures import TOKENIZE
from sched_captures import PREEMPTED, SchedBuilder

from analyzers.analysis import analyze
from analyzers.sched.report import ANALYZER
from collectors.schema import TABLES

SECTIONS = (
    "switches", "sched_threads", "sched_roles", "sched_stages", "preemptions", "occupants",
    "yields", "gil_cpu",
)  # fmt: skip


def made_server() -> SchedBuilder:
    made = SchedBuilder(seconds=1)
    process = made.process("api_server", pid=1)
    thread = made.thread(process, tid=1)
    cron = made.outsider(9, "cron")
    made.run(thread, 0, 1000, TOKENIZE)
    for ms in range(0, 1000, 20):
        made.stay(thread, ms, ms + 15, PREEMPTED, to=cron, cpu=ms % 2)
        made.gil(process, ms, holder=thread, waiter_count=1)
        made.gil(process, ms + 17, holder=thread, waiter_count=1)
        made.look(thread, ms, run=0.75 * ms, wait=0.25 * ms)
    made.gap("switches", 400, 410)
    made.machine(nodes={0: [0, 1]}, gpus={}, processes={1: {"cpus": [0, 1], "gpus": []}})
    return made


def test_all_sections_are_there() -> None:
    document = analyze(made_server().build()).to_json()

    json.dumps(document, allow_nan=False)
    assert all(document[name] for name in SECTIONS if name != "yields")
    assert document["switches"]["slice_count"] == 50
    assert document["switches"]["gap_count"] == 1
    assert document["switches"]["lost_count"] is None
    assert document["switches"]["wake"] == "measured"
    assert {"preemption", "gil-without-cpu"} <= {one["slug"] for one in document["findings"]}


@pytest.mark.parametrize("left_out", sorted(set(TABLES) - {"cpu_slices"}))
def test_any_other_table_may_be_missing(left_out: str) -> None:
    capture = made_server().build()
    capture.tables[left_out] = TABLES[left_out].empty_table()

    json.dumps(analyze(capture).to_json(), allow_nan=False)


def test_without_switches_one_sentence_says_so_and_how_to_get_them() -> None:
    made = SchedBuilder(seconds=1)
    thread = made.thread(made.process("worker"), tid=1)
    for ms in (0, 1000):
        made.look(thread, ms, run=ms, wait=0)
    made.probe("switches", "unavailable", reason="perf_event_paranoid is 3", remedy="set it to 2")

    analysis = analyze(made.build())

    (said,) = [one for one in analysis.findings if "switch" in one.statement]
    assert (said.slug, said.abstained, said.remedy) == (ANALYZER.name, True, "set it to 2")
    assert analysis.sections["switches"] is None
    assert analysis.sections["cpu_demand"]["source"] == "counters"
