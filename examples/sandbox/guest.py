"""What runs in the sandbox: CPython itself, which componentize-py puts into a component with this."""

import collections  # noqa: F401
import contextlib
import datetime  # noqa: F401
import functools  # noqa: F401
import hashlib
import io
import itertools  # noqa: F401
import json  # noqa: F401
import math  # noqa: F401
import os  # noqa: F401
import random
import re  # noqa: F401
import statistics  # noqa: F401
import string  # noqa: F401

import wit_world
from componentize_py_types import Err

# The modules above are what programs can import: there are no files in there, and what was imported is in the component.


class WitWorld(wit_world.WitWorld):
    def run(self, source: str) -> str:
        random.seed()  # what was random when the component was built is the same in all of them
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(source, {"__name__": "__main__"})
        except BaseException as error:
            raise Err(f"{type(error).__name__}: {error}") from None
        return printed.getvalue()

    def digest(self, data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    def area(self, shape: wit_world.Shape) -> int:
        match shape:
            case wit_world.Shape_Circle(radius):
                return 3 * radius * radius
            case wit_world.Shape_Rectangle(corner):
                return abs(corner.x * corner.y)
        return 0
