"""Whose jobs those are that are given to a pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

from .checks import shown

#: By pool, since one block may be about several.
_tenants: ContextVar[Mapping[int, str]] = ContextVar("procpool.tenants", default=MappingProxyType({}))
#: The tenant of jobs that name none: one like any other, whose name nobody can give.
NOBODY = ""


@contextlib.contextmanager
def as_tenant(pool: int, name: object) -> Iterator[None]:
    """What is given to that pool inside belongs to that tenant.

    Raises:
        TypeError, ValueError: it is no name.
    """
    if not isinstance(name, str):
        raise TypeError(f"a tenant is named by a str, got {shown(name)}")
    if name == NOBODY:
        raise ValueError("a tenant's name cannot be empty")
    token = _tenants.set({**_tenants.get(), pool: name})
    try:
        yield
    finally:
        _tenants.reset(token)


def tenant_of(pool: int) -> str:
    """Whose jobs the caller gives to that pool."""
    return _tenants.get().get(pool, NOBODY)
