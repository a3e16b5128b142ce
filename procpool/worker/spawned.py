"""The entry point of a worker started on its own, where forking a template is not safe or not wanted."""

from __future__ import annotations

import os
from typing import NoReturn

from .lifeline import die_with_parent, die_with_starter
from .main import Blueprint, run_worker, usual_signals


def main(settings_fd: int, slot: int, *fds: int) -> NoReturn:
    """Load what a template would have loaded, and be a worker."""
    usual_signals()
    blueprint = Blueprint.read(settings_fd)
    die_with_parent(blueprint.settings.lifeline, os.getpid())
    die_with_starter(blueprint.settings.parent)
    run_worker(blueprint, slot, fds)
