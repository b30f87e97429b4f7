"""A JSON document read block by block says what it says at once, wherever the blocks end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.errors import ImportInvalid
from collectors.importers import json_stream
from collectors.importers.json_depth import Nesting
from collectors.importers.json_elements import WRONG_TYPE, Elements
from collectors.importers.json_repair import NOT_A_NUMBER, NOT_IN_TEXTS, NOT_UTF8
from collectors.importers.json_stream import JsonStream


class Item(msgspec.Struct, gc=False):
    n: int = -1
    text: str = ""
    ratio: float | None = None


ITEMS = Elements(Item)
# Texts that look like borders between elements, like brackets, and like ends of texts.
TRICKY = st.text(st.sampled_from('}{,[]"\\ \nxé\u2028')) | st.sampled_from(["}, {", '"},{"', "\\"])
INNER = st.lists(st.dictionaries(TRICKY, TRICKY, max_size=2), max_size=3)
OBJECTS = st.fixed_dictionaries({"n": st.integers(-5, 5), "text": TRICKY, "other": INNER})


def stream_of(document: bytes, cuts: list[int] | int) -> JsonStream:
    if isinstance(cuts, int):
        cuts = list(range(0, len(document), cuts))
    ends = sorted({0, *(cut for cut in cuts if cut < len(document)), len(document)})
    pieces = (document[start:end] for start, end in pairwise(ends))
    return JsonStream(Path("made.json"), pieces)


def items_of(stream: JsonStream) -> Iterator[Item]:
    for chunk in stream.chunks(ITEMS):
        yield from chunk


def skip_members(stream: JsonStream) -> None:
    for _ in stream.members():
        stream.skip()
    stream.end()


@given(
    st.lists(OBJECTS, max_size=8),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.lists(st.integers(1, 400), max_size=6) | st.integers(1, 40),
)
def test_chunks_are_the_elements_wherever_blocks_end(objects, separators, indent, is_ascii, cuts):
    document = {"before": [{}, {}], "list": objects, "after": [{"n": 1}, {"n": 2}]}
    text = json.dumps(document, separators=separators, indent=indent, ensure_ascii=is_ascii)
    stream = stream_of(text.encode(), cuts)
    found: dict[str, Any] = {}
    for key in stream.members():
        if key == "list":
            found[key] = [(item.n, item.text) for item in items_of(stream)]
        elif key == "after":
            found[key] = json.loads(stream.value())
        else:
            stream.skip()
    stream.end()
    assert found == {
        "list": [(one["n"], one["text"]) for one in objects],
        "after": document["after"],
    }


@given(st.lists(TRICKY | INNER, max_size=4), st.integers(1, 30))
def test_values_and_skips_end_where_json_says(values, cut):
    document = json.dumps([value for one in values for value in (one, 1.5, None, one)]).encode()
    stream = stream_of(document, cut)
    found = []
    for position, _ in enumerate(stream.items()):
        if position % 2:
            stream.skip()
        else:
            found.append(json.loads(stream.value()))
    stream.end()
    assert found == json.loads(document)[::2]


@given(st.recursive(TRICKY | st.integers(), lambda inner: st.lists(inner, max_size=3)), st.data())
def test_nesting_counts_as_a_parser_would(value, data):
    text = json.dumps(value, ensure_ascii=False).encode()
    depth, in_text, expected = 0, False, []
    skipped = False
    for code in text.decode("latin-1"):
        if skipped:
            skipped = False
        elif in_text and code == "\\":
            skipped = True
        elif code == '"':
            in_text = not in_text
        elif not in_text and code in "[]{}":
            depth += 1 if code in "[{" else -1
            expected.append(depth)
    cut = data.draw(st.integers(0, len(text)))
    nesting = Nesting()
    found = np.concatenate([nesting.feed(text[:cut])[1], nesting.feed(text[cut:])[1]])
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("text", "meant", "mended"),
    [
        (b'{"n": 1, "text": "a\xffb"}', "a\ufffdb", {NOT_UTF8: 1}),
        (b'{"n": 1, "ratio": NaN}', "", {NOT_A_NUMBER: 1}),
        (b'{"n": 1, "ratio": -inf, "text": ": nan, inf"}', ": nan, inf", {NOT_A_NUMBER: 1}),
        (b'{"n": 1, "text": "C:\\Users\\\\new\\q"}', "C:\\Users\\new\\q", {NOT_IN_TEXTS: 2}),
        (b'{"n": 1, "text": "two\nlines\\\\\x01"}', "two\nlines\\\x01", {NOT_IN_TEXTS: 2}),
    ],
)
def test_known_defects_of_writers_are_mended_and_counted(text, meant, mended):
    stream = stream_of(b'[{"n": 0}, %s, {"n": 9}]' % text, 1 << 20)
    assert [(item.n, item.text) for item in items_of(stream)] == [(0, ""), (1, meant), (9, "")]
    assert +stream.repaired == mended


def test_mending_leaves_good_texts_alone():
    texts = ["nan", "a\\b", 'quote " and \\"', "\u00e9", "inf, -Infinity]"]
    good = b", ".join(json.dumps({"text": text}).encode() for text in texts)
    stream = stream_of(b'[{"ratio": nan}, %s]' % good, 1 << 20)
    assert [item.text for item in items_of(stream)] == ["", *texts]
    assert +stream.repaired == {NOT_A_NUMBER: 1}


def test_elements_of_a_wrong_type_are_left_out_and_counted():
    stream = stream_of(b'[{"n": 1}, {"n": "one"}, {"n": 2}, 7, {"n": 3}]', 1 << 20)
    assert [item.n for item in items_of(stream)] == [1, 2, 3]
    assert stream.repaired == {WRONG_TYPE: 2}


def test_of_a_key_that_is_there_twice_the_last_value_counts():
    assert [item.n for item in items_of(stream_of(b'[{"n": 1, "n": 2}]', 4))] == [2]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"[", b'[{"n": 1}', b'[{"n": 1},', b'[{"n": 1}, {"n"', b'[{"n": "x',
    ],
)  # fmt: skip
def test_document_that_ends_too_early_is_an_error(text, block):
    with pytest.raises(ImportInvalid, match="cut off"):
        list(items_of(stream_of(text, block)))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        b"{}", b"5", b"[}", b"[{}}", b"[{} {}]", b'[{"n": 1 "text": 2}]', b"[,{}]", b"[{]}",
        b'[{"n": 01}]',
    ],
)  # fmt: skip
def test_document_that_is_no_json_is_an_error(text, block):
    with pytest.raises(ImportInvalid, match="is not JSON"):
        list(items_of(stream_of(text, block)))


@pytest.mark.parametrize("text", [b"{5: 1}", b'{"a" 1}', b'{"a": 1; "b": 2}', b"{}x", b"[]"])
def test_object_that_is_no_json_is_an_error(text):
    with pytest.raises(ImportInvalid, match="is not JSON"):
        skip_members(stream_of(text, 3))


@pytest.mark.parametrize("text", [b"[" * 200_000, b'[{"a":' * 100_000])
def test_nesting_without_end_is_an_error(text):
    with pytest.raises(ImportInvalid):
        list(items_of(stream_of(b"[{}, " + text, 1 << 16)))


@pytest.mark.parametrize("text", [b'"' + b"x" * 5_000, b"{" + b" " * 5_000, b"1" * 5_000])
def test_one_value_beyond_the_limit_is_an_error(text, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_VALUE_BYTES", 1_000)
    with pytest.raises(ImportInvalid, match="one value of over 1,000 bytes"):
        stream_of(text, 100).value()


def skip_items(stream: JsonStream) -> None:
    for _ in stream.items():
        stream.skip()


@pytest.mark.parametrize(
    ("text", "skip"), [(b'{"a": 1, "b": 2, "c": 3}', skip_members), (b"[1, 2, 3]", skip_items)]
)
def test_members_beyond_the_limit_are_an_error(text, skip, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_MEMBER_COUNT", 2)
    with pytest.raises(ImportInvalid, match="more than 2 members"):
        skip(stream_of(text, 100))


def test_skipping_has_no_limit(monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_VALUE_BYTES", 1_000)
    stream = stream_of(b'{"long": [' + b"{}, " * 5_000 + b'{}], "n": 5}', 100)
    found = {}
    for key in stream.members():
        if key == "long":
            stream.skip()
        else:
            found[key] = stream.value()
    assert found == {"n": b"5"}
