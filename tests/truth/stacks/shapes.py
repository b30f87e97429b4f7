"""Threads that stand still in stacks of every shape, and what the interpreter says they are.

Says on stdout, as one JSON line, each thread's kernel id and frames (innermost first, as
``sys._current_frames`` has them: qualified name and file). Ends when stdin closes. Names of
functions are the point here, not what they do.
"""

import asyncio
import functools
import json
import sys
import threading

standing = threading.Barrier(10)
ending = threading.Event()


def stand():
    standing.wait()
    ending.wait()


def recurse(depth):
    if depth:
        recurse(depth - 1)
    else:
        stand()


class Outer:
    class Inner:
        def method(self):
            def nested():
                stand()

            nested()


def generate():
    yield from generate_inner()


def generate_inner():
    yield stand()


async def outer_coroutine():
    await inner_coroutine()


async def inner_coroutine():
    stand()


def by_key():
    sorted([1], key=lambda _: stand())


def by_keys():
    """C, Python, C, Python: three calls of the evaluation loop in one stack."""
    sorted([1], key=lambda _: max([2], key=lambda _: functools.reduce(reduced, [1, 2])))


def reduced(_left, _right):
    stand()


def größe_名前():
    stand()


def in_a_dynamic_file():
    source = "def dynamic(work):\n    work()\n"
    names = {}
    exec(compile(source, "/tmp/ünïcode_\U0001f40d.py", "exec"), names)
    names["dynamic"](stand)


SHAPES = {
    "shallow": stand,
    "deep": functools.partial(recurse, 400),  # several chunks of the data stack
    "nested": Outer().Inner().method,
    "generator": lambda: list(generate()),
    "coroutine": lambda: asyncio.run(outer_coroutine()),
    "key": by_key,
    "keys": by_keys,
    "name": größe_名前,
    "file": in_a_dynamic_file,
}


def frames_of(frame):
    found = []
    while frame is not None:
        found.append([frame.f_code.co_qualname, frame.f_code.co_filename])
        frame = frame.f_back
    return found


def main():
    threads = [threading.Thread(target=work, name=name) for name, work in SHAPES.items()]
    for thread in threads:
        thread.start()
    standing.wait()
    while True:
        # A thread that has passed the barrier still has some steps to its last place.
        current = sys._current_frames()
        said = {thread.name: frames_of(current[thread.ident]) for thread in threads}
        if all(frames[1][0] == "Event.wait" for frames in said.values()):
            break
    tids = {thread.name: thread.native_id for thread in threads}
    print(json.dumps({"tids": tids, "frames": said}), flush=True)
    sys.stdin.buffer.read()
    ending.set()


main()
