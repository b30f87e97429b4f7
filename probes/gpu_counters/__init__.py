"""GPU counters: what the driver says of each GPU ten times a second, the rung below a trace.

`probe` reads, `devices` says what a GPU is, and ``amd_sysfs``, ``amd_smi`` and ``nvml`` each find
the GPUs of one driver.
"""
