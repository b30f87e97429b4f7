"""CSV files of rocprofv3, of all versions and with all that can be wrong in them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from collectors.errors import ImportInvalid
from collectors.importers import csv_source, rocpd, rocprofv3_csv
from collectors.importers.csv_source import ODD_LINES, read_csv
from collectors.importers.formats import find_format
from collectors.importers.trace import Clock, Trace
from collectors.slices import ANNOTATION, API, KERNEL, MEMCPY, NONE
from tests import foreign_traces as made

KERNEL_HEADER = (
    '"Kind","Agent_Id","Queue_Id","Stream_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name",'
    '"Correlation_Id","Start_Timestamp","End_Timestamp","LDS_Block_Size","Scratch_Size"'
)
OLD_KERNEL_HEADER = (
    '"Kind","Agent_Id","Queue_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name",'
    '"Correlation_Id","Start_Timestamp","End_Timestamp","Private_Segment_Size"'
)
API_HEADER = (
    '"Domain","Function","Process_Id","Thread_Id","Correlation_Id","Start_Timestamp",'
    '"End_Timestamp"'
)
COPY_HEADER = (
    '"Kind","Direction","Stream_Id","Source_Agent_Id","Destination_Agent_Id","Correlation_Id",'
    '"Start_Timestamp","End_Timestamp"'
)
AGENT_HEADER = '"Node_Id","Logical_Node_Id","Agent_Type","Name","Product_Name"'
AGENTS = ('0,0,"CPU","epyc","CPU"', '2,1,"GPU","gfx950","MI350X"', '4,2,"GPU","gfx942","MI300X"')


def kernel(
    start: int, end: int, *, agent: str = "Agent 1", queue: int = 16, stream: int = 5
) -> str:
    name = '"void add<float>(float*, int)"'
    return f'"KERNEL_DISPATCH","{agent}",{queue},{stream},910,1,7,{name},11,{start},{end},0,0'


def write(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def kernels(directory: Path, *lines: str, name: str = "908_kernel_trace.csv") -> Path:
    return write(directory / name, KERNEL_HEADER, *lines)


def agents(directory: Path, name: str = "908_agent_info.csv") -> Path:
    return write(directory / name, AGENT_HEADER, *AGENTS)


def devices(trace: Trace) -> list[tuple[int, str]]:
    return [(row["device"], row["name"]) for row in trace.track_rows if row["kind"] == "device"]


def test_real_dispatches_have_the_times_of_their_source(tmp_path):
    paths = made.rocprofv3_csv(tmp_path)

    trace = rocprofv3_csv.read(paths)

    slices = made.on_gpus(trace)
    assert {find_format(path) for path in paths} == {"rocprofv3_csv"}
    assert trace.clock is Clock.BOOTTIME
    assert len(slices) == made.REAL_COUNT
    assert int(slices.time_ns.min()) == made.REAL_FIRST_NS
    assert int(slices.end_ns.max()) - made.REAL_FIRST_NS == made.REAL_SPAN_NS
    assert made.union_ns(slices) == made.REAL_BUSY_NS
    assert int(slices.duration_ns.sum()) == made.REAL_SUM_NS
    assert devices(trace) == [(0, "AMD Instinct MI350X")]
    assert not trace.skipped


def test_the_same_run_reads_alike_as_csv_and_as_rocpd(tmp_path):
    of_csv = rocprofv3_csv.read(made.rocprofv3_csv(tmp_path))
    of_rocpd = rocpd.read([made.rocpd(tmp_path)])

    assert made.rows_of(of_csv) == made.rows_of(of_rocpd)
    for column in ("correlation", "graph", "size_bytes"):
        assert sorted(getattr(of_csv.slices(), column)) == sorted(
            getattr(of_rocpd.slices(), column)
        )


def test_the_files_of_one_process_are_one_scope(tmp_path):
    # Given
    paths = [
        kernels(tmp_path, kernel(1000, 3000), kernel(2000, 5000, agent="Agent 2", stream=0)),
        agents(tmp_path),
        write(
            tmp_path / "908_hip_api_trace.csv", API_HEADER,
            '"HIP_RUNTIME_API_EXT","hipLaunchKernel",908,910,11,900,950',
        ),
        write(
            tmp_path / "908_marker_api_trace.csv", API_HEADER,
            '"MARKER_CORE_API","decode, ""step"" 1",908,910,3,800,9000',
        ),
        write(
            tmp_path / "908_memory_copy_trace.csv", COPY_HEADER,
            '"MEMORY_COPY","MEMORY_COPY_DEVICE_TO_HOST",5,"Agent 1","Agent 0",12,6000,6500',
        ),
    ]  # fmt: skip

    # When
    trace = rocprofv3_csv.read(paths)

    # Then
    name = "void add<float>(float*, int)"
    assert made.rows_of(trace) == [
        (ANNOTATION, 'decode, "step" 1', "", 800, 9000),
        (API, "hipLaunchKernel", "", 900, 950),
        (KERNEL, name, "stream 5", 1000, 3000),
        (KERNEL, name, "queue 16", 2000, 5000),
        (MEMCPY, "DEVICE_TO_HOST", "stream 5", 6000, 6500),
    ]
    assert devices(trace) == [(0, "MI350X"), (1, "MI300X")]
    (process,) = (row for row in trace.track_rows if row["kind"] == "process")
    assert process["pid"] == 908


def test_processes_are_scopes_of_their_own(tmp_path):
    paths = [kernels(tmp_path, kernel(1, 2), name=f"host_{pid}_kernel_trace.csv") for pid in (8, 9)]

    trace = rocprofv3_csv.read(paths)

    assert [row["pid"] for row in trace.track_rows if row["kind"] == "process"] == [8, 9]
    assert len(devices(trace)) == 2


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Agent 1", (0, "MI350X")),  # logical, the default
        ("Agent 4", (1, "MI300X")),  # no logical number: the user set ROCPROF_AGENT_INDEX
        ("2", (0, "MI350X")),  # of the node, up to SDK 0.6
        ("GPU 1", (1, "MI300X")),
    ],
)
def test_an_agent_id_means_a_gpu(tmp_path, label, expected):
    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2, agent=label)), agents(tmp_path)])

    assert devices(trace) == [expected]


def test_the_table_of_agents_is_found_beside_the_kernels(tmp_path):
    agents(tmp_path)

    assert devices(rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2))])) == [(0, "MI350X")]


def test_without_a_table_of_agents_their_number_stands(tmp_path):
    assert devices(rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2))])) == [(1, "")]


@pytest.mark.parametrize("label", ["Agent 0", "CPU 0", "Agent 77", "", "nobody"])
def test_rows_of_no_gpu_are_left_out_and_counted(tmp_path, label):
    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2, agent=label)), agents(tmp_path)])

    assert trace.skipped == {"rows of no GPU": 1}


def test_older_headers_have_no_stream(tmp_path):
    row = '"KERNEL_DISPATCH",4,16,910,1,7,"add",11,100,200,0'
    path = write(tmp_path / "908_kernel_trace.csv", OLD_KERNEL_HEADER, row)

    trace = rocprofv3_csv.read([path])

    assert made.rows_of(trace) == [(KERNEL, "add", "queue 16", 100, 200)]
    assert devices(trace) == [(4, "")]


def test_converted_files_have_a_guid_first(tmp_path):
    row = '"0000ddb5-8903-7903-b269-cd8d3745bb8a",' + kernel(100, 200)
    path = write(tmp_path / "out_kernel_trace.csv", '"Guid",' + KERNEL_HEADER, row)

    assert len(rocprofv3_csv.read([path]).slices()) == 1


def test_carriage_returns_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "908_kernel_trace.csv"
    path.write_bytes(f"\ufeff{KERNEL_HEADER}\r\n{kernel(100, 200)}\r\n".encode())

    assert len(rocprofv3_csv.read([path]).slices()) == 1


def test_device_only_leaves_out_calls(tmp_path):
    call = '"HIP_RUNTIME_API_EXT","hipLaunchKernel",908,910,11,900,950'
    calls = write(tmp_path / "908_hip_api_trace.csv", API_HEADER, call)

    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2)), calls], device_only=True)

    assert {kind for kind, _ in trace.name_rows} == {KERNEL}


def test_no_correlation_and_no_thread_are_unknown(tmp_path):
    row = kernel(1, 2).replace(",910,", ",0,").replace(",11,1,2", ",0,1,2")

    slices = rocprofv3_csv.read([kernels(tmp_path, row)]).slices()

    assert (slices.correlation[0], slices.launch_track[0]) == (NONE, NONE)


@pytest.mark.parametrize(
    "line",
    [
        kernel(1, 2) + ",extra",
        kernel(1, 2)[:30],
        kernel(1, 2).replace(",1,2,", ",soon,2,"),
        kernel(1, 2).replace(",1,2,", ",,2,"),
        kernel(1, 2).replace(",1,2,", ",1e9,2,"),
        kernel(1, 10**30),
        '"KERNEL',
        "\0\0\0",
        "\udcff" * 3,
    ],
)
def test_lines_that_make_no_sense_are_left_out_and_counted(tmp_path, line):
    path = tmp_path / "908_kernel_trace.csv"
    text = "\n".join((KERNEL_HEADER, kernel(5, 7), line, kernel(8, 9)))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    trace = rocprofv3_csv.read([path])

    assert [row[3:] for row in made.rows_of(trace)] == [(5, 7), (8, 9)]
    assert trace.skipped == {ODD_LINES: 1}


def test_names_that_are_not_utf8_are_readable_all_the_same(tmp_path):
    path = tmp_path / "908_kernel_trace.csv"
    path.write_bytes(f"{KERNEL_HEADER}\n{kernel(1, 2)}\n".encode().replace(b"add<float>", b"k\xff"))

    trace = rocprofv3_csv.read([path])

    assert trace.name_rows == [(KERNEL, "void k\ufffd(float*, int)")]
    assert not trace.skipped


def test_negative_durations_are_left_out_and_counted(tmp_path):
    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(9, 5), kernel(1, 2))])

    assert trace.skipped == {"negative durations": 1}


def test_files_without_a_timeline_are_counted(tmp_path):
    stats = write(tmp_path / "908_kernel_stats.csv", '"Name","Calls","TotalDurationNs"', '"k",1,9')

    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2)), stats])

    assert trace.skipped == {"files of statistics": 1}
    with pytest.raises(ImportInvalid, match="none of these CSV files"):
        rocprofv3_csv.read([stats])


def test_a_file_beside_its_own_packed_copy_is_refused(tmp_path):
    path = kernels(tmp_path, kernel(1, 2))
    packed = tmp_path / "908_kernel_trace.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))

    with pytest.raises(ImportInvalid, match="are the same"):
        rocprofv3_csv.read([path, packed])


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    header = KERNEL_HEADER + ',"Start_Timestamp"'

    with pytest.raises(ImportInvalid, match="twice the column Start_Timestamp"):
        rocprofv3_csv.read([write(tmp_path / "908_kernel_trace.csv", header, kernel(1, 2) + ",3")])


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_source, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(csv_source, "_CHUNK_BYTES", 300)
    path = kernels(tmp_path, "x" * 5000)

    with pytest.raises(ImportInvalid, match="line without end"):
        rocprofv3_csv.read([path])


def test_a_cut_off_packed_file_is_refused(tmp_path):
    path = made.rocprofv3_csv(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(ImportInvalid, match="cut off"):
        rocprofv3_csv.read([path])


@pytest.mark.parametrize("chunk_bytes", [97, 1_000, 50_000])
def test_chunks_end_between_lines_and_keep_their_order(tmp_path, monkeypatch, chunk_bytes):
    # Given
    source = gzip.decompress(made.rocprofv3_csv(tmp_path)[0].read_bytes())
    rows = list(csv.DictReader(io.StringIO(source.decode())))
    path = tmp_path / "plain.csv"
    path.write_bytes(source)
    monkeypatch.setattr(csv_source, "_CHUNK_BYTES", chunk_bytes)

    # When
    batches = list(
        read_csv(path, ["Dispatch_Id"], ["Kernel_Name"], skip=lambda reason, count: None)
    )

    # Then
    names = [batch.texts["Kernel_Name"] for batch in batches]
    assert [one for batch in batches for one in batch.integers["Dispatch_Id"].tolist()] == [
        int(row["Dispatch_Id"]) for row in rows
    ]
    assert [texts.distinct[code] for texts in names for code in texts.code.tolist()] == [
        row["Kernel_Name"] for row in rows
    ]


@pytest.mark.parametrize(
    ("prefix", "pid"), [("908", 908), ("host_908", 908), ("run12000", 0), ("", 0), ("9" * 11, 0)]
)
def test_a_process_id_is_read_from_the_files_names_where_it_is_one(tmp_path, prefix, pid):
    name = f"{prefix}_kernel_trace.csv" if prefix else "kernel_trace.csv"

    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2), name=name)])

    assert [row["pid"] for row in trace.track_rows if row["kind"] == "process"] == [pid]


def test_a_process_id_among_the_calls_goes_before_the_files_names(tmp_path):
    call = '"HIP_RUNTIME_API_EXT","hipLaunchKernel",77,910,11,900,950'
    calls = write(tmp_path / "908_hip_api_trace.csv", API_HEADER, call)

    trace = rocprofv3_csv.read([kernels(tmp_path, kernel(1, 2)), calls])

    assert [row["pid"] for row in trace.track_rows if row["kind"] == "process"] == [77]
