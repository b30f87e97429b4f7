"""The manifest comes back as it was written, and a damaged one says so."""

from __future__ import annotations

import json

import pytest

from collectors.errors import CaptureInvalid
from collectors.manifest import FILE_NAME, read_manifest
from tests.recordings import make_manifest


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    manifest = make_manifest()
    manifest.probes[0].detail = {"processes": {"1": {"sample_count": 3}}}
    manifest.host = {"kernel": "6.1", "cpu_count": 2}
    manifest.target.model = "名前"

    manifest.write(tmp_path)

    assert read_manifest(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_write_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    manifest = make_manifest()
    manifest.write(tmp_path)

    def refuse(*_arguments):
        raise OSError(28, "")

    monkeypatch.setattr("collectors.manifest.os.replace", refuse)
    manifest.state = "complete"
    with pytest.raises(OSError):  # noqa: PT011  (any will do)
        manifest.write(tmp_path)

    assert read_manifest(tmp_path).state == "recording"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"x"', "{}", "\x00", '{"schema_version": "one"}',
     '{"schema_version": 1}', '{"schema_version": null}'],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)

    with pytest.raises(CaptureInvalid, match=FILE_NAME):
        read_manifest(tmp_path)


def drop(name):
    return lambda document: document.pop(name)


def set_to(name, value):
    return lambda document: document.update({name: value})


@pytest.mark.parametrize(
    "damage",
    [
        drop("target"), drop("anchors"), drop("started_ns"), drop("probes"),
        set_to("anchors", []), set_to("anchors", [{}]), set_to("probes", [{"name": "x"}]),
        set_to("probes", 3), set_to("target", []), set_to("surprise", 1),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(tmp_path, damage):
    # Given a good one
    make_manifest().write(tmp_path)
    document = json.loads((tmp_path / FILE_NAME).read_text())

    # When
    damage(document)
    (tmp_path / FILE_NAME).write_text(json.dumps(document))

    # Then
    with pytest.raises(CaptureInvalid, match="damaged"):
        read_manifest(tmp_path)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe{}")

    with pytest.raises(CaptureInvalid, match="not JSON"):
        read_manifest(tmp_path)
