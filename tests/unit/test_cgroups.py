"""CPU quotas over a process: version 1 beside 2, version 2 alone, containers, files that lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes.cgroups import CgroupLimit, Cgroups, read_limit, read_limits

HYBRID = Path(__file__).parents[1] / "data/hosts/hybrid_cgroups.json"
MOUNT_2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def hybrid(tmp_path) -> Path:
    """What a machine with both versions showed of a process in a group with 0.4 CPUs."""
    for path, text in json.loads(HYBRID.read_text()).items():
        write(tmp_path, path, text)
    return tmp_path


def version_2(root: Path, group: str, quota: str, stat: str = "", mount: str = MOUNT_2) -> Path:
    """A process 7 in a group of version 2."""
    write(root, "proc/self/mountinfo", mount)
    write(root, "proc/7/cgroup", f"0::{group}\n")
    write(root, "sys/fs/cgroup/cpu.stat", "usage_usec 9\n")  # the root has no cpu.max
    write(root, f"sys/fs/cgroup{group}/cpu.max", quota)
    write(root, f"sys/fs/cgroup{group}/cpu.stat", stat)
    return root


def test_version_1_holds_the_controller_where_both_are_mounted(hybrid):
    inner, outer, top = read_limits(hybrid, 7)

    assert inner == CgroupLimit(
        path="/outer/inner", directory=str(hybrid / "sys/fs/cgroup/cpu/outer/inner"), version=1,
        quota_cpus=0.4, period_s=0.1, period_count=20, throttled_period_count=20,
        throttled_s=1.137534073,
    )  # fmt: skip
    assert [one.path for one in (outer, top)] == ["/outer", "/"]
    assert outer.quota_cpus is None


def test_a_cpuset_of_version_1_is_found_beside_the_cpu_controller(hybrid):
    cgroups = Cgroups(hybrid)

    cpuset, unified = cgroups.cpuset(7), cgroups.unified_group(7)

    assert cpuset is not None
    assert (cpuset.path, cpuset.cpus, cpuset.nodes) == ("/", (0, 1), (0,))
    assert unified is not None
    assert unified.mount == hybrid / "sys/fs/cgroup/unified"


def test_every_group_above_counts_and_the_root_has_no_quota(tmp_path):
    version_2(tmp_path, "/a/b", "max 100000\n", "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n")
    write(tmp_path, "sys/fs/cgroup/a/cpu.max", "250000 100000\n")
    write(tmp_path, "sys/fs/cgroup/a/cpu.stat", "nr_periods 8\nnr_throttled 2\nthrottled_usec 5\n")

    limits = read_limits(tmp_path, 7)

    found = [(one.path, one.quota_cpus, one.throttled_s) for one in limits]
    assert found == [("/a/b", None, 0.0), ("/a", 2.5, 5e-6)]


def test_without_the_counts_they_are_unknown_and_not_zero(tmp_path):
    (limit,) = read_limits(version_2(tmp_path, "/a", "50000 100000"), 7)

    assert limit.quota_cpus == 0.5
    counts = (limit.period_count, limit.throttled_period_count, limit.throttled_s)
    assert counts == (None, None, None)


@pytest.mark.parametrize("text", ["", "max", "max 0", "a b", "1 2 3", "\xff\xfe"])
def test_a_damaged_quota_is_no_limit(tmp_path, text):
    assert read_limits(version_2(tmp_path, "/a", text), 7) == []


@pytest.mark.parametrize("text", ["", "-", "1.5", "x"])
def test_a_damaged_quota_of_version_1_is_no_limit(tmp_path, text):
    write(tmp_path, "cpu.cfs_quota_us", text)
    write(tmp_path, "cpu.cfs_period_us", "100000")

    assert read_limit("/a", tmp_path, 1) is None


def test_damaged_counts_are_left_out(tmp_path):
    stat = "nr_periods x\nnr_throttled\nthrottled_usec 7 8\nnonsense\n"

    (limit,) = read_limits(version_2(tmp_path, "/a", "50000 100000", stat), 7)

    assert (limit.period_count, limit.throttled_s) == (None, None)


def test_a_container_without_a_namespace_shows_its_group_at_the_mount(tmp_path):
    # Given the group's files right at the mount point, whose root is the group
    mount = MOUNT_2.replace("0:26 / ", "0:26 /docker/c1 ")
    version_2(tmp_path, "/docker/c1", "max 100000", mount=mount)
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")

    limits = read_limits(tmp_path, 7)

    assert [(one.path, one.quota_cpus) for one in limits] == [("/docker/c1", 1.5)]


@pytest.mark.parametrize("group", ["/../other", "/docker/c2"])
def test_a_group_outside_of_what_is_mounted_is_not_guessed_at(tmp_path, group):
    version_2(tmp_path, "/docker/c1", "1 1", mount=MOUNT_2.replace("0:26 / ", "0:26 /docker/c1 "))
    write(tmp_path, "proc/7/cgroup", f"0::{group}\n")

    assert read_limits(tmp_path, 7) == []


def test_the_host_s_files_may_be_mounted_below_a_root(tmp_path):
    host = tmp_path / "host"
    version_2(host, "/a", "50000 100000", mount=MOUNT_2.replace("/sys/fs", f"{host}/sys/fs"))

    assert [one.quota_cpus for one in read_limits(host, 7)] == [0.5]


@pytest.mark.parametrize("mounts", ["", "garbage\n", "1 2 0:1 / relative rw - cgroup2 x rw\n"])
def test_without_a_mounted_hierarchy_there_is_nothing_to_say(tmp_path, mounts):
    version_2(tmp_path, "/a", "50000 100000", mount=mounts)
    cgroups = Cgroups(tmp_path)

    assert cgroups.limits(7) == []
    assert cgroups.cpuset(7) is None


def test_a_cpuset_may_be_on_only_further_up(tmp_path):
    version_2(tmp_path, "/a/b", "max 100000")
    write(tmp_path, "sys/fs/cgroup/a/cpuset.cpus.effective", "2-3\n")

    cpuset = Cgroups(tmp_path).cpuset(7)

    assert cpuset is not None
    assert (cpuset.path, cpuset.cpus, cpuset.nodes) == ("/a", (2, 3), None)


def test_a_process_that_is_gone_is_told_by_type(tmp_path):
    version_2(tmp_path, "/a", "50000 100000")

    with pytest.raises(ProcessLookupError):
        read_limits(tmp_path, 8)
