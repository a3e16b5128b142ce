"""What went wrong or was logged in a worker, as bytes and back.

An exception is received in two steps, as a value is: `report_of` runs no user code and gives all that can be known without;
`Raised.load` makes the exception.  Where workers are trusted it is a pickle, which may run any code of the user's.  Where
they are not, only exceptions of the types in `_KNOWN` come back as themselves, and others as a RemoteError.  The text of
the traceback travels beside, so it can be read in any case.  A log record is plain data, and needs one step.
"""

from __future__ import annotations

import builtins
import json
import logging
import math
import pickle
import struct
import sys
import threading
import traceback
from typing import Any

from .. import errors, pickler
from ..errors import GuestExit, RemoteError, WasmException, WasmFrame, WasmTrap, add_note
from .frames import EXIT, RAISED, TRAP
from .plain import NotPlain, decode, encode

#: Characters of a traceback, or of one text in a log record, that travel; of a longer one, the first and the last half.
MOST_TEXT = 64 << 10
#: Bytes of a pickled exception that travel; a larger one comes as a RemoteError with its text.
MOST_PICKLE = 16 << 20
_MOST_REPORT = MOST_PICKLE + 16 * MOST_TEXT
_MOST_DEEP = 8  # containers within containers of a log record that are taken as they are

_TEXTS = struct.Struct("<II")  # lengths of the text and of the note; they and the exception follow

#: Exceptions that are made by who does not trust the sender, from their names and plain arguments.  Ours are those that
#: jobs themselves end in, and not those that say what has become of a pool.  A StopIteration would end the caller's loops.
#: Those of Unicode and of syntax have places in a text, which Python believes when it shows them: it read outside of its
#: memory (CPython 3.11), or wrote gigabytes of "^".
_BUILTIN = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, (StopIteration, StopAsyncIteration, UnicodeError, SyntaxError))
    and kind.__name__ != "ExceptionGroup"  # it would be made of other exceptions
]
_OURS = (
    *(
        errors.ArgumentOutOfRange,
        errors.BadArguments,
        errors.BadImport,
        errors.BadSnapshot,
        errors.BadWasi,
        errors.SandboxUnavailable,
    ),
    *(errors.GuestError, errors.MissingImport, errors.OutputLimit, errors.RemoteError, errors.UnknownExport),
)
_KNOWN: dict[str, type[Exception]] = {f"{kind.__module__}.{kind.__name__}": kind for kind in (*_BUILTIN, *_OURS)}

#: What stands for a v128 in JSON: an object with its digits under this name.
_VECTOR = "v128"
_PLAIN = (str, int, float, bool, bytes, type(None))


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """A text of at most about ``most`` characters: of a longer one its beginning and its end, and how much was left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def trap_to_bytes(trap: WasmTrap) -> bytes:
    thrown = (trap.tag, trap.payload) if isinstance(trap, WasmException) else None
    told = [shortened(trap.message), trap.code, trap.frames, thrown]
    return json.dumps(told, default=lambda vector: {_VECTOR: vector.hex()}).encode()


def exit_to_bytes(code: int, stage: str | None) -> bytes:
    return json.dumps([code, stage and shortened(stage)]).encode()


def exception_to_bytes(error: BaseException, note: str = "", pickled: bool = False) -> bytes:
    """An exception, its traceback's text, shortened, and a note that it is to have from now on, and not here.

    One that cannot be pickled, or not rebuilt from its pickle, or is larger than MOST_PICKLE, is sent as its text alone.

    Args:
        pickled: who gets it trusts us; else it is sent as plain data, or as its text alone.
    """
    try:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if sys.version_info < (3, 11):  # which shows no notes
            text += "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
    except BaseException:  # it has a say in how it is shown
        text = f"{type(error).__name__}, which cannot be shown\n"
    text = shortened(text)
    if note:
        text += f"{note}\n"
    try:
        # Classes from the program's __main__ travel by value.
        data: bytes = pickler.dumps(error) if pickled else _plain_exception(error)
        if len(data) > MOST_PICKLE:
            text += f"[its pickle of {len(data)} bytes was left out: it is beyond {MOST_PICKLE}]\n"
            data = b""
        elif pickled:
            pickle.loads(data)
    except BaseException:  # SystemExit too: it would end this worker in place of the job
        data = b""
    texts = [each.encode(errors="backslashreplace") for each in (text, shortened(note))]
    return _TEXTS.pack(*map(len, texts)) + b"".join(texts) + data


def _plain_exception(error: BaseException) -> bytes:
    """Its type's name and the arguments to make it of; nothing if it is of no known type, or they are no plain data."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__name__}"
    if _KNOWN.get(name) is not kind:
        return b""
    # An OSError has more than its args, and of ours GuestError is made of others.
    args = (error.export, error.value) if isinstance(error, errors.GuestError) else error.args
    if isinstance(error, OSError):
        args = error.__reduce__()[1]  # type: ignore[assignment]
    try:
        return encode((name, args))
    except NotPlain:
        return b""


class Raised:
    """A Python exception in a worker, as it arrived.

    Args:
        data: its pickle, or plain data; empty if there is only the text.
        pickled: it is a pickle, of a worker that is trusted.
    """

    __slots__ = ("_data", "_pickled", "note", "text")

    def __init__(self, text: str, note: str, data: bytes, pickled: bool) -> None:
        self.text: str = text  #: of its traceback, with the note
        self.note: str = note  #: that it gets when it is loaded; empty for none
        self._data = data
        self._pickled = pickled

    def load(self) -> BaseException:
        """The exception, with the text as its cause.  Unpickling it may run any user code.

        What cannot be rebuilt here, whatever rebuilding it raises, is a RemoteError with the text.

        Raises:
            KeyboardInterrupt: in the main thread, where it may be Ctrl-C.
        """
        if not self._data:
            return self.as_text()
        try:
            error = pickle.loads(self._data) if self._pickled else _known(self._data)
            if issubclass(type(error), BaseException):  # isinstance would ask its __class__, which may be anything
                error.__cause__ = RemoteError(self.text)
                if self.note:
                    add_note(error, self.note)
                return error
            problem = f"it unpickles to something of the type {type(error).__name__}"
        except BaseException as why:
            if isinstance(why, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            problem = _described(why)
        return RemoteError(f"{self.text}[the exception could not be rebuilt here: {problem}]\n")

    def as_text(self) -> RemoteError:
        """The same, without running any user code."""
        return RemoteError(self.text)


def _known(data: bytes) -> Exception:
    """The exception that `_plain_exception` gave.

    Raises:
        ValueError, TypeError: it gave no such thing.
    """
    name, args = decode(data)
    if type(args) is not tuple:
        raise TypeError("arguments that are no tuple")
    return _KNOWN[name](*args)


def _described(error: BaseException) -> str:
    try:
        return shortened(f"{type(error).__name__}: {error}", 1024)
    except BaseException:
        return type(error).__name__


Report = BaseException | Raised


def loaded(report: Report) -> BaseException:
    """The exception that a report stands for, for those who may run user code where they are."""
    return report.load() if isinstance(report, Raised) else report


def report_of(status: int, payload: bytes, export: str | None, pickled: bool) -> Report:
    """What a failed reply stands for: an exception ready to be raised, or one that is yet to be loaded.

    Args:
        status: of the reply.
        payload: of the reply.
        export: what a trap names as the place it happened in.
        pickled: the worker is trusted, and an exception is a pickle; else no code runs when it is loaded.

    Raises:
        ValueError: no sound worker sends such a reply.
    """
    if len(payload) > _MOST_REPORT:
        raise ValueError(f"a failure told in {len(payload)} bytes")
    if status == RAISED:
        start = _TEXTS.size
        if len(payload) < start:
            raise ValueError(f"an exception in {len(payload)} bytes")
        text, note = _TEXTS.unpack_from(payload)
        if start + text + note > len(payload):
            raise ValueError(f"an exception whose texts of {text} and {note} bytes go beyond its {len(payload)} bytes")
        note_at, data_at = start + text, start + text + note
        told, noted = (part.decode(errors="replace") for part in (payload[start:note_at], payload[note_at:data_at]))
        return Raised(told, noted, payload[data_at:], pickled)
    if status not in (TRAP, EXIT):
        raise ValueError(f"a worker sent the unknown status {status}")
    try:
        told = json.loads(payload)
        if status == EXIT:
            code, stage = told
            if type(code) is int and (stage is None or type(stage) is str):
                return GuestExit(code, stage)
        else:
            message, code, frames, thrown = told
            trace = tuple(_frame(*frame) for frame in frames)
            if thrown is not None:
                tag, held = thrown
                values = tuple(bytes.fromhex(value[_VECTOR]) if type(value) is dict else value for value in held)
                if (tag is None or type(tag) is str) and all(type(value) in _PLAIN for value in values):
                    exception = WasmException(tag, values, export, trace)
                    if type(message) is str:
                        exception.message = message
                        exception.args = (message,)
                    return exception
            elif type(message) is str and (code is None or type(code) is str):
                return WasmTrap(message, code, export, trace)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"a worker sent {bytes(payload[:80])!r} as the payload for the status {status}")


def _frame(function: Any, func_index: Any, offset: Any) -> WasmFrame:
    if (function is not None and type(function) is not str) or type(func_index) is not int or type(offset) is not int:
        raise ValueError("no frame")
    return WasmFrame(function, func_index, offset)


# -- logging -----------------------------------------------------------------------------------------------------------


def record_to_bytes(record: logging.LogRecord) -> bytes:
    """A log record as plain data: its message made, its traceback as text, what is not plain as its repr."""
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    state = dict(record.__dict__, msg=record.getMessage(), args=None, exc_info=None)
    return encode({str(key): _plain(value, _MOST_DEEP) for key, value in state.items()})


def _plain(value: Any, deep: int) -> Any:
    """A value of the same type or a base of it if that takes no code to rebuild; else its repr."""
    kind = type(value)
    if kind is str:
        return shortened(value)
    if kind in _PLAIN:
        return value
    if deep:
        if kind is tuple or kind is list:
            return kind(_plain(item, deep - 1) for item in value)
        if kind is dict and all(type(key) in _PLAIN for key in value):
            return {key: _plain(item, deep - 1) for key, item in value.items()}
    if isinstance(value, str):  # an enum's member, say, or a number of numpy's
        return shortened(str.__str__(value))
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    try:
        return shortened(repr(value), 1024)
    except Exception:
        return object.__repr__(value)


def record_state(payload: bytes) -> dict[str, Any]:
    """The attributes of a log record, for `logging.makeLogRecord`.  Runs no user code.

    Raises:
        ValueError: no sound worker sends such a record.
    """
    try:
        state = decode(payload)
    except ValueError:
        state = None
    if type(state) is dict and all(type(key) is str for key in state):
        for name, kinds in _OF_RECORDS.items():
            if type(state.get(name)) not in kinds:
                break
        else:
            if all(math.isfinite(state[name]) and abs(state[name]) < _MOST_TIME for name in _TIMES):
                return state
    raise ValueError("a worker sent a log record that is none")


_TEXT, _TEXT_OR_NONE, _TIME = (str,), (str, type(None)), (int, float)
_TIMES = ("created", "msecs", "relativeCreated")
_MOST_TIME = 1e14
#: What formatters and handlers rely upon; whatever else is in a record, it is plain data.
_OF_RECORDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "msg", "levelname", "pathname", "filename", "module"), _TEXT),
    **dict.fromkeys(("funcName", "threadName", "processName", "taskName", "exc_text", "stack_info"), _TEXT_OR_NONE),
    **dict.fromkeys(_TIMES, _TIME),
    **dict.fromkeys(("levelno", "lineno"), (int,)),
    **dict.fromkeys(("thread", "process"), (int, type(None))),
    **dict.fromkeys(("args", "exc_info"), (type(None),)),
}


def record_from_bytes(payload: bytes) -> logging.LogRecord:
    """What `record_to_bytes` was given, nearly.  Made by the program's record factory, which is user code.

    Raises:
        ValueError: no sound worker sends such a record.
        Whatever the factory raises.
    """
    return logging.makeLogRecord(record_state(payload))


def log_here(record: logging.LogRecord) -> None:
    """Log here what was logged in a worker.

    By its logger, or the nearest above it that there is: whoever makes up names has none made here.
    """
    name, known = record.name, logging.root.manager.loggerDict
    while name and not isinstance(known.get(name), logging.Logger):
        name = name.rpartition(".")[0]
    target = logging.getLogger(name or None)
    # Not by isEnabledFor, which remembers each level that it was ever asked about.
    if logging.root.manager.disable < record.levelno >= target.getEffectiveLevel():
        target.handle(record)
