"""Context switches: every stay of the target's threads on a CPU, and why each ended.

`sources` opens the kernel's events, `records` splits what they wrote, `stays` pairs the switches,
`wakes` finds when each thread became ready, `yields` tells a yield from a preemption, `tracks` who
is who; `probe` puts it together.
"""
