"""Pinning: a plan of which process runs on which CPUs, and a trial that says what it is worth."""
