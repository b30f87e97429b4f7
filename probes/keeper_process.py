"""The keeper's own process: starts recorders on request and never lets one outlive its session.

Run by path with ``python -I -S`` and nothing but the standard library, so that it is small, starts
in milliseconds and, having one thread, may fork safely. It holds one end of a SOCK_SEQPACKET
socket, on which each message is a JSON object.

* Its session is gone (end of file on the socket): every child is told to stop, then killed.
* Its session stopped breathing (no message for `SILENCE_S`): every child is told to stop; the
  session learns it when it wakes up.
* A child outlived its time: it is told to stop, then killed.
* The keeper itself is killed: the kernel sends each child its stop signal (PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time

SILENCE_S = 4.0
# Between the stop signal and SIGKILL: a recorder needs CPU time to write its file, and on a
# saturated host that takes seconds; once the session is gone, a recorder may not stay.
GRACE_S = 5.0
ORPHAN_GRACE_S = 1.0
TICK_S = 1.0
ENDING_TICK_S = 0.25  # while a child was told to stop
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MESSAGE_BYTES = 1 << 16

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Child:
    """A recorder: when it must end, and with which signal."""

    def __init__(self, pid: int, stop_signal: int, deadline_s: float) -> None:
        self.pid = pid
        self.stop_signal = stop_signal
        self.deadline_s = deadline_s
        self.kill_s: float | None = None

    def stop(self, now_s: float, grace_s: float = GRACE_S) -> None:
        """Ask it to end; `enforce` kills it when it does not."""
        if self.kill_s is None:
            os.kill(self.pid, self.stop_signal)
            self.kill_s = now_s + grace_s
        self.kill_s = min(self.kill_s, now_s + grace_s)

    def enforce(self, now_s: float) -> None:
        """End it when its time is over."""
        if now_s >= self.deadline_s:
            self.stop(now_s)
        if self.kill_s is not None and now_s >= self.kill_s:
            os.kill(self.pid, signal.SIGKILL)


class KeeperProcess:
    """Serves one session until it is gone and all its children are."""

    def __init__(self, session: socket.socket) -> None:
        self._session = session
        self._children: dict[int, Child] = {}  # by the session's key
        self._is_orphan = False
        self._heard_s = time.monotonic()

    def run(self) -> None:
        """Serve until the session is gone and no child is left."""
        selector = selectors.DefaultSelector()
        selector.register(self._session, selectors.EVENT_READ)
        wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector.register(wake, selectors.EVENT_READ)
        while self._children or not self._is_orphan:
            for key, _ in selector.select(self._tick_s):
                if key.fileobj is self._session:
                    self._hear()
                    if self._is_orphan:
                        selector.unregister(self._session)
                else:
                    os.read(wake, 4096)
            self._reap()
            now_s = time.monotonic()
            if self._is_orphan or now_s - self._heard_s > SILENCE_S:
                for child in self._children.values():
                    child.stop(now_s, ORPHAN_GRACE_S)
            for child in self._children.values():
                child.enforce(now_s)

    @property
    def _tick_s(self) -> float:
        is_ending = any(child.kill_s is not None for child in self._children.values())
        return ENDING_TICK_S if is_ending else TICK_S

    def _hear(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._session, MESSAGE_BYTES, 2)
        except OSError:
            message, fds = b"", []
        if not message:
            self._is_orphan = True
            return
        self._heard_s = time.monotonic()
        for fd in fds:
            os.set_inheritable(fd, False)
        request = json.loads(message)
        if request["op"] == "spawn":
            self._spawn(request, *fds)
        elif request["op"] == "stop" and request["key"] in self._children:
            self._children[request["key"]].stop(self._heard_s)
        for fd in fds:
            os.close(fd)

    def _spawn(self, request: dict, stdout: int, stderr: int) -> None:  # type: ignore[type-arg]
        keeper_pid = os.getpid()
        spawn_ns = time.monotonic_ns()
        pid = os.fork()
        if pid == 0:
            try:
                _become(request, stdout, stderr, keeper_pid)
            finally:
                os._exit(127)
        deadline_s = time.monotonic() + request["max_seconds"]
        self._children[request["key"]] = Child(pid, request["stop_signal"], deadline_s)
        self._tell(event="spawned", key=request["key"], pid=pid, time_ns=spawn_ns)

    def _reap(self) -> None:
        for key, child in list(self._children.items()):
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                del self._children[key]
                self._tell(
                    event="exited",
                    key=key,
                    time_ns=time.monotonic_ns(),
                    exit_code=os.waitstatus_to_exitcode(status),
                    cpu_seconds=usage.ru_utime + usage.ru_stime,
                )

    def _tell(self, **message: object) -> None:
        # A frozen session's socket may be full, or it is gone: the children matter more.
        with contextlib.suppress(OSError):
            self._session.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)


def _become(request: dict, stdout: int, stderr: int, keeper_pid: int) -> None:  # type: ignore[type-arg]
    """In the forked child: tie its life to the keeper's, and exec."""
    _prctl(PR_SET_PDEATHSIG, request["stop_signal"], 0, 0, 0)
    if os.getppid() != keeper_pid:
        return
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.execvpe(request["argv"][0], request["argv"], {**os.environ, **request["env"]})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)  # a recorder that held it would hide our end from the session
    KeeperProcess(link).run()
