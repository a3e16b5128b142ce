"""What components may want, and cannot have: said before anything is compiled, or started."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import InvalidModule
from ..options import PoolOptions
from . import wit

_ASYNC = (
    "wasmtime's C API (50) has neither futures nor streams, and calls asynchronous functions only in a store that is"
    " asynchronous as a whole; build it for WASI 0.2, without async"
)
_HTTP = (
    "wasi:http needs requests and bodies as resources and streams, which wasmtime's C API (50) cannot make;"
    " export a function that takes and returns lists of bytes instead"
)


def check_world(world: wit.World) -> None:
    """Whether all that a component imports and exports can be had.

    Raises:
        InvalidModule: something cannot; says what and why.
    """
    for name in (*world.needs, *(function.interface or "" for function in world.exports)):
        if name.startswith("wasi:http/"):
            raise InvalidModule(f"it is of the interface {name}: {_HTTP}")
    for function in (*world.exports, *world.imports):
        if function.asynchronous:
            raise InvalidModule(f"{function.name} is asynchronous: {_ASYNC}")
        for type_ in _types(function):
            if isinstance(type_, wit.Channel) or str(type_) == "error-context":
                raise InvalidModule(f"{function.name} passes a {type_}: {_ASYNC}")


def _types(function: wit.Function) -> Iterator[wit.Type]:
    rest = [type_ for _, type_ in function.params] + ([] if function.result is None else [function.result])
    while rest:
        type_ = rest.pop()
        yield type_
        rest.extend(wit.parts(type_))


#: Options of a pool that a component cannot have: name, whether it is given, and what to do instead.
_OPTIONS: tuple[tuple[str, Callable[[PoolOptions], object], str], ...] = (
    ('isolation="snapshot"', lambda o: o.isolation == "snapshot", 'isolation="fresh" gives each call a new instance'),
    ("warm", lambda o: o.warm is not None, "start= does it in each instance"),
    ("modules", lambda o: o.modules, "compose components beforehand"),
    ("rename_imports", lambda o: o.rename_imports, "give imports= by the names that the component has for them"),
    (
        "on_missing_import",
        lambda o: o.on_missing_import not in (None, "trap"),
        'it can have "trap" there, or functions for all that it imports',
    ),
    (
        "clock or random_seed of its WasiConfig",
        lambda o: o.wasi is not None and (o.wasi.clock is not None or o.wasi.random_seed is not None),
        "give imports= for wasi:clocks and wasi:random",
    ),
    (
        "recycle_memory",
        lambda o: o.recycle_memory is not None,
        "its memories cannot be seen; max_worker_memory= looks at all that a worker has",
    ),
)


def check_options(options: PoolOptions) -> None:
    """Whether a pool of a component can have these options.

    Raises:
        ValueError: it cannot; says what to do instead.
    """
    for name, given, instead in _OPTIONS:
        if given(options):
            raise ValueError(f"a component cannot have {name}: {instead}")
