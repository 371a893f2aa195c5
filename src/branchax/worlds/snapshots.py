"""Saves the state of a live Python environment as JSON, and restores it: all attributes, also through its wrappers.

It reads numbers, arrays, containers, random generators, MuJoCo's data, and objects with their own attributes. It skips
what it cannot read (spaces, models, windows, another library's simulator), so a snapshot may miss a part of the state.
A trial finds out whether it is complete (`comes_back`). Reading a snapshot never executes code.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from branchax.worlds.environments import Guard

# The steps before which `comes_back` takes a snapshot, its largest number of steps, and the number after an episode.
MARKS, FURTHEST, BEYOND = (1, 40, 400), 2_000, 10
SAME = {"same": None}  # stands for a value that is left unchanged
_PLAIN = (type(None), bool, int, float, str)
_LISTS: dict[str, Any] = {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}
_FIXED = (
    "gymnasium.spaces.",
    "gymnasium.envs.registration",
    "gymnasium.envs.mujoco.mujoco_rendering",
    "pygame",
    "numpy",
)


def take(thing: Any) -> Any:
    """A JSON-ready snapshot of an object; empty if reading it raises an error, or it is nested too deeply."""
    try:
        return _read(thing, {})
    except Exception:  # attributes may raise any error; `comes_back` notices that something is missing
        return SAME


def put(thing: Any, snapshot: Any) -> None:
    """Restores an object from a `snapshot` that `take` has made of an object of the same kind.

    Raises `ValueError` if they do not fit.
    """
    _write(thing, snapshot, [])


def comes_back(make_one: Callable[[], Guard], seed: int = 0) -> bool:
    """Whether an environment that is restored from snapshots continues exactly, to the last bit.

    One environment takes random actions for a whole episode and into the next one. A second environment, which is in
    another state, is restored from snapshots at a few of these steps, and repeats the rest.
    """
    draw, walk, saved = np.random.default_rng(seed), [], {}
    with contextlib.ExitStack() as closing:
        first, second = (closing.enter_context(contextlib.closing(make_one())) for _ in range(2))
        try:
            first.reset(seed=seed + 1)
            second.reset(seed=seed + 2)
            left = FURTHEST
            while left > 0:
                if len(walk) in MARKS:
                    saved[len(walk)] = json.dumps(take(first))
                walk.append(_advance(first, draw.uniform(-1.0, 1.0, first.actions.size)))
                left = left - 1 if walk[-1][-1] is None else min(left - 1, BEYOND)
            for place, snapshot in sorted(saved.items(), reverse=True):
                put(second, json.loads(snapshot))
                for action, *results in walk[place:]:
                    again = _advance(second, action)[1:]
                    if any(not np.array_equal(x, y) for x, y in zip(results, again, strict=True) if x is not y):
                        return False
        except Exception:  # it may raise any error in an unfamiliar state
            return False
    return True


def _advance(env: Guard, action: np.ndarray) -> tuple[Any, ...]:
    """Takes a step; after the end of an episode it resets and adds the first observation of the next one."""
    obs, reward, terminated, truncated, _ = env.step(action)
    return action, obs, reward, terminated, truncated, env.reset()[0] if terminated or truncated else None


def _read(value: Any, seen: dict[int, tuple[int, Any]]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if id(value) in seen:
        return {"again": seen[id(value)][0]}
    fixed = isinstance(value, type) or callable(value) or _module_of(value).startswith(_FIXED)
    kind = next((name for name, of in _LISTS.items() if type(value) is of), None)
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return {"scalar": _bytes(np.asarray(value))}
    if isinstance(value, np.ndarray):
        unreadable = value.dtype.kind not in "biufc"
    else:
        known = (dict, collections.deque, random.Random, np.random.Generator)
        holds = isinstance(value, known) or kind is not None or _is_mujoco(value)
        unreadable = not holds and (fixed or not hasattr(value, "__dict__"))
    if unreadable:
        return SAME
    seen[id(value)] = len(seen), value  # kept alive, so that its id stays its own
    if isinstance(value, np.ndarray):
        return {"array": _bytes(value)}
    if isinstance(value, np.random.Generator):  # one that several hold stays one
        return {"generator": _plain(value.bit_generator.state)}
    if kind is not None:
        return {kind: [_read(x, seen) for x in value]}  # pyright: ignore[reportGeneralTypeIssues]
    if isinstance(value, collections.deque):
        return {"deque": [_read(x, seen) for x in value], "most": value.maxlen}
    if isinstance(value, dict):
        return {"dict": [[_read(k, seen), _read(v, seen)] for k, v in value.items()]}
    if isinstance(value, random.Random):
        return {"random": _plain(value.getstate())}
    names = _numbers(value) if _is_mujoco(value) else list(vars(value))
    return {"object": {name: _read(getattr(value, name), seen) for name in names}, "of": type(value).__name__}


def _write(old: Any, saved: Any, seen: list[Any]) -> Any:
    """The value that `saved` stands for. Objects are changed in place; numbers and containers are new."""
    if not isinstance(saved, dict):
        return saved
    kind, content = next(iter(saved.items()))
    if kind == "again":
        return seen[content]
    if kind == "same":
        return old
    if kind == "scalar":
        return _array(content)[()]
    place = len(seen)
    seen.append(old)
    if kind == "array":
        seen[place] = _array(content)
    elif kind == "generator":
        seen[place] = np.random.Generator(getattr(np.random, content["bit_generator"])())
        seen[place].bit_generator.state = _unplain(content)
    elif kind == "random":
        seen[place] = random.Random()
        seen[place].setstate(_unplain(content))
    elif kind == "object":
        _write_object(old, saved, seen)
    else:
        seen[place] = _write_container(old, saved, seen)
    return seen[place]


def _write_container(old: Any, saved: dict[str, Any], seen: list[Any]) -> Any:
    kind, content = next(iter(saved.items()))
    if kind == "deque":
        return collections.deque((_write(None, x, seen) for x in content), saved["most"])
    if kind == "dict":
        known, new = (old, type(old)()) if isinstance(old, dict) else ({}, {})
        for k, v in content:
            key = _write(None, k, seen)
            new[key] = _write(known.get(key), v, seen)
        return new
    known = list(old) if type(old) in (list, tuple) else []
    known += [None] * (len(content) - len(known))
    return _LISTS[kind](_write(o, x, seen) for o, x in zip(known, content, strict=False))


def _write_object(old: Any, saved: dict[str, Any], seen: list[Any]) -> None:
    content = saved["object"]
    if type(old).__name__ != saved["of"]:
        raise ValueError(f"a snapshot of {saved['of']} does not fit {type(old).__name__}")
    for name, x in content.items():
        before = getattr(old, name, None) if _is_mujoco(old) else vars(old).get(name)
        value = _write(before, x, seen)
        if not _is_mujoco(old):
            vars(old)[name] = value  # past any `__setattr__`
        elif isinstance(before, np.ndarray):
            before[...] = value  # its own memory
        else:
            setattr(old, name, value)
    if not _is_mujoco(old):
        for name in vars(old).keys() - content.keys():
            del vars(old)[name]


def _is_mujoco(value: Any) -> bool:
    return _module_of(value).startswith("mujoco") and type(value).__name__ == "MjData"


def _module_of(value: Any) -> str:
    """The module of a value's type; some types that are written in C, such as SWIG's, have none."""
    return str(getattr(type(value), "__module__", ""))


def _numbers(data: Any) -> list[str]:
    """The names of the arrays in MuJoCo's data that have a fixed size: all that are kept between steps."""
    found = []
    for name in dir(data):
        if name.startswith(("_", "efc_", "iefc", "efm_")) or name in ("contact", "model"):
            continue
        value = getattr(data, name)
        if name in ("time",) or (isinstance(value, np.ndarray) and value.flags.writeable and _of_model(data, value)):
            found.append(name)
    return found


def _of_model(data: Any, value: np.ndarray) -> bool:
    """Whether an array is in the buffer whose size depends on the model, not in the arena of a single step."""
    return value.size > 0 and 0 <= value.ctypes.data - data.qpos.ctypes.data < data.nbuffer


def _bytes(x: np.ndarray) -> list[Any]:
    return [x.dtype.str, list(x.shape), base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()]


def _array(content: list[Any]) -> np.ndarray:
    kind, shape, data = content
    return np.frombuffer(base64.b64decode(data), np.dtype(kind)).reshape(shape).copy()


def _plain(tree: Any) -> Any:
    """Nested tuples and arrays in a JSON-ready form."""
    if isinstance(tree, dict):
        return {name: _plain(x) for name, x in tree.items()}
    if isinstance(tree, tuple):
        return {"tuple": [_plain(x) for x in tree]}
    return {"array": _bytes(tree)} if isinstance(tree, np.ndarray) else tree


def _unplain(tree: Any) -> Any:
    if isinstance(tree, dict) and tuple(tree) == ("tuple",):
        return tuple(_unplain(x) for x in tree["tuple"])
    if isinstance(tree, dict) and tuple(tree) == ("array",):
        return _array(tree["array"])
    return {name: _unplain(x) for name, x in tree.items()} if isinstance(tree, dict) else tree
