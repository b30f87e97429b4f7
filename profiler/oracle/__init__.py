"""The oracle: a small OpenAI-compatible server that knows its own truth.

Three processes play vLLM's roles (API server, EngineCore, Worker) and keep, from inside, the CPU
time of every stage, the time every thread held the GIL, and every boundary of every request. What
an outside profiler concludes can be held against it. Start it with ``python -m profiler.oracle``.
"""
