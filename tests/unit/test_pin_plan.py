"""Plans on machines of four nodes, of hyperthreads, of two CPUs, and within a cpuset."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes import roles
from probes.host.topology import Cpu, Node, Topology
from profiler.pin.affinity import Mask
from profiler.pin.cores import Cores
from profiler.pin.plan import API_CORES, TOOL, Member, Plan, propose

API, CORE, WORKER = 10, 20, 30


def machine(nodes: int, cores: int, threads: int = 1) -> Topology:
    """Make a machine whose CPUs are numbered as Linux does it: first threads of all cores first."""
    core_count = nodes * cores
    siblings = {
        core + thread * core_count: tuple(core + t * core_count for t in range(threads))
        for core in range(core_count)
        for thread in range(threads)
    }
    cpus = tuple(
        Cpu(cpu, min(own) // cores, min(own) // cores, own, min(own))
        for cpu, own in sorted(siblings.items())
    )
    found = tuple(
        Node(
            node, tuple(cpu.cpu for cpu in cpus if cpu.node == node), None, None,
            tuple(10 + 10 * abs(node - other) for other in range(nodes)),
        )
        for node in range(nodes)
    )  # fmt: skip
    return Topology(found, cpus, (), ())


def everything(topology: Topology) -> Mask:
    return frozenset(cpu.cpu for cpu in topology.cpus)


def server(
    allowed: Mask, *, workers: int = 1, gpu_nodes: tuple[int | None, ...] = (), tools: int = 0
) -> list[Member]:
    """An API server, an engine core and its workers, with GPUs on those nodes."""
    made = [
        Member(API, 1, roles.API_SERVER, "api", allowed, (API,)),
        Member(CORE, API, roles.ENGINE_CORE, "core", allowed, (CORE,)),
    ]
    for index in range(workers):
        device = f"gpu{index}" if index < len(gpu_nodes) else None
        node = gpu_nodes[index] if device else None
        pid = WORKER + index
        made.append(
            Member(
                pid, CORE, roles.WORKER, "worker", allowed, (pid,),
                device=device, device_node=node,
            )
        )  # fmt: skip
    return made + [
        Member(90 + index, API, TOOL, "tool", allowed, (90 + index,)) for index in range(tools)
    ]


def masks(plan: Plan) -> dict[int, Mask]:
    return {one.member.pid: one.proposed or frozenset() for one in plan.placements}


def cores_of(topology: Topology, mask: Mask) -> set[tuple[int, ...]]:
    return {cpu.siblings for cpu in topology.cpus if cpu.cpu in mask}


def nodes_of(topology: Topology, mask: Mask) -> set[int | None]:
    return {cpu.node for cpu in topology.cpus if cpu.cpu in mask}


def test_all_of_a_server_goes_to_the_node_of_its_gpu():
    host = machine(nodes=4, cores=8)
    plan = propose(host, server(everything(host), gpu_nodes=(2,)), everything(host))
    found = masks(plan)
    assert [nodes_of(host, found[pid]) for pid in (API, CORE, WORKER)] == [{2}, {2}, {2}]
    assert plan.notes == ()


def test_each_worker_goes_to_its_own_gpus_node_and_the_engine_core_to_most_of_them():
    host = machine(nodes=4, cores=8)
    members = server(everything(host), workers=3, gpu_nodes=(3, 1, 3))
    found = masks(propose(host, members, everything(host)))
    assert [nodes_of(host, found[WORKER + index]) for index in range(3)] == [{3}, {1}, {3}]
    assert nodes_of(host, found[CORE]) == {3}


def test_busy_processes_never_share_a_core_with_its_two_hyperthreads():
    host = machine(nodes=2, cores=4, threads=2)
    found = masks(propose(host, server(everything(host), gpu_nodes=(0,)), everything(host)))
    for one, other in combinations((API, CORE, WORKER), 2):
        assert not cores_of(host, found[one]) & cores_of(host, found[other])
    for pid in (API, CORE, WORKER):
        assert {cpu for core in cores_of(host, found[pid]) for cpu in core} == found[pid]


def test_the_lowest_core_is_left_to_the_rest_and_tools_go_there():
    host = machine(nodes=2, cores=8, threads=2)
    members = server(everything(host), gpu_nodes=(0,), tools=2)
    found = masks(propose(host, members, everything(host)))
    assert found[90] == found[91]
    assert {0, 16} <= found[90]
    for pid in (API, CORE, WORKER):
        assert not found[pid] & found[90]


def test_the_api_server_gets_what_is_left_of_the_node_for_its_tokenizers():
    host = machine(nodes=2, cores=16)
    found = masks(propose(host, server(everything(host), gpu_nodes=(1,)), everything(host)))
    assert len(found[API]) == 16 - 2 * 2
    assert found[API] | found[CORE] | found[WORKER] == set(range(16, 32))


@pytest.mark.parametrize("allowed", [range(8, 16), [1, 3, 5, 7, 9, 11], range(12, 20)])
def test_a_plan_stays_within_the_cpuset(allowed):
    host = machine(nodes=4, cores=8)
    usable = frozenset(allowed)
    found = masks(propose(host, server(usable, gpu_nodes=(1,), tools=1), usable))
    assert all(mask and mask <= usable for mask in found.values())


def test_a_gpu_whose_node_the_cpuset_leaves_out_is_told():
    host = machine(nodes=4, cores=8)
    usable = frozenset(range(8))
    plan = propose(host, server(usable, gpu_nodes=(2,)), usable)
    assert plan.moves
    assert "node 2" in plan.notes[0]


def test_a_full_node_makes_way_to_the_nearest_one():
    host = machine(nodes=4, cores=2)
    members = server(everything(host), workers=4, gpu_nodes=(3, 3, 3, 3))
    plan = propose(host, members, everything(host))
    found = masks(plan)
    assert [nodes_of(host, found[WORKER + i]) for i in range(4)] == [{3}, {3}, {2}, {2}]
    why = {one.member.pid: one.why for one in plan.placements}
    assert "full" in why[WORKER + 2]


def test_second_cores_never_leave_the_api_server_short():
    host = machine(nodes=2, cores=5)
    found = masks(propose(host, server(everything(host), gpu_nodes=(1,)), everything(host)))
    assert len(found[API]) == API_CORES
    assert nodes_of(host, found[API]) == {1}
    assert sorted(len(found[pid]) for pid in (CORE, WORKER)) == [1, 2]


def test_one_core_for_each_and_none_to_spare_is_a_plan_that_says_so():
    host = machine(nodes=1, cores=3)
    plan = propose(host, server(everything(host)), everything(host))
    found = masks(plan)
    assert sorted(map(len, found.values())) == [1, 1, 1]
    assert frozenset().union(*found.values()) == {0, 1, 2}
    assert plan.notes == ("no core is left for the rest of the machine",)


def test_too_few_cpus_are_nothing_to_pin_and_it_says_so():
    host = machine(nodes=1, cores=2)
    plan = propose(host, server(everything(host)), everything(host))
    assert plan.moves == []
    assert plan.notes[0].startswith("nothing to pin: 2 CPUs")


def test_two_hyperthreads_of_one_core_are_too_few_as_well():
    host = machine(nodes=1, cores=1, threads=2)
    plan = propose(host, server(everything(host), workers=0), everything(host))
    assert plan.moves == []


def test_one_cpu_is_nothing_to_pin():
    host = machine(nodes=1, cores=4)
    plan = propose(host, server(frozenset({2})), frozenset({2}))
    assert plan.moves == []
    assert "one CPU" in plan.notes[0]


def test_an_engine_that_works_itself_and_an_api_server_part_two_cpus():
    host = machine(nodes=1, cores=2)
    found = masks(propose(host, server(everything(host), workers=0), everything(host)))
    assert sorted(map(sorted, found.values())) == [[0], [1]]


def test_the_others_keep_off_a_cpu_worker_that_has_bound_itself():
    # vLLM's CPU backend on two CPUs: all of the worker's threads on the first
    host = machine(nodes=1, cores=2)
    api, core, worker = server(everything(host))
    bound = Member(
        worker.pid, CORE, roles.WORKER, "worker", frozenset({0}), (WORKER,),
    )  # fmt: skip
    plan = propose(host, [api, core, bound], everything(host))
    assert {move.member.pid: move.proposed for move in plan.moves} == {API: {1}, CORE: {1}}


def test_on_a_larger_machine_a_cpu_worker_keeps_its_own_and_the_others_get_cores():
    host = machine(nodes=1, cores=16)
    api, core, worker = server(everything(host))
    bound = Member(
        worker.pid, CORE, roles.WORKER, "worker", everything(host), (WORKER,),
        bound=frozenset(range(8)), bound_count=8,
    )  # fmt: skip
    plan = propose(host, [api, core, bound], everything(host))
    found = masks(plan)
    assert not found[WORKER]
    assert found[API]
    assert found[CORE]
    assert (found[API] | found[CORE]) <= set(range(8, 16))


def test_a_gpu_on_an_unknown_node_is_told():
    host = machine(nodes=2, cores=8)
    plan = propose(host, server(everything(host), gpu_nodes=(None,)), everything(host))
    why = {one.member.pid: one.why for one in plan.placements}
    assert "not known" in why[WORKER]


def test_a_process_that_is_there_already_is_not_moved():
    host = machine(nodes=1, cores=8)
    first = propose(host, server(everything(host)), everything(host))
    settled = [
        Member(
            one.member.pid, one.member.parent_pid, one.member.role, one.member.name,
            one.proposed or one.member.mask, one.member.tids, device="gpu0",
        )
        for one in first.placements
    ]  # fmt: skip
    assert propose(host, settled, everything(host)).moves == []


def test_a_kernel_without_nodes_gives_a_plan_all_the_same():
    flat = Topology((), tuple(Cpu(cpu, None, None, (cpu,), None) for cpu in range(8)), (), ())
    found = masks(propose(flat, server(everything(flat)), everything(flat)))
    assert [len(found[pid]) for pid in (API, CORE, WORKER)] == [3, 2, 2]


def test_cores_are_whole_and_cut_to_what_may_be_used():
    host = machine(nodes=1, cores=2, threads=2)
    assert [core.cpus for core in Cores(host, {0, 1, 2}).free] == [(0, 2), (1,)]


@given(
    nodes=st.integers(1, 4), cores=st.integers(1, 8), threads=st.integers(1, 2),
    gpu_nodes=st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=6),
    workers=st.integers(0, 6), tools=st.integers(0, 2), data=st.data(),
)  # fmt: skip
def test_any_plan_is_sound(nodes, cores, threads, gpu_nodes, workers, tools, data):
    host = machine(nodes, cores, threads)
    usable = frozenset(data.draw(st.sets(st.sampled_from(sorted(everything(host))), min_size=1)))
    members = server(usable, workers=workers, gpu_nodes=tuple(gpu_nodes), tools=tools)

    plan = propose(host, members, usable)

    assert [one.member for one in plan.placements] == members
    assert all(one.why for one in plan.placements)
    found = masks(plan)
    assert all(mask <= usable for mask in found.values())
    busy = [pid for pid in found if pid in (API, CORE) or WORKER <= pid < WORKER + workers]
    if plan.moves:
        assert all(found[pid] for pid in busy)
        for one, other in combinations(busy, 2):
            assert not cores_of(host, found[one]) & cores_of(host, found[other])
    else:
        assert plan.notes or all(not found[pid] or found[pid] == usable for pid in found)
