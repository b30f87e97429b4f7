"""A program that leaves its CPUs for every reason: it sleeps, yields, spins and starts others.

Two children share one CPU, one that yields all the time and one that spins; main sleeps, and now
and then starts a thread and a process. Says their PIDs on the pipe HELLO_FD; ends with stdin.
"""

import json
import os
import select
import sys
import threading


def spin():
    while os.getppid() == MAIN_PID:
        sum(range(10_000))


def yield_all_the_time():
    while os.getppid() == MAIN_PID:
        for _ in range(100):
            os.sched_yield()


def child_of(work):
    pid = os.fork()
    if pid == 0:
        os.nice(5)  # they would take the machine
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        work()
        os._exit(0)
    return pid


def compute_a_little():
    sum(range(10_000))


def main():
    pids = {"spinner": child_of(spin), "yielder": child_of(yield_all_the_time)}
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        hello.write(json.dumps({"pid": MAIN_PID, **pids}) + "\n")
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        thread = threading.Thread(target=compute_a_little)
        thread.start()
        thread.join()
        pid = os.fork()
        if pid == 0:
            compute_a_little()
            os._exit(0)
        os.waitpid(pid, 0)


MAIN_PID = os.getpid()
main()
