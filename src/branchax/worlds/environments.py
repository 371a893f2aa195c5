"""Runs several of Gymnasium's environments in parallel, with arrays in and out: makes, checks, steps, saves, closes.

`Guard` converts an environment's actions and observations to vectors, and raises a one-line error if the environment
breaks a rule. `Pack` is a `gymnasium.vector.SyncVectorEnv` of guards. `Fleet` is one pack in this process, or several
packs, each in its own process (`gymnasium.vector.AsyncVectorEnv`). No JAX: worker processes load this module.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, vector

from branchax.errors import WorldFault
from branchax.outside import describe_error
from branchax.worlds import snapshots
from branchax.worlds.spaces import Actions, Observations, make_actions, read_observations

PATIENCE = 5.0  # seconds that a process may take to close its environments
SILENT = 50  # a level above all of Gymnasium's messages


def make(name: str, arguments: dict[str, Any], length: int | None) -> Any:
    """The environment from `gymnasium.make`, with the time limit `length`, if given. Raises `WorldFault`."""
    limit = {} if length is None else {"max_episode_steps": length}
    try:
        with _without_mujoco_warnings():
            return gymnasium.make(name, disable_env_checker=True, **limit, **arguments)
    except (Exception, SystemExit) as error:  # whatever someone else's constructor raises
        advice = "; --world-args NAME=VALUE ... gives arguments" if isinstance(error, TypeError) else ""
        raise WorldFault(f"it cannot be made: {describe_error(error)}{advice}") from error


def time_limit(env: Any) -> int | None:
    """The smallest time limit of an environment, [steps]; None if it has none."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min(limits, default=None)


class Guard(gymnasium.Env):
    """An environment with observations [D] float32 and actions [A]. Its rewards and flags are checked.

    With `once`, it stays at the end of its episode until it is reset with a seed: an evaluation needs no more steps.
    """

    def __init__(self, env: Any, observations: Observations, actions: Actions, once: bool = False) -> None:
        self.env, self.observations, self.actions, self.once = env, observations, actions, once
        self.observation_space = spaces.Box(-np.inf, np.inf, (observations.size,), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (actions.size,), np.float32)
        self.last, self.over = np.zeros(observations.size, np.float32), False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """`reset` of Gymnasium's API. Raises `WorldFault`."""
        if self.once and seed is None:
            return self.last, {}
        returned = self._call("reset", seed=seed) if seed is not None else self._call("reset")
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
            raise WorldFault(f"its reset returned {_what(returned)}; allowed: an observation and a dict")
        self.last, self.over = self._read(returned[0]), False
        return self.last, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """`step` of Gymnasium's API. An episode is truncated at a non-finite number. Raises `WorldFault`."""
        if self.once and self.over:
            return self.last, 0.0, False, False, {}
        if not np.isfinite(action).all():  # the environment cannot use it; its row is dropped
            return self.last, 0.0, False, True, {}
        returned = self._call("step", self.actions.make(action))
        if not (isinstance(returned, tuple) and len(returned) == 5):
            raise WorldFault(
                f"its step returned {_what(returned)}; allowed: an observation, a reward, terminated, truncated and a"
                " dict"
            )
        obs, reward, terminated, truncated = returned[:4]
        self.last = self._read(obs)
        reward = _number(reward, "reward", "biuf")
        terminated, truncated = (
            bool(_number(x, name, "bui")) for name, x in (("terminated", terminated), ("truncated", truncated))
        )
        truncated |= not (np.isfinite(reward) and np.isfinite(self.last).all())
        self.over = terminated or truncated
        return self.last, reward, terminated, truncated, {}

    def close(self) -> None:
        """Closes the environment and ignores its errors."""
        with contextlib.suppress(Exception):
            self.env.close()

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        try:
            return getattr(self.env, name)(*arguments, **named)
        except (Exception, SystemExit) as error:  # whatever someone else's code raises
            old = name == "step" and "expected 5, got 4" in str(error)  # a wrapper takes it apart before this does
            advice = "; allowed: five values, terminated and truncated apart" if old else ""
            raise WorldFault(f"its {name} raised {describe_error(error)}{advice}") from error

    def _read(self, obs: Any) -> np.ndarray:
        try:
            return self.observations.read(obs)
        except Exception as error:
            raise WorldFault(f"its observation space is not kept: {describe_error(error)}") from error


class Pack(gymnasium.Env):
    """Environments that are stepped one after the other. The observation of a step has `rows` rows: one for each
    environment, and blank ones after them.

    A row is [next_obs [D], obs [D] to continue from, reward, terminated, truncated], float32. Where an episode is over,
    `next_obs` is its last observation and `obs` the first of the next episode. The environments are made at the first
    call.
    """

    def __init__(self, make_one: Callable[[], Guard], count: int, rows: int, obs_size: int, action_size: int) -> None:
        self.make_one, self.count = make_one, count
        self.observation_space = spaces.Box(-np.inf, np.inf, (rows, 2 * obs_size + 3), np.float32)
        self.action_space = spaces.Box(-np.inf, np.inf, (rows, action_size), np.float32)
        self.seeds: Sequence[int] = ()  # of the next reset
        self.snapshots: Sequence[str] = ()  # for `put`
        self.envs: vector.SyncVectorEnv | None = None

    def opened(self) -> Any:
        """The environments."""
        if self.envs is None:
            if multiprocessing.parent_process() is not None:
                for name in ("SIGINT", "SIGHUP", "SIGUSR1"):  # a worker: a terminal sends them to all, and the run's
                    if hasattr(signal, name):  # own process decides what becomes of it
                        signal.signal(getattr(signal, name), signal.SIG_IGN)
            with contextlib.ExitStack() as undo:
                guards = []
                for _ in range(self.count):
                    guards.append(self.make_one())
                    undo.callback(guards[-1].close)
                ready = [partial(_itself, guard) for guard in guards]
                mode = vector.AutoresetMode.SAME_STEP
                self.envs = vector.SyncVectorEnv(ready, copy=False, autoreset_mode=mode)
                undo.pop_all()
        return self.envs

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts fresh episodes from `seeds`; only `obs` of the rows is meaningful."""
        obs, _ = self.opened().reset(seed=[int(s) for s in self.seeds])
        return self._rows(obs, obs, 0.0, 0.0, 0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of each environment, with actions [rows, A]."""
        obs, reward, terminated, truncated, info = self.opened().step(action[: self.count])
        after = obs
        if "final_obs" in info:
            after = obs.copy()
            for i in np.flatnonzero(info["_final_obs"]):
                after[i] = info["final_obs"][i]
        return self._rows(after, obs, reward, terminated, truncated), 0.0, False, False, {}

    def take(self) -> list[str]:
        """A snapshot of each environment."""
        return [json.dumps(snapshots.take(guard)) for guard in self.opened().envs]

    def put(self) -> None:
        """Restores each environment from its snapshot in `snapshots`."""
        for guard, snapshot in zip(self.opened().envs, self.snapshots, strict=True):
            snapshots.put(guard, json.loads(snapshot))

    def close(self) -> None:
        """Closes all of them."""
        if self.envs is not None:
            self.envs.close()

    def _rows(self, after: np.ndarray, obs: np.ndarray, reward: Any, terminated: Any, truncated: Any) -> np.ndarray:
        rows, size = np.zeros(self.observation_space.shape, np.float32), obs.shape[1]  # type: ignore[arg-type]
        mine = rows[: self.count]
        mine[:, :size], mine[:, size : 2 * size] = after, obs
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, a fault of the world
            mine[:, -3], mine[:, -2], mine[:, -1] = reward, terminated, truncated
        return rows


class Fleet:
    """`count` environments, in this process or in `workers` others. All methods raise `WorldFault` if one fails."""

    def __init__(
        self, make_one: Callable[[], Guard], count: int, workers: int, obs_size: int, action_size: int
    ) -> None:
        each = -(-count // max(1, min(workers, count)))
        self.sizes = [min(each, count - i) for i in range(0, count, each)]  # of the packs
        self.count, self.obs_size = count, obs_size
        packs = [partial(Pack, make_one, size, each, obs_size, action_size) for size in self.sizes]
        self.here = None if workers else packs[0]()
        self.there: Any = None
        self.closed = False
        with self._closing():
            if self.here is not None:
                self.here.opened()
            else:
                mode = vector.AutoresetMode.DISABLED  # packs reset by themselves
                self.there = vector.AsyncVectorEnv(packs, context="spawn", copy=False, autoreset_mode=mode)

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """The first observations [n, D] of fresh episodes from seeds [n]."""
        with self._closing():
            if self.here is not None:
                self.here.seeds = seeds.tolist()
                rows = self.here.reset()[0]
            else:
                self.there.set_attr("seeds", [chunk.tolist() for chunk in self._chunks(seeds)])
                rows = self._joined(self.there.reset()[0])
        return rows[:, self.obs_size : 2 * self.obs_size]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Actions [n, A] -> next_obs [n, D], obs to continue from [n, D], reward [n], terminated [n], truncated [n]."""
        with self._closing():
            if self.here is not None:
                rows = self.here.step(actions)[0]
            else:
                padded = np.zeros((len(self.sizes), self.sizes[0], actions.shape[1]), np.float32)
                for pack, chunk in zip(padded, self._chunks(actions), strict=True):
                    pack[: len(chunk)] = chunk
                rows = self._joined(self.there.step(padded)[0])
        after, obs = rows[:, : self.obs_size], rows[:, self.obs_size : 2 * self.obs_size]
        terminated = rows[:, -2] > 0
        return after, obs, rows[:, -3], terminated, (rows[:, -1] > 0) & ~terminated

    def save_state(self) -> list[str]:
        """A snapshot of each environment (`snapshots`)."""
        with self._closing():
            packs = [self.here.take()] if self.here is not None else self.there.call("take")
        return [snapshot for pack in packs for snapshot in pack]

    def set_state(self, saved: Sequence[str]) -> None:
        """Restores each environment from its snapshot; they must have been reset before."""
        with self._closing():
            if self.here is not None:
                self.here.snapshots = saved
                self.here.put()
            else:
                self.there.set_attr("snapshots", [list(chunk) for chunk in self._chunks(saved)])
                self.there.call("put")

    def close(self) -> None:
        """Closes every environment, and ends the processes; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        if self.here is not None:
            self.here.close()
        if self.there is not None:
            with contextlib.suppress(Exception):  # one of them may be gone
                self.there.close(timeout=PATIENCE)
            for process in self.there.processes:
                process.kill()
            self.there.closed = True  # if `close` failed, it would try again when it is deleted

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Raises errors of workers as `WorldFault` instead of printing them, and then closes all environments."""
        logger: Any = gymnasium.logger
        level = logger.min_level
        try:
            if self.here is None:
                logger.min_level = SILENT
            yield
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            self.close()
            raise WorldFault("one of its worker processes ended without a word") from error
        except BaseException:
            self.close()
            raise
        finally:
            if self.here is None:
                logger.min_level = level

    def _chunks(self, x: Any) -> list[Any]:
        """The part of `x` for each pack."""
        ends = np.cumsum([0, *self.sizes])
        return [x[start:end] for start, end in itertools.pairwise(ends)]

    def _joined(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([pack[:size] for pack, size in zip(rows, self.sizes, strict=True)])


def make_guard(name: str, arguments: dict[str, Any], length: int | None, once: bool = False) -> Guard:
    """One environment, guarded. Raises `WorldFault` or `spaces.Unusable`."""
    env = make(name, arguments, length)
    try:
        seen, taken = (getattr(env, name, None) for name in ("observation_space", "action_space"))
        return Guard(env, read_observations(seen), make_actions(taken), once)
    except BaseException:
        env.close()
        raise


def _itself(thing: Any) -> Any:
    return thing


def _number(value: Any, name: str, kinds: str) -> float:
    """A value as a number; some environments return a number in an array."""
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.empty(0, object)
    if found.size != 1 or found.dtype.kind not in kinds:
        raise WorldFault(f"its {name} is {_what(value)}; allowed: {'a number' if 'f' in kinds else 'a bool'}")
    return float(found.ravel()[0])


def _what(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(x).__name__ for x in value)})"
    shape = f" of shape {list(value.shape)}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}" if value is not None else "None"


@contextlib.contextmanager
def _without_mujoco_warnings() -> Iterator[None]:
    """Silences MuJoCo's warnings about a model, which it otherwise prints and writes to a file at each load."""
    if importlib.util.find_spec("mujoco") is None:
        yield
        return
    mujoco: Any = importlib.import_module("mujoco")
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)
