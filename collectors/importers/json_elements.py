"""Decodes arrays of JSON objects into typed structs; a bad element costs itself, not the array."""

from __future__ import annotations

from collections import Counter
from typing import Final, Generic, TypeVar

import msgspec

WRONG_TYPE: Final = "records with fields of a wrong type"

T = TypeVar("T")


class Elements(Generic[T]):
    """Decodes arrays whose elements are ``kind``, a msgspec struct.

    Of a key that an object has twice the last value counts, as in every reader of JSON.
    """

    def __init__(self, kind: type[T]) -> None:
        self._many = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._raw = msgspec.json.Decoder(list[msgspec.Raw])
        self._one = msgspec.json.Decoder(kind)

    def decode(self, array: bytes, repaired: Counter[str]) -> list[T] | None:
        """Return the elements of a JSON array that are of this kind, `None` if it is no JSON.

        Those that are not of this kind are counted in ``repaired``.
        """
        try:
            try:
                return self._many.decode(array)
            except msgspec.ValidationError:
                return self._each(self._raw.decode(array), repaired)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _each(self, elements: list[msgspec.Raw], repaired: Counter[str]) -> list[T]:
        found = []
        wrong_count = 0
        for element in elements:
            try:
                found.append(self._one.decode(element))
            except msgspec.ValidationError:
                wrong_count += 1
        repaired[WRONG_TYPE] += wrong_count
        return found
