"""Packages that others have published, as ``packages.lock`` pins them: fetched once, checked, and unpacked.

npm and pip do the fetching, so that it comes from the registry that they are configured for.  What is fetched has to have
the SHA-512 of the lock; a package that does not is an error, never a reason to skip.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).with_suffix(".lock")
#: Seconds after which a registry is taken to be out of reach.
PATIENCE = 300


class NotFetched(Exception):
    """The package cannot be had here; says why."""


@dataclass(frozen=True)
class Package:
    """A line of ``packages.lock``."""

    registry: str  #: "npm" or "pypi"
    name: str
    version: str
    integrity: str  #: as npm writes it: "sha512-" and the digest in base64
    large: bool  #: whether its module takes minutes to compile

    def unpacked(self, cache: Path) -> Path:
        """The directory with what the package contains, below ``cache``.

        Raises:
            NotFetched: there is no client for the registry, or it did not deliver.
        """
        directory = cache / f"{self.name.replace('/', '+')}@{self.version}"
        with _alone(directory.with_name(f"{directory.name}.lock")):
            if not directory.exists():
                with tempfile.TemporaryDirectory(dir=cache) as scratch:
                    content = Path(scratch, "content")
                    _unpack(self._fetched(Path(scratch, "archive")), content)
                    content.rename(directory)  # at once: nobody finds half of it
        return directory

    def _fetched(self, directory: Path) -> Path:
        directory.mkdir()
        command = _COMMANDS[self.registry](self, str(directory))
        if shutil.which(command[0]) is None:
            raise NotFetched(f"{command[0]} is not installed")
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise NotFetched(f"{self.registry} has not delivered {self.name} within {PATIENCE} s") from None
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise NotFetched(f"{self.registry} does not deliver {self.name}: {' '.join(last)}")
        (archive,) = directory.iterdir()
        digest = hashlib.sha512(archive.read_bytes()).digest()
        found = f"sha512-{base64.b64encode(digest).decode()}"
        assert found == self.integrity, f"{self.name} {self.version} is {found}, and {LOCK.name} has {self.integrity}"
        return archive


def locked() -> dict[str, Package]:
    """The packages of the lock, by ``"<registry> <name>"``."""
    found = {}
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            registry, name, version, integrity, *large = line.split()
            found[f"{registry} {name}"] = Package(registry, name, version, integrity, large == ["large"])
    return found


_COMMANDS = {
    "npm": lambda package, to: [
        *("npm", "pack", "--silent", "--ignore-scripts", "--fetch-retries=1", "--pack-destination", to),
        f"{package.name}@{package.version}",
    ],
    "pypi": lambda package, to: [
        *(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--retries=1",
            "--dest",
            to,
        ),
        f"{package.name}=={package.version}",
    ],
}


def _unpack(archive: Path, to: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(to)
    else:
        with tarfile.open(archive) as package:
            package.extractall(to.parent / "tar", filter="data")
        (root,) = (to.parent / "tar").iterdir()  # npm's archives have one directory, mostly named "package"
        root.rename(to)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """While this is held, no other process of the tests fetches the same."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def required() -> bool:
    """Whether a package that cannot be had fails its test: CI sets this where there are registries."""
    return os.environ.get("PROCPOOL_PACKAGES") in ("required", "all")


def with_large() -> bool:
    """Whether those that take minutes to compile are tried too."""
    return os.environ.get("PROCPOOL_PACKAGES") == "all"
