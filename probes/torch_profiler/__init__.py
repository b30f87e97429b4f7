"""The server's own torch profiler, switched on for a slice of the recording.

`settings` tells how the server was started, `switch` is the child that starts and stops the
profiler and never leaves it running, `slice_child` the hand on that child, `files` what the server
wrote, `clock` its clock, and `probe` puts all of it together.
"""
