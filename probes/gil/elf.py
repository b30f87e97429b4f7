"""Symbols and load addresses of a live process's ELF files, through /proc/PID."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
X86_64: Final = "EM_X86_64"
_LIBPYTHON: Final = re.compile(r"/libpython[0-9.]+[a-z]*\.so[^/]*$")
_MUSL: Final = re.compile(r"/ld-musl-[^/]*\.so[^/]*$|/libc\.musl-[^/]*\.so[^/]*$")
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps that is backed by a file."""

    start: int
    file_offset: int
    path: str


def file_mappings(maps: str) -> list[Mapping]:
    """Parse the text of /proc/PID/maps (proc(5)); anonymous and special regions are left out."""
    found = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            start = int(fields[0].partition("-")[0], 16)
            found.append(Mapping(start, int(fields[2], 16), fields[5]))
    return found


def uses_musl(mappings: list[Mapping]) -> bool:
    """Say whether the process runs on musl, whose conditions are laid out differently."""
    return any(_MUSL.search(mapping.path) for mapping in mappings)


def python_files(pid: int, mappings: list[Mapping]) -> list[tuple[Path, int, int]]:
    """Return the files that may hold the interpreter: ``(how to open it, start, file offset)``.

    libpython first, then the executable; opened through /proc/PID so that containers and deleted
    executables work.
    """
    files: list[tuple[Path, int, int]] = []
    library = next((m for m in mappings if _LIBPYTHON.search(m.path)), None)
    if library is not None:
        files.append((Path(f"/proc/{pid}/root{library.path}"), library.start, library.file_offset))
    target = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
    main = next((m for m in mappings if m.path.removesuffix(_DELETED) == target), None)
    if main is not None:
        files.append((Path(f"/proc/{pid}/exe"), main.start, main.file_offset))
    return files


class Binary:
    """One ELF file as it is mapped in the target. Use as a context manager."""

    def __init__(self, path: Path, start: int, file_offset: int) -> None:
        """Open it.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is no ELF file, or is not mapped as its headers say.
        """
        self._file = path.open("rb")
        try:
            self._elf = ELFFile(self._file)
            self.machine: str = self._elf["e_machine"]
            self._bias = self._load_bias(start, file_offset)
        except ELFError as error:
            self._file.close()
            raise ValueError(f"no ELF file: {path}") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Binary:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _load_bias(self, start: int, file_offset: int) -> int:
        if self._elf["e_type"] == "ET_EXEC":
            return 0
        for segment in self._elf.iter_segments("PT_LOAD"):
            if segment["p_offset"] // PAGE_BYTES * PAGE_BYTES == file_offset:
                return start - int(segment["p_vaddr"]) // PAGE_BYTES * PAGE_BYTES
        raise ValueError("no segment belongs to the mapping")

    def address(self, name: str) -> int | None:
        """Return where a defined symbol lies in the target's memory, or None."""
        value = self._dynamic_symbol(name)
        return None if value is None else value + self._bias

    def section_address(self, name: str) -> int | None:
        """Return where a section lies in the target's memory, or None."""
        section = self._elf.get_section_by_name(name)
        return None if section is None else int(section["sh_addr"]) + self._bias

    def _dynamic_symbol(self, name: str) -> int | None:
        # The hash tables answer at once; walking .dynsym takes a second on a large library.
        for table in (".gnu.hash", ".hash"):
            section: Any = self._elf.get_section_by_name(table)
            if section is not None:
                found = section.get_symbol(name)
                return None if found is None else _defined(found)
        symbols: Any = self._elf.get_section_by_name(".dynsym")
        for found in (symbols and symbols.get_symbol_by_name(name)) or ():
            return _defined(found)
        return None


def _defined(symbol: Any) -> int | None:
    return None if symbol["st_shndx"] == "SHN_UNDEF" else int(symbol["st_value"])
