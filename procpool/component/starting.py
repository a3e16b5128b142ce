"""What is done once in each new instance of a component: the steps of ``start=``, checked."""

from __future__ import annotations

from collections.abc import Sequence

from .. import wire
from ..binary import FuncType
from ..checks import shown
from ..errors import BadArguments
from ..options import Start
from ..printable import printable
from ..supervisor.jobs.shipped import name_of
from .callee import ComponentFunctions


def start_steps(given: Sequence[Start] | None, functions: ComponentFunctions) -> tuple[wire.Step, ...]:
    """What to do in each new instance.

    Raises:
        UnknownExport: a step names no function.
        BadArguments: a step gives a function what it does not take, or is none at all.
    """
    return tuple(_step(f"start[{index}]", each, functions) for index, each in enumerate(given or ()))


def _step(where: str, given: Start, functions: ComponentFunctions) -> wire.Step:
    if callable(given):
        return wire.Step(f"{where}, {name_of(given)}", given)
    name, *args = given if given and isinstance(given, tuple) else (given,)
    if not isinstance(name, str):
        raise BadArguments(
            f"{where} is {shown(given)}; a step is an export's name, a tuple of one and its arguments, or a function"
        )
    function = functions.find(name)
    call = wire.StartCall(function.name, FuncType(), function.pack(tuple(args)))
    return wire.Step(f"{where}, {printable(function.name)}", call)
