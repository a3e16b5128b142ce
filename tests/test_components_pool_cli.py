"""The command line with components."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wasmtime
from command_line import procpool
from component_texts import CALLER, COMMAND, SHAPES
