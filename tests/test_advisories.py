"""Whether the oldest wasmtime that procpool takes has a known advisory.

Needs the advisories of PyPI and of crates.io as an OSV data base has them: a folder of JSON files, in PROCPOOL_OSV.  wasmtime-py
carries wasmtime's C library of the same version, so both ecosystems count.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = os.environ.get("PROCPOOL_OSV")


def version(text: str) -> tuple[int, ...]:
    """Comparable; what is no number is left out."""
    return tuple(map(int, re.findall(r"\d+", text.partition("-")[0])))


def concerns(advisory: dict[str, Any], package: str, at: tuple[int, ...]) -> bool:
    """Whether an advisory is about that version of that package."""
    for affected in advisory.get("affected", ()):
        if affected.get("package", {}).get("name") != package or advisory.get("withdrawn"):
            continue
        if any(version(each) == at for each in affected.get("versions", ())):
            return True
        for each in affected.get("ranges", ()):
            inside = False
            for event in sorted(each.get("events", ()), key=lambda event: version(next(iter(event.values())))):
                if "introduced" in event and version(event["introduced"]) <= at:
                    inside = True
                elif ("fixed" in event and version(event["fixed"]) <= at) or (
                    "last_affected" in event and version(event["last_affected"]) < at
                ):
                    inside = False
            if inside and each.get("type") in ("SEMVER", "ECOSYSTEM"):
                return True
    return False


def minimum() -> tuple[int, ...]:
    found = re.search(r'"wasmtime>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert found is not None, "pyproject.toml names a minimum of wasmtime"
    at = version(found[1])
    return at + (0,) * (3 - len(at))


def advisories(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.rglob("*.json"):
        yield json.loads(path.read_text())


@pytest.mark.skipif(FOLDER is None, reason="PROCPOOL_OSV names no folder of advisories")
def test_the_minimum_of_wasmtime_has_no_known_advisory() -> None:
    assert FOLDER is not None
    known = list(advisories(Path(FOLDER)))
    assert known, f"{FOLDER} holds no advisories"
    assert [each["id"] for each in known if concerns(each, "wasmtime", minimum())] == []


@pytest.mark.parametrize(
    ("events", "at", "found"),
    [
        ([{"introduced": "0"}, {"fixed": "24.0.1"}], "24.0.0", True),
        ([{"introduced": "0"}, {"fixed": "24.0.1"}], "24.0.1", False),
        ([{"introduced": "0"}, {"fixed": "24.0.1"}, {"introduced": "25.0.0"}, {"fixed": "25.0.2"}], "25.0.1", True),
        ([{"introduced": "0"}, {"fixed": "24.0.1"}, {"introduced": "25.0.0"}, {"fixed": "25.0.2"}], "25.0.2", False),
        ([{"introduced": "37.0.0"}], "50.0.0", True),
        ([{"introduced": "37.0.0"}, {"last_affected": "40.0.0"}], "40.0.0", True),
        ([{"introduced": "37.0.0"}, {"last_affected": "40.0.0"}], "40.0.1", False),
        ([{"introduced": "51.0.0"}], "50.0.0", False),
    ],
)
def test_what_an_advisory_concerns(events: list[dict[str, str]], at: str, found: bool) -> None:
    advisory = {
        "id": "X",
        "affected": [{"package": {"name": "wasmtime"}, "ranges": [{"type": "SEMVER", "events": events}]}],
    }
    assert concerns(advisory, "wasmtime", version(at)) is found
    assert not concerns(advisory, "other", version(at))
    assert not concerns({**advisory, "withdrawn": "2026-01-01"}, "wasmtime", version(at))
