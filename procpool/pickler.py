"""Pickling of what the user gives and gets: functions and classes that only this process knows travel by value."""

from __future__ import annotations

import copyreg
import io
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

import cloudpickle


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # it has no types
    def reducer_override(self, obj: Any) -> Any:
        """Classes whose metaclass says how they are pickled stay what they are.

        cloudpickle does not ask, and would make other ones of them at the other end, as it finds them in no module.
        """
        if isinstance(obj, type) and type(obj) is not type:
            reduce = copyreg.dispatch_table.get(type(obj))
            if reduce is not None:
                return reduce(obj)
        return super().reducer_override(obj)


def dumps(value: Any, buffer_callback: Callable[[PickleBuffer], Any] | None = None) -> bytes:
    """Pickle a value, with pickle's fifth protocol.

    Raises:
        Whatever pickling it raises.
    """
    with io.BytesIO() as file:
        _Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()
