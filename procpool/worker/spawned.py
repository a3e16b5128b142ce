"""The entry point of a worker started on its own, where forking a template is not safe or not wanted."""

from __future__ import annotations

import os
from typing import NoReturn

from .main import Blueprint, die_with_parent, run_worker


def main(settings_fd: int, slot: int, *fds: int) -> NoReturn:
    """Load what a template would have loaded, and be a worker."""
    blueprint = Blueprint.read(settings_fd)
    die_with_parent(blueprint.settings.lifeline, os.getpid())
    run_worker(blueprint, slot, fds)
