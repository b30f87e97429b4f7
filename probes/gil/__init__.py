"""GIL sampling from outside: who holds the lock, how many want it and who, without a pause.

`probes.gil.runtime` finds the lock in a live process once (with pyelftools); the result is plain
numbers that `probes.gil.sampler`, a small child program, reads a thousand times a second.
"""
