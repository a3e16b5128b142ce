"""A process that compiles one module on all cores, and ends: with it go the threads and the memory that took."""

from __future__ import annotations

import os
import pickle
from typing import NoReturn

from .. import wire
from ..artifact import make
from ..errors import InvalidModule
from ..files import write
from ..module import Opened
from .lifeline import die_with_parent, die_with_starter
from .main import usual_signals
from .title import show_as


def main(settings_fd: int) -> NoReturn:
    """Do as the file says."""
    usual_signals()
    with open(settings_fd, "rb") as file:
        file.seek(0)
        told: wire.Compilation = pickle.load(file)
    die_with_parent(told.lifeline, os.getpid())
    die_with_starter(-1)  # the thread that started us waits for us
    source = Opened(told.subject, None, told.source)
    show_as("compiler", source.name)
    try:
        make(told.artifact, source.read(), told.subject, told.engine, parallel=True, inner=told.inner)
        answer = wire.COMPILED
    except InvalidModule as error:
        answer = wire.REFUSED + str(error).encode(errors="backslashreplace")
    write(told.answer, answer)
    os._exit(0)
