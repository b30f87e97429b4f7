"""The only door to perf_event_open(2), by ctypes: counting events and ring buffers of records.

`attributes` says what to ask for, `events` opens, reads and controls, `ring` brings the records,
`tracepoints` finds their ids, `errors` tells the kernel's refusals apart.
"""
