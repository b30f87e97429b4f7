"""Scheduling: who waited for a CPU and why, from context switches and the kernel's counters."""
