"""What the pretended model is called and how large it is; known to every role."""

from typing import Final

MODEL_NAME: Final = "cputax-oracle"
VOCABULARY: Final = 16_000
CONTEXT_TOKENS: Final = 65_536

# What a ghost sequence (`profiler.oracle.scheduler.make_ghosts`) computes in each step: so many
# tokens that for hundreds of ghosts the worker's stages last a millisecond or more, and the forward
# pass is the longest, as in a real model.
GHOST_STEP_TOKENS: Final = 80
