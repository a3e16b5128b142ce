"""From what the user has to what workers need: source to wasm, wasm to one compiled artifact."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard, TypeVar, Union

import wasmtime

from .binary import ExternType, FuncType, Import, Interface, read_interface
from .checks import shown
from .engine import PLAIN, EngineSettings, Feature, checked_features, compiling_engine, hint_for, loading_engine
from .errors import InvalidModule
from .imports import Renames
from .linking import link
from .printable import printable

ModuleSource = Union[str, bytes, bytearray, "os.PathLike[str]"]

T = TypeVar("T")

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

    imports: tuple[Import, ...]  #: in the module's order; with linked modules, what is left to be given
    exports: Mapping[str, ExternType]  #: by name, in the module's order
    size: int  #: bytes of the binary, or binaries

    def __str__(self) -> str:
        lines = [f"{self.size:,} bytes of wasm"]
        for title, items in (
            ("imports", [(f"{needed.module}.{needed.name}", needed.type) for needed in self.imports]),
            ("exports", list(self.exports.items())),
        ):
            lines.append(f"{title}: {len(items) or 'none'}")
            lines += [f"  {printable(name)}{'' if isinstance(type_, FuncType) else ':'} {type_}" for name, type_ in items]
        return "\n".join(lines)


def inspect(
    source: ModuleSource,
    *,
    modules: Mapping[str, ModuleSource] | None = None,
    rename_imports: Renames | None = None,
    features: Iterable[Feature] = (),
) -> Inspection:
    """What a module imports and exports, without compiling it or starting anything.

    Args:
        source: the module, as for :class:`ProcessWasmPool`.
        modules, rename_imports: as for a pool: linked modules.  The imports are what is left to be given then, and what
            linked modules export is there as ``"module.name"``.
        features: proposals that they may use, as for a pool.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        BadImport: the modules cannot be linked.
        OSError: the file cannot be read.
        TypeError: ``source`` is neither bytes, nor text, nor a path.
    """
    size = 0
    engine = loading_engine(EngineSettings(features=checked_features(features)))

    def interface(source: ModuleSource) -> Interface:
        nonlocal size
        wasm = read_source(source)
        try:
            wasmtime.Module.validate(engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise _refused(wasm, error) from None
        size += len(wasm)
        return read_interface(wasm)

    found = {name: naming(name, interface, each) for name, each in by_name(source, modules).items()}
    program = link(found.pop(""), found, rename_imports or {})
    return Inspection(program.needed, MappingProxyType(program.exports), size)


def by_name(source: ModuleSource, modules: Mapping[str, ModuleSource] | None) -> dict[str, ModuleSource]:
    """The main module under an empty name, and those that are linked to it.

    Raises:
        TypeError, ValueError: ``modules`` is no mapping of names to modules.
    """
    if not isinstance(modules, Mapping | None):
        raise TypeError(f"modules must be a mapping of names to modules, got {shown(modules)}")
    for name in modules or {}:
        if not isinstance(name, str) or not name:
            raise ValueError(f"modules must be by the names that they are imported by, got {shown(name)}")
    return {"": source, **(modules or {})}


def naming(name: str, do: Callable[[ModuleSource], T], source: ModuleSource) -> T:
    """Do something with a module; what is raised says which linked one it was."""
    try:
        return do(source)
    except (InvalidModule, TypeError) as error:
        if name:
            raise type(error)(f"modules[{name!r}]: {error}") from None
        raise


def _refused(wasm: bytes, error: wasmtime.WasmtimeError) -> InvalidModule:
    return InvalidModule(f"wasmtime refuses this module of {len(wasm)} bytes: {error}{hint_for(str(error))}")


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


def compile_module(source: ModuleSource, cache: bool = True, settings: EngineSettings = PLAIN) -> CompiledModule:
    """Compile ``source`` for the workers to map.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        OSError, TypeError: as :func:`read_source`.
    """
    wasm = read_source(source)
    try:
        with wasmtime.Module(compiling_engine(cache, settings), wasm) as module:
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
