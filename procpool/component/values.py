"""The values of WIT's types as Python objects: classes for those that have names.

A class is made of its WIT type, and once for each: types that are equal have the same class.  So a value pickles together
with its type, and is of an equal class wherever it arrives; where the same component is known, of the same.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import keyword
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from . import wit

T = TypeVar("T")


def snake(name: str) -> str:
    """The name of a field, parameter or function in Python: ``max_size`` for ``max-size``, ``class_`` for ``class``."""
    name = name.replace("-", "_").replace(".", "_").lower()
    return f"{name}_" if keyword.iskeyword(name) else name


def camel(name: str) -> str:
    """The name of a class in Python: ``HttpError`` for ``http-error``."""
    name = "".join(part[:1].upper() + part[1:] for part in name.replace("_", "-").split("-"))
    return f"{name}_" if keyword.iskeyword(name) else name


def constant(name: str) -> str:
    """The name of a member of an enumeration in Python: ``NOT_FOUND`` for ``not-found``."""
    return name.replace("-", "_").upper()


class _Value:
    """What values of named types have in common: they do not change."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


@dataclasses.dataclass(frozen=True)
class Some(Generic[T]):
    """A value where it could be taken for none: that of an option whose value is an option itself."""

    value: T


@dataclasses.dataclass(frozen=True)
class Ok(Generic[T]):
    """A ``result`` that went well, where it is no function's own."""

    value: T = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Err(Generic[T]):
    """A ``result`` that went wrong, where it is no function's own."""

    value: T = None  # type: ignore[assignment]


class Resource:
    """Something that lives in an instance of a component, by its handle.

    It is bound to the lease whose call returned it, and is of use there only.

    Args:
        handle: its number in the instance.
        resource: what it is.
        owner: the lease.
        drop: is called with the handle when the object is closed, unless it has been given back to the component.
    """

    def __init__(
        self, handle: int, resource: wit.Resource, owner: object = None, drop: Callable[[int], object] | None = None
    ) -> None:
        self._handle: int | None = handle
        self._drop = drop
        self.resource: wit.Resource = resource  #: what it is
        self.owner: object = owner  #: the lease whose instance it lives in

    @property
    def handle(self) -> int:
        """Its number in the instance.

        Raises:
            ValueError: it has been closed, or given to the component.
        """
        if self._handle is None:
            raise ValueError(f"this {self.resource.label} has been closed, or given to the component")
        return self._handle

    def given(self) -> None:
        """The component owns it now."""
        self._handle = None

    def close(self) -> None:
        """Drop it; more than once is once."""
        handle, self._handle = self._handle, None
        if handle is not None and self._drop is not None:
            self._drop(handle)

    def __enter__(self) -> Resource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled, as it lives in an instance of one worker: use it with the lease that it is of"
        )

    def __repr__(self) -> str:
        return f"<{self.resource.label} {'closed' if self._handle is None else self._handle}>"


_classes: dict[wit.Named, type] = {}
_lock = threading.Lock()


def class_of(type_: wit.Record | wit.Variant | wit.Enum | wit.Flags) -> type[Any]:
    """The class of the values of a type."""
    found = _classes.get(type_)
    if found is None:
        made = _MAKERS[type(type_)](type_)
        with _lock:
            found = _classes.setdefault(type_, made)
    return found


class _RecordMeta(type):
    __wit__: wit.Record


class _VariantMeta(type):
    __wit__: wit.Variant
    __case__: str | None


class _EnumMeta(enum.EnumMeta):
    pass


def _reduce_class(cls: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    case = cls.__dict__.get("__case__")
    if case is not None:
        return getattr, (cls.__mro__[1], camel(case))
    return class_of, (cls.__wit__,)


for _meta in (_RecordMeta, _VariantMeta, _EnumMeta):
    copyreg.pickle(_meta, _reduce_class)


def _record(type_: wit.Record) -> type:
    def reduce(self: Any) -> Any:
        return type(self), tuple(map(self.__dict__.__getitem__, names))

    names = [snake(name) for name, _ in type_.fields]
    cls: Any = _RecordMeta(
        camel(type_.label),
        (),
        {
            "__annotations__": dict.fromkeys(names, Any),
            "__module__": __name__,
            "__doc__": f"The record {type_.name}.",
            "__reduce__": reduce,
            "__wit__": type_,
        },
    )
    made: type = dataclasses.dataclass(frozen=True)(cls)
    return made


class _Case(_Value, metaclass=_VariantMeta):
    """A value of a variant: the base of all their classes."""

    __wit__: ClassVar[Any]
    __case__: ClassVar[str | None] = None
    __match_args__: ClassVar[tuple[str, ...]] = ()

    def _payload(self) -> tuple[Any, ...]:
        return tuple(map(self.__dict__.__getitem__, self.__match_args__))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self._payload()))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(map(repr, self._payload()))})"

    def __reduce__(self) -> Any:
        return type(self), self._payload()


def _with_payload(self: Any, value: Any) -> None:
    self.__dict__["value"] = value


def _without_payload(self: Any) -> None:
    pass


def _abstract(self: Any, *_: object) -> NoReturn:
    raise TypeError(f"{type(self).__name__} is a variant: make one of its cases")


def _variant(type_: wit.Variant) -> type:
    name = camel(type_.label)
    shared: dict[str, Any] = {"__module__": __name__, "__wit__": type_}
    base = _VariantMeta(name, (_Case,), {**shared, "__doc__": f"The variant {type_.name}.", "__init__": _abstract})
    for case, payload in type_.cases:
        of = {
            **shared,
            "__qualname__": f"{name}.{camel(case)}",
            "__doc__": f"The case {case} of the variant {type_.name}.",
            "__match_args__": () if payload is None else ("value",),
            "__init__": _without_payload if payload is None else _with_payload,
            "__case__": case,
        }
        setattr(base, camel(case), _VariantMeta(camel(case), (base,), of))
    return base


def cases_of(type_: wit.Variant) -> tuple[type[Any], ...]:
    """The classes of a variant's cases, in order."""
    base = class_of(type_)
    return tuple(getattr(base, camel(case)) for case, _ in type_.cases)


def _enumeration(type_: wit.Enum | wit.Flags) -> type:
    base: Any = enum.Enum if isinstance(type_, wit.Enum) else enum.Flag
    name = camel(type_.label)
    members = _EnumMeta.__prepare__(name, (base,))
    members["__module__"] = __name__
    members["__qualname__"] = name
    members["__doc__"] = f"The {'enum' if base is enum.Enum else 'flags'} {type_.name}."
    members["__wit__"] = _Constant(type_)
    for index, label in enumerate(type_.labels):
        members[constant(label)] = label if base is enum.Enum else 1 << index
    made: type = _EnumMeta(name, (base,), members)
    return made


class _Constant:
    """An attribute of an enumeration that is no member of it."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __get__(self, instance: object, owner: object = None) -> Any:
        return self._value


_MAKERS: dict[type, Callable[[Any], type]] = {
    wit.Record: _record,
    wit.Variant: _variant,
    wit.Enum: _enumeration,
    wit.Flags: _enumeration,
}


class Types:
    """The classes of a world's types, as attributes; see `ProcessWasmPool.types`.

    A name that several types have is told apart by the name of the interface before it: ``ShapesPoint``.
    """

    def __init__(self, world: wit.World) -> None:
        self._named: dict[str, wit.Named] = names_of(world)

    def __getattr__(self, name: str) -> type[Any]:
        type_ = self.__dict__.get("_named", {}).get(name)
        if type_ is None:
            raise AttributeError(f"the component has no type {name!r}: it has {', '.join(self._named) or 'none'}")
        return class_of(type_)

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._named]


def names_of(world: wit.World) -> dict[str, Any]:
    """The named types of a world that have classes, by the names of these."""
    found: dict[str, wit.Named] = {}
    types = [each for each in world.types if isinstance(each, (wit.Record, wit.Variant, wit.Enum, wit.Flags))]
    short = [camel(each.label) for each in types]
    for type_, name in zip(types, short, strict=True):
        interface = type_.name.rpartition("#")[0].partition("@")[0].rpartition("/")[2]
        if short.count(name) > 1 and interface:
            name = camel(interface) + name
        while name in found:
            name += "_"
        found[name] = type_
    return found
