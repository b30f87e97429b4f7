"""Python stacks from outside: each thread's frames copied in one system call, without a pause.

`probes.stacks.layout` says where the frames of one process lie; `probes.stacks.sampler`, a small
child program, reads them through `probes.stacks.reader` and interns them; `probes.stacks.probe` is
the parent's side. What this reader does not know (CPython 3.10, versions to come) is py-spy's:
`probes.pyspy`.
"""
