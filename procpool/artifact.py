"""A compiled module as a file: the code that workers map, and behind it what the module says of itself.

The code comes first, because wasmtime maps whole files, and does not mind what follows.  The end of the file says how long
its parts are, so a file that was cut off anywhere is known as such without reading it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from functools import cached_property

import wasmtime

from .binary import Interface, marked, outline, read_interface, told_apart
from .engine import EngineSettings, compiling_engine
from .errors import InvalidModule
from .exposed import exposed
from .files import write
from .module import is_component, refusal, to_binary

#: Part of the name of what is kept: changes with the format, and with what is put around components.
FORMAT = b"procpool 7"
#: The last bytes: length of the code, of the outline and of the binary; hash of the source; hash of outline and all these.
_END = struct.Struct("<QQQ32s32s")


@dataclass(frozen=True)
class CompiledModule:
    """A module ready to be mapped by workers."""

    outline: bytes  #: a binary of the same interface, and no code
    artifact: int  #: descriptor of a file with the compiled code; the owner closes it
    size: int  #: bytes of the binary it was compiled from
    source: bytes  #: SHA-256 of what it was compiled from, be it binary or text

    @property
    def is_component(self) -> bool:
        """Whether it is a component, and no core module."""
        return is_component(self.outline)

    @cached_property
    def interface(self) -> Interface:
        """Of a core module: what it imports and exports."""
        return read_interface(self.outline)


class Torn(Exception):
    """Raised for a file that is no whole artifact."""


def make(fd: int, source: bytes, subject: str, settings: EngineSettings, parallel: bool, inner: bool = False) -> None:
    """Compile ``source`` into an empty file.

    Args:
        subject: what errors call it, with its verb.
        parallel: on all cores, by threads that stay as long as the process.
        inner: have it export all of its state; see `exposed`.

    Raises:
        InvalidModule: wasmtime refuses it; the message says where and why.
        OSError: the file cannot be written.
    """
    wasm = to_binary(source, subject)
    engine = compiling_engine(settings, parallel)
    if is_component(wasm):
        from .component.compiling import compiled

        if inner:
            raise InvalidModule(
                f'{subject} a component, whose state cannot be kept: it has no warm= and no isolation="snapshot"; with'
                ' isolation="fresh" each call has a new instance'
            )
        code, told = compiled(engine, wasm, subject)
        _write(fd, code, told, wasm, source)
        return
    code = bytearray()
    try:
        if inner:
            wasmtime.Module.validate(engine, wasm)
        else:
            code = _compiled(engine, wasm)
    except wasmtime.WasmtimeError as error:
        raise refusal(wasm, error) from None
    open_ = exposed(wasm) if inner else wasm
    told = outline(open_)
    apart = told_apart(open_, read_interface(told).imports)
    if apart is not wasm:  # hardly any module is compiled twice, and none has to be read before wasmtime has found it valid
        code = _compiled(engine, marked(apart, wasm))
    _write(fd, code, told, wasm, source)


def _write(fd: int, code: bytes | bytearray, told: bytes, wasm: bytes, source: bytes) -> None:
    ending = struct.pack("<QQQ32s", len(code), len(told), len(wasm), hashlib.sha256(source).digest())
    for part in (code, told, ending, hashlib.sha256(told + ending).digest()):
        write(fd, part)


def _compiled(engine: wasmtime.Engine, wasm: bytes) -> bytearray:
    with wasmtime.Module(engine, wasm) as module:
        code: bytearray = module.serialize()
        return code


def read(fd: int) -> CompiledModule:
    """What is in a file that `make` has made.

    Raises:
        Torn: it is not whole.  Its length and the part that is read here are checked; the code is not read.
    """
    length = os.fstat(fd).st_size
    if length < _END.size:
        raise Torn(f"it has {length} bytes")
    ending = os.pread(fd, _END.size, length - _END.size)
    code, told, size, source, digest = _END.unpack(ending)
    if code + told + _END.size != length:
        raise Torn(f"it has {length} bytes, and not those it ends in")
    content = os.pread(fd, told, code)
    if hashlib.sha256(content + ending[: -len(digest)]).digest() != digest:
        raise Torn("what it says of the module is damaged")
    return CompiledModule(content, fd, size, source)
