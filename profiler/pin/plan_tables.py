"""A plan in words: a table for people, commands to paste, a document for machines."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console

from collectors.cpu_lists import format_list
from profiler.pin.affinity import Mask
from profiler.pin.plan import Placement, Plan
from profiler.render.console import plain_table, safe

SCHEMA_VERSION: Final = 1


def commands(plan: Plan, *, undo: bool = False) -> list[str]:
    """Return the shell commands that carry a plan out, or that take it back."""
    found = []
    for move in plan.moves:
        member = move.member
        cpus = format_list(member.mask if undo else move.proposed or ())
        if member.bound_count:  # -a would move those, too, that were bound on purpose
            tids = " ".join(map(str, member.tids))
            found.append(f"for t in {tids}; do taskset -pc {cpus} $t; done")
        else:
            found.append(f"taskset -apc {cpus} {member.pid}")
    return found


def plan_document(plan: Plan, root_pid: int, allowed: Mask) -> dict[str, Any]:
    """Return a plan for ``--json``; lists of CPUs are in the kernel's format."""
    return {
        "schema_version": SCHEMA_VERSION,
        "pid": root_pid,
        "allowed": format_list(allowed),
        "placements": [_placement_document(one) for one in plan.placements],
        "notes": list(plan.notes),
        "commands": commands(plan),
        "undo": commands(plan, undo=True),
    }


def _placement_document(placement: Placement) -> dict[str, Any]:
    member = placement.member
    return {
        "pid": member.pid,
        "role": member.role,
        "name": member.name,
        "thread_count": len(member.tids),
        "now": format_list(member.mask),
        "bound_thread_count": member.bound_count,
        "bound": format_list(member.bound) or None,
        "device": member.device,
        "device_node": member.device_node,
        "proposed": format_list(placement.proposed) if placement.proposed else None,
        "is_move": placement.is_move,
        "why": placement.why,
    }


def print_plan(out: Console, plan: Plan) -> None:
    """Print who is to run where, and why."""
    table = plain_table("ROLE", ">PID", "THREADS", "NOW", "PROPOSED", "WHY")
    for one in plan.placements:
        member = one.member
        table.add_row(
            member.role, str(member.pid), _threads(one), format_list(member.mask),
            format_list(one.proposed or ()) if one.is_move else "as now", safe(one.why),
        )  # fmt: skip
    out.print(table)
    for note in plan.notes:
        out.print(f"[yellow]{safe(note)}[/]")


def print_commands(out: Console, plan: Plan) -> None:
    """Print what to paste, and how to take it back."""
    if not plan.moves:
        return
    out.print("\n[bold]To carry it out[/] (as the server's user, or as root)")
    for line in commands(plan):
        out.print(f"  {safe(line)}", soft_wrap=True)
    out.print("[bold]To take it back[/]")
    for line in commands(plan, undo=True):
        out.print(f"  {safe(line)}", soft_wrap=True)


def _threads(placement: Placement) -> str:
    member = placement.member
    if not member.bound_count:
        return str(len(member.tids))
    return f"{len(member.tids)} (+{member.bound_count} bound to {format_list(member.bound)})"
