"""Finding rocprofiler-sdk, trusting its version or not, and its own words for its errors."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from probes.rocprof import _library
from probes.rocprof._abi import BufferId, Status
from probes.rocprof._library import Library, LibraryUnusable, SdkError, Version, layout_of
from probes.rocprof._search import SDK_NAMES, find_library, find_sdk, library_directories
from tests.rocprof_fakes import SDK, make_rocm


@pytest.fixture(scope="module")
def rocm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rocm(tmp_path_factory.mktemp("rocm"))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_torchs_own_rocm_stands_before_wheels_the_variable_and_opt(tmp_path):
    # Given all of them
    site, named, root = tmp_path / "site", tmp_path / "named", tmp_path / "root"
    places = [
        touch(site / "torch" / "lib" / SDK),
        touch(site / "_rocm_sdk_core" / "lib" / SDK),
        touch(named / "lib" / SDK),
        touch(root / "opt" / "rocm" / "lib" / SDK),
        touch(root / "opt" / "rocm-7.10.0" / "lib" / SDK),
        touch(root / "opt" / "rocm-7.2.4" / "lib" / SDK),
    ]

    def found() -> Path | None:
        directories = library_directories({"ROCM_PATH": str(named)}, [str(site)], root)
        return find_library(SDK_NAMES, directories)

    # When one after the other goes away
    for place in places:
        assert found() == place
        place.unlink()

    # Then
    assert found() is None


def test_the_linkers_cache_is_the_last_resort(tmp_path):
    library = touch(tmp_path / "odd" / SDK)
    gone = tmp_path / "gone" / "librocprofiler-sdk.so"
    cache = tmp_path / "ld.so.cache"
    cache.write_bytes(
        b"glibc-ld.so.cache1.1\0\x01\0" + bytes(library) + b"\0" + bytes(gone) + b"\0"
    )

    assert find_library(SDK_NAMES, [], cache) == library
    assert find_library(SDK_NAMES[2:], [], cache) is None
    assert find_library(SDK_NAMES, [], tmp_path / "no cache") is None


def test_a_process_uses_the_library_that_amds_variable_names(tmp_path):
    chosen, other = touch(tmp_path / "mine.so"), touch(tmp_path / "lib" / SDK)
    environ = {"ROCM_PATH": str(tmp_path), "ROCPROFILER_REGISTER_LIBRARY": str(chosen)}

    assert find_sdk(environ) == chosen
    chosen.unlink()
    assert find_sdk(environ) == other


def test_each_known_version_has_its_layout_and_no_other_is_trusted():
    assert layout_of(Version(0, 5, 0)) is _library.LAYOUT_V0
    assert layout_of(Version(0, 6, 1)) is _library.LAYOUT_V0
    assert layout_of(Version(1, 0, 0)) is layout_of(Version(1, 9, 7)) is _library.LAYOUT_V1
    for unknown in (Version(0, 4, 0), Version(0, 7, 0), Version(2, 0, 0)):
        with pytest.raises(LibraryUnusable, match=str(unknown)):
            layout_of(unknown)
    assert not Version(1, 3, 5).is_beyond_known
    assert Version(1, 4, 0).is_beyond_known


@pytest.mark.parametrize("version", ["0.4.0", "2.0.0"])
def test_a_library_of_an_unknown_version_is_refused_at_the_door(rocm, monkeypatch, version):
    monkeypatch.setenv("FAKE_ROCP_VERSION", version)

    with pytest.raises(LibraryUnusable, match=version):
        Library(rocm / "lib" / SDK)


def test_a_file_that_is_no_such_library_is_refused(tmp_path):
    text = tmp_path / SDK
    text.write_text("not a library")

    with pytest.raises(LibraryUnusable, match="cannot be used"):
        Library(text)
    with pytest.raises(LibraryUnusable, match="rocprofiler_get_version"):
        Library(Path("libc.so.6"))


def test_an_error_carries_the_librarys_own_words(rocm, monkeypatch):
    library = Library(rocm / "lib" / SDK)
    monkeypatch.setenv("FAKE_ROCP_FAIL", "rocprofiler_flush_buffer:40")

    with pytest.raises(SdkError) as refused:
        library.call("rocprofiler_flush_buffer", BufferId(1))

    assert (refused.value.function, refused.value.status) == ("rocprofiler_flush_buffer", 40)
    assert refused.value.name == "ROCPROFILER_STATUS_ERROR_PERMISSION_DENIED"
    assert str(refused.value) == ("rocprofiler_flush_buffer: Permission denied (fake) (status 40)")


def test_a_status_that_the_library_has_no_words_for_is_told_by_its_number(rocm, monkeypatch):
    library = Library(rocm / "lib" / SDK)
    monkeypatch.setenv("FAKE_ROCP_FAIL", "rocprofiler_create_context:63")

    with pytest.raises(SdkError, match="status 63"):
        library.call("rocprofiler_create_context", ctypes.byref(_library._abi.ContextId()))


def test_what_may_be_done_only_while_configuring_is_refused_later(rocm):
    library = Library(rocm / "lib" / SDK)

    with pytest.raises(SdkError) as refused:
        library.call("rocprofiler_create_context", ctypes.byref(_library._abi.ContextId()))

    assert refused.value.status == Status.CONFIGURATION_LOCKED


def test_kinds_and_operations_are_asked_by_name(rocm):
    library = Library(rocm / "lib" / SDK)

    kinds = library.buffer_kinds()

    assert kinds == {"HIP_RUNTIME_API": 5, "MEMORY_COPY": 10, "KERNEL_DISPATCH": 11}
    assert library.operation_names(kinds["HIP_RUNTIME_API"])[1] == "hipLaunchKernel"
