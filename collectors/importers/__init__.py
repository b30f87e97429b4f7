"""One file per foreign format, each guarded against hostile input."""
