"""What is kept of compiled modules: that it is found again, by whom, and what is never loaded."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import wasmtime
from bounded import apart, in_a_program, run, started, within
from conftest import DEADLINE, KERNELS, eventually, worker_pids
from large import large_module

from procpool import PoolEvent, ProcessWasmPool, cache, compilation
from procpool.artifact import CompiledModule
from procpool.compilation import compile_module
from procpool.engine import EngineSettings, fingerprint

ONE = b'(module (func (export "f") (result i32) i32.const 1))'
MAJOR = version("wasmtime").partition(".")[0].encode()  # wasmtime compares that of its version
TWO = b'(module (func (export "f") (result i32) i32.const 2))'


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    path = tmp_path / "cache"
    monkeypatch.setenv(cache.DIRECTORY, str(path))
    return path


class Compilations:
    """Compiles modules, and knows how often that took work."""

    def __init__(self) -> None:
        self.count = 0
        self._made: list[CompiledModule] = []

    def note(self, kind: str, pid: int | None, message: str) -> None:
        self.count += kind == "compiled" and pid is not None

    def __call__(self, source: bytes | Path, **how: Any) -> CompiledModule:
        self._made.append(compile_module(source, announce=self.note, **how))
        return self._made[-1]

    def close(self) -> None:
        for made in self._made:
            os.close(made.artifact)


@pytest.fixture
def compiled() -> Iterator[Compilations]:
    compilations = Compilations()
    yield compilations
    compilations.close()


def entries(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.suffix]


def file_of(made: CompiledModule) -> str:
    return os.readlink(f"/proc/self/fd/{made.artifact}")


def result(source: bytes) -> int:
    with ProcessWasmPool(source, 1) as pool:
        return int(pool.call("f"))


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
def test_what_was_compiled_once_is_mapped_from_then_on(directory: Path, compiled: Compilations, large: bool) -> None:
    source = large_module(100_000 if large else 1000)
    assert (len(source) >= compilation.LARGE) is large
    first, second = compiled(source), compiled(source)
    assert compiled.count == 1
    (entry,) = entries(directory)
    assert file_of(first) == file_of(second) == str(entry)
    assert first.interface == second.interface and first.size == second.size == len(source)


def test_workers_map_the_file_itself(directory: Path, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, 1) as pool:
        (entry,) = entries(directory)
        (pid,) = worker_pids(pool)
        assert str(entry) in [area.path for area in psutil.Process(pid).memory_maps()]


def test_only_its_user_can_read_or_write_what_is_kept(directory: Path, compiled: Compilations) -> None:
    compiled(ONE)
    assert directory.stat().st_mode & 0o777 == 0o700
    (entry,) = directory.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600


def test_a_pool_says_when_it_compiles_and_not_when_it_has_found(directory: Path) -> None:
    kinds: list[list[str]] = []
    for _ in range(2):
        seen: list[str] = []
        with ProcessWasmPool(ONE, 1, on_event=lambda event, seen=seen: seen.append(event.kind)) as pool:
            pool.wait_ready()
        kinds.append(seen)
    assert kinds[0][:3] == ["compiling", "compiled", "started"]
    assert kinds[1][0] == "started" and "compiling" not in kinds[1]


def test_a_hook_that_waits_for_who_makes_the_pool_hears_of_it_later(directory: Path, nothing_left: None) -> None:
    held = threading.Lock()
    heard: list[str] = []

    def hear(event: PoolEvent) -> None:
        with held:
            heard.append(event.kind)

    def make() -> ProcessWasmPool:
        with held:
            return ProcessWasmPool(ONE, 1, on_event=hear)

    with within(make) as pool:
        assert pool.call("f") == 1
    assert heard[:3] == ["compiling", "compiled", "started"]


def test_code_for_other_settings_is_another_entry(directory: Path, compiled: Compilations) -> None:
    for fuel in (False, True, False, True):
        compiled(ONE, settings=EngineSettings(fuel))
    assert compiled.count == 2 and len(entries(directory)) == 2


def test_code_of_another_release_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wasmtime itself would load it, if only the last numbers differ."""
    before = fingerprint()
    assert fingerprint() == before != fingerprint(EngineSettings(fuel=True))
    (tmp_path / "wasmtime").mkdir()
    monkeypatch.setattr(wasmtime, "__file__", str(tmp_path / "wasmtime" / "__init__.py"))
    unknown = fingerprint()
    (tmp_path / "wasmtime-50.0.99.dist-info").mkdir()
    assert len({before, unknown, fingerprint()}) == 3


@pytest.mark.parametrize("how", ["the option", "the variable"])
def test_off_writes_nothing(directory: Path, how: str, compiled: Compilations, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "the variable":
        monkeypatch.setenv(cache.DIRECTORY, "off")
    made = compiled(ONE, cache=how != "the option")
    assert not directory.exists() and "memfd" in file_of(made)


# -- what is refused ---------------------------------------------------------------------------------------------------


def poison(directory: Path, compiled: Compilations) -> None:
    """Put the code of another module where that of ONE is looked for."""
    compiled(ONE)
    (one,) = entries(directory)
    compiled(TWO)
    (two,) = set(entries(directory)) - {one}
    os.replace(two, one)


def test_who_can_write_there_can_run_code_here(directory: Path, compiled: Compilations) -> None:
    """Why all of the following is refused; and that the tests of it would notice."""
    poison(directory, compiled)
    assert result(ONE) == 2


def refused_directory(directory: Path, what: str) -> None:
    if what == "a link":
        shutil.move(directory, beside := directory.with_name("elsewhere"))
        directory.symlink_to(beside)
    elif what == "another user's":
        if os.geteuid():
            pytest.skip("only root can give a directory away")
        os.chown(directory, 12345, -1)
    else:
        directory.chmod(int(what, 8))


@pytest.mark.parametrize("what", ["755", "770", "702", "710", "a link", "another user's"])
def test_a_directory_that_others_may_use_is_not_used(
    directory: Path, what: str, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    poison(directory, compiled)
    before = sorted(directory.iterdir())
    refused_directory(directory, what)
    assert result(ONE) == 1
    assert "no cache of compiled modules" in caplog.text and str(directory) in caplog.text
    assert what != "a link" or "is a symbolic link; PROCPOOL_CACHE_DIR may name where it leads" in caplog.text
    assert sorted(directory.iterdir()) == before, "something was written"


@pytest.mark.parametrize("what", ["writable", "a link", "another user's", "a directory"])
def test_a_file_that_others_may_have_written_is_not_loaded(
    directory: Path, what: str, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    poison(directory, compiled)
    (entry,) = entries(directory)
    if what == "writable":
        entry.chmod(0o420)
    elif what == "a link":
        entry.rename(beside := directory / "beside")
        entry.symlink_to(beside)
    elif what == "a directory":
        entry.unlink()
        entry.mkdir()
    elif os.geteuid():
        pytest.skip("only root can give a file away")
    else:
        os.chown(entry, 12345, -1)
    assert result(ONE) == 1
    assert "not using what is in the cache" in caplog.text


def put_in_the_way(path: Path, what: str) -> None:
    if path.exists():
        path.unlink()
    if what == "a full directory":
        (path / "within").mkdir(parents=True)
    elif what == "an empty directory":
        path.mkdir()
    elif what == "a link to itself":
        path.symlink_to(path.name)
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.touch(mode=0)


@pytest.mark.parametrize(
    "what", ["a full directory", "an empty directory", "a link to itself", "a pipe", "a socket", "closed"]
)
@pytest.mark.parametrize("suffix", ["", ".part", ".note"])
def test_what_is_in_the_way_of_a_file_harms_nothing(
    directory: Path,
    tmp_path: Path,
    suffix: str,
    what: str,
    settled: None,
    compiled: Compilations,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = tmp_path / "one.wasm"
    source.write_bytes(ONE)
    compiled(source)
    (entry,) = entries(directory)
    (note,) = (path for path in directory.iterdir() if path.suffix == ".note")
    taken = {"": entry, ".part": entry.with_suffix(".part"), ".note": note}[suffix]
    if suffix == ".part":
        entry.unlink()
    put_in_the_way(taken, what)
    for _ in range(2):
        assert "f" in compiled(source).interface.exports
    stays = what == "a full directory" or (suffix == ".part" and what != "closed")
    if suffix != ".note":
        assert (f"{taken.name} is " in caplog.text and "; remove it from the cache" in caplog.text) is (what != "closed")
        assert entries(directory) == ([] if suffix and stays else [entry]) and (entry.is_file() or stays)


def test_a_place_that_cannot_be_had_is_done_without(
    monkeypatch: pytest.MonkeyPatch, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cache.DIRECTORY, "/dev/null/cache")
    assert "memfd" in file_of(compiled(ONE))
    assert "no cache of compiled modules" in caplog.text


def compile_without_a_home() -> None:
    """In a program of its own: as a user whom the system has no entry for, in a directory where he may write."""
    logging.basicConfig()
    with of_another_user() as directory:
        for name in (cache.DIRECTORY, "XDG_CACHE_HOME", "HOME"):
            os.environ.pop(name, None)
        os.seteuid(0)
        child = os.fork()
        if not child:
            os.setuid(12345)
            os.chdir(directory.parent)
            os.close(compile_module(ONE).artifact)
            print(os.listdir(), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_has_no_home_has_no_cache() -> None:
    out, err, code = apart(compile_without_a_home)
    assert (out, code) == ("[]\n", 0), err
    assert "no cache of compiled modules: there is no home directory; set PROCPOOL_CACHE_DIR" in err


def test_a_relative_place_for_all_caches_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Compilations
) -> None:
    """As the XDG Base Directory Specification wants it."""
    monkeypatch.delenv(cache.DIRECTORY, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert file_of(compiled(ONE)).startswith(f"{tmp_path}/.cache/procpool/")
    assert not Path("relative").exists()


def test_a_size_that_is_none_is_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cache.SIZE, "2GB")
    assert str(directory) in file_of(compiled(ONE)), "and the default is used"
    assert "PROCPOOL_CACHE_BYTES is '2GB', and should be a number of bytes" in caplog.text


# -- what is damaged ---------------------------------------------------------------------------------------------------


def _cut(content: bytes, at: float) -> bytes:
    return content[: int(len(content) * at)]


DAMAGES = {
    "empty": lambda content: b"",
    "one byte short": lambda content: content[:-1],
    "half": lambda content: _cut(content, 0.5),
    "cut in the outline": lambda content: content[:-90],
    "an end of zeros": lambda content: content[:-200] + bytes(200),
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"x",
    "another outline": lambda content: content.replace(b"\x01f\0\0", b"\x01g\0\0"),
    "no ELF": lambda content: b"xxxx" + content[4:],
    "code of another version": lambda content: content.replace(b"\x02" + MAJOR, b"\x0249"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_removed_and_compiled_anew(
    directory: Path, damage: str, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(ONE)
    (entry,) = entries(directory)
    whole = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(DAMAGES[damage](whole))
    assert entry.read_bytes() != whole
    assert result(ONE) == 1
    assert "not using what is in the cache for the given bytes" in caplog.text
    assert entry.read_bytes() == whole
    assert os.listdir(directory) == [entry.name]


# -- how much is kept --------------------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_goes(
    directory: Path, compiled: Compilations, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [large_module(1000) for _ in range(4)]
    for age, source in enumerate(sources[:3]):
        entry = Path(file_of(compiled(source)))
        os.utime(entry, (age + 1, age + 1))
    compiled(sources[0])  # the oldest, and used now
    each = entry.stat().st_size
    monkeypatch.setenv(cache.SIZE, str(3 * each + 10))
    compiled(sources[3])
    assert compiled.count == 4 and len(entries(directory)) == 3
    compiled(sources[0])
    compiled(sources[2])
    assert compiled.count == 4
    compiled(sources[1])
    assert compiled.count == 5, "the one not used for longest was still there"


def test_what_was_evicted_serves_those_who_have_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessWasmPool(ONE, 1) as pool:
        (entry,) = entries(directory)
        monkeypatch.setenv(cache.SIZE, str(2 * max(entry.stat().st_size, 4096) - 1))
        assert result(TWO) == 2
        assert len(entries(directory)) == 1 and not entry.exists()
        pool.restart()
        assert pool.call("f") == 1


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out(
    directory: Path, monkeypatch: pytest.MonkeyPatch, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    compiled(ONE)
    before = entries(directory)
    monkeypatch.setenv(cache.SIZE, "1000")
    assert "memfd" in file_of(compiled(TWO))
    assert list(directory.iterdir()) == before
    assert "cannot keep what was compiled" in caplog.text and "PROCPOOL_CACHE_BYTES is 1000" in caplog.text


def test_one_at_a_time_makes_an_entry(directory: Path) -> None:
    """Also when one who waited for somebody who failed meets one who has come since."""
    failed, made, late = threading.Event(), threading.Event(), threading.Event()
    inside: list[str] = []

    def make(name: str, waiting: threading.Event) -> None:
        with cache.open_cache() as opened:
            assert opened is not None
            with opened.turn("entry", waiting.set, DEADLINE):
                inside.append(name)
                assert made.wait(DEADLINE)
                inside.remove(name)

    with cache.open_cache() as opened:
        assert opened is not None
        with opened.turn("entry", failed.set, DEADLINE):
            first = started(lambda: make("first", failed))
            assert failed.wait(DEADLINE)
        eventually(lambda: inside == ["first"], "the first to have its turn")
        second = started(lambda: make("second", late))
        assert late.wait(DEADLINE), "it need not wait"
        assert inside == ["first"]
    made.set()
    for maker in (first, second):
        maker.result(DEADLINE)
    assert not list(directory.iterdir())


def test_who_has_waited_long_enough_compiles_for_himself(
    directory: Path, compiled: Compilations, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a compiler that was stopped, or for a lock that a fork of a dead one still holds."""
    compiled(ONE)
    (entry,) = entries(directory)
    entry.unlink()
    with entry.with_suffix(".part").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "memfd" in file_of(within(compiled, ONE, patience=0.1))
        assert "compiling without the cache: somebody else has been making it for 0.1 s" in caplog.text
        assert not entries(directory)
        waits = threading.Event()
        told: list[tuple[str, bool]] = []

        def note(kind: str, pid: int | None, message: str) -> None:
            told.append((kind, pid is not None))
            waits.set()

        def wait() -> CompiledModule:
            return compile_module(ONE, announce=note, patience=DEADLINE)

        first = started(wait)
        assert waits.wait(DEADLINE)
        fcntl.flock(held, fcntl.LOCK_UN)
        made = first.result(DEADLINE)
    assert file_of(made) == str(entry)
    os.close(made.artifact)
    assert told == [("compiling", False), ("compiling", True), ("compiled", True)]


def test_who_finds_what_he_has_waited_for_says_so(directory: Path, compiled: Compilations) -> None:
    compiled(ONE)
    (entry,) = entries(directory)
    entry.rename(away := entry.with_suffix(".away"))
    told: list[tuple[str, int | None]] = []
    with entry.with_suffix(".part").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def note(kind: str, pid: int | None, message: str) -> None:
            told.append((kind, pid))
            if kind == "compiling":
                away.rename(entry)
                fcntl.flock(held, fcntl.LOCK_UN)

        os.close(within(compile_module, ONE, announce=note, patience=DEADLINE).artifact)
    assert told == [("compiling", None), ("compiled", None)]


def test_what_a_dead_program_was_writing_is_swept_away(directory: Path, compiled: Compilations) -> None:
    compiled(ONE)
    (directory / f"{'0' * 64}.part").write_bytes(b"half of")
    compiled(TWO)
    assert not list(directory.glob("*.part"))


def test_the_users_own_files_stay_where_they_are(directory: Path, compiled: Compilations) -> None:
    compiled(ONE)
    (directory / "letters").mkdir()
    for name in ("mine.txt", ".hidden", "half.part"):
        (directory / name).write_bytes(b"mine" * 10_000)
        os.utime(directory / name, (0, 0))
    (directory / "link").symlink_to("mine.txt")
    kept = [path.name for path in entries(directory) if path.name.isalnum() and path.is_file() and not path.is_symlink()]
    with cache.open_cache() as opened:
        assert opened is not None
        assert [name for _, _, name in opened.contents()] == kept and len(kept) == 1
        opened.clear()
    assert sorted(os.listdir(directory)) == [".hidden", "half.part", "letters", "link", "mine.txt"]


def compile_where_nothing_can_be_kept() -> None:
    """In a program of its own: the directory cannot be written any more when the module has been compiled."""
    logging.basicConfig()
    with of_another_user() as directory:

        def close(kind: str, pid: int | None, message: str) -> None:
            directory.chmod(0o500)

        before = len(os.listdir("/proc/self/fd"))
        os.close(compile_module(ONE, announce=close).artifact)
        print(len(os.listdir("/proc/self/fd")) - before, len(entries(directory)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_directory_that_becomes_unusable_harms_nothing() -> None:
    out, err, code = apart(compile_where_nothing_can_be_kept)
    assert (out.split(), code) == (["0", "0"], 0), err
    assert "cannot keep what was compiled" in err


def test_a_release_that_cannot_be_told_is_compiled_for_without_the_cache(
    directory: Path, compiled: Compilations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wasmtime, "__file__", str(directory.with_name("gone") / "wasmtime" / "__init__.py"))
    assert "memfd" in file_of(compiled(ONE))
    assert "compiling without the cache" in caplog.text


@contextlib.contextmanager
def of_another_user() -> Iterator[Path]:
    """A cache of another user, as whom this process goes on.  pytest's own temporary directories are closed to others."""
    parent = Path(tempfile.mkdtemp())
    try:
        os.chown(parent, 12345, -1)
        os.seteuid(12345)
        os.environ[cache.DIRECTORY] = str(parent / "cache")
        yield parent / "cache"
    finally:
        os.seteuid(0)
        shutil.rmtree(parent)


def compile_as_another_user(mode: int) -> None:
    """In a program of its own: where somebody of that user died and left what he was writing, with that mode."""
    with of_another_user() as directory:
        for source in (ONE, TWO, ONE):
            compiled = compile_module(source)
            print("file" if "cache" in file_of(compiled) else "memory", flush=True)
            os.close(compiled.artifact)
            for entry in entries(directory):
                left = entry.with_suffix(".part")
                left.write_bytes(b"half of")
                left.chmod(mode)
                if source is TWO:
                    entry.unlink()
        os.close(compile_module(b"(module)").artifact)  # sweeps
        print(len(list(directory.glob("*.part"))))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("mode", [0o600, 0o400, 0])
def test_what_a_dead_program_has_left_is_in_nobodys_way_whatever_its_mode(mode: int) -> None:
    """But for root, who may do all, a file has to have the right mode."""
    assert in_a_program(compile_as_another_user, mode).split() == ["file", "file", "file", "0"]


def closed_to_others() -> None:
    """An initializer that gives up what a worker may do."""
    os.setgid(12345)
    os.setuid(12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_workers_that_become_another_user_have_mapped_the_code_before(
    directory: Path, method: Literal["forkserver", "spawn"], nothing_left: None
) -> None:
    with ProcessWasmPool(ONE, 1, instances=2, initializer=closed_to_others, start_method=method) as pool:
        assert entries(directory)
        assert [pool.submit("f").result(DEADLINE) for _ in range(10)] == [1] * 10


# -- what is known of a source file ------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts as old as soon as it is there."""
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)


def read_bytes() -> int:
    """How many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_file_that_is_known_is_not_read(directory: Path, tmp_path: Path, settled: None, compiled: Compilations) -> None:
    path = tmp_path / "module.wasm"
    path.write_bytes(large_module(2_000_000, number=0))
    compiled(path)
    before = read_bytes()
    compiled(path)
    assert read_bytes() - before < 200_000
    assert compiled.count == 1


def test_a_file_that_was_changed_is_read_although_it_looks_the_same(
    directory: Path, tmp_path: Path, settled: None, compiled: Compilations
) -> None:
    """Of the same size, at the same place, and with the same time of modification."""
    path = tmp_path / "module.wat"
    path.write_bytes(ONE)
    before = path.stat()
    compiled(path)
    with path.open("r+b") as file:
        file.write(TWO)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert compiled(path).source == hashlib.sha256(TWO).digest()
    assert compiled.count == 2


def test_a_file_written_a_moment_ago_is_read_every_time(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Compilations
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", 10**15)
    path = tmp_path / "module.wat"
    path.write_bytes(ONE)
    compiled(path)
    assert not list(directory.glob("*.note"))
    compiled(path)
    assert compiled.count == 1


def test_notes_too_are_no_more_than_there_may_be(
    directory: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch, compiled: Compilations
) -> None:
    compiled(ONE)
    monkeypatch.setenv(cache.SIZE, str(50_000))
    for number in range(30):
        path = tmp_path / f"{number}.wat"
        path.write_bytes(ONE)
        compiled(path)
    assert 0 < len(list(directory.glob("*.note"))) <= 50_000 // 4096


def compile_and_list(path: str, directory: str) -> None:
    """In a program of its own: what is in the cache afterwards."""
    cache._SETTLED_NS = 0
    os.close(compile_module(path).artifact)
    print([entry.suffix for entry in Path(directory).iterdir()])


MOUNTED = """
mount --bind "$1" "$1" && mount -o remount,bind,$2 "$1" && shift 2 && exec "$@"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
@pytest.mark.parametrize(("how", "kept"), [("rw", ["", ".note"]), ("ro", [""])])
def test_no_note_is_made_of_what_an_image_says(directory: Path, tmp_path: Path, how: str, kept: list[str]) -> None:
    """Whoever makes an image of a file system, to be mounted for reading only, says what its times are."""
    own = ["unshare", "--map-root-user", "--mount"]
    if run([*own, "true"]).returncode:
        pytest.skip("no mounts of one's own here")
    path = tmp_path / "image" / "module.wat"
    path.parent.mkdir()
    path.write_bytes(ONE)
    code = f"from test_cache import compile_and_list; compile_and_list({str(path)!r}, {str(directory)!r})"
    done = run([*own, "sh", "-c", MOUNTED, "sh", path.parent, how, sys.executable, "-c", code])
    assert not done.returncode, done.stderr
    assert sorted(ast.literal_eval(done.stdout)) == kept


def test_a_torn_note_is_no_note(directory: Path, tmp_path: Path, settled: None, compiled: Compilations) -> None:
    path = tmp_path / "module.wat"
    path.write_bytes(ONE)
    compiled(path)
    (note,) = directory.glob("*.note")
    for torn in (b"", b"0" * 64, bytes(65), b"x" * 65):
        note.write_bytes(torn)
        assert compiled(path).source == hashlib.sha256(ONE).digest()
    assert compiled.count == 1


def test_what_was_compiled_of_a_changed_file_is_not_kept_as_the_old_one(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "module.wat"
    path.write_bytes(ONE)

    def change(kind: str, pid: int | None, message: str) -> None:
        path.write_bytes(TWO)  # between hashing and compiling

    made = compile_module(path, announce=change)
    os.close(made.artifact)
    assert made.source == hashlib.sha256(TWO).digest()
    assert not entries(directory)


def test_a_pipe_is_read_once(directory: Path, compiled: Compilations) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, ONE)
    os.close(theirs)
    assert compiled(Path(f"/dev/fd/{ours}")).source == hashlib.sha256(ONE).digest()
    os.close(ours)
