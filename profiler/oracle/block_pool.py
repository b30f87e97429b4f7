"""KV-cache blocks with prefix reuse: chained block hashes, reference counts, LRU eviction."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged

BLOCK_TOKENS: Final = 16  # vLLM's default on most devices


@staged(Stage.PREFIX_CACHE)
def hash_blocks(token_ids: array[int]) -> list[bytes]:
    """One hash per full block; each covers its block and, through the chain, all before it."""
    raw = token_ids.tobytes()
    block_bytes = BLOCK_TOKENS * token_ids.itemsize
    hashes = []
    parent = b""
    for end in range(block_bytes, len(raw) + 1, block_bytes):
        parent = hashlib.sha256(parent + raw[end - block_bytes : end]).digest()
        hashes.append(parent)
    return hashes


@dataclass(slots=True)
class Allocation:
    """The blocks of one request; the first ``cached_token_count`` tokens need no computing."""

    block_ids: list[int]
    cached_token_count: int


@dataclass(slots=True)
class BlockPool:
    """``block_count`` blocks, all free at first."""

    block_count: int
    query_token_count: int = 0
    hit_token_count: int = 0
    _free: OrderedDict[int, None] = field(init=False)
    _reference_counts: list[int] = field(init=False)
    _block_of_hash: dict[bytes, int] = field(init=False, default_factory=dict)
    _hash_of_block: dict[int, bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._free = OrderedDict.fromkeys(range(self.block_count))
        self._reference_counts = [0] * self.block_count

    @property
    def usage_ratio(self) -> float:
        """Share of the blocks that requests hold."""
        return 1 - len(self._free) / self.block_count

    @staged(Stage.PREFIX_CACHE)
    def allocate(
        self, hashes: list[bytes], prompt_token_count: int, token_count: int
    ) -> Allocation | None:
        """Blocks for ``token_count`` tokens, known prefix first; None when too few are free.

        ``hashes`` are those of the prompt. Its last token is always computed, so a prompt is never
        cached in full.
        """
        needed_count = -(-token_count // BLOCK_TOKENS)
        block_ids: list[int] = []
        for block_hash in hashes[: (prompt_token_count - 1) // BLOCK_TOKENS]:
            block_id = self._block_of_hash.get(block_hash)
            if block_id is None:
                break
            block_ids.append(block_id)
        idle_hit_count = sum(1 for block_id in block_ids if block_id in self._free)
        if needed_count - len(block_ids) > len(self._free) - idle_hit_count:
            return None
        cached_token_count = len(block_ids) * BLOCK_TOKENS
        self.query_token_count += prompt_token_count
        self.hit_token_count += cached_token_count
        for block_id in block_ids:
            self._free.pop(block_id, None)
        for index in range(len(block_ids), needed_count):
            block_id, _ = self._free.popitem(last=False)
            self._forget(block_id)
            if index < len(hashes):
                self._remember(block_id, hashes[index])
            block_ids.append(block_id)
        for block_id in block_ids:
            self._reference_counts[block_id] += 1
        return Allocation(block_ids, cached_token_count)

    @staged(Stage.PREFIX_CACHE)
    def free(self, allocation: Allocation) -> None:
        """Give blocks back; their content stays known until they are used for something else."""
        for block_id in reversed(allocation.block_ids):
            self._reference_counts[block_id] -= 1
            if self._reference_counts[block_id] == 0:
                self._free[block_id] = None

    def _forget(self, block_id: int) -> None:
        block_hash = self._hash_of_block.pop(block_id, None)
        if block_hash is not None:
            del self._block_of_hash[block_hash]

    def _remember(self, block_id: int, block_hash: bytes) -> None:
        if block_hash not in self._block_of_hash:
            self._block_of_hash[block_hash] = block_id
            self._hash_of_block[block_id] = block_hash
