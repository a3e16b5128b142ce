"""What code can do that runs as native Python in a locked worker: it stands for a guest that has got out of wasm.

Each attempt is tried twice.  In a worker without a sandbox it succeeds, or the test would show nothing; in a locked one it
fails, and the row says what stops it.  The code gets in by a door that only ``sandbox="strict"`` leaves open: callables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import DEADLINE, KERNELS, worker_pids

from procpool import ProcessWasmPool

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"),
    reason="workers are locked on Linux, on x86_64 and aarch64",
)

#: What the program must keep for itself.
SECRET = "the secret of the program"
VARIABLE = "PROCPOOL_TESTS_SECRET_KEY_OF_THE_PROGRAM".removeprefix("PROCPOOL_TESTS_")


class Target(NamedTuple):
    """What an attempt is made on."""

    program: int
    workers: list[int]
    file: str  #: with the secret
    directory: str
    port: int  #: where a server of this machine listens

    @property
    def sibling(self) -> int:
        """A worker that is not the calling one."""
        return next(pid for pid in self.workers if pid != os.getpid())


Attempt = Callable[[Target], object]
ATTEMPTS: dict[str, tuple[Attempt, str]] = {}


def attempt(stopped_by: str) -> Callable[[Attempt], Attempt]:
    """An attempt that succeeds if it returns something true."""

    def add(function: Attempt) -> Attempt:
        ATTEMPTS[function.__name__] = function, stopped_by
        return function

    return add


def call(name: str, *args: Any) -> int:
    """A function of the C library.

    Raises:
        OSError: it failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    result = getattr(libc, name)(*args)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def number(x86_64: int, aarch64: int) -> int:
    return x86_64 if platform.machine() == "x86_64" else aarch64


# -- files ---------------------------------------------------------------------------------------------------------------


@attempt("seccomp")
def open_a_file(target: Target) -> object:
    return Path(target.file).read_text()


@attempt("seccomp")
def write_a_file(target: Target) -> object:
    path = Path(target.directory, f"made by {os.getpid()}")
    path.write_text("x")
    return path.exists()


@attempt("seccomp")
def list_a_directory(target: Target) -> object:
    return os.listdir(target.directory)


@attempt("seccomp")
def look_whether_a_file_is_there(target: Target) -> object:
    return os.stat(target.file)


@attempt("namespaces: the root is empty")
def look_whether_a_file_is_there_by_the_call_that_is_left(target: Target) -> object:
    buffer = ctypes.create_string_buffer(256)
    at_empty_path = 0x1000
    return call("syscall", number(262, 79), -100, target.file.encode(), buffer, at_empty_path) == 0


@attempt("seccomp")
def rename_a_file(target: Target) -> object:
    os.link(target.file, f"{target.directory}/link of {os.getpid()}")
    return True


@attempt("seccomp")
def make_a_named_pipe(target: Target) -> object:
    os.mkfifo(f"{target.directory}/fifo of {os.getpid()}")
    return True


@attempt("seccomp")
def change_the_rights_of_a_file(target: Target) -> object:
    os.chmod(target.file, 0o644)
    return True


@attempt("seccomp")
def get_a_file_by_its_handle(target: Target) -> object:
    handle = ctypes.create_string_buffer(128)
    ctypes.cast(handle, ctypes.POINTER(ctypes.c_uint))[0] = 120
    mount = ctypes.c_int()
    return call("name_to_handle_at", -100, target.file.encode(), handle, ctypes.byref(mount), 0) == 0


@attempt("seccomp")
def make_shared_memory_with_a_name(target: Target) -> object:
    fd = os.open(f"/dev/shm/procpool-test-{os.getpid()}", os.O_CREAT | os.O_RDWR)
    os.unlink(f"/dev/shm/procpool-test-{os.getpid()}")
    return fd


@attempt("seccomp")
def make_shared_memory_of_system_v(target: Target) -> object:
    made = call("shmget", 0, 4096, 0o1600)
    call("shmctl", made, 0, None)
    return True


# -- other processes -------------------------------------------------------------------------------------------------------


@attempt("seccomp")
def read_the_environment_of_the_program(target: Target) -> object:
    return Path(f"/proc/{target.program}/environ").read_bytes()


@attempt("seccomp")
def read_the_memory_of_the_program(target: Target) -> object:
    with open(f"/proc/{target.program}/mem", "rb"):
        return True


@attempt("seccomp")
def list_the_descriptors_of_the_program(target: Target) -> object:
    return os.listdir(f"/proc/{target.program}/fd")


@attempt("seccomp")
def read_the_memory_of_a_sibling(target: Target) -> object:
    with open(f"/proc/{target.sibling}/mem", "rb"):
        return True


@attempt("seccomp")
def read_memory_by_process_vm_readv(target: Target) -> object:
    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    maps = Path(f"/proc/{target.program}/maps").read_text()
    buffer = ctypes.create_string_buffer(8)
    here, there = Piece(ctypes.addressof(buffer), 8), Piece(int(maps.partition("-")[0], 16), 8)
    return call("process_vm_readv", target.program, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 8


@attempt("seccomp")
def trace_a_sibling(target: Target) -> object:
    seize, interrupt, detach, all_kinds = 0x4206, 0x4207, 17, 0x40000000
    call("ptrace", seize, target.sibling, None, None)
    call("ptrace", interrupt, target.sibling, None, None)
    os.waitpid(target.sibling, all_kinds)  # one that is not stopped stays traced, and stops for good at its next signal
    call("ptrace", detach, target.sibling, None, None)
    return True


@attempt("seccomp")
def signal_the_program(target: Target) -> object:
    os.kill(target.program, 0)
    return True


@attempt("seccomp")
def signal_a_sibling(target: Target) -> object:
    os.kill(target.sibling, 0)
    return True


@attempt("seccomp")
def signal_the_group(target: Target) -> object:
    os.kill(0, 0)
    return True


@attempt("seccomp")
def signal_a_sibling_by_a_descriptor(target: Target) -> object:
    fd = os.pidfd_open(target.sibling)
    signal.pidfd_send_signal(fd, 0)
    os.close(fd)
    return True


@attempt("seccomp")
def take_a_descriptor_of_the_program(target: Target) -> object:
    fd = os.pidfd_open(target.program)
    return call("syscall", 438, fd, 2, 0) >= 0


@attempt("seccomp")
def limit_the_program(target: Target) -> object:
    resource.prlimit(target.program, resource.RLIMIT_CORE, resource.prlimit(target.program, resource.RLIMIT_CORE))
    return True


@attempt("seccomp")
def have_signals_sent_by_a_descriptor(target: Target) -> object:
    read, _ = os.pipe()
    import fcntl

    fcntl.fcntl(read, 8, target.program)  # F_SETOWN
    return True


# -- programs and processes ----------------------------------------------------------------------------------------------


@attempt("seccomp")
def fork(target: Target) -> object:
    pid = os.fork()
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)


@attempt("seccomp")
def fork_by_clone3(target: Target) -> object:
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4] = signal.SIGCHLD
    pid = call("syscall", 435, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)


@attempt("seccomp")
def run_a_program(target: Target) -> object:
    return subprocess.run([sys.executable, "-c", ""], check=True)


@attempt("seccomp")
def run_a_program_from_memory(target: Target) -> object:
    return os.memfd_create("program")


@attempt("seccomp")
def replace_this_program(target: Target) -> object:
    try:
        os.execv("/nowhere", ["/nowhere"])
    except FileNotFoundError:  # it was looked for
        return True


@attempt("seccomp")
def leave_the_session(target: Target) -> object:
    os.setsid()
    return True


# -- the network -----------------------------------------------------------------------------------------------------------


@attempt("seccomp")
def connect_to_a_server(target: Target) -> object:
    socket.create_connection(("127.0.0.1", target.port), 10).close()
    return True


@attempt("seccomp")
def listen(target: Target) -> object:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        return made.getsockname()


@attempt("seccomp")
def make_a_socket_of_this_machine(target: Target) -> object:
    return socket.socketpair()


@attempt("seccomp")
def talk_to_the_kernel_by_netlink(target: Target) -> object:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
    return True


@attempt("seccomp")
def send_a_descriptor(target: Target) -> object:
    ours = next(fd for fd in range(3, 256) if _is_socket(fd))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(ours)) as made:
        socket.send_fds(made, [], [0])  # no byte, so nobody reads nonsense
    return True


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


# -- the system ------------------------------------------------------------------------------------------------------------


@attempt("seccomp")
def be_dumpable_again(target: Target) -> object:
    call("prctl", 4, 1, 0, 0, 0)
    return True


@attempt("seccomp")
def have_another_filter(target: Target) -> object:
    return _known(number(157, 167), 22, 2, None, 0, 0)  # PR_SET_SECCOMP


@attempt("seccomp")
def make_namespaces(target: Target) -> object:
    return call("unshare", 0) == 0


@attempt("seccomp")
def mount(target: Target) -> object:
    try:
        call("umount2", b"/nowhere", 0)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # it was looked for
            return True
        raise


@attempt("seccomp")
def load_a_program_into_the_kernel(target: Target) -> object:
    return _known(number(321, 280), 0, None, 0)


@attempt("seccomp")
def queue_system_calls(target: Target) -> object:
    return _known(425, 0, None)


@attempt("seccomp")
def handle_page_faults(target: Target) -> object:
    return _known(number(323, 282), 0x7FFFFFFF)


@attempt("seccomp")
def count_events_of_the_processor(target: Target) -> object:
    return _known(number(298, 241), None, 0, -1, -1, 0)


@attempt("seccomp")
def use_keys_of_the_kernel(target: Target) -> object:
    return _known(number(250, 219), 0, -3, 0)


def _known(call_number: int, *args: Any) -> bool:
    """Whether the system looks at what a call is given, which is nothing it could do."""
    try:
        call("syscall", call_number, *args)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
    return True


@attempt("seccomp")
def map_what_can_be_written_and_run(target: Target) -> object:
    import mmap

    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        return True


@attempt("seccomp, and the seals of the file")
def shrink_what_is_shared(target: Target) -> object:
    """The program would die of SIGBUS."""
    for fd in range(3, 256):
        try:
            size = os.fstat(fd).st_size
            if size:
                os.ftruncate(fd, size)  # would be allowed: so is a smaller one
                return True
        except OSError as error:
            if error.errno == errno.EPERM:
                raise
    raise AssertionError("there is no shared memory")


@attempt("environment")
def read_the_environment(target: Target) -> object:
    """By the memory of this process too: a variable that was removed would be there still."""
    if any(SECRET in value for value in os.environ.values()):
        return True
    environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while environ[index] is not None:
        if SECRET.encode() in environ[index]:
            return True
        index += 1
    raise PermissionError("it is not there")


@attempt("limits")
def leave_a_core_dump(target: Target) -> object:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        raise PermissionError("no core")
    return True


@attempt("descriptors")
def use_a_descriptor_of_the_programs(target: Target) -> object:
    """Its standard error, where a file or a terminal may be."""
    found = os.fstat(2)
    null = os.makedev(1, 3)
    if found.st_rdev == null:
        raise PermissionError("standard error leads nowhere")
    return True


def _tried(instance: Any, name: str, target: Target) -> str:
    """What came of an attempt: "done", or how it failed.  Runs in a worker."""
    try:
        return "done" if _loaded()[name][0](target) else "came to nothing"
    except OSError as error:
        return f"{type(error).__name__}: {errno.errorcode.get(error.errno or 0, error)}"


def _loaded() -> dict[str, tuple[Attempt, str]]:
    import test_attempts

    return test_attempts.ATTEMPTS


def _load() -> None:
    """The initializer: what is imported later would not be found."""
    import test_attempts  # noqa: F401  # by its name here and in workers

    "a".encode("idna")  # a codec of addresses


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port where somebody takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    listening.accept()[0].close()
                except TimeoutError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        ended.set()
        thread.join(DEADLINE)


@pytest.fixture(scope="module", params=["off", "strict"])
def pool(request: pytest.FixtureRequest) -> Iterator[ProcessWasmPool]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = SECRET
    try:
        with ProcessWasmPool(KERNELS, workers=2, sandbox=request.param, initializer=_load, rlimits={"CORE": -1}) as made:
            made.wait_ready(DEADLINE)
            yield made
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@pytest.fixture
def target(pool: ProcessWasmPool, server: int, tmp_path: Path) -> Target:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return Target(os.getpid(), worker_pids(pool), str(file), str(tmp_path), server)


#: What even a worker without a sandbox is refused on some machines, as in containers; so that shows nothing there.
OFTEN_REFUSED = {
    *("trace_a_sibling", "read_the_memory_of_the_program", "read_the_memory_of_a_sibling", "make_namespaces", "mount"),
    *("load_a_program_into_the_kernel", "queue_system_calls", "handle_page_faults", "count_events_of_the_processor"),
    *("use_keys_of_the_kernel", "read_memory_by_process_vm_readv", "take_a_descriptor_of_the_program", "leave_a_core_dump"),
    *("get_a_file_by_its_handle", "use_a_descriptor_of_the_programs", "leave_the_session", "have_another_filter"),
    *("signal_the_program", "signal_a_sibling", "fork_by_clone3"),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_what_code_that_got_out_can_do(name: str, pool: ProcessWasmPool, target: Target) -> None:
    came = pool.submit(_tried, name, target).result(DEADLINE)
    if pool.sandbox.locked:
        assert came.startswith(("PermissionError: ", "OSError: ENOSYS", "FileNotFoundError: ")), came
    elif name not in OFTEN_REFUSED:
        assert came == "done"
    assert pool.call("add", 1, 2) == 3
