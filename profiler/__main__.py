"""``python -m profiler`` is ``cputax``."""

from profiler.cli import main

if __name__ == "__main__":
    main()
