"""Gymnasium's environments as worlds (Towers et al. 2024, arXiv:2407.17032). They live on the host."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax.errors import ConfigError
from branchax.types import Key, Transition
from branchax.worlds import gymnasium_spec, terminations
from branchax.worlds.base import World, WorldSpec, WorldState

FRESH, GOING_ON, OVER = 0, 1, 2
ALIVE_AT_MOST = 256  # environments of one world; in larger batches every state is rebuilt, at the cost of one more step


class Layout(NamedTuple):
    """How the host reads what it is given, and what it returns: one vector of 32-bit words each, one copy per call."""

    origin: np.dtype
    call: np.dtype
    result: np.dtype


def layout(state_size: int, action_size: int, obs_size: int) -> Layout:
    """The layouts for states of so many float64, A and D.

    The origin of a state is where it came from: all that the host needs to be there again, to the last bit. It is not
    the state itself, because an environment also holds what its last step left behind: MuJoCo's bodies are where the
    last step computed them, and Ant and Humanoid reward the way from there. So a state is rebuilt by a step.
    """
    action = ("action", np.float32, (action_size,))
    origin = np.dtype(
        [
            ("before", np.float64, (state_size,)),  # the environment's state one step ago; zeros after a reset
            action,  # that was taken there
            ("seed", np.uint32),  # of the noise in that step, or of the reset
            ("phase", np.uint32),  # FRESH from a reset, GOING_ON, or OVER because it terminated
        ]
    )
    call = np.dtype([("origin", origin), action, ("seed", np.uint32)])
    ends = [("terminated", np.uint32), ("cut", np.uint32)]  # cut: truncated by the environment itself
    result = np.dtype([("origin", origin), ("obs", np.float32, (obs_size,)), ("reward", np.float32), *ends])
    return Layout(origin, call, result)


class Codec(NamedTuple):
    """Between an environment and arrays."""

    observe: Callable[[Any], np.ndarray]  # an observation of the environment's -> [D] float32
    control: Callable[[np.ndarray], Any]  # [A] -> an action of the environment's
    read: Callable[[Any], np.ndarray]  # the environment -> its state, [n] float64
    write: Callable[[Any, np.ndarray], None]  # sets what `read` returned


def gymnasium_world(name: str, episode_length: int | None = None) -> World:
    """One of Gymnasium's environments, or one's own that is registered there.

    `reset` and `step` call the host, once for all parallel worlds, and seeds that go side by side. Programs with such a
    call in them do not enter the persistent compilation cache. Both are pure functions nevertheless: an environment
    that is in the wanted state goes on, and a state that none is in (a checkpoint's, an oracle's) is rebuilt from its
    origin (`layout`). A step's noise comes from its key; a step from a terminated state stays there, unrewarded, at no
    cost.

    Boxes of actions are scaled to [-1, 1], discrete observations are one-hot vectors. The time limit is this library's
    own; other wrappers that an environment is registered with are kept.

    Args:
      name: the id in Gymnasium's registry, such as `"Hopper-v5"`; `"module:Id-v0"` imports what registers it.
      episode_length: steps until an episode is truncated; the default is the registered one.

    Raises:
      ConfigError: Gymnasium is missing, the id unknown, or the environment lacks a package, a time limit, spaces that
        can be used, or a state that can be read and set again, without which no run could resume exactly.
    """
    spec = gymnasium_spec(name)
    from gymnasium import error, spaces, wrappers

    def refusal(why: str) -> ConfigError:
        return ConfigError(f"world: gym/{name} is not possible: {why}")

    def make() -> Any:
        try:
            with _without_mujoco_warnings():
                env = spec.make(disable_env_checker=True)
        except (error.Error, ImportError) as problem:
            raise refusal(str(problem)) from problem
        while isinstance(env, (wrappers.OrderEnforcing, wrappers.TimeLimit)):
            env = env.env
        env.reset(seed=0)
        return env

    env = make()
    obs_size, observe = _observation(env.observation_space, refusal)
    action_size, control = _action(env.action_space, refusal)
    codec = Codec(observe, control, *_state(env.unwrapped, refusal))
    length = spec.max_episode_steps if episode_length is None else episode_length
    if length is None:
        raise ConfigError(f"episode_length: unset is not possible for gym/{name}, which has no limit; allowed: >= 1")
    pool = Pool(make, codec, layout(codec.read(env).size, action_size, obs_size))
    if not _comes_back(pool):
        raise refusal("it does not come back to a state that was saved, so that no run could resume exactly")
    origin_size, result_size = pool.layout.origin.itemsize // 4, pool.layout.result.itemsize // 4

    # Jitted, so that outside of a compiled program too the call is made ready once.
    @jax.jit
    def reset(key: Key) -> WorldState:
        seed = jax.random.bits(key, (), jnp.uint32)
        shape = jax.ShapeDtypeStruct((obs_size,), jnp.float32)
        obs = jax.pure_callback(pool.reset, shape, seed, vmap_method="broadcast_all")
        origin = jnp.zeros(origin_size, jnp.uint32).at[-2].set(seed).at[-1].set(FRESH)
        return WorldState(origin, obs, jnp.zeros((), jnp.int32))

    @jax.jit
    def step(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
        seed = jax.random.bits(key, (1,), jnp.uint32)
        call = jnp.concatenate(
            [state.inner, jax.lax.bitcast_convert_type(action.astype(jnp.float32), jnp.uint32), seed]
        )
        shape = jax.ShapeDtypeStruct((result_size,), jnp.uint32)
        found = jax.pure_callback(pool.step, shape, call, vmap_method="broadcast_all")
        origin, obs, reward, terminated, cut = jnp.split(found, np.cumsum([origin_size, obs_size, 1, 1]))
        obs = jax.lax.bitcast_convert_type(obs, jnp.float32)
        obs = jnp.where(state.inner[-1] == OVER, state.obs, obs)
        reward, terminated = jax.lax.bitcast_convert_type(reward[0], jnp.float32), terminated[0] > 0
        time = state.time + 1
        truncated = ((cut[0] > 0) | (time >= length)) & ~terminated
        return WorldState(origin, obs, time), Transition(state.obs, action, reward, obs, terminated, truncated)

    world_spec = WorldSpec(
        name=f"gym/{name}",
        obs_size=obs_size,
        action_size=action_size,
        episode_length=length,
        discrete=isinstance(env.action_space, spaces.Discrete),
        differentiable=False,
        termination=terminations.GYMNASIUM.get(name),
        tabular=isinstance(env.observation_space, spaces.Discrete),
    )
    return World(world_spec, reset, step)


class Pool:
    """Live environments, each under the origin of the state that it is in; the least recently used is recycled."""

    def __init__(self, make: Callable[[], Any], codec: Codec, layout: Layout) -> None:
        self.make, self.codec, self.layout = make, codec, layout
        self.live: dict[bytes, Any] = {}  # oldest first
        self.spare: list[Any] = []
        self.room = 1
        # Resets have one of their own: `rollout` computes one for every world at every step, and drops most.
        self.scratch = make()
        self.lock = threading.Lock()  # XLA may call from several threads

    def reset(self, seed: Any) -> np.ndarray:
        """The first observations [..., D] after resets with the seeds [...]."""
        seeds = np.asarray(seed)
        with self.lock:
            rows = [self.codec.observe(self.scratch.reset(seed=int(s))[0]) for s in seeds.flat]
        return np.reshape(rows, (*seeds.shape, -1))

    def step(self, call: Any) -> np.ndarray:
        """One step of every environment that is not over: calls -> results, [...] of each in 32-bit words.

        Of the result for a state that is over, `obs` means nothing.
        """
        words = np.ascontiguousarray(call)
        calls = words.view(self.layout.call).ravel()
        results = np.zeros(calls.size, self.layout.result)
        with self.lock:
            self.room = min(max(self.room, 2 * calls.size), ALIVE_AT_MOST)  # as many again for evaluation
            for i in range(calls.size):
                results[i] = self._step(calls[i])
        return results.view(np.uint32).reshape(*words.shape[:-1], -1)

    def _step(self, call: np.void) -> tuple[Any, ...]:
        origin, action, seed = call
        if origin["phase"] == OVER:
            return origin, 0.0, 0.0, True, False
        env = self.live.pop(origin.tobytes(), None) or self._rebuilt(origin)
        before = self.codec.read(env)
        obs, reward, terminated, cut, _ = self._advance(env, action, seed)
        after = np.array((before, action, seed, OVER if terminated else GOING_ON), self.layout.origin)
        if terminated:
            self.spare.append(env)
        else:
            self.live[after.tobytes()] = env
        return after, self.codec.observe(obs), reward, terminated, cut

    def _rebuilt(self, origin: np.void) -> Any:
        """Any environment, brought to the state that came from `origin`."""
        if self.spare:
            env = self.spare.pop()
        else:
            env = self.make() if len(self.live) < self.room else self.live.pop(next(iter(self.live)))
        env.reset(seed=int(origin["seed"]))  # always: CartPole remembers that it was over
        if origin["phase"] != FRESH:
            self.codec.write(env, np.array(origin["before"]))  # aligned
            self._advance(env, origin["action"], origin["seed"])
        return env

    def _advance(self, env: Any, action: np.ndarray, seed: np.uint32) -> tuple[Any, ...]:
        env.unwrapped.np_random = np.random.Generator(np.random.PCG64(seed))
        return env.step(self.codec.control(action))


def _comes_back(pool: Pool, length: int = 16) -> bool:
    """Whether steps of an environment are the same, to the last bit, as those of others that are rebuilt for each."""
    draw, walk = np.random.default_rng(0), []
    origin = np.zeros((), pool.layout.origin)
    for seed in range(length):
        action = draw.uniform(-1.0, 1.0, origin["action"].shape)
        call = np.array([(origin, action, seed)], pool.layout.call).view(np.uint32)
        result = pool.step(call)
        walk.append((call, result))
        origin = result.view(pool.layout.result)[0]["origin"]
    other = Pool(pool.make, pool.codec, pool.layout)
    # From the last to the first, so that none is already there.
    return all(np.array_equal(other.step(call), result) for call, result in reversed(walk))


def _observation(space: Any, refusal: Callable[[str], Exception]) -> tuple[int, Callable[[Any], np.ndarray]]:
    """The size D of a space's observations, and `Codec.observe`."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        start, one_hot = int(space.start), np.eye(int(space.n), dtype=np.float32)
        return len(one_hot), lambda obs: one_hot[int(obs) - start]
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape)), lambda obs: np.asarray(obs, np.float32).ravel()
    raise refusal(f"its observations are {space}; allowed: Box, Discrete")


def _action(space: Any, refusal: Callable[[str], Exception]) -> tuple[int, Callable[[np.ndarray], Any]]:
    """The size A of a space's actions, and `Codec.control`."""
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return int(space.n), lambda action: start + int(np.argmax(action))
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.is_bounded():
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        return middle.size, lambda action: middle + half * np.clip(action, -1.0, 1.0).reshape(middle.shape)
    raise refusal(f"its actions are {space}; allowed: Box of floats with finite bounds, Discrete")


def _state(
    env: Any, refusal: Callable[[str], Exception]
) -> tuple[Callable[[Any], np.ndarray], Callable[[Any, np.ndarray], None]]:
    """`Codec.read` and `Codec.write` for environments such as `env` (unwrapped)."""
    mujoco: Any = importlib.import_module("mujoco")

    if isinstance(getattr(env, "data", None), mujoco.MjData):
        kind = mujoco.mjtState.mjSTATE_INTEGRATION  # all that a step depends on
        size = mujoco.mj_stateSize(env.model, kind)

        def read(env: Any) -> np.ndarray:
            state = np.empty(size)
            mujoco.mj_getState(env.unwrapped.model, env.unwrapped.data, state, kind)
            return state

        def write(env: Any, state: np.ndarray) -> None:
            mujoco.mj_setState(env.unwrapped.model, env.unwrapped.data, state, kind)

        return read, write

    name = next((name for name in ("state", "s") if _numeric(getattr(env, name, None))), None)
    if name is None:
        raise refusal("its state can be neither read nor set; allowed: MuJoCo's, or numbers in its `state` or `s`")
    shape = np.shape(getattr(env, name))

    # With its dtype, which some environments change on the way and compute in.
    def read_plain(env: Any) -> np.ndarray:
        state = np.asarray(getattr(env.unwrapped, name))
        return np.array([ord(state.dtype.char), *state.flat], np.float64)

    def write_plain(env: Any, state: np.ndarray) -> None:
        value = state[1:].astype(chr(int(state[0]))).reshape(shape)
        setattr(env.unwrapped, name, value[()])  # a scalar if it is one

    return read_plain, write_plain


def _numeric(value: Any) -> bool:
    with contextlib.suppress(ValueError):  # of a ragged tuple
        return isinstance(value, (np.ndarray, np.generic, int, float, tuple)) and np.asarray(value).dtype.kind in "biuf"
    return False


@contextlib.contextmanager
def _without_mujoco_warnings() -> Iterator[None]:
    """Keeps MuJoCo from saying, into a file too, what it minds about a model each time that it is loaded."""
    mujoco: Any = importlib.import_module("mujoco")

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)
