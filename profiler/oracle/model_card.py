"""What the pretended model is called and how large it is; known to every role."""

from typing import Final

MODEL_NAME: Final = "cputax-oracle"
VOCABULARY: Final = 16_000
CONTEXT_TOKENS: Final = 65_536
