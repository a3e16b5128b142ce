"""Evaluate a thousand snippets that nobody has read, each in an interpreter that has never run another.

Run it:  python examples/snippets.py javascript node_modules/quickjs-wasi/quickjs.wasm
or:      python examples/snippets.py ruby node_modules/@ruby/3.4-wasm-wasi/dist/ruby+stdlib.wasm

The interpreters come out of npm packages (npm install quickjs-wasi @ruby/3.4-wasm-wasi).  One boots once, and loads a small
library.  Each snippet finds it as it was then: what one leaves behind, no other sees.  Among them are one that never ends,
and one that takes all the memory there is.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from procpool import CallTimeout, Instance, ProcessWasmPool, WasiConfig, WasmTrap


class ScriptError(Exception):
    """Raised for an exception that a snippet has not caught."""


# -- JavaScript --------------------------------------------------------------------------------------------------------


def javascript(instance: Instance, source: str) -> str:
    """The value of a snippet, as text.

    Raises:
        ScriptError: it raised something; says what.
    """
    code = source.encode() + b"\0"
    address = instance.call("wasm_malloc", len(code))
    instance.memory[address : address + len(code)] = code
    value = instance.call("qjs_eval", address, len(code) - 1, address + len(code) - 1, 0)
    failed = instance.call("qjs_is_exception", value)
    if failed:
        value = instance.call("qjs_get_exception")
    start = instance.call("qjs_get_string", value)
    text = bytes(instance.memory[start : start + instance.call("strlen", start)]).decode()
    if failed:
        raise ScriptError(text)
    return text


def load_javascript(instance: Instance) -> None:
    """Done once, for all snippets."""
    javascript(instance, "function greet(name) { return 'Hello, ' + name + '!'; }")


# -- Ruby --------------------------------------------------------------------------------------------------------------

EVALUATE = "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>"
TEXT = "rstring-ptr: func(value: handle<rb-abi-value>) -> string"
#: It asks for numbers of handles, and what they stand for: here that is the same.
HANDLES = dict.fromkeys(["resource_new_rb-abi-value", "resource_get_rb-abi-value"], int)


def put(instance: Instance, data: bytes) -> tuple[int, int]:
    address = instance.call("cabi_realloc", 0, 0, 1, len(data))
    instance.memory[address : address + len(data)] = data
    return address, len(data)


def pair(instance: Instance, address: int) -> tuple[int, int]:
    first, second = struct.unpack_from("<2I", instance.memory, address)
    return first, second


def ruby(instance: Instance, source: str) -> str:
    """The value of a snippet, which must be text.

    Raises:
        ScriptError: it raised something.
    """
    value, failed = pair(instance, instance.call(EVALUATE, *put(instance, source.encode() + b"\0")))
    if failed:
        raise ScriptError("an exception of Ruby's")
    start, size = pair(instance, instance.call(TEXT, value))
    return bytes(instance.memory[start : start + size]).decode()


def boot_ruby(instance: Instance) -> None:
    """Done once, for all snippets."""
    args = [put(instance, arg) for arg in (b"ruby\0", b"-EUTF-8\0", b"-e_=0\0")]
    address, _ = put(instance, b"".join(struct.pack("<2I", *arg) for arg in args))
    instance.call("ruby-init: func(args: list<string>) -> ()", address, len(args))
    ruby(instance, "require 'json'; def greet(name) = \"Hello, #{name}!\"; ''")


# -- both --------------------------------------------------------------------------------------------------------------


class Language(NamedTuple):
    """How to run snippets of it, and some."""

    evaluate: Callable[[Instance, str], str]
    options: dict[str, Any]  #: of the pool
    harmless: str  #: notices if another has been there before
    endless: str
    greedy: str
    wrong: str


LANGUAGES = {
    "javascript": Language(
        javascript,
        {"start": ["_initialize", "qjs_init"], "warm": load_javascript, "on_missing_import": "zero"},
        "if (globalThis.left) throw new Error('somebody was here'); globalThis.left = 1; greet('snippet {}')",
        "for (;;);",
        "const all = []; for (;;) all.push(new ArrayBuffer(1 << 20))",
        "nothing.at.all",
    ),
    "ruby": Language(
        ruby,
        {"warm": boot_ruby, "imports": {"canonical_abi": HANDLES}, "on_missing_import": "trap"},
        "raise 'somebody was here' if $left; $left = 1; greet('snippet {}')",
        "loop {}",
        "all = []; loop { all << 'x' * (1 << 20) }",
        "nothing.at.all",
    ),
}


def interpreter(language: str, module: Path, **options: Any) -> ProcessWasmPool:
    """A pool of interpreters; nothing of the outside is to be had in them."""
    sandbox: dict[str, Any] = {"wasi": WasiConfig(stdout=None, stderr=None), "memory_limit": 256 << 20}
    return ProcessWasmPool(module, isolation="snapshot", **sandbox, **LANGUAGES[language].options, **options)


def snippets(language: Language, count: int) -> list[str]:
    """Most are harmless."""
    made = [language.harmless.format(n) for n in range(count)]
    made[count // 3], made[count // 2], made[-1] = language.endless, language.greedy, language.wrong
    return made


def outcome(result: str | BaseException) -> str:
    """What became of a snippet, in a few words.

    Raises:
        result itself, when it says nothing about the snippet: the pool could not run it.
    """
    match result:
        case str():
            return "ended well"
        case CallTimeout():
            return "took too long"
        case ScriptError():
            return f"raised {result}"
        case WasmTrap():
            return "took its interpreter down"
        case _:
            raise result


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate many snippets in a sandbox.")
    parser.add_argument("language", choices=sorted(LANGUAGES))
    parser.add_argument("module", type=Path, help="the interpreter")
    parser.add_argument("--count", type=int, default=1000, help="how many snippets")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds that each may run")
    options = parser.parse_args()

    language = LANGUAGES[options.language]
    with interpreter(options.language, options.module, start_timeout=600) as pool:
        pool.wait_ready()
        begun = perf_counter()
        sources = snippets(language, options.count)
        results = pool.map(language.evaluate, sources, item_timeout=options.timeout, return_exceptions=True)
        counted = Counter(map(outcome, results))
        seconds = perf_counter() - begun
    for what, count in counted.most_common():
        print(f"{count:>6}  {what}")
    print(f"{options.count} snippets in {seconds:.2f} s")
    return 0 if counted.total() == options.count else 1


if __name__ == "__main__":
    sys.exit(main())
