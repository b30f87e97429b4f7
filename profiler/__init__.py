"""The roof: the command line, recording sessions, reports, benchmarks and load."""

# Here and not in pyproject.toml, which reads it: asking for the metadata of an installed package
# takes longer than the whole of ``cputax --help`` otherwise does.
__version__ = "0.1.0"
