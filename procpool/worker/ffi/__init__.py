"""Every use of wasmtime-py's private names, and the public API as the fall-back for each.

A call through wasmtime-py's ``Func`` re-reads the function's type and boxes every value (14-18 us for ``add``);
``wasmtime_func_call_unchecked`` on prepared slots takes 0.3-0.6 us (docs/rationale.md).  Likewise for functions that the
guest calls: 6.2 us through ``Linker.define_func``, 0.4 us on raw slots.  If a wasmtime release moves
one of the names used here, `RAW` is false and the public API does the same work more slowly, or refuses what it cannot do;
each worker says so once, in the log.  Setting ``PROCPOOL_PUBLIC_API`` in the environment forces that, to rule this package
out when something looks wrong.
"""

from ...raw import RAW, Slots
from .exceptions import TRAP, Exceptions, Thrown, backtrace, trap_code
from .externs import (
    ImportTypes,
    append_element,
    caller_export,
    define_shared_memory,
    find,
    get_element,
    get_global,
    new_global,
    new_table,
    set_global,
    view,
)
from .functions import bind, call_with_references
from .hosting import define
from .state import Functions, Unkeepable, elements, get_bits, grow_table, host_check, set_bits, set_element
from .values import mark

__all__ = [
    "RAW",
    "TRAP",
    "Exceptions",
    "Functions",
    "ImportTypes",
    "Slots",
    "Thrown",
    "Unkeepable",
    "append_element",
    "backtrace",
    "bind",
    "call_with_references",
    "caller_export",
    "define",
    "define_shared_memory",
    "elements",
    "find",
    "mark",
    "get_bits",
    "get_element",
    "get_global",
    "grow_table",
    "host_check",
    "new_global",
    "new_table",
    "set_bits",
    "set_element",
    "set_global",
    "trap_code",
    "view",
]
