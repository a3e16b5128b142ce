"""Which fields of a record are the arguments, where fields have names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Fields:
    """Finds the arguments in records with named fields.

    The fields are, in this order: those that the user names; those named as the export's parameters, if the module tells
    their names and the record has them all; otherwise all of the record's, as they come.

    Args:
        wanted: the user's names; none for no choice.
        count: how many parameters the export has.
        parameters: gives their names, if the module tells them.
    """

    def __init__(self, wanted: Sequence[str], count: int, parameters: Callable[[], Sequence[str] | None]) -> None:
        self._wanted = wanted
        self._count = count
        self._parameters = parameters
        self._of_objects: Sequence[str] | None = None
        self.names: Sequence[str] = ()  #: of the arguments, as soon as a record has told

    def chosen(self, names: Sequence[str]) -> Sequence[int]:
        """Where in a record with these names the arguments are.

        Raises:
            ValueError: there is no such field, or more than one, or they are not as many as parameters.
        """
        by_name = self._wanted or self._by_parameters(names)
        for name in by_name or ():
            if name not in names:
                raise ValueError(f"there is no {name!r} among {_listed(names)}")
            if (count := names.count(name)) > 1:
                raise ValueError(f"{count} columns are named {name!r}; give each a name of its own")
        # Those that come as they are may have one name.
        chosen = [names.index(name) for name in by_name] if by_name else range(len(names))
        self.names = [names[at] for at in chosen]
        if len(chosen) != self._count:
            hint = "" if self._wanted else "; choose with --columns"
            raise ValueError(
                f"the export takes {self._count} arguments, and there are {len(chosen)}: {_listed(self.names)}{hint}"
            )
        return chosen

    def of_object(self, record: dict[str, Any]) -> list[Any]:
        """The arguments in a JSON object.  The order of the first object's keys counts for all.

        Raises:
            ValueError: its keys do not fit the export's parameters, or are not those of the first.
        """
        if self._of_objects is None:
            self.chosen(list(record))
            self._of_objects = self.names
        missing = [name for name in self._of_objects if name not in record]
        if missing:
            raise ValueError(f"the object has no {missing[0]!r}, which the first one had")
        return [record[name] for name in self._of_objects]

    def _by_parameters(self, names: Sequence[str]) -> Sequence[str] | None:
        parameters = self._parameters()
        return parameters if parameters and set(parameters) <= set(names) else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
