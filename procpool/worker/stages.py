"""The stages of making an instance, so that what goes wrong in one says which it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import wasmtime

from ..errors import GuestExit, WasmTrap
from .host import HostCalls, add_note


@contextlib.contextmanager
def step(name: str, calls: HostCalls) -> Iterator[None]:
    """Run code of the guest's, or of the user's, in a new instance.  What exits with success has succeeded.

    Raises:
        Whatever the code raises, told by `ended`; a GuestExit if it exits with another code.
    """
    try:
        yield
    except (wasmtime.ExitTrap, GuestExit) as error:
        if error.code:
            raise ended(GuestExit(error.code), name) from None
        calls.failed = False
    except BaseException as error:
        ended(error, name)
        raise


def ended(error: BaseException, stage: str) -> BaseException:
    """That exception, which says from now on which stage it ended."""
    if isinstance(error, GuestExit):
        error.args = (f"{stage}: {error}",)
    raised = as_raised(error)
    if isinstance(raised, (wasmtime.Trap, wasmtime.WasmtimeError, GuestExit)):
        raised.stage = stage  # type: ignore[union-attr]
    else:
        add_note(error, f"raised by {stage}")
    return error


def stage_of(error: BaseException) -> str | None:
    """Which stage an error of the guest's has ended; None if it was none."""
    return getattr(as_raised(error), "stage", None)


def as_raised(error: BaseException) -> BaseException:
    """wasmtime's exception, of one that Python code beside the instance may have caught; any other as it is."""
    cause = error.__cause__
    return cause if isinstance(error, WasmTrap) and isinstance(cause, (wasmtime.Trap, wasmtime.WasmtimeError)) else error
