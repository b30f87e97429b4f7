"""How a SQLite file begins. Alone here, so that telling other formats does not import SQLite."""

from __future__ import annotations

from typing import Final

SQLITE_MAGIC: Final = b"SQLite format 3\0"  # sqlite.org/fileformat2.html, 1.3
