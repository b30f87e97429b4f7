"""Stands for torch: what the hook waits for."""
