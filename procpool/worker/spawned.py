"""The entry point of a worker started on its own, where forking a template is not safe or not wanted."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import NoReturn

from .lifeline import die_with_parent, readable
from .main import Blueprint, run_worker, usual_signals

_PR_SET_PDEATHSIG = 1  # Linux's sys/prctl.h


def main(settings_fd: int, slot: int, *fds: int) -> NoReturn:
    """Load what a template would have loaded, and be a worker."""
    usual_signals()
    blueprint = Blueprint.read(settings_fd)
    die_with_parent(blueprint.settings.lifeline, os.getpid())
    _die_with_starter(blueprint.settings.parent)
    run_worker(blueprint, slot, fds)


def _die_with_starter(parent: int) -> None:
    """Have the kernel kill us when the thread that started us ends, which it does after us or with the whole parent.

    Unlike the lifeline, this also works while a fork that Python did not see holds copies of all the parent had open.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before we asked.
    if parent >= 0 and readable(parent):
        os.kill(os.getpid(), signal.SIGKILL)
