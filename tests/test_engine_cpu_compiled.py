"""Compiled code is kept for the next start, never used after a change, and never needed."""

import ctypes
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from stentor.engine.cpu import compiled as compiled_module
from stentor.engine.cpu.compiled import (
    EXACT,
    compiled,
    compiled_callback,
    compiled_entry,
    forget,
    is_kept,
)
from stentor.home import kernels_folder

Doubler = Callable[[int], int]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own folder for compiled code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def double(number: int) -> int:
    return 2 * number


def called(sources: Path) -> int:
    """Compile `double` for C, with these sources, and call it as C does."""
    callback = compiled_callback(double, numba.types.int64(numba.types.int64), sources)
    doubled: int = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(callback.address)(21)
    return doubled


def kept_files(folder: Path) -> list[Path]:
    return [*folder.rglob("*.nbc")] if folder.is_dir() else []


def num_loads(function: Doubler) -> int:
    """Return how often code was loaded instead of compiled."""
    stats = function.stats  # type: ignore[attr-defined] # Numba's dispatcher
    return sum(stats.cache_hits.values())


def test_the_next_start_loads_what_this_one_compiled(cache_folder: Path) -> None:
    assert not is_kept()
    first = compiled_entry(double)
    assert first(21) == 42 and num_loads(first) == 0
    assert is_kept() and len(kept_files(cache_folder)) == 1
    second = compiled_entry(double)
    assert second(21) == 42 and num_loads(second) == 1
    assert len(kept_files(cache_folder)) == 1


def test_damaged_code_is_forgotten_and_compiled_anew(cache_folder: Path) -> None:
    """A machine that lost power while Numba wrote would otherwise never start again."""
    assert compiled_entry(double)(21) == 42
    for file in cache_folder.rglob("*.nb?"):
        file.write_bytes(file.read_bytes()[:10])
    damaged = compiled_entry(double)
    with pytest.raises(Exception, match=r"."):
        damaged(21)
    forget()
    assert damaged(21) == 42 and num_loads(damaged) == 0
    repaired = compiled_entry(double)
    assert repaired(21) == 42 and num_loads(repaired) == 1


def test_a_change_of_any_source_is_a_change_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba looks at the file of the entry alone: an edited kernel would have gone unnoticed."""
    sources = tmp_path / "sources"
    shutil.copytree(Path(compiled_module.__file__).parent, sources)
    monkeypatch.setattr(compiled_module, "__file__", str(sources / "compiled.py"))
    assert compiled_entry(double)(4) == 8 and is_kept()
    for file in ("kernels.py", "tile.py", "draw.py"):
        with (sources / file).open("a") as source:
            source.write("# changed\n")
        assert not is_kept(), file
        changed = compiled_entry(double)
        assert changed(4) == 8 and num_loads(changed) == 0
    assert len([*kernels_folder().iterdir()]) == 4


def test_kernels_of_another_folder_have_a_place_of_their_own(tmp_path: Path) -> None:
    """A change of either folder is a change of the place; damaged code is forgotten."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "kernel.py").write_text("first")
    assert called(sources) == 42 and is_kept(sources) and not is_kept()
    (sources / "kernel.py").write_text("second")
    assert not is_kept(sources)
    assert called(sources) == 42 and is_kept(sources)
    for file in kept_files(kernels_folder()):
        file.write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"."):
        called(sources)
    forget(sources)
    assert not is_kept(sources) and called(sources) == 42


@pytest.mark.parametrize("blocked", ["cache", "cache/stentor", "cache/stentor/kernels"])
def test_without_a_place_to_keep_code_it_is_compiled_anew(tmp_path: Path, blocked: str) -> None:
    """A file where a folder should be: nobody can write there, not even an administrator."""
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    for _ in range(2):
        function = compiled_entry(double)
        assert function(3) == 6 and num_loads(function) == 0
    assert path.read_text() == "in the way" and not is_kept()


def test_code_is_kept_there_or_nowhere(cache_folder: Path) -> None:
    """Numba's next choice is beside the sources, where nothing tells old kernels from new ones."""
    assert compiled_entry(double)(3) == 6
    (file,) = kept_files(cache_folder)
    shutil.rmtree(file.parent)
    file.parent.write_text("in the way")
    function = compiled_entry(double)
    assert function(3) == 6 and num_loads(function) == 0
    assert not [*Path(__file__).parent.rglob("*.double-*.nb?")]


def test_a_disk_that_is_full_loses_nothing_but_the_kept_code(cache_folder: Path) -> None:
    """The first call says so; the code is there all the same, and the next call runs it."""
    function = compiled_entry(double)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError):
            function(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert function(3) == 6 and not kept_files(cache_folder)


@pytest.mark.parametrize("is_blocked", [False, True])
def test_settings_of_the_compiler_are_left_as_they_were(
    cache_folder: Path, is_blocked: bool
) -> None:
    if is_blocked:
        cache_folder.write_text("in the way")
    settings = numba.config
    before = settings.CACHE_DIR, settings.CACHE_LOCATOR_CLASSES
    compiled_entry(double)
    after = settings.CACHE_DIR, settings.CACHE_LOCATOR_CLASSES
    assert after == before


@pytest.mark.parametrize("fastmath", [compiled_module.REORDER, EXACT])
def test_compiled_code_divides_by_0_as_processors_do(fastmath: frozenset[str]) -> None:
    """No exception that a thread of the team would die of."""

    @compiled(fastmath)
    def ratio(numbers: NDArray[np.float32]) -> float:
        return numbers[0] / numbers[1]  # type: ignore[no-any-return]

    assert ratio(np.array([1, 0], np.float32)) == np.inf
    assert np.isnan(ratio(np.array([0, 0], np.float32)))
