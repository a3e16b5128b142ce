"""From what the user has to wasm, and what a module says of itself."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar, Union

import wasmtime

from .binary import FuncType, Interface, read_interface
from .checks import shown
from .engine import EngineSettings, Feature, checked_features, hint_for, loading_engine
from .errors import BadImport, InvalidModule
from .imports import Renames, checked_renames
from .linking import link
from .printable import printable

ModuleSource = Union[str, bytes, bytearray, "os.PathLike[str]"]

T = TypeVar("T")

_MAGIC = b"\0asm"
_COMPONENT = b"\x0d\0\1\0"
#: The beginning of a component in the text format, behind comments.
_COMPONENT_TEXT = re.compile(rb"(?:\s|;;[^\n]*\n|\(;.*?;\))*\(\s*component\b", re.DOTALL)
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
GZIP = b"\x1f\x8b"
_ELF = b"\x7fELF"
#: Begins files of `saved`.
SAVED = b"procpool state "
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Inspection:
    """What a module imports and exports; see :func:`inspect`.  Its text is a list to read."""

    imports: tuple[Any, ...]  #: in the module's order; with linked modules, what is left to be given
    exports: Mapping[str, Any]  #: their types by name, in the module's order
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
        TypeError: ``source`` is neither bytes, nor text, nor a path; or ``rename_imports`` has an entry that can be none.
    """
    with open_module(source) as opened:
        wasm = to_binary(opened.read(), opened.subject)
    if is_component(wasm):
        from .component.inspecting import inspected

        if modules:
            raise BadImport("modules= links core modules, and this is a component: compose components beforehand")
        return inspected(wasm)
    source, size = wasm, 0
    renames = checked_renames(rename_imports or {})
    engine = loading_engine(EngineSettings(features=checked_features(features)))

    def interface(source: ModuleSource) -> Interface:
        nonlocal size
        wasm = read_source(source)
        try:
            wasmtime.Module.validate(engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise refusal(wasm, error) from None
        size += len(wasm)
        return read_interface(wasm)

    found = {name: naming(name, interface, each) for name, each in by_name(source, modules).items()}
    linked = {name: each for name, each in found.items() if name is not None}
    program = link(found[None], linked, renames)
    return Inspection(program.needed, MappingProxyType(program.exports), size)


def by_name(source: ModuleSource, modules: Mapping[str, ModuleSource] | None) -> dict[str | None, ModuleSource]:
    """The main module under None, and those that are linked to it under their names.

    Raises:
        TypeError: ``modules`` is no mapping of names to modules.
    """
    if not isinstance(modules, Mapping | None):
        raise TypeError(f"modules must be a mapping of names to modules, got {shown(modules)}")
    for name in modules or {}:
        if not isinstance(name, str):
            raise TypeError(f"modules must be by the names that they are imported by, got {shown(name)}")
    named: dict[str | None, ModuleSource] = {None: source}
    named.update(modules or {})
    return named


def naming(name: str | None, do: Callable[[ModuleSource], T], source: ModuleSource) -> T:
    """Do something with a module; what is raised says which linked one it was."""
    try:
        return do(source)
    except (InvalidModule, TypeError) as error:
        if name is not None:
            raise type(error)(f"modules[{name!r}]: {error}") from None
        raise


def refusal(wasm: bytes, error: wasmtime.WasmtimeError) -> InvalidModule:
    """What wasmtime says against a module."""
    what = "component" if is_component(wasm) else "module"
    return InvalidModule(f"wasmtime refuses this {what} of {len(wasm)} bytes: {error}{hint_for(str(error))}")


def is_path(source: ModuleSource) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it names a file, and is no module itself."""
    return isinstance(source, os.PathLike) or (isinstance(source, str) and not source.lstrip().startswith(("(", ";;")))


def content_of(source: ModuleSource) -> bytes:
    """What is in ``source``: binary or text.

    Raises:
        OSError, InvalidModule, TypeError: as :func:`read_source`.
    """
    with open_module(source) as found:
        return found.read()


def read_source(source: ModuleSource) -> bytes:
    """The binary of ``source``: bytes (binary or text), WAT text, or the path of a ``.wasm`` or ``.wat`` file.

    A ``str`` is taken as WAT when it begins like it (with a parenthesis or a comment), otherwise as a path.

    Raises:
        InvalidModule: neither a binary nor text that parses.
        OSError: the file cannot be read; as raised by ``open``.
        TypeError: ``source`` is none of the above.
    """
    with open_module(source) as given:
        return given.wasm()


class Opened:
    """A module as the user gave it, not looked into yet: content, or an open file.

    Args:
        subject: what errors call it, with its verb.
        content: binary or text; None for what is in the file.
        file: descriptor of a regular file, which belongs to whoever made this.
    """

    def __init__(self, subject: str, content: bytes | None, file: int = -1) -> None:
        self.subject = subject
        self.file = file
        self._content = content

    @property
    def name(self) -> str:
        """What to call it when there is nothing to say against it."""
        return self.subject.rpartition(" ")[0]

    @property
    def size(self) -> int:
        """Bytes, of text or binary."""
        return os.fstat(self.file).st_size if self._content is None else len(self._content)

    def chunks(self) -> Iterator[bytes]:
        """What is in it, a part at a time: a large file need not fit into memory."""
        if self._content is not None:
            yield self._content
            return
        at = 0
        while chunk := os.pread(self.file, _CHUNK, at):
            at += len(chunk)
            yield chunk

    def read(self) -> bytes:
        """All that is in it."""
        return b"".join(self.chunks()) if self._content is None else self._content

    @property
    def is_component(self) -> bool:
        """Whether it is a component, as far as its beginning tells."""
        beginning = os.pread(self.file, _CHUNK, 0) if self._content is None else self._content
        return is_component(beginning) or _COMPONENT_TEXT.match(beginning) is not None

    def wasm(self) -> bytes:
        """The binary.

        Raises:
            InvalidModule: it is neither a binary nor text that parses.
        """
        return to_wasm(self.read(), self.subject)


@contextlib.contextmanager
def open_module(source: ModuleSource) -> Iterator[Opened]:
    """``source``, with its file open where it is the path of one.

    Raises:
        InvalidModule, OSError, TypeError: as :func:`read_source`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield Opened("the given bytes are", bytes(source))
    elif isinstance(source, str) and not is_path(source):
        yield Opened("the given text is", _utf8(source))
    elif isinstance(source, str) and URL.match(source):
        raise InvalidModule(f"{source!r} is a URL; download the module first, and give the file")
    elif isinstance(source, (str, os.PathLike)):
        subject = f"{os.fspath(source)!r} is"
        with _file(source) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield Opened(subject, None, file.fileno())
            else:  # a pipe is read once
                yield Opened(subject, file.readall())
    else:
        raise TypeError(f"expected a path, wasm bytes or WAT text, got {type(source).__name__}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidModule(f"the given text is not UTF-8: its character {error.start} is half of one") from None


def _file(path: str | os.PathLike[str]) -> FileIO:
    try:
        return open(path, "rb", buffering=0)
    except ValueError:  # a NUL, or half of a character
        raise InvalidModule(f"{os.fspath(path)!r} is no path that a file can have") from None


def is_component(wasm: bytes) -> bool:
    """Whether a binary, of which the first 8 bytes will do, is a component."""
    return wasm[:8] == _MAGIC + _COMPONENT


def to_wasm(data: bytes, subject: str) -> bytes:
    """The binary of a module that may be text.

    Args:
        subject: what errors call it, with its verb.

    Raises:
        InvalidModule: it is neither a binary nor text that parses; or it is a component.
    """
    wasm = to_binary(data, subject)
    if is_component(wasm):
        raise InvalidModule(f"{subject} a WebAssembly component, and only a core module can be used here")
    return wasm


def to_binary(data: bytes, subject: str) -> bytes:
    """The binary of a module or component that may be text; otherwise as `to_wasm`."""
    if data.startswith(_MAGIC):
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
    if data.startswith(SAVED):
        raise InvalidModule(f"{subject} a module with a snapshot; only a pool of its path can begin there")
    if not data.lstrip().startswith((b"(", b";;")):
        raise InvalidModule(
            f"{subject} not WebAssembly: it begins with {data[:8]!r} instead of {_MAGIC!r}, and is no WAT text either"
        )
    try:
        return bytes(wasmtime.wat2wasm(data))
    except wasmtime.WasmtimeError as error:
        raise InvalidModule(f"{subject} not valid WAT: {error}") from None
