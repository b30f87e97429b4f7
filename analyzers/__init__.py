"""Conclusions from a capture: stages, CPU time, the GIL, run queues, tokenizing, findings."""
