"""Files of transitions: an offline run learns from one, and any run can export what it has collected.

A file is a `.npz` of plain arrays with Minari's names: N transitions, episode after episode. Reading it never executes
code.

    observations [N, D]    actions [N, A] (discrete ones as numbers [N] or one-hot)    rewards [N]
    next_observations [N, D], before any reset    terminations [N] bool    truncations [N] bool (optional)

Each row is followed by the next one of its episode, or it is marked as terminated or truncated. The last row of the
collected data is marked as truncated, too. D4RL's names `terminals` and `timeouts` also work. So do columns of numbers
[N, 1], and `observations` [N + 1, D] of a single episode without `next_observations`.

`minari:NAME` is a Minari dataset on this machine (pip install 'branchax[minari]').
"""

from __future__ import annotations

import dataclasses
import itertools
import zipfile
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from branchax.config import Config
from branchax.errors import ConfigError, nearest
from branchax.runs import minari

if TYPE_CHECKING:  # a dataset is checked before JAX is loaded
    from branchax.types import Transition
    from branchax.worlds.base import WorldSpec

MINARI = "minari:"  # prefix of the name of a Minari dataset

# name of the field here -> names in a file; `save` writes the first one
NAMES = {
    "obs": ("observations",),
    "action": ("actions",),
    "reward": ("rewards",),
    "next_obs": ("next_observations",),
    "terminated": ("terminations", "terminals"),
    "truncated": ("truncations", "timeouts"),
}


def rows(path: str | Path) -> int:
    """How many transitions a file holds. Raises `ConfigError` when it cannot be read or lacks a field."""
    return read(path)["obs"].shape[0]


def sized(config: Config) -> Config:
    """`config` with a replay buffer large enough for its dataset, unless `replay_capacity` is set."""
    if config.dataset is None or config.replay_capacity is not None:
        return config
    return dataclasses.replace(config, replay_capacity=rows(config.dataset))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file or of a Minari dataset, by the names of the fields of `Transition`; values are unchanged.

    Raises:
      ConfigError: when it cannot be read, lacks a field, or fields differ in length.
    """
    if str(path).startswith(MINARI):
        return minari.read(str(path).removeprefix(MINARI))
    try:
        if not zipfile.is_zipfile(path):  # NumPy would call it a pickle
            Path(path).open("rb").close()
            raise ConfigError(f"dataset: {path} is not a .npz file; allowed: what numpy.savez writes")
        with np.load(path, allow_pickle=False) as file:
            found = {ours: next((file[n] for n in names if n in file), None) for ours, names in NAMES.items()}
            known = list(file)
    except ConfigError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        said = "it holds Python objects" if "pickle" in str(error) else error
        raise ConfigError(f"dataset: cannot read {path}: {said}") from error
    _of_one_episode(path, found)
    for ours, (name, *_) in NAMES.items():
        if found[ours] is None and ours != "truncated":
            raise ConfigError(f"dataset: {path} has no {name}{nearest(name, known)}; it holds: {', '.join(known)}")
    if found["truncated"] is None:
        found["truncated"] = np.zeros_like(found["terminated"], dtype=bool)
    arrays = {ours: array for ours, array in found.items() if array is not None}
    for ours in ("obs", "next_obs"):
        if arrays[ours].ndim != 2:
            raise ConfigError(
                f"dataset: {NAMES[ours][0]} of {path} has shape {arrays[ours].shape}; allowed: [transitions, entries]"
            )
    for ours in ("reward", "terminated", "truncated"):
        if arrays[ours].ndim == 2 and arrays[ours].shape[1] == 1:
            arrays[ours] = arrays[ours][:, 0]
    lengths = {NAMES[ours][0]: array.shape[0] if array.ndim else 0 for ours, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not lengths["observations"]:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ConfigError(f"dataset: the fields of {path} must be as long as each other and not empty: {listed}")
    return arrays


def _of_one_episode(path: str | Path, found: dict[str, np.ndarray | None]) -> None:
    """Splits `observations` [N + 1, D] of one episode of N steps into `obs` and `next_obs`.

    Raises `ConfigError` if there is more than one episode.
    """
    obs, reward, ends = found["obs"], found["reward"], (found["terminated"], found["truncated"])
    if found["next_obs"] is not None or obs is None or reward is None or len(obs) != len(reward) + 1:
        return
    if any(end is not None and np.any(end[:-1]) for end in ends):
        raise ConfigError(
            f"dataset: {path} has no next_observations, and an episode ends before the last row; allowed: one episode,"
            " or both"
        )
    found["obs"], found["next_obs"] = obs[:-1], obs[1:]


def load(path: str | Path, spec: WorldSpec) -> Transition:
    """The transitions [N, ...] of a file, checked against a world.

    Raises:
      ConfigError: when it cannot be read, does not fit the world, or holds a number that is not finite.
    """
    from branchax.types import Transition

    arrays = read(path)
    action = arrays["action"]
    if spec.discrete and action.ndim == 2 and action.shape[1] == 1 != spec.action_size:
        action = action[:, 0]
    if spec.discrete and action.ndim == 1:
        if action.size and not (np.isin(action, np.arange(spec.action_size))).all():
            raise ConfigError(f"dataset: actions of {path} must be whole numbers from 0 to {spec.action_size - 1}")
        arrays["action"] = np.eye(spec.action_size)[action.astype(int)]
    count = arrays["obs"].shape[0]
    wanted = {
        "obs": (count, spec.obs_size),
        "action": (count, spec.action_size),
        "reward": (count,),
        "next_obs": (count, spec.obs_size),
        "terminated": (count,),
        "truncated": (count,),
    }
    for ours, shape in wanted.items():
        name, array = NAMES[ours][0], arrays[ours]
        if array.shape != shape:
            raise ConfigError(f"dataset: {name} of {path} has shape {array.shape}; {spec.name} needs {shape}")
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"dataset: {name} of {path} holds {array.dtype}; allowed: real numbers")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(np.float32))  # a finite float64 may be infinite in float32
        if bad.any():
            raise ConfigError(f"dataset: {name} of {path} is not finite in row {int(np.argwhere(bad)[0, 0])}")
        if ours in ("terminated", "truncated") and not np.isin(array, (0, 1)).all():
            raise ConfigError(f"dataset: {name} of {path} must be 0 or 1")
    for ours in ("action",) * spec.discrete + ("obs", "next_obs") * spec.tabular:
        if not ((arrays[ours] == 0) | (arrays[ours] == 1)).all() or not (arrays[ours].sum(-1) == 1).all():
            raise ConfigError(f"dataset: {NAMES[ours][0]} of {path} must be one-hot, as {spec.name} has them")
    arrays["truncated"] = arrays["truncated"].astype(bool) & ~arrays["terminated"].astype(bool)
    if not spec.discrete and spec.clips:
        largest = np.abs(arrays["action"]).max()
        if largest > 1 + 1e-5:
            raise ConfigError(f"dataset: actions of {path} reach {largest:.3g}; allowed: -1 to 1, the actuators' range")
        arrays["action"] = np.clip(arrays["action"], -1, 1)  # removes rounding errors
    kinds = {name: bool if name in ("terminated", "truncated") else np.float32 for name in wanted}
    return Transition(**{name: np.asarray(arrays[name], kinds[name]) for name in wanted})  # type: ignore[arg-type]


def save(path: str | Path, transitions: Transition, spec: WorldSpec) -> None:
    """Writes transitions [N, ...] of a world to a file. Actions are clipped if the world clips them.

    Raises `ConfigError` when it cannot be written.
    """
    arrays: dict[str, Any] = {NAMES[name][0]: np.asarray(x) for name, x in transitions._asdict().items()}
    if spec.clips and not spec.discrete:
        arrays["actions"] = np.clip(arrays["actions"], -1, 1)
    try:
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise ConfigError(f"dataset: cannot write {path}: {error.strerror}") from error


def by_episode(rows: Transition, worlds: int) -> Transition:
    """Sorts rows [N, ...], which `worlds` parallel worlds have added in turn, by world, and marks where they are cut.

    The next row of a world starts at its last row's `next_obs`, or at a reset after an end. If the next row does not
    start there, the world's own row was dropped because of a non-finite number. The row then belongs to the next world
    in turn that it does fit, or it begins an episode.
    """
    import jax  # not above: already loaded when there are rows

    starts, ends = ([row.tobytes() for row in np.asarray(x)] for x in (rows.obs, rows.next_obs))
    over = np.asarray(rows.terminated) | np.asarray(rows.truncated)
    places: list[list[int]] = [[] for _ in range(worlds)]  # the rows of each world
    awaits: list[bytes | None] = [None] * worlds  # the observation that each world continues from; None: a reset
    turns = deque(range(worlds))
    for row, start in enumerate(starts):
        passed = next((i for i, world in enumerate(turns) if awaits[world] in (None, start)), 0)
        for _ in range(passed):
            awaits[turns[0]] = None
            turns.rotate(-1)
        world = turns[0]
        places[world].append(row)
        awaits[world] = None if over[row] else ends[row]
        turns.rotate(-1)
    order = np.array([row for mine in places for row in mine], int)
    rows = jax.tree.map(lambda x: np.asarray(x)[order], rows)
    cut = np.ones(len(order), bool)
    cut[:-1] = [ends[a] != starts[b] for a, b in itertools.pairwise(order)]
    last = np.cumsum([len(mine) for mine in places if mine]) - 1
    cut[last] = True
    return rows._replace(truncated=(rows.truncated | cut) & ~rows.terminated)
