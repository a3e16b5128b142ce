"""What went wrong or was logged in a worker, as bytes and back."""

from __future__ import annotations

import json
import logging
import pickle
import traceback

import cloudpickle

from ..errors import GuestExit, RemoteError, WasmFrame, WasmTrap
from .frames import EXIT, RAISED, TRAP, UNFIT


def trap_to_bytes(trap: WasmTrap) -> bytes:
    return json.dumps([trap.message, trap.code, trap.frames]).encode()


def exception_to_bytes(error: BaseException) -> bytes:
    """An exception and its traceback's text.

    One that cannot be pickled, or not rebuilt from its pickle, is replaced by a RemoteError with its text: finding that
    out here keeps the parent's reader safe from it.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data: bytes = cloudpickle.dumps((error, text))  # classes from the program's __main__ travel by value
        pickle.loads(data)
    except Exception:
        data = pickle.dumps((RemoteError(text), text))
    return data


def record_to_bytes(record: logging.LogRecord) -> bytes:
    """A log record that pickles: its message made, its traceback as text."""
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    state = dict(record.__dict__, msg=record.getMessage(), args=None, exc_info=None)
    try:
        return cloudpickle.dumps(state)  # type: ignore[no-any-return]
    except Exception:  # somebody's `extra`
        plain = {key: value for key, value in state.items() if isinstance(value, (str, int, float, type(None)))}
        return pickle.dumps(plain)


def record_from_bytes(payload: bytes) -> logging.LogRecord:
    """What `record_to_bytes` was given, nearly."""
    return logging.makeLogRecord(pickle.loads(payload))


def error_from_reply(status: int, payload: bytes, export: str | None) -> BaseException:
    """The exception that a failed reply stands for."""
    if status == TRAP:
        message, code, frames = json.loads(payload)
        return WasmTrap(message, code, export, tuple(WasmFrame(*f) for f in frames))
    if status == EXIT:
        return GuestExit(json.loads(payload))
    if status in (RAISED, UNFIT):
        error, text = pickle.loads(payload)
        error.__cause__ = RemoteError(text)
        assert isinstance(error, BaseException)
        return error
    raise ValueError(f"a worker sent the unknown status {status}")
