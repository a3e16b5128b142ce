"""What is done once in each new instance: the steps of ``start=``, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import wire
from .binary import ExternType, FuncType
from .checks import shown
from .codec import Codec
from .errors import BadArguments, UnknownExport
from .options import Start
from .printable import printable
from .program import INITIALIZE
from .supervisor.jobs.shipped import name_of


def start_steps(
    given: Sequence[Start] | None, exports: Mapping[str, ExternType], option: str = "start"
) -> tuple[wire.Step, ...]:
    """What to do in each new instance.

    Args:
        given: by the user; None for the usual.
        exports: the module's, and those of linked ones, by what they are known as.
        option: what they were given for.

    Raises:
        UnknownExport: a step names no function.
        BadArguments: a step gives a function what it does not take, or is none at all.
    """
    if given is None:
        return (_step(INITIALIZE, INITIALIZE, exports),) if exports.get(INITIALIZE) == FuncType() else ()
    try:
        for index, each in enumerate(given):
            if not isinstance(each, (str, tuple)) and not callable(each):
                raise BadArguments(
                    f"{option}[{index}] is {shown(each)}; a step is an export's name, a tuple of one and its arguments, or"
                    " a function"
                )
        return tuple(_step(f"{option}[{index}]", each, exports) for index, each in enumerate(given))
    except (UnknownExport, BadArguments) as error:
        raise type(error)(f"{error}{_hint(given, exports, option)}") from None


def _step(where: str, given: Start, exports: Mapping[str, ExternType]) -> wire.Step:
    if callable(given):
        return wire.Step(f"{where}, {name_of(given)}", given)
    name, *args = given if given and isinstance(given, tuple) else (given,)
    type_ = exports.get(name) if isinstance(name, str) else None
    if not isinstance(type_, FuncType):
        raise UnknownExport(f"{where} names {shown(name)}, and the module exports no function of that name")
    packed = Codec(f"{where}: {name}", type_).pack(tuple(args))
    called = f"{printable(name)}({', '.join(_short(each) for each in args)})"
    return wire.Step(called if where == name else f"{where}, {called}", wire.StartCall(name, type_, packed))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _hint(given: Sequence[Any], exports: Mapping[str, ExternType], option: str) -> str:
    """Whether it looks like one step, where a list of steps is meant."""
    name, *args = given
    type_ = exports.get(name) if isinstance(name, str) else None
    if args and isinstance(type_, FuncType) and len(type_.params) == len(args):
        return f"; {option} is a list of steps: for one call with arguments, write {option}=[{tuple(given)!r}]"
    return ""
