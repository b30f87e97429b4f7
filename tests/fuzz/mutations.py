"""Ways to spoil a small foreign file: its bytes, its numbers, its structure."""

from __future__ import annotations

import gzip
import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from collectors.importers import pftrace

MAX_BYTES: Final = 1 << 22  # of a spoiled file
ODD_NUMBERS: Final = (
    0, -1, 1, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1, 10**30,
)  # fmt: skip
ODD_VALUES: Final = (*ODD_NUMBERS, None, True, "", "\ud800", "x" * 5_000, 1.5, 1e308, -0.0, [], {})
_SQL_VALUES: Final = (
    *(one for one in ODD_NUMBERS if -(2**63) <= one < 2**63),
    None, "", "soon", 1.5, 1e300, b"\xff\x00", b"\xff" * 3_000, b"\xed\xa0\x80",
)  # fmt: skip
_GZIP: Final = b"\x1f\x8b"
_SQLITE: Final = b"SQLite format 3\0"

Spoil = Callable[[Random, bytes], bytes]


def spoil(random: Random, content: bytes) -> bytes:
    """Return the content, spoiled once or a few times; a packed one mostly inside."""
    if content.startswith(_GZIP) and random.random() < 0.8:
        try:
            inside = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            inside = b""
        packed = gzip.compress(spoil(random, inside), compresslevel=1)
        return spoil_bytes(random, packed) if random.random() < 0.05 else packed
    by_structure = _spoil_structure(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        is_structural = by_structure is not None and random.random() < 0.6
        how = by_structure if is_structural and by_structure is not None else spoil_bytes
        content = how(random, content)[:MAX_BYTES]
    return content


def _spoil_structure(content: bytes) -> Spoil | None:
    start = content.lstrip(b" ")[:1]
    if content.startswith(_SQLITE):
        return spoil_database
    if start in (b"{", b"["):
        return spoil_json
    if pftrace.is_mine(Path(), content):
        return spoil_packets
    return spoil_lines


def spoil_bytes(random: Random, content: bytes) -> bytes:
    """Flip, cut, splice, repeat or overwrite bytes; put in huge numbers or deep nesting."""
    size = len(content)
    at = random.randrange(size + 1)
    end = min(size, at + random.choice((1, 2, 4, 8, 100, 5_000)))
    other = random.randrange(size + 1)
    piece = content[other : other + random.choice((1, 8, 100, 4_096))]
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: _flip(random, content),
        lambda: _flip(random, content),
        lambda: content[:at],
        lambda: content[:at] + content[end:],
        lambda: content[:at] + piece + content[at:],
        lambda: content[:at] + piece + content[at + len(piece) :],
        lambda: content[:at] + bytes(end - at) + content[end:],
        lambda: content[:at] + b"\xff" * (end - at) + content[end:],
        lambda: content[:at] + str(random.choice(ODD_NUMBERS)).encode() + content[at:],
        lambda: content[:at] + random.randbytes(8) + content[at:],
        lambda: content[:at] + random.choice((b"[", b'{"a":', b"(", b"\x0a\x7f")) * 20_000,
        lambda: content[:at] + content[at:end] * random.choice((2, 50, 1_000)) + content[end:],
    )
    return random.choice(changes)()


def _flip(random: Random, content: bytes) -> bytes:
    flipped = bytearray(content)
    for _ in range(random.choice((1, 1, 4, 30)) if flipped else 0):
        at = random.randrange(len(flipped))
        flipped[at] = random.choice((flipped[at] ^ 1 << random.randrange(8), 0, 0xFF, 0x7F))
    return bytes(flipped)


def spoil_lines(random: Random, content: bytes) -> bytes:
    """Drop, double or exchange lines; put an odd value into a cell."""
    lines = content.split(b"\n")
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    change = random.randrange(5)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(other, lines[at])
    elif change == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        separator = random.choice((b",", b";", b" ", b'"'))
        cells = lines[at].split(separator)
        cells[random.randrange(len(cells))] = _as_text(random.choice(ODD_VALUES))
        lines[at] = separator.join(cells)
    return b"\n".join(lines)


def _as_text(value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def spoil_json(random: Random, content: bytes) -> bytes:
    """Put an odd value, or a copy of another part, somewhere into a document."""
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        return spoil_bytes(random, content)
    parent, key, part = None, None, document
    while isinstance(part, dict | list) and part and (parent is None or random.random() < 0.85):
        key = random.choice(list(part) if isinstance(part, dict) else range(len(part)))
        parent, part = part, part[key]
    if parent is None:
        return json.dumps(random.choice(ODD_VALUES)).encode()
    change = random.randrange(4)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), part)
    elif change == 2 and isinstance(parent, dict):
        parent[random.choice(list(parent))] = part
    else:
        parent[key] = random.choice(ODD_VALUES)
    try:
        return json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "replace")
    except RecursionError:
        return content


def spoil_packets(random: Random, content: bytes) -> bytes:
    """Drop, double, exchange or spoil whole packets of a Perfetto trace, lengths kept true."""
    packets, at = [], 0
    while at < len(content):
        size, shift, begin = 0, 0, at + 1
        while begin < len(content):
            size |= (content[begin] & 0x7F) << shift
            shift, begin = shift + 7, begin + 1
            if content[begin - 1] < 0x80:
                break
        packets.append(content[begin : begin + size])
        at = begin + size
    if not packets:
        return spoil_bytes(random, content)
    at, other = random.randrange(len(packets)), random.randrange(len(packets))
    change = random.randrange(5)
    if change == 0:
        del packets[at]
    elif change == 1:
        packets.insert(other, packets[at])
    elif change == 2:
        packets[at], packets[other] = packets[other], packets[at]
    else:
        packets[at] = _flip(random, packets[at])
    return b"".join(b"\x0a" + _varint(len(packet)) + packet for packet in packets)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def spoil_database(random: Random, content: bytes) -> bytes:
    """Put odd values into cells, double rows, drop or rename columns and tables."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        database.deserialize(content)
        database.text_factory = bytes
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("PRAGMA legacy_alter_table = ON")
        for _ in range(random.choice((1, 3, 10))):
            _spoil_table(random, database)
        return database.serialize()
    except (sqlite3.Error, MemoryError, OverflowError, UnicodeDecodeError, IndexError):
        return spoil_bytes(random, content)
    finally:
        database.close()


def _spoil_table(random: Random, database: sqlite3.Connection) -> None:
    names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    table = '"' + random.choice(names)[0].decode("utf-8", "replace").replace('"', '""') + '"'
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    column = '"' + random.choice(columns)[1].decode("utf-8", "replace").replace('"', '""') + '"'
    value = random.choice(_SQL_VALUES)
    where = random.choice(
        ("", "WHERE _rowid_ % 3 = 0", "WHERE _rowid_ = (SELECT max(_rowid_) FROM {})")
    )
    change = random.randrange(10)
    try:
        if change == 0:
            database.execute(f"DROP TABLE {table}")
        elif change == 1:
            database.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO odd")
        elif change == 2:
            database.execute(f"DELETE FROM {table} {where.format(table)}")
        elif change == 3:
            database.execute(f"INSERT INTO {table} SELECT * FROM {table}")
        elif change == 4:
            database.execute(f"CREATE TABLE loose AS SELECT * FROM {table}")
            database.execute(f"DROP TABLE {table}")
            database.execute(f"ALTER TABLE loose RENAME TO {table}")
        else:
            database.execute(f"UPDATE {table} SET {column} = ? {where.format(table)}", (value,))
    except (sqlite3.Error, UnicodeDecodeError):
        return  # what a constraint forbids cannot be in a file, either


def spoil_file(random: Random, path: Path) -> None:
    """Spoil a file in place."""
    path.write_bytes(spoil(random, path.read_bytes()))
