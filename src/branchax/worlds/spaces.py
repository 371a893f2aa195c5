"""Converts between Gymnasium's spaces and vectors: observations to [D] float32, and [A] to an action."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

MOST_ACTIONS = 4096  # limit for combinations of discrete actions: the policy has an output for each


class Unusable(ValueError):
    """A space that cannot be converted to vectors; the message says what it is and what is allowed."""


class Observations(NamedTuple):
    """How observations are converted to vectors."""

    size: int  # D
    read: Callable[[Any], np.ndarray]  # an observation -> a new [D] float32; raises `ValueError` if it does not fit
    tabular: bool  # one of D states, as a one-hot vector


class Actions(NamedTuple):
    """How vectors are converted to actions."""

    size: int  # A: the number of entries in [-1, 1], or of discrete actions, where the largest entry is chosen
    make: Callable[[np.ndarray], Any]  # [A] -> an action within its bounds
    discrete: bool


def read_observations(space: Any) -> Observations:
    """How observations of a space become vectors. A Box is flattened without change. Other spaces go through
    `gymnasium.spaces.flatten`: one-hot vectors for Discrete, a Dict's entries in the order of its keys."""
    _check(space, "observation_space")
    if not space.is_np_flattenable or not spaces.flatdim(space):
        raise Unusable(f"its observations are {space}; allowed: spaces that gymnasium.spaces.flatten makes a vector")
    size = int(spaces.flatdim(space))

    def read(obs: Any) -> np.ndarray:
        _check_fits(space, obs)
        if isinstance(space, spaces.Box):
            return np.array(obs, np.float32).ravel()  # a copy: some environments write into one array again and again
        row = np.array(spaces.flatten(space, obs), np.float32)
        if row.shape != (size,):
            raise ValueError(f"an observation of {row.size} numbers, and its space says {size}")
        return row

    return Observations(size, read, isinstance(space, spaces.Discrete))


def make_actions(space: Any) -> Actions:
    """Converts actions. For bounded Boxes, alone or in a Dict or Tuple, [-1, 1] is scaled to their bounds, with all
    entries in one vector. For Discrete, MultiDiscrete and MultiBinary, alone or in a Dict or Tuple, there is one
    discrete action for each combination.
    """
    _check(space, "action_space")
    parts = list(_leaves(space))
    if not parts:
        raise Unusable(f"its actions are {space}; allowed: at least one")
    if all(isinstance(part, spaces.Box) for part in parts):
        return _continuous(space, parts)
    if not all(isinstance(part, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)) for part in parts):
        raise Unusable(f"its actions are {space}; allowed: bounded boxes or discrete ones, and not both")
    counts = [count for part in parts for count in _counts(part)]
    total = int(np.prod(counts, dtype=float))
    if total > MOST_ACTIONS:
        raise Unusable(f"its actions have {total:,} combinations; allowed: at most {MOST_ACTIONS:,}")

    def make(action: np.ndarray) -> Any:
        return _discrete(space, iter(np.unravel_index(int(np.argmax(action)), counts)))

    return Actions(total, make, discrete=True)


def own_terms(actions: Actions) -> dict[str, Any]:
    """Actions [A] in the environment's own terms, ready for JSON. Continuous: its actions at -1 and at 1, linear in
    between. Discrete: the action of each entry."""
    if actions.discrete:
        return {"actions": [_plain(actions.make(row)) for row in np.eye(actions.size, dtype=np.float32)]}
    ones = np.ones(actions.size, np.float32)
    return {"low": _plain(actions.make(-ones)), "high": _plain(actions.make(ones))}


def _plain(action: Any) -> Any:
    if isinstance(action, dict):
        return {name: _plain(part) for name, part in action.items()}
    return [_plain(part) for part in action] if isinstance(action, tuple) else np.asarray(action).tolist()


def _continuous(space: Any, parts: list[Any]) -> Actions:
    low = np.concatenate([np.ravel(part.low).astype(np.float64) for part in parts])
    high = np.concatenate([np.ravel(part.high).astype(np.float64) for part in parts])
    middle, half = high / 2 + low / 2, high / 2 - low / 2
    whole = np.concatenate([np.full(part.low.size, part.dtype.kind in "iu") for part in parts])
    # Beyond a thousandth of float32's range a bound means "unbounded". So do integer bounds too large to be exact.
    if not len(low) or not np.all(np.isfinite(half) & (half < np.where(whole, 2.0**53, 1e35))):
        raise Unusable(
            f"its actions are {space}; allowed: boxes with finite bounds (gymnasium.wrappers.RescaleAction gives one)"
        )
    ends = np.cumsum([part.low.size for part in parts])[:-1]

    def make(action: np.ndarray) -> Any:
        scaled = middle + half * np.minimum(np.maximum(action, -1.0), 1.0)
        scaled = np.where(whole, np.rint(scaled), scaled) if whole.any() else scaled
        return _boxes(space, iter([scaled] if len(parts) == 1 else np.split(scaled, ends)))

    return Actions(len(low), make, discrete=False)


def _check(space: Any, name: str) -> None:
    """Raises `Unusable` for what is no space of Gymnasium's."""
    if not isinstance(space, spaces.Space):
        kind = type(space)
        raise Unusable(f"its {name} is {kind.__module__}.{kind.__qualname__}; allowed: one of gymnasium.spaces")


def _check_fits(space: Any, obs: Any) -> None:
    """Raises `ValueError` for observations that `flatten` would silently misread: parts of the wrong shape, and
    discrete values out of range (negative ones count from the end)."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            _check_fits(part, obs[name])
    elif isinstance(space, spaces.Tuple):
        for part, x in zip(space.spaces, obs, strict=True):
            _check_fits(part, x)
    elif isinstance(space, spaces.Box):
        if np.shape(obs) != space.shape:
            raise ValueError(f"an observation of shape {_shape(obs)}, and its space says {list(space.shape)}")
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        start, found = space.start, np.asarray(obs)
        count = space.n if isinstance(space, spaces.Discrete) else space.nvec
        if found.shape != np.shape(count) or not np.all((found >= start) & (found < start + count)):
            raise ValueError(f"an observation of {obs}, and its space says {space}")


def _boxes(space: Any, pieces: Iterator[np.ndarray]) -> Any:
    """The action of a space of boxes, from `pieces`: one vector of entries for each box."""
    if not isinstance(space, spaces.Box):
        return _nested(space, lambda part: _boxes(part, pieces))
    action = next(pieces).reshape(space.shape).astype(space.dtype)
    return np.minimum(np.maximum(action, space.low), space.high)  # in its own dtype: rounding cannot exceed a bound


def _discrete(space: Any, digits: Iterator[Any]) -> Any:
    """The action of a space of discrete parts, from `digits`: the number of each part's action, counted from 0."""
    if isinstance(space, spaces.Discrete):
        return space.start + space.dtype.type(next(digits))
    if isinstance(space, (spaces.MultiDiscrete, spaces.MultiBinary)):
        taken = np.array([next(digits) for _ in _counts(space)]).reshape(space.shape)
        return (taken + getattr(space, "start", 0)).astype(space.dtype)
    return _nested(space, lambda part: _discrete(part, digits))


def _nested(space: Any, make: Callable[[Any], Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: make(part) for name, part in space.spaces.items()}
    return tuple(make(part) for part in space.spaces)


def _leaves(space: Any) -> Iterator[Any]:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(part)
    else:
        yield space


def _counts(space: Any) -> list[int]:
    """How many values each entry of a discrete space has."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    return [2] * int(np.prod(space.shape))


def _shape(obs: Any) -> str:
    try:
        return str(list(np.shape(obs)))
    except ValueError:  # a ragged one
        return f"that of {type(obs).__name__}"
