"""On which memory nodes a process's pages lie, told from a random sample of them."""
