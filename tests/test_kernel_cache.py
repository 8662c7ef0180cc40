"""chatglm/kernel_cache.py and what loads from it: damaged files, hostile folders, broken compilers, no cache at all."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chatglm import cpu_kernels, cuda_compiler, kernel_cache
from chatglm.kernel_cache import KernelError, cache_directory, find_or_compile, find_source

SOURCE_TEXT = "int supports_path(int path) { return path == 0; }\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Return an empty user's cache, and let temporary files lie in a folder that tests can look into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "cache" / "chatglm"


@pytest.fixture
def source(tmp_path) -> Path:
    """Return a source that compiles in no time."""
    if not cpu_kernels.find_compilers():
        pytest.skip("no C compiler")
    (tmp_path / "kernels.c").write_text(SOURCE_TEXT)
    return tmp_path / "kernels.c"


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """Return the list of the lines that a user sees."""
    seen: list[str] = []

    def note(message: str, *values: object) -> None:
        seen.append(message % values)

    for module in (kernel_cache, cpu_kernels):
        monkeypatch.setattr(module.logger, "warning", note)
    return seen


def left_behind(cache: Path) -> list[Path]:
    return list((cache.parent.parent / "temporary").iterdir())


def works(library) -> bool:
    return library.supports_path(0) == 1 and library.supports_path(1) == 0


# Both caches: what a file may hold


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def be_garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


def be_another_library(file: Path) -> None:
    shutil.copy(cpu_kernels.find_openmp_runtime("GOMP_parallel") or sys.executable, file)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def be_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def be_a_dead_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/no/such/file")


DAMAGES = [cut, empty, be_garbage, be_another_library, flip_a_bit, be_a_folder, be_a_dead_link]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_compiled_anew_once_with_one_line(cache, source, warnings, damage):
    with pytest.MonkeyPatch.context() as unloaded:  # what is mapped into this process must not be cut
        unloaded.setattr(cpu_kernels, "load_library", lambda *_: None)
        cpu_kernels.build(source)
    (file,) = (cache / "cpu").iterdir()
    before = file.read_bytes()
    damage(file)
    assert works(cpu_kernels.build(source))
    assert len(warnings) == 1 and str(file) in warnings[0] and "compiled anew" in warnings[0]
    if damage is not be_a_folder:  # that is somebody's, and stays
        assert [file] == list((cache / "cpu").iterdir()) and file.read_bytes() == before
        assert works(cpu_kernels.build(source)) and len(warnings) == 1
    assert not left_behind(cache)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cuda_image_is_compiled_anew(cache, monkeypatch, warnings, damage):
    compiled = []

    def compile_kernels(source: str, capability: tuple[int, int]) -> bytes:
        compiled.append(capability)
        return b"the machine code"

    monkeypatch.setattr(cuda_compiler, "compile_kernels", compile_kernels)
    assert cuda_compiler.kernel_image((9, 0)) == b"the machine code"
    (file,) = (cache / "cuda").iterdir()
    damage(file)
    assert cuda_compiler.kernel_image((9, 0)) == b"the machine code"
    assert len(compiled) == 2 and len(warnings) == 1


# Both caches: what a folder may be


def be_writable_by_all(folder: Path) -> None:
    folder.chmod(0o777)


def be_writable_by_the_group(folder: Path) -> None:
    folder.chmod(0o770)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("depth", ["", "kind"])
@pytest.mark.parametrize("change", [be_writable_by_all, be_writable_by_the_group])
def test_a_folder_that_others_may_write_is_refused(cache, kind, depth, change):
    cache_directory(kind)
    change(cache / kind if depth else cache)
    with pytest.raises(PermissionError, match="can be written by others"):
        cache_directory(kind)
    assert find_or_compile(kind, "parts", lambda: ("label", b"kernels")) == ("label", b"kernels", None)
    assert not list((cache / kind).iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(cache):
    os.chown(cache_directory("cpu"), 12345, 12345)
    with pytest.raises(PermissionError):
        cache_directory("cpu")


def test_folders_are_private_whatever_the_umask(cache):
    before = os.umask(0)
    try:
        directory = cache_directory("cpu")
        *_, file = find_or_compile("cpu", "parts", lambda: ("label", b"kernels"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (cache, directory, file)]
    assert modes == [0o700] * 3


def test_without_a_home_folder_kernels_are_loaded_and_nothing_stays(cache, source, monkeypatch):
    """A container with `--user 12345`: no HOME, and no entry for the user."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def fail(_) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", fail)
    with pytest.raises(FileNotFoundError):
        cache_directory("cpu")
    assert works(cpu_kernels.build(source))
    assert not left_behind(cache)


@pytest.mark.parametrize("place", ["/proc/version/cache", "/dev/null", "/proc/1/cache", "\0"])
def test_a_cache_that_cannot_be_made_is_done_without(cache, source, monkeypatch, place):
    if "\0" not in place:  # no environment holds it
        monkeypatch.setenv("XDG_CACHE_HOME", place)
    else:
        cache.parent.write_text("a file")
    assert works(cpu_kernels.build(source))
    assert not left_behind(cache)


def test_a_full_disk_leaves_nothing(cache, source, monkeypatch):
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_cache.os, "replace", fail)
    assert works(cpu_kernels.build(source))
    assert not list((cache / "cpu").iterdir()) and not left_behind(cache)


def test_folders_that_hold_no_programs_are_done_without(cache, source, monkeypatch):
    """`noexec`: the dynamic linker refuses files of the cache and of the temporary folder, not memory."""
    if not hasattr(os, "memfd_create"):
        pytest.skip("needs Linux")
    load = cpu_kernels.ctypes.CDLL

    def refuse(name, *arguments, **keywords):
        if str(cache.parent.parent) in str(name):
            raise OSError(f"{name}: failed to map segment from shared object")
        return load(name, *arguments, **keywords)

    monkeypatch.setattr(cpu_kernels.ctypes, "CDLL", refuse)
    assert works(cpu_kernels.build(source))
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(KernelError, match="cannot be loaded: .*failed to map segment"):
        cpu_kernels.build(source)
    assert not list((cache / "cpu").iterdir()), "what cannot be loaded is not kept"


# Several at once, and one that was killed


def test_compiling_at_once_gives_everybody_whole_kernels(cache):
    def compile_them() -> tuple[str, bytes]:
        return "label", b"kernels" * 1000

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find_or_compile("cpu", "parts", compile_them)[:2], range(64)))
    assert found == [("label", b"kernels" * 1000)] * 64
    assert len(list((cache / "cpu").iterdir())) == 1


def test_what_a_killed_process_left_is_no_obstacle(cache, source):
    """A kill -9 leaves a file under a temporary name, here and in the temporary folder."""
    key = "0" * 24
    (cache_directory("cpu") / f"{key}-threads-{'0' * 32}.123-456").write_bytes(b"half")
    (cache.parent.parent / "temporary" / "chatglm-x").mkdir()
    assert works(cpu_kernels.build(source))
    assert works(cpu_kernels.build(source))


# Compilers


def fake_compiler(folder: Path, script: str) -> str:
    for name in ("gcc", "cc", "clang"):
        (folder / name).write_bytes(script.encode("latin-1"))
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\nexit 0\n", "exit status 0, no library"),
        ("#!/bin/sh\nprintf '\\377\\376\\351' >&2\nexit 1\n", "\ufffd"),
        ("#!/bin/sh\nprintf '\\377\\376\\351'\nexit 1\n", "exit status 1"),
        ('#!/bin/sh\nwhile [ "$1" ]; do [ "$1" = -o ] && : > "$2"; shift; done\n', "exit status 0, no library"),
        ('#!/bin/sh\nwhile [ "$1" ]; do [ "$1" = -o ] && echo no > "$2"; shift; done\n', "cannot be loaded"),
        ("no program at all", "Exec format error"),
        ("#!/no/such/shell\n", "No such file or directory"),
        ("#!/bin/sh\nkill -9 $$\n", "exit status -9"),
        ("#!/bin/sh\nyes error | head -c 100000 >&2\nexit 1\n", "error"),
    ],
)
def test_a_broken_compiler_is_one_line(cache, source, tmp_path, monkeypatch, script, message):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", fake_compiler(tmp_path / "bin", script))
    # the linker knows libraries by name, and another test's has had the name of this one's memory
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(KernelError) as refused:
        cpu_kernels.build(source)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not list((cache / "cpu").iterdir()) and not left_behind(cache)


def test_the_next_compiler_is_asked_where_one_is_broken(cache, source, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    real = cpu_kernels.find_compilers()[0]
    path = fake_compiler(tmp_path / "bin", "no program at all")
    (tmp_path / "bin" / "clang").write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    monkeypatch.setenv("PATH", path)
    assert works(cpu_kernels.build(source))


def test_quantised_layers_are_computed_whatever_the_compiler_does(cache, monkeypatch, warnings):
    monkeypatch.setattr(cpu_kernels, "find_compilers", list)
    cpu_kernels.library.cache_clear()
    try:
        assert not cpu_kernels.available(torch.float32) and not cpu_kernels.available(torch.float32)
        assert len(warnings) == 1 and "no C compiler found" in warnings[0]
    finally:
        cpu_kernels.library.cache_clear()


def test_the_project_has_a_source_for_each_cache():
    assert find_source(cpu_kernels.SOURCE).exists() and find_source(cuda_compiler.SOURCE).exists()
