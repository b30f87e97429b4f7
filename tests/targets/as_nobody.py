"""Run ``cputax ARGUMENTS`` as the user nobody; started by root.

Everything is imported first, because nobody may not be allowed to read where cputax is installed.
"""

import difflib  # noqa: F401  (click imports it late)
import os
import sys

import profiler.commands.attach  # noqa: F401  (imported early, see above)
from profiler.cli import main

NOBODY = 65534

os.setgroups([])
os.setgid(NOBODY)
os.setuid(NOBODY)
sys.argv[0] = "cputax"
main()
