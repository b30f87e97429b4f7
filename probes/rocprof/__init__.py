"""AMD GPUs through rocprofiler-sdk: attached from outside, or loaded into a server that we start.

What also runs inside the server, under another package name and on its Python, imports nothing but
the standard library, numpy and each other, relatively: `inprocess`, `sdk`, `payloads`,
`spool_writer`, `wire`, `_abi`, `_library` and `_search`.
"""
