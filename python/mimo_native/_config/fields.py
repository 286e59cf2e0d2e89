"""Typed look-ups in a ``config.json`` that say which field of which file is wrong."""

import math
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError

__all__ = ["Fields"]

_ABSENT = object()
_KINDS = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "an object",
}


class Fields:
    """A JSON object. ``null`` counts as absent; several names of one field must agree."""

    def __init__(self, d: Mapping[str, Any], where: str, defaults: Mapping[str, Any]) -> None:
        self.d, self.where, self.defaults = d, where, defaults

    def fail(self, name: str, expected: str, got: Any, remedy: str = "") -> CheckpointError:
        """The error to raise about field ``name``."""
        shown = "nothing" if got is None else repr(got)
        return CheckpointError(self.where, name, expected=expected, got=shown, remedy=remedy)

    def has(self, name: str) -> bool:
        return self.d.get(name) is not None

    def get(self, kind: type, *names: str, default: Any = _ABSENT) -> Any:
        """The value under any of ``names``, checked to be of ``kind``.

        Raises ``CheckpointError`` where it is missing without a default, of another kind, or where
        two names carry different values.
        """
        found = {name: self.value(kind, name) for name in names}
        return self.agree(found, **({"default": default} | self.default(*names)))

    def default(self, *names: str) -> dict[str, Any]:
        """``{"default": value}`` where the dialect has a default for one of ``names``, else {}."""
        known = [self.defaults[name] for name in names if name in self.defaults]
        return {"default": known[0]} if known else {}

    def value(self, kind: type, name: str) -> Any:
        """The value under ``name`` alone, or ``None``."""
        return self.typed(kind, name, self.d[name]) if self.has(name) else None

    def agree(self, found: Mapping[str, Any], *, default: Any = _ABSENT) -> Any:
        """The one value that all sources in ``found`` (name -> value, ``None`` = absent) give."""
        given = {name: value for name, value in found.items() if value is not None}
        if not given:
            if default is _ABSENT:
                raise self.fail(" or ".join(found), "a value", None)
            return default
        first, *others = given
        for name in others:
            if given[name] != given[first]:
                raise self.fail(
                    name,
                    f"the same value as {first} ({given[first]!r})",
                    given[name],
                    "Correct one of the two or remove it.",
                )
        return given[first]

    def typed(self, kind: type, name: str, value: Any) -> Any:
        """``value``, as ``kind``; raises ``CheckpointError`` where it is something else."""
        if kind is float:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            good = good and math.isfinite(value)
        elif kind is int:
            good = isinstance(value, int) and not isinstance(value, bool)
        else:
            good = isinstance(value, kind)
        if not good:
            raise self.fail(name, _KINDS[kind], value)
        return float(value) if kind is float else value

    def flags(self, name: str, meaning: Mapping[Any, int], length: int) -> tuple[int, ...] | None:
        """A per-layer list translated through ``meaning``; ``None`` where it is absent."""
        if not self.has(name):
            return None
        entries = self.typed(list, name, self.d[name])
        allowed = " or ".join(repr(key) for key in meaning)
        for entry in entries:
            if not isinstance(entry, str | int) or entry not in meaning:
                raise self.fail(name, f"entries {allowed}", entry)
        if len(entries) != length:
            raise self.fail(name, f"{length} entries (num_hidden_layers)", f"{len(entries)}")
        return tuple(meaning[entry] for entry in entries)
