"""A thread that goes to and fro between short pieces of work and knows what each has cost.

Arguments: seconds. Says "up" on stdout, then works, then prints the share of time of each piece as
JSON. The pieces last 20 to 300 microseconds and are reached in different ways: by a plain call, by
a generator, and through C.
"""

import json
import sys
import time

clock = time.perf_counter_ns
spent_ns = {"plain": 0, "generated": 0, "by_c": 0}


def burn(turns):
    total = 0
    for turn in range(turns):
        total += turn
    return total


def plain():
    began_ns = clock()
    burn(400)
    spent_ns["plain"] += clock() - began_ns


def generated():
    while True:
        began_ns = clock()
        burn(3000)
        spent_ns["generated"] += clock() - began_ns
        yield


def by_c(_):
    began_ns = clock()
    burn(5000)
    spent_ns["by_c"] += clock() - began_ns


def main():
    print("up", flush=True)
    end_ns = clock() + int(float(sys.argv[1]) * 1e9)
    generator = generated()
    while clock() < end_ns:
        plain()
        next(generator)
        list(map(by_c, (0,)))
    total_ns = sum(spent_ns.values())
    print(json.dumps({name: ns / total_ns for name, ns in spent_ns.items()}), flush=True)


main()
