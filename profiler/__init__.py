"""The roof: the command line, recording sessions, reports, benchmarks and load."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cputax")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
