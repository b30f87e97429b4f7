"""The recorder: batches of columns from any thread, onto disk twice a second.

Layout while recording: ``manifest.json``, ``stream/TABLE.arrows`` and whatever raw files a probe
writes below ``raw/``. `collectors.capture.finalise` turns that into ``tables/TABLE.arrow``.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from collectors.errors import CputaxError, OutputExists, output_error
from collectors.manifest import Manifest
from collectors.schema import TABLES
from collectors.stream import StreamWriter

FLUSH_INTERVAL_S: Final = 0.5
# Kept on disk while recording and let go when it is full, so that the end can still be written.
RESERVE_BYTES: Final = 1 << 20

Columns = Mapping[str, Sequence[Any] | Any]


class Recorder:
    """Writes one capture. All methods may be called from any thread.

    ``failure`` is set once, when the disk refuses: from then on rows are counted, not kept.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Make ``directory`` and begin.

        Raises:
            OutputExists, OutputNotWritable, OutputFull: the capture cannot be made there.
        """
        self.directory = directory
        self.manifest = manifest
        self.failure: CputaxError | None = None
        self.row_count = 0
        self._lock = threading.Lock()
        self._pending: dict[str, list[pa.RecordBatch]] = {name: [] for name in TABLES}
        self._tracks: dict[tuple[object, ...], dict[str, Any]] = {}
        self._counters: dict[tuple[str, str], int] = {}
        self._names: dict[tuple[str, str], int] = {}
        self._lost: dict[str, int] = {}
        self._stopping = threading.Event()
        try:
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise OutputExists(
                    f"{directory} already exists",
                    "choose another directory with -o, or remove this one first",
                )
            (directory / "stream").mkdir(parents=True)
        except OSError as error:
            raise output_error(error, str(directory)) from error
        try:
            (directory / "raw").mkdir()
            self._reserve = directory / ".reserve"
            self._reserve.write_bytes(b"\0" * RESERVE_BYTES)
            manifest.write(directory)
            self._streams = {
                name: StreamWriter(directory / "stream" / f"{name}.arrows", schema)
                for name, schema in TABLES.items()
            }
        except OSError as error:
            # It was not there or empty, so all that is in it is ours, and no capture yet.
            shutil.rmtree(directory, ignore_errors=True)
            raise output_error(error, str(directory)) from error
        self._writer = threading.Thread(target=self._write_loop, name="recorder", daemon=True)
        self._writer.start()

    def append(self, table: str, columns: Columns) -> None:
        """Add rows: one equally long column (numpy array, list or Arrow array) per field.

        Fields that are left out are null.
        """
        schema = TABLES[table]
        length = len(next(iter(columns.values())))
        if length == 0:
            return
        arrays = [
            _array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(length, field.type)
            for field in schema
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        with self._lock:
            self._pending[table].append(batch)

    def process_track(
        self, pid: int, start_ticks: int, *, name: str, role: str,
        rank: int | None = None, parent: int | None = None,
    ) -> int:  # fmt: skip
        """Return the track of this process, registering it the first time."""
        row = {"kind": "process", "parent": parent, "pid": pid, "name": name, "role": role}
        return self._track((pid, start_ticks), {**row, "rank": rank})

    def thread_track(
        self, process: int, pid: int, tid: int, *, name: str = "", role: str = "",
        inner_tid: int | None = None,
    ) -> int:  # fmt: skip
        """Return the track of this thread of the process track, registering it the first time."""
        row = {"kind": "thread", "parent": process, "pid": pid, "tid": tid, "name": name}
        return self._track((process, pid, tid), {**row, "role": role, "inner_tid": inner_tid})

    def device_track(self, index: int, *, name: str = "", rank: int | None = None) -> int:
        """Return the track of this GPU, registering it the first time."""
        row = {"kind": "device", "name": name, "role": "gpu", "rank": rank, "device": index}
        return self._track(("device", index), row)

    def stream_track(
        self, device: int, stream: int, *, index: int, pid: int | None, name: str = "",
        rank: int | None = None,
    ) -> int:  # fmt: skip
        """Return the track of a stream or queue of a device's track, for one process's work.

        ``index`` is the device's; ``pid`` None where nobody knows whose work it is.
        """
        row = {"kind": "stream", "parent": device, "pid": pid, "tid": stream, "name": name}
        row |= {"role": "gpu", "rank": rank, "device": index}
        return self._track(("stream", device, stream, pid), row)

    def host_track(self) -> int:
        """Return the track of the machine, registering it the first time."""
        return self._track(("host",), {"kind": "host", "name": "", "role": "host"})

    def outsider_track(self, tid: int, *, name: str) -> int:
        """Return the track of a thread that is no part of the target; tid as seen from the host."""
        row = {"kind": "outsider", "tid": tid, "name": name, "role": "outsider"}
        return self._track(("outsider", tid, name), row)

    def idle_track(self) -> int:
        """Return the track that stands for a CPU without work."""
        return self._track(("idle",), {"kind": "idle", "name": "", "role": "idle"})

    def names(self, names: Iterable[tuple[str, str]]) -> list[int]:
        """Return the ids of these (kind, text), equally many; see `collectors.slices` for kinds."""
        with self._lock:
            known = self._names
            first = len(known)
            found = [known.setdefault(name, len(known)) for name in names]
            fresh = list(islice(known, first, None))
        kinds_and_texts = zip(*fresh, strict=True) if fresh else ((), ())
        kinds, texts = map(list, kinds_and_texts)
        self.append(
            "names", {"name": list(range(first, first + len(fresh))), "kind": kinds, "text": texts}
        )
        return found

    def name_thread(self, process: int, pid: int, tid: int, name: str, role: str) -> None:
        """Give a thread this name, whatever it was registered as."""
        self.thread_track(process, pid, tid, name=name, role=role)
        with self._lock:
            known = self._tracks[process, pid, tid]
            if known["name"] == name:
                return
            renamed = self._tracks[process, pid, tid] = {**known, "name": name}
            columns = {key: [value] for key, value in renamed.items()}
        self.append("tracks", columns)

    def _track(self, key: tuple[object, ...], row: dict[str, Any]) -> int:
        """Register a track, and again when somebody knows more of it: the last row counts."""
        with self._lock:
            known = self._tracks.get(key)
            if known is None:
                merged = {"track": len(self._tracks), **row}
            else:
                lacking = [name for name in row if known[name] in (None, "")]
                merged = {**known, **{name: row[name] for name in lacking}}
            track: int = merged["track"]
            if merged == known:
                return track
            self._tracks[key] = merged
            columns = {name: [value] for name, value in merged.items()}
        self.append("tracks", columns)
        return track

    def counter(self, name: str, labels: str, *, unit: str, kind: str) -> int:
        """Return the id of a counter, registering its unit and kind (level, total) once."""
        with self._lock:
            counter = self._counters.get((name, labels))
            if counter is not None:
                return counter
            counter = self._counters[name, labels] = len(self._counters)
        row = {"counter": counter, "name": name, "labels": labels, "unit": unit, "kind": kind}
        self.append("counter_types", {key: [value] for key, value in row.items()})
        return counter

    def gap(
        self, probe: str, start_ns: int, end_ns: int, reason: str,
        lost_count: int | None = None, track: int | None = None,
    ) -> None:  # fmt: skip
        """Note that ``probe`` did not see ``[start_ns, end_ns)``."""
        row = {"probe": probe, "start_ns": start_ns, "end_ns": end_ns, "reason": reason}
        row |= {"lost_count": lost_count, "track": track}
        self.append("gaps", {key: [value] for key, value in row.items()})

    def _write_loop(self) -> None:
        while not self._stopping.wait(FLUSH_INTERVAL_S):
            self.flush()

    def flush(self) -> None:
        """Write what is pending. A refusal of the disk ends up in ``failure``, never raised."""
        with self._lock:
            pending = {name: batches for name, batches in self._pending.items() if batches}
            for name in pending:
                self._pending[name] = []
            for name, batches in pending.items():
                table = pa.Table.from_batches(batches).combine_chunks()
                if self.failure is not None and name != "gaps":
                    self._lost[name] = self._lost.get(name, 0) + table.num_rows
                    continue
                try:
                    for batch in table.to_batches():
                        self._streams[name].write(batch)
                    self.row_count += table.num_rows
                except OSError as error:
                    self._lost[name] = self._lost.get(name, 0) + table.num_rows
                    if self.failure is None:
                        self.failure = output_error(error, str(self.directory))
                        # Room for the gaps and the manifest that say so.
                        self._reserve.unlink(missing_ok=True)

    def close(self) -> None:
        """Write the rest and let go of the files; what was lost becomes rows in ``gaps``."""
        self._stopping.set()
        self._writer.join()
        self.flush()
        now_ns = time.monotonic_ns()
        for name, count in self._lost.items():
            reason = f"not written to {name}: {self.failure.slug if self.failure else 'unknown'}"
            self.gap("recorder", self.manifest.started_ns, now_ns, reason, count)
        self.flush()
        for stream in self._streams.values():
            stream.close()
        self._reserve.unlink(missing_ok=True)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, type=kind)
