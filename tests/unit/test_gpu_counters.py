"""GPU counters: what each driver gives, what it does not, and drivers that fail or hang."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.capture import finalise, open_capture
from probes.base import Context, Level
from probes.environment import read_variables
from probes.gpu_counters import amd_smi, amd_sysfs, nvml, probe
from probes.gpu_counters.devices import (
    CLOCK,
    MEMORY_TOTAL,
    MEMORY_USED,
    POWER,
    TEMPERATURE,
    UTILIZATION,
    DeviceGone,
    Gpu,
    Search,
    Sensor,
    SensorFailed,
)
from probes.gpu_counters.probe import GpuCounterProbe
from probes.gpu_counters.visible import choose
from probes.target import Target, find_target
from tests.fakeproc import PYTHON, FakeProc
from tests.recordings import PID, make_recorder
from tests.waiting import wait_until

VRAM_BYTES = 206_141_652_992  # an MI300X's 192 GB, as its driver counts them


class FakeSys:
    """A ``/sys`` of plain files, with what the amdgpu driver shows of its cards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def device(self, card: int) -> Path:
        return self.root / f"class/drm/card{card}/device"

    def add_mi300x(self, card: int, bus: int, *, busy: int = 0, is_complete: bool = True) -> None:
        """A card of an eight-GPU machine: no average power, no edge sensor."""
        device = f"class/drm/card{card}/device"
        monitor = f"{device}/hwmon/hwmon{card + 3}"
        self.write(f"{device}/vendor", "0x1002")
        self.write(f"{device}/uevent", f"DRIVER=amdgpu\nPCI_SLOT_NAME=0000:{bus:02x}:00.0")
        self.write(f"{device}/product_name", "AMD Instinct MI300X OAM")
        self.write(f"{device}/unique_id", f"{bus:016x}")
        self.write(f"{device}/drm/renderD{127 + card}/dev", f"226:{127 + card}")
        self.write(f"{device}/mem_info_vram_total", VRAM_BYTES)
        self.write(f"{device}/mem_info_vram_used", 1 << 30)
        if is_complete:
            self.write(f"{device}/gpu_busy_percent", busy)
            self.write(f"{monitor}/name", "amdgpu")
            self.write(f"{monitor}/power1_input", 123_000_000)
            self.write(f"{monitor}/freq1_input", 2_100_000_000)
            self.write(f"{monitor}/temp2_label", "junction")
            self.write(f"{monitor}/temp2_input", 45_000)
            self.write(f"{monitor}/temp3_label", "mem")
            self.write(f"{monitor}/temp3_input", 60_000)
        self.write(f"class/drm/card{card}-DP-1/status", "disconnected")

    def add_display(self, card: int) -> None:
        """The graphics of the board's management controller."""
        self.write(f"class/drm/card{card}/device/vendor", "0x1a03")

    def order_nodes(self, *minors: int) -> None:
        """Let the compute driver count the GPUs in this order, after two CPUs."""
        for node, minor in enumerate((0, 0, *minors)):
            self.write(
                f"class/kfd/kfd/topology/nodes/{node}/properties",
                f"cpu_cores_count {0 if minor else 64}\ndrm_render_minor {minor}",
            )


@pytest.fixture
def sys(tmp_path: Path) -> FakeSys:
    return FakeSys(tmp_path / "sys")


@pytest.fixture
def eight(sys: FakeSys) -> FakeSys:
    sys.add_display(0)
    for card in range(1, 9):
        sys.add_mi300x(card, bus=0x10 * card, busy=10 * card)
    return sys


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    made = FakeProc(tmp_path / "proc")
    made.add(PID, [PYTHON, "/usr/bin/vllm", "serve", "m"])
    return made


def target_of(proc: FakeProc, *nodes: str, **variables: str) -> Target:
    """A server with these device files open, started with these variables."""
    environment = {"HF_TOKEN": "secret", **variables}
    text = "".join(f"{name}={value}\0" for name, value in environment.items())
    (proc.root / str(PID) / "environ").write_text(text)
    directory = proc.root / str(PID) / "fd"
    directory.mkdir(exist_ok=True)
    for number, node in enumerate(["/dev/null", *nodes]):
        (directory / str(number)).symlink_to(node)
    return find_target(PID, proc.procfs)


def fake_gpu(
    index: int, *sensors: Sensor, vendor: str = "amd", uuid: str | None = None, node: str = ""
) -> Gpu:
    return Gpu(index, vendor, "made up", f"0000:{index:02x}:00.0", "test", sensors, uuid, node)


def four(vendor: str) -> list[Gpu]:
    node = {"amd": "/dev/dri/renderD{}", "nvidia": "/dev/nvidia{}"}[vendor]
    first = {"amd": 128, "nvidia": 0}[vendor]
    return [
        fake_gpu(index, vendor=vendor, uuid=f"GPU-{index}{index}", node=node.format(first + index))
        for index in range(4)
    ]


def buses(gpus) -> list[str]:
    return [gpu.bus[5:7] for gpu in gpus]


def test_eight_gpus_are_found_and_the_display_is_not(eight):
    gpus = amd_sysfs.find_gpus(eight.root).gpus

    assert buses(gpus) == ["10", "20", "30", "40", "50", "60", "70", "80"]
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert gpus[0].name == "AMD Instinct MI300X OAM"
    assert gpus[0].node == "/dev/dri/renderD128"


def test_a_reading_is_in_our_units(eight):
    reading = amd_sysfs.find_gpus(eight.root).gpus[2].read()

    assert reading.values == {
        UTILIZATION: pytest.approx(0.3),
        MEMORY_USED: 1 << 30,
        MEMORY_TOTAL: VRAM_BYTES,
        POWER: pytest.approx(123.0),
        CLOCK: 2.1e9,
        TEMPERATURE: pytest.approx(45.0),  # not the memory's
    }
    assert reading.failed == {}


def test_gpus_are_counted_as_the_compute_driver_does(sys):
    sys.add_mi300x(1, bus=0x10)
    sys.add_mi300x(2, bus=0x20)
    sys.order_nodes(129, 128)

    gpus = amd_sysfs.find_gpus(sys.root).gpus

    assert {gpu.bus[5:7]: gpu.index for gpu in gpus} == {"10": 1, "20": 0}


def test_what_a_gpu_does_not_give_is_absent_and_not_zero(sys):
    sys.add_mi300x(1, bus=0x10, is_complete=False)

    (gpu,) = amd_sysfs.find_gpus(sys.root).gpus

    assert set(gpu.read().values) == {MEMORY_USED, MEMORY_TOTAL}


@pytest.mark.parametrize(("text", "reason"), [(None, "EISDIR"), ("N/A", "no number")])
def test_a_sensor_that_fails_leaves_the_others(eight, text, reason):
    gpu = amd_sysfs.find_gpus(eight.root).gpus[0]
    path = eight.device(1) / "gpu_busy_percent"
    path.unlink()
    path.mkdir() if text is None else path.write_text(text)

    reading = gpu.read()

    assert reading.failed == {UTILIZATION: f"gpu_busy_percent: {reason}"}
    assert POWER in reading.values


def test_a_gpu_that_vanishes_is_gone(eight):
    gpu = amd_sysfs.find_gpus(eight.root).gpus[0]
    shutil.rmtree(eight.device(1))

    with pytest.raises(DeviceGone):
        gpu.read()


def test_a_machine_without_cards_says_so(sys):
    assert amd_sysfs.find_gpus(sys.root) == Search(reason="no AMD card below /sys/class/drm")


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    """What of the module ``pynvml`` is used, for two GPUs of which one has no power sensor."""

    NVMLError = FakeNvmlError
    NVML_ERROR_UNINITIALIZED, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_GPU_IS_LOST = 1, 3, 15
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise FakeNvmlError(self.broken[what])

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        return b"NVIDIA H200" if handle else "NVIDIA H200"

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(busId=f"00000000:{handle:02X}:00.0")

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetMinorNumber(self, handle: int) -> int:
        return 7 - handle

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._check("utilization")
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._check("memory")
        return SimpleNamespace(used=5 << 30, total=150 << 30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if handle == 1:
            raise FakeNvmlError(self.NVML_ERROR_NOT_SUPPORTED)
        return 250_500

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        assert clock == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 61


def test_nvml_gives_our_units_and_leaves_out_what_a_gpu_lacks():
    first, second = nvml.find_gpus(FakeNvml()).gpus

    assert first.read().values == {
        UTILIZATION: pytest.approx(0.97),
        MEMORY_USED: 5 << 30,
        MEMORY_TOTAL: 150 << 30,
        POWER: pytest.approx(250.5),
        CLOCK: 1.98e9,
        TEMPERATURE: 61,
    }
    assert set(first.read().values) - set(second.read().values) == {POWER}
    assert (second.name, second.uuid, second.node) == ("NVIDIA H200", "GPU-1", "/dev/nvidia6")


def test_nvml_errors_are_told_apart():
    fake = FakeNvml()
    gpu, _ = nvml.find_gpus(fake).gpus

    fake.broken["memory"] = 999
    assert gpu.read().failed == {MEMORY_USED: "code 999", MEMORY_TOTAL: "code 999"}
    fake.broken["utilization"] = FakeNvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(DeviceGone):
        gpu.read()


def test_an_nvidia_driver_that_refuses_is_no_missing_gpu(tmp_path):
    fake = FakeNvml()
    fake.broken["init"] = 18  # the library and the driver differ
    driver = tmp_path / "version"

    assert nvml.find_gpus(fake, driver) == Search(reason="no NVIDIA driver")
    driver.write_text("NVRM version")
    refused = nvml.find_gpus(fake, driver)
    assert "code 18" in refused.reason
    assert refused.remedy


def test_an_nvidia_driver_without_the_package_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    driver = tmp_path / "version"
    driver.write_text("NVRM version")

    assert nvml.find_gpus(driver=driver).remedy == "pip install 'cputax[nvidia]'"
    assert nvml.find_gpus(driver=tmp_path / "none").remedy is None


class FakeSmiError(Exception):
    pass


def fake_smi(**changes: Any) -> SimpleNamespace:
    """What of the module ``amdsmi`` is used, for one MI300X."""
    functions: dict[str, Any] = {
        "amdsmi_init": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["h"],
        "amdsmi_get_gpu_activity": lambda h: {"gfx_activity": 55, "umc_activity": "N/A"},
        "amdsmi_get_gpu_vram_usage": lambda h: {"vram_total": 196_592, "vram_used": 285},
        "amdsmi_get_power_info": lambda h: {
            "current_socket_power": 135, "average_socket_power": "N/A",
        },
        "amdsmi_get_clock_info": lambda h, kind: {"clk": 132},
        "amdsmi_get_temp_metric": lambda h, kind, metric: 38,
        "amdsmi_get_gpu_enumeration_info": lambda h: {"hip_id": 3, "drm_render": 152},
        "amdsmi_get_gpu_asic_info": lambda h: {"market_name": "AMD Instinct MI300X"},
        "amdsmi_get_gpu_device_bdf": lambda h: "0000:0c:00.0",
    }  # fmt: skip
    return SimpleNamespace(
        AmdSmiException=FakeSmiError,
        AmdSmiClkType=SimpleNamespace(GFX=0),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT=1),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT=0),
        **(functions | changes),
    )


def test_amdsmi_gives_our_units():
    (gpu,) = amd_smi.find_gpus(fake_smi()).gpus

    assert (gpu.index, gpu.node, gpu.bus) == (3, "/dev/dri/renderD152", "0000:0c:00.0")
    assert gpu.read().values == {
        UTILIZATION: pytest.approx(0.55),
        MEMORY_USED: 285 << 20,
        MEMORY_TOTAL: 196_592 << 20,
        POWER: 135,
        CLOCK: 132e6,
        TEMPERATURE: 38,
    }


def test_what_amdsmi_calls_not_available_is_absent():
    def refuse(*_arguments: object) -> None:
        raise FakeSmiError

    smi = fake_smi(
        amdsmi_get_gpu_activity=lambda h: {"gfx_activity": "N/A"},
        amdsmi_get_temp_metric=refuse,
        amdsmi_get_gpu_enumeration_info=refuse,
    )
    (gpu,) = amd_smi.find_gpus(smi).gpus

    assert set(gpu.read().values) == {MEMORY_USED, MEMORY_TOTAL, POWER, CLOCK}
    assert (gpu.index, gpu.node) == (0, None)


def test_amdsmi_that_refuses_is_a_reason():
    def refuse() -> None:
        raise FakeSmiError

    assert amd_smi.find_gpus(fake_smi(amdsmi_init=refuse)).reason == "amdsmi refuses (FakeSmiError)"


def test_only_the_named_variables_of_a_process_are_read(proc):
    target = target_of(proc, HIP_VISIBLE_DEVICES="1,2")

    found = read_variables(target.procfs, PID, ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])

    assert found == {"HIP_VISIBLE_DEVICES": "1,2"}
    assert read_variables(target.procfs, PID + 1, ["HF_TOKEN"]) == {}


@pytest.mark.parametrize(
    ("vendor", "variables", "expected"),
    [
        ("amd", {}, [0, 1, 2, 3]),
        ("amd", {"HIP_VISIBLE_DEVICES": "2, 0"}, [2, 0]),
        ("amd", {"CUDA_VISIBLE_DEVICES": "3"}, [3]),
        ("amd", {"CUDA_VISIBLE_DEVICES": "3", "HIP_VISIBLE_DEVICES": "1"}, [1]),
        ("amd", {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, [3]),
        ("amd", {"ROCR_VISIBLE_DEVICES": "GPU-22"}, [2]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "0"}, [1, 2]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-00"}, [3, 0]),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": ""}, []),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "MIG-1/2/3"}, [0, 1, 2, 3]),  # never a guess
    ],
)
def test_variables_tell_which_gpus_a_server_uses(proc, vendor, variables, expected):
    choice = choose(target_of(proc, **variables), four(vendor))

    assert [int(gpu.bus[5:7], 16) for gpu in choice.gpus] == expected
    # As the server's runtime counts them, which is how its traces name them.
    assert [gpu.index for gpu in choice.gpus] == list(range(len(expected)))


@pytest.mark.parametrize(
    ("opened", "variables", "expected"),
    [
        ([2, 3], {}, [2, 3]),
        ([2, 3], {"CUDA_VISIBLE_DEVICES": "1"}, [3]),  # a container that was given two
        ([2, 3], {"CUDA_VISIBLE_DEVICES": "2,3"}, [2, 3]),  # it opened what it was shown
        ([0, 1, 2, 3], {"CUDA_VISIBLE_DEVICES": "3"}, [3]),
    ],
)
def test_open_device_files_tell_which_gpus_a_server_uses(proc, opened, variables, expected):
    target = target_of(proc, *(f"/dev/nvidia{index}" for index in opened), **variables)

    choice = choose(target, four("nvidia"))

    assert [int(gpu.bus[5:7], 16) for gpu in choice.gpus] == expected


class Stage:
    """A probe on fake GPUs, and what it left in the capture."""

    def __init__(self, directory: Path, target: Target, *gpus: Gpu) -> None:
        self.recorder = make_recorder(directory)
        self.said: list[str] = []
        self.probe = GpuCounterProbe(rate_hz=200, find=lambda: [Search(gpus)])
        self.context = Context(target, self.recorder, keeper=None)  # type: ignore[arg-type]
        self.context.on_status = lambda _name, text: self.said.append(text)
        assert self.probe.check(target).level is Level.WORKS
        self.probe.start(self.context)

    def stop(self):
        """Stop it; return its record and the tables by name."""
        record = self.probe.stop()
        self.recorder.manifest.stopped_ns = time.monotonic_ns()
        self.recorder.close()
        finalise(self.recorder.directory, self.recorder.manifest)
        capture = open_capture(self.recorder.directory)
        return record, {
            name: capture.table(name).to_pylist()
            for name in ("counters", "counter_types", "tracks", "gaps")
        }


class Steps:
    """A sensor that gives these in turn, and the last one for ever; an exception is raised."""

    def __init__(self, *values: float | Exception) -> None:
        self.values = list(values)
        self.read_count = 0

    def __call__(self) -> tuple[float]:
        self.read_count += 1
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if isinstance(value, Exception):
            raise value
        return (value,)


def test_readings_become_counters_of_device_tracks(proc, tmp_path):
    busy, total = Steps(0.25, 0.5, 0.75), Steps(1e9)
    gpu = fake_gpu(0, Sensor((UTILIZATION,), busy), Sensor((MEMORY_TOTAL,), total))
    stage = Stage(tmp_path / "c", target_of(proc), gpu)
    wait_until(lambda: busy.read_count > 10, "ten readings")
    record, tables = stage.stop()

    kinds = {row["counter"]: row for row in tables["counter_types"]}
    values: dict[str, list[float]] = {}
    for row in tables["counters"]:
        values.setdefault(kinds[row["counter"]]["name"], []).append(row["value"])
    (track,) = {row["track"] for row in tables["counters"]}
    assert values["gpu_utilization_ratio"][:4] == [0.25, 0.5, 0.75, 0.75]
    assert values["gpu_memory_total_bytes"] == [1e9]  # it cannot change: written once
    assert {row["unit"] for row in kinds.values()} == {"ratio", "bytes"}
    device = next(row for row in tables["tracks"] if row["track"] == track)
    assert (device["kind"], device["device"]) == ("device", 0)
    assert record.level == "works"
    account = record.detail["devices"]["0"]
    assert account["reading_count"] == busy.read_count
    assert 0 < account["mean_reading_s"] <= account["longest_reading_s"]
    assert tables["gaps"] == []


def test_a_sensor_that_fails_now_and_then_is_counted(proc, tmp_path):
    busy = Steps(0.25, SensorFailed("busy: EBUSY"), 0.75)
    steady = Steps(30.0)
    gpu = fake_gpu(0, Sensor((UTILIZATION,), busy), Sensor((TEMPERATURE,), steady))
    stage = Stage(tmp_path / "c", target_of(proc), gpu)
    wait_until(lambda: steady.read_count > 5, "five readings")
    record, tables = stage.stop()

    assert record.level == "works"
    assert record.detail["devices"]["0"]["failed_counts"] == {"gpu_utilization_ratio": 1}
    assert len(tables["counters"]) == busy.read_count + steady.read_count - 1


def test_a_gpu_that_goes_leaves_a_gap_and_the_others(proc, tmp_path):
    going, staying = Steps(0.5, DeviceGone("gone from the bus")), Steps(0.5)
    stage = Stage(
        tmp_path / "c", target_of(proc),
        fake_gpu(0, Sensor((UTILIZATION,), going)), fake_gpu(1, Sensor((UTILIZATION,), staying)),
    )  # fmt: skip
    wait_until(lambda: going.read_count > 1 and staying.read_count > 10, "readings")
    record, tables = stage.stop()

    tracks = {row["track"]: row["device"] for row in tables["tracks"]}
    (gap,) = tables["gaps"]
    assert (tracks[gap["track"]], gap["reason"]) == (0, "gone from the bus")
    assert (record.level, record.reason) == ("degraded", "GPU 0: gone from the bus")
    assert sum(tracks[row["track"]] == 1 for row in tables["counters"]) == staying.read_count
    assert stage.said == ["GPU 0: gone from the bus"]


def test_a_gpu_that_hangs_holds_up_nobody(proc, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "STOP_LIMIT_S", 0.1)
    released = threading.Event()
    try:
        hanging = Sensor((POWER,), lambda: (float(released.wait(60)),))
        staying = Steps(0.5)
        stage = Stage(
            tmp_path / "c", target_of(proc),
            fake_gpu(0, hanging), fake_gpu(1, Sensor((UTILIZATION,), staying)),
        )  # fmt: skip
        wait_until(lambda: staying.read_count > 10, "readings")
        record, tables = stage.stop()
    finally:
        released.set()

    assert record.reason == f"GPU 0: {probe.SILENT}"
    assert record.detail["devices"]["0"]["mean_reading_s"] is None
    assert [gap["reason"] for gap in tables["gaps"]] == [probe.SILENT]
    assert len(tables["counters"]) == staying.read_count


def test_no_gpu_is_said_with_every_reason(proc):
    searches = [Search(reason="no AMD card"), Search(reason="no NVIDIA driver")]

    capability = GpuCounterProbe(find=lambda: searches).check(target_of(proc))

    assert capability.level is Level.NOT_APPLICABLE
    assert capability.reason == "no GPU: no AMD card; no NVIDIA driver"
    assert capability.remedy


def test_gpus_that_are_there_but_cannot_be_read_name_the_remedy(proc):
    searches = [Search(reason="no AMD card"), Search(reason="no package", remedy="install it")]

    capability = GpuCounterProbe(find=lambda: searches).check(target_of(proc))

    assert (capability.level, capability.remedy) == (Level.UNAVAILABLE, "install it")


def test_a_server_that_is_shown_no_gpu_is_told_so(proc):
    target = target_of(proc, CUDA_VISIBLE_DEVICES="")

    capability = GpuCounterProbe(find=lambda: [Search(tuple(four("nvidia")))]).check(target)

    assert capability.level is Level.UNAVAILABLE
    assert capability.reason == "the server is shown none of the 4 GPUs (CUDA_VISIBLE_DEVICES)"


@pytest.fixture
def unanswered() -> Iterator[threading.Event]:
    answer = threading.Event()
    yield answer
    answer.set()


def test_a_driver_that_does_not_answer_is_not_waited_for(proc, monkeypatch, unanswered):
    monkeypatch.setattr(probe, "SEARCH_LIMIT_S", 0.05)

    def hang() -> list[Search]:
        unanswered.wait(60)
        return []

    capability = GpuCounterProbe(find=hang).check(target_of(proc))

    assert capability.level is Level.UNAVAILABLE
    assert "did not answer" in (capability.reason or "")
