"""What went wrong or was logged in a worker, as bytes and back.

An exception is received in two steps, as a value is: `report_of` runs no user code and gives all that can be known without;
`Raised.load` unpickles the exception, which may run any code of the user's.  Its traceback's text travels beside the
pickle, so it can be read whatever the pickle does.  A log record is plain data, and needs one step.
"""

from __future__ import annotations

import json
import logging
import pickle
import struct
import sys
import threading
import traceback
from typing import Any

import cloudpickle

from ..errors import GuestExit, RemoteError, WasmException, WasmFrame, WasmTrap, add_note
from .frames import EXIT, KEPT, RAISED, TRAP, UNFIT
from .values import NeedsCode, loads_plain

#: Characters of a traceback, or of one text in a log record, that travel; of a longer one, the first and the last half.
MOST_TEXT = 64 << 10
#: Bytes of a pickled exception that travel; a larger one comes as a RemoteError with its text.
MOST_PICKLE = 16 << 20
_MOST_DEEP = 8  # containers within containers of a log record that are taken as they are

_TEXTS = struct.Struct("<II")  # lengths of the text and of the note; they and the pickle follow

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


def exception_to_bytes(error: BaseException, note: str = "") -> bytes:
    """An exception, its traceback's text, shortened, and a note that it is to have from now on, and not here.

    One that cannot be pickled, or not rebuilt from its pickle, or is larger than MOST_PICKLE, is sent as its text alone.
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
        data: bytes = cloudpickle.dumps(error)  # classes from the program's __main__ travel by value
        if len(data) > MOST_PICKLE:
            text += f"[its pickle of {len(data)} bytes was left out: it is beyond {MOST_PICKLE}]\n"
            data = b""
        else:
            pickle.loads(data)
    except BaseException:  # SystemExit too: it would end this worker in place of the job
        data = b""
    texts = [each.encode(errors="backslashreplace") for each in (text, shortened(note))]
    return _TEXTS.pack(*map(len, texts)) + b"".join(texts) + data


class Raised:
    """A Python exception in a worker, as it arrived."""

    __slots__ = ("_pickle", "note", "text")

    def __init__(self, text: str, note: str, data: bytes) -> None:
        self.text: str = text  #: of its traceback, with the note
        self.note: str = note  #: that it gets when it is loaded; empty for none
        self._pickle = data

    def load(self) -> BaseException:
        """The exception, with the text as its cause.  Unpickling it may run any user code.

        What cannot be rebuilt here, whatever rebuilding it raises, is a RemoteError with the text.

        Raises:
            KeyboardInterrupt: in the main thread, where it may be Ctrl-C.
        """
        if not self._pickle:
            return self.as_text()
        try:
            error = pickle.loads(self._pickle)
            if issubclass(type(error), BaseException):  # isinstance would ask its __class__, which may be anything
                error.__cause__ = RemoteError(self.text)
                if self.note:
                    add_note(error, self.note)
                return error  # type: ignore[no-any-return]
            problem = f"it unpickles to something of the type {type(error).__name__}"
        except BaseException as why:
            if isinstance(why, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            problem = _described(why)
        return RemoteError(f"{self.text}[the exception could not be rebuilt here: {problem}]\n")

    def as_text(self) -> RemoteError:
        """The same, without running any user code."""
        return RemoteError(self.text)


def _described(error: BaseException) -> str:
    try:
        return shortened(f"{type(error).__name__}: {error}", 1024)
    except BaseException:
        return type(error).__name__


Report = BaseException | Raised


def loaded(report: Report) -> BaseException:
    """The exception that a report stands for, for those who may run user code where they are."""
    return report.load() if isinstance(report, Raised) else report


def report_of(status: int, payload: bytes, export: str | None) -> Report:
    """What a failed reply stands for: an exception ready to be raised, or one that is yet to be loaded.

    Args:
        status: of the reply.
        payload: of the reply.
        export: what a trap names as the place it happened in.

    Raises:
        ValueError: no sound worker sends such a reply.
    """
    if status in (RAISED, KEPT, UNFIT):
        start = _TEXTS.size
        if len(payload) < start:
            raise ValueError(f"an exception in {len(payload)} bytes")
        text, note = _TEXTS.unpack_from(payload)
        if start + text + note > len(payload):
            raise ValueError(f"an exception whose texts of {text} and {note} bytes go beyond its {len(payload)} bytes")
        note_at, data_at = start + text, start + text + note
        told, noted = (part.decode(errors="replace") for part in (payload[start:note_at], payload[note_at:data_at]))
        return Raised(told, noted, payload[data_at:])
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
            trace = tuple(WasmFrame(*frame) for frame in frames)
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


# -- logging -----------------------------------------------------------------------------------------------------------


def record_to_bytes(record: logging.LogRecord) -> bytes:
    """A log record as plain data: its message made, its traceback as text, what is not plain as its repr."""
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    state = dict(record.__dict__, msg=record.getMessage(), args=None, exc_info=None)
    return pickle.dumps({str(key): _plain(value, _MOST_DEEP) for key, value in state.items()}, 5)


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
        state = loads_plain(payload)
    except NeedsCode:
        state = None
    if type(state) is dict and type(state.get("name")) is str and type(state.get("levelno")) is int:
        return state
    raise ValueError("a worker sent a log record that is none")


def record_from_bytes(payload: bytes) -> logging.LogRecord:
    """What `record_to_bytes` was given, nearly.  Made by the program's record factory, which is user code.

    Raises:
        ValueError: no sound worker sends such a record.
        Whatever the factory raises.
    """
    return logging.makeLogRecord(record_state(payload))
