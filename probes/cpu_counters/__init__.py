"""What the CPU and the kernel count for single threads: cycles, instructions, page faults, ..."""
