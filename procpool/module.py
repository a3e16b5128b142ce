"""From what the user has to what workers need: source to wasm, wasm to one compiled artifact."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard, Union

import wasmtime

from .binary import ExternType, FuncType, Import, Interface, read_interface
from .engine import compiling_engine, loading_engine
from .errors import InvalidModule
from .printable import printable

ModuleSource = Union[str, bytes, bytearray, "os.PathLike[str]"]

_MAGIC = b"\0asm"
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
GZIP = b"\x1f\x8b"
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class CompiledModule:
    """A module ready to be mapped by workers."""

    interface: Interface
    artifact: int  #: file descriptor of an anonymous file with the compiled code; the owner closes it
    size: int  #: bytes of the binary it was compiled from


@dataclass(frozen=True)
class Inspection:
    """What a module imports and exports; see :func:`inspect`.  Its text is a list to read."""

    imports: tuple[Import, ...]  #: in the module's order
    exports: Mapping[str, ExternType]  #: by name, in the module's order
    size: int  #: bytes of the binary

    def __str__(self) -> str:
        lines = [f"{self.size:,} bytes of wasm"]
        for title, items in (
            ("imports", [(f"{needed.module}.{needed.name}", needed.type) for needed in self.imports]),
            ("exports", list(self.exports.items())),
        ):
            lines.append(f"{title}: {len(items) or 'none'}")
            lines += [f"  {printable(name)}{'' if isinstance(type_, FuncType) else ':'} {type_}" for name, type_ in items]
        return "\n".join(lines)


def inspect(source: ModuleSource) -> Inspection:
    """What a module imports and exports, without compiling it or starting anything.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        OSError: the file cannot be read.
        TypeError: ``source`` is neither bytes, nor text, nor a path.
    """
    wasm = read_source(source)
    try:
        wasmtime.Module.validate(loading_engine(), wasm)
    except wasmtime.WasmtimeError as error:
        raise _refused(wasm, error) from None
    interface = read_interface(wasm)
    return Inspection(tuple(interface.imports), MappingProxyType(interface.exports), len(wasm))


def _refused(wasm: bytes, error: wasmtime.WasmtimeError) -> InvalidModule:
    return InvalidModule(f"wasmtime refuses this module of {len(wasm)} bytes: {error}")


def is_path(source: ModuleSource) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it names a file, and is no module itself."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and not source.lstrip().startswith(("(", ";;")))


def read_source(source: ModuleSource) -> bytes:
    """The binary of ``source``: bytes (binary or text), WAT text, or the path of a ``.wasm`` or ``.wat`` file.

    A ``str`` is taken as WAT when it begins like it (with a parenthesis or a comment), otherwise as a path.

    Raises:
        InvalidModule: neither a binary nor text that parses.
        OSError: the file cannot be read; as raised by ``open``.
        TypeError: ``source`` is none of the above.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, subject = bytes(source), "the given bytes are"
    elif isinstance(source, str) and not is_path(source):
        data, subject = source.encode(), "the given text is"
    elif isinstance(source, str) and URL.match(source):
        raise InvalidModule(f"{source!r} is a URL; download the module first, and give the file")
    elif isinstance(source, (str, os.PathLike)):
        data, subject = Path(source).read_bytes(), f"{os.fspath(source)!r} is"
    else:
        raise TypeError(f"expected a path, wasm bytes or WAT text, got {type(source).__name__}")
    if data.startswith(_MAGIC):
        if data[4:8] == b"\x0d\0\x01\0":
            raise InvalidModule(f"{subject} a WebAssembly component; procpool runs core modules")
        return data
    if not data.strip():
        raise InvalidModule(f"{subject} empty; expected a WebAssembly module")
    if data.startswith(GZIP):
        raise InvalidModule(f"{subject} compressed by gzip; decompress it first (gunzip)")
    if data.startswith(_ELF):
        raise InvalidModule(
            f"{subject} native code, as wasmtime's .cwasm is, made for one version and machine; give the .wasm it was"
            " made from: the pool compiles it once, and remembers"
        )
    if not data.lstrip().startswith((b"(", b";;")):
        raise InvalidModule(
            f"{subject} not WebAssembly: it begins with {data[:8]!r} instead of {_MAGIC!r}, and is no WAT text either"
        )
    try:
        return bytes(wasmtime.wat2wasm(data))
    except wasmtime.WasmtimeError as error:
        raise InvalidModule(f"{subject} not valid WAT: {error}") from None


def compile_module(
    source: ModuleSource, cache: bool = True, fuel: bool = False, stack: int | None = None
) -> CompiledModule:
    """Compile ``source`` for the workers to map.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        OSError, TypeError: as :func:`read_source`.
    """
    wasm = read_source(source)
    try:
        with wasmtime.Module(compiling_engine(cache, fuel, stack), wasm) as module:
            compiled = module.serialize()
    except wasmtime.WasmtimeError as error:
        raise _refused(wasm, error) from None
    return CompiledModule(read_interface(wasm), anonymous_file(compiled), len(wasm))


def anonymous_file(content: bytes | bytearray) -> int:
    """A descriptor of a file that has no name, so that it is gone with its last user however that user ends.

    Where the system can, it never gets shorter: who has mapped what is cut off would die of it (SIGBUS).

    Raises:
        OSError: there are no descriptors left, or the content is longer than a file may be.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("procpool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
