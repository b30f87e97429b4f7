"""A plain Python program: one thread that computes, one that sleeps, and main, which waits.

Says its PID and thread ids on the pipe HELLO_FD; ends when stdin closes.
"""

import json
import os
import sys
import threading


def compute_a_while(ending):
    while not ending.wait(0.005):
        sum(range(50_000))


def sleep_until_the_end(ending):
    ending.wait()


def main():
    ending = threading.Event()
    tids = {"main": threading.get_native_id()}
    for name, work in {"busy": compute_a_while, "idle": sleep_until_the_end}.items():
        thread = threading.Thread(target=work, args=(ending,), name=name, daemon=True)
        thread.start()
        tids[name] = thread.native_id
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        hello.write(json.dumps({"pid": os.getpid(), "tids": tids}) + "\n")
    sys.stdin.buffer.read()
    ending.set()


main()
