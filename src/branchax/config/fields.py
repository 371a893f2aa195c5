"""Tools shared by all settings: ranges, dotted paths, conversion to and from dictionaries."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from branchax.config.names import find_matches
from branchax.errors import ConfigError, nearest


@dataclass(frozen=True)
class Range:
    """The closed interval of allowed numbers; `None` is no bound. `above` makes the lower bound exclusive."""

    low: float | None = None
    high: float | None = None
    above: bool = False

    def __contains__(self, value: float) -> bool:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return math.isfinite(value) and (low < value if self.above else low <= value) and value <= high

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'> ' if self.above else '>= '}{self.low:.10g}"
        high = "" if self.high is None else f"<= {self.high:.10g}"
        return " and ".join(part for part in (low, high) if part) or "a finite number"


LARGEST = 2**31 - 1  # counters are 32-bit integers

Count = Annotated[int, Range(1, LARGEST)]

Natural = Annotated[int, Range(0, LARGEST)]

Positive = Annotated[float, Range(0, 1e9, above=True)]

NonNegative = Annotated[float, Range(0, 1e9)]

Fraction = Annotated[float, Range(0, 1)]

OptionalCount = Annotated[int | None, Range(1, LARGEST)]


def value_at(config: Any, path: str) -> Any:
    """The value of the field at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def with_field(config: Any, path: str, value: Any) -> Any:
    """`config` with the field at a dotted path replaced, such as `with_field(config, "agent.tau", 0.01)`.

    Raises `ConfigError` for a path that there is not; it names the nearest.
    """
    node = config
    for name in path.split("."):
        if not dataclasses.is_dataclass(node) or name not in {f.name for f in dataclasses.fields(node)}:
            known = flat(to_dict(config))
            close = find_matches(path, known)
            near = f" (did you mean {' or '.join(close)}?)" if close else nearest(path, known)
            raise ConfigError(f"{path}: unknown field{near}")
        node = getattr(node, name)
    return _replaced(config, path, value)


def with_fields(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with the fields at several dotted paths replaced; a list of values becomes a tuple.

    Raises `ConfigError` for a path that there is not.
    """
    for path, value in changes.items():
        config = with_field(config, path, tuple(value) if isinstance(value, list) else value)
    return config


def _replaced(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: _replaced(getattr(config, name), rest, value) if rest else value})


def flat(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flattens nested settings: `{"model": {"members": 7}}` -> `{"model.members": 7}`."""
    parts = (flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v} for k, v in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def check_ranges(node: Any, path: str) -> None:
    """Raises `ConfigError` for the first field, at any depth of a dataclass, that is outside its range."""
    hints = typing.get_type_hints(type(node), include_extras=True)
    for f in dataclasses.fields(node):
        value, name = getattr(node, f.name), f"{path}{f.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        else:
            _check_value(name, value, hints[f.name])


def _check_value(name: str, value: Any, hint: Any) -> None:
    limits, base = None, hint
    if typing.get_origin(hint) is Annotated:
        base, limits = hint.__origin__, next(m for m in hint.__metadata__ if isinstance(m, Range))
    options = typing.get_args(base) if isinstance(base, types.UnionType) else (base,)
    if typing.get_origin(base) is Literal:
        if value not in typing.get_args(base):
            choices = typing.get_args(base)
            raise ConfigError(
                f"{name}: {value!r} is unknown{nearest(str(value), choices)}; allowed: {', '.join(choices)}"
            )
    elif typing.get_origin(base) is tuple:
        inner = typing.get_args(base)
        if not isinstance(value, (tuple, list)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            allowed = "a list" if inner[-1] is Ellipsis else f"{len(inner)} values"
            raise ConfigError(f"{name}: {value!r} is not possible; allowed: {allowed}")
        for i, entry in enumerate(value):
            _check_value(f"{name}[{i}]", entry, inner[0])
    else:
        kinds = tuple(float if o is float else o for o in options) + ((int,) if float in options else ())
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in options):
            wanted = " or ".join("None" if o is types.NoneType else o.__name__ for o in options)
            raise ConfigError(f"{name}: {value!r} is not possible; allowed: {wanted}")
        if limits is not None and value is not None and value not in limits:
            raise ConfigError(f"{name}: {value} is not possible; allowed: {limits}")


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dictionary of a config (tuples become lists)."""
    return dataclasses.asdict(config)


def from_dict(kind: type, data: dict[str, Any], path: str = "") -> Any:
    """The inverse of `to_dict`. Raises `ConfigError` for an unknown key, and names the nearest known ones."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path.rstrip('.') or 'config'}: {data!r} is not a set of fields")
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in data.items():
        if name not in known:
            raise ConfigError(f"{path}{name}: unknown field{nearest(name, known)}")
        options = [o for o in (typing.get_args(hints[name]) or (hints[name],)) if dataclasses.is_dataclass(o)]
        if options:
            kinds = {getattr(o, "kind", None): o for o in options}
            kind_of = value.get("kind") if isinstance(value, dict) else None
            if kind_of is not None and len(kinds) > 1 and kind_of not in list(kinds):
                near = nearest(str(kind_of), map(str, kinds))
                raise ConfigError(
                    f"{path}{name}.kind: {kind_of!r} is unknown{near}; allowed: {', '.join(map(str, kinds))}"
                )
            chosen = kinds.get(kind_of if isinstance(kind_of, str) else None, options[0])
            values[name] = from_dict(typing.cast(type, chosen), value, f"{path}{name}.")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
