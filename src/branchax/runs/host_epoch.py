"""Exploration, epochs and evaluation in a world (environment) with simulators on the host, such as Gymnasium's.

Simulators are stepped here, between compiled pieces (`epoch/host.py`): one small call chooses the actions, another
learns from a round of steps. No compiled program calls back to Python, so all of them can be cached. The simulators of
all seeds form one fleet. If seeds take turns (`sharding.in_turn`), each is its own group, so that its buffers are
written in place.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from branchax.config import Config
from branchax.devices import mesh as meshes
from branchax.epoch.host import draw_seeds
from branchax.epoch.program import Program
from branchax.epoch.report import Report
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError, WorldFault
from branchax.sharding import SEED, in_turn, over_seeds
from branchax.types import Key, Stream, Trajectory, Transition, stream
from branchax.worlds.base import WorldState

PATIENCE = 5.0  # seconds to wait for a simulator's step before closing it
Submit = Callable[..., Future]  # (name, jitted function, *arguments) -> the compiled function
Step = tuple[Transition, Any]  # [K, W, ...]: the transitions, and the policy's extras


class HostEvaluation:
    """`Program.evaluate` of all lanes. Each call makes new simulators, so that none keeps state from the last call.

    Args:
      program: a function from the values of the swept fields to the program.
      lanes: these values and the root keys, [K].
      config: of the run, or of any of the runs that share the program.
      agent: the shapes of the agent, [K, ...].
      submit: compiles a function and returns a future of it.
    """

    def __init__(
        self, program: Callable[[Any], Program], lanes: tuple[Any, Key], config: Config, agent: Any, submit: Submit
    ) -> None:
        pieces, spec = program({}).host, program({}).spec
        assert pieces is not None
        self.config, self.world, self.shape = config, pieces.world, (lanes[1].shape[0], config.eval_episodes)
        self._seeds = jax.jit(over_seeds(lambda key: draw_seeds(key, config.eval_episodes)))
        floats = jax.tree.map(_shape_of, lanes[0])
        obs, fresh = (
            jax.ShapeDtypeStruct((*self.shape, spec.obs_size), jnp.float32),
            jax.ShapeDtypeStruct(self.shape, bool),
        )
        look = _piece(program, "act_greedily", 0, 0, 0, 0)
        self._memory = jax.eval_shape(look, floats, agent, obs, fresh, None)[1]
        self._look = submit("evaluate", look, floats, agent, obs, fresh, self._memory)

    def __call__(self, floats: Any, keys: Key, env_steps: Any, agent: Any) -> dict[str, np.ndarray]:
        """`{"return": [K, N], "length": [K, N]}` of episodes with the modes of the policies."""
        shape, look = self.shape, self._look.result()
        seeds = np.asarray(self._seeds(_streams(keys, Stream.EVALUATE, env_steps)))
        total, length, alive = np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.ones(shape, bool)
        memory, fresh = _zeros(self._memory), alive
        fleet = self.world.make(seeds.size, self.config.env_workers, True)
        try:
            obs = self.world.reset(fleet, seeds.ravel()).reshape(*shape, -1)
            while alive.any():
                action, memory = look(floats, agent, obs, fresh, memory)
                found = self.world.step(fleet, np.asarray(action).reshape(seeds.size, -1))
                obs, reward, *over = (x.reshape(*shape, *x.shape[1:]) for x in found[1:])
                total += np.where(alive, reward, 0.0)
                length += alive
                alive, fresh = alive & ~over[0] & ~over[1], np.zeros(shape, bool)
        except WorldFault as fault:
            raise WorldFault(f"{self.config.world}, in an evaluation: {fault}") from fault
        finally:
            self.world.close(fleet)
        return {"return": total, "length": length}


class HostEpochs:
    """The simulators of all lanes with the compiled functions around them: `init`, `epoch` and `evaluate` of a program.

    Args:
      program: a function from the values of the swept fields to the program.
      lanes: these values and the root keys, [K].
      config: of the run, or of any of the runs that share the program.
      template: the shapes of the state [K, ...], with shardings.
      mesh: the devices.
      submit: compiles in the background.
    """

    def __init__(
        self,
        program: Callable[[Any], Program],
        lanes: tuple[Any, Key],
        config: Config,
        template: TrainState,
        mesh: Mesh,
        submit: Submit,
    ) -> None:
        if jax.process_count() > 1:
            raise ConfigError(f"world: {config.world} is not possible in several processes; allowed: a world of JAX")
        pieces = program({}).host
        assert pieces is not None
        self.config, self.spec, self.world = config, program({}).spec, pieces.world
        self.lanes, self.template, self.mesh = lanes, template, mesh
        self.count, self.worlds = template.key.shape[0], config.parallel_worlds
        self.groups = self.count if in_turn(mesh.shape[SEED]) else 1
        self.lanes_of_groups: list[tuple[Any, Key]] = self._split(lanes)
        self.fleet: Any = None
        self.obs: Any = np.zeros((self.count, self.worlds, self.spec.obs_size), np.float32)  # to continue from
        self.time: Any = np.zeros((self.count, self.worlds), np.int32)  # steps since the resets
        self.closed, self.busy = False, threading.Lock()
        self._compile(program, submit)

    def _compile(self, program: Callable[[Any], Program], submit: Submit) -> None:
        """Compiles the large pieces for one group in the background; the small ones compile at their first use."""

        def seen(lanes: int, count: int) -> tuple[Any, Any]:
            shape = jax.ShapeDtypeStruct
            return shape((lanes, count, self.spec.obs_size), jnp.float32), shape((lanes, count), bool)

        lie, pieces = meshes.shardings(self.template), program({}).host
        assert pieces is not None
        blank = over_seeds(lambda floats, key: program(floats).init(key))
        self._blank = jax.jit(blank, out_shardings=lie)
        self._seeds = jax.jit(over_seeds(lambda key: draw_seeds(key, self.worlds)))
        self._explore, self._add = _piece(program, "explore", 0), _piece(program, "add", 0, 0, donate_argnums=1)
        self._cut = _piece(program, "truncate_latest", 0, donate_argnums=1)
        self._finish = _piece(program, "finish", 0, 0, 0, 0, donate_argnums=1)
        self.evaluate = HostEvaluation(program, self.lanes, self.config, self.template.agent, submit)
        if self.config.dataset is not None:
            return  # nothing is collected
        lanes = self.count // self.groups
        of_group = lambda x: x.update(shape=(lanes, *x.shape[1:]))  # noqa: E731
        floats, keys = jax.tree.map(_shape_of, self.lanes_of_groups[0])
        state = jax.tree.map(of_group, self.template)
        number = jax.ShapeDtypeStruct((), jnp.int32)
        act, shown = _piece(program, "act", 0, None, 0, 0, 0, 0), (keys, number, state.agent, *seen(lanes, self.worlds))
        self._act_memory = jax.eval_shape(act, floats, *shown, None)[2]
        self._act = submit("act", act, floats, *shown, self._act_memory)
        taken = jax.eval_shape(_piece(program, "blank_round", 0, 0), floats, keys, state)
        stays = {"donate_argnums": 1, "out_shardings": (meshes.shardings(state), None, None)}
        self._learn = submit("learn", _piece(program, "learn", 0, 0, None, **stays), floats, state, taken, number)
        self._begin = submit("begin", _piece(program, "begin", 0, None, **stays), floats, state, number)

    # --- what the loop calls ---

    def init(self, floats: Any, keys: Key) -> TrainState:
        """The state [K, ...] after exploration."""
        with meshes.entered(self.mesh):
            state = self._blank(floats, keys)
        self._start(state)
        return self.explore(state)

    def explore(self, state: TrainState) -> TrainState:
        """The state after the remaining exploration steps. Raises `WorldFault` with the state reached so far."""
        env_steps = int(state.counts.env_steps[0])
        left = (self.config.explore_steps - env_steps) // self.worlds
        if left <= 0:
            return state
        actions = np.asarray(self._explore(self.lanes[0], self.lanes[1]))  # [K, H, W, A]
        taken: list[Step] = []
        try:
            for t in range(actions.shape[1] - left, actions.shape[1]):
                self._step(actions[:, t], (), taken)
        except WorldFault as fault:
            self._give_up(fault, self._added(state, taken))
        return self._added(state, taken)

    def epoch(self, floats: Any, state: TrainState, horizon: Any) -> tuple[TrainState, Report]:
        """One epoch, like `Program.epoch`; `state` is donated. Raises `WorldFault` with the state reached so far."""
        begin, learn = self._begin.result(), self._learn.result()
        env_steps, rounds = int(state.counts.env_steps[0]), self.config.epoch_steps // self.config.collect_steps
        groups, states = [some for some, _ in self.lanes_of_groups], self._split(state)
        del floats, state
        outcomes: list[list[Any]] = []
        skipped, prepared = [None] * self.groups, [None] * self.groups
        for i, mine in enumerate(groups):
            states[i], skipped[i], prepared[i] = begin(mine, states[i], horizon)
        for done in range(rounds):
            taken: list[Step] = []
            try:
                self._collect(states, env_steps + done * self.config.collect_steps, taken)
            except WorldFault as fault:
                self._give_up(fault, self._added(self._join(states), taken))
            outcomes.append([])
            for i, (mine, steps) in enumerate(zip(groups, self._rounds(taken), strict=True)):
                states[i], told, outcome = learn(mine, states[i], steps, horizon)
                prepared[i] = prepared[i] if told is None else told
                outcomes[-1].append(outcome)
        reports = []
        for i, mine in enumerate(groups):
            told = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x], 1), *(some[i] for some in outcomes))
            states[i], report = self._finish(mine, states[i], skipped[i], prepared[i], told)
            reports.append(report)
        return self._shown(self._join(states)), jax.tree.map(lambda *x: np.concatenate(x), *reports)

    def save_state(self) -> list[str] | None:
        """The states of the simulators, lane after lane, W each; None while there are no simulators."""
        return None if self.fleet is None else self.world.save_state(self.fleet)

    def go_on(self, state: TrainState, saved: Sequence[str] | None) -> tuple[TrainState, str]:
        """Makes the simulators of a resumed run. Returns its state and a message about the simulators, "" if none.

        The simulators continue from their `saved` states, exact to the last bit, if these can be restored. Otherwise
        fresh episodes begin.
        """
        obs, time = np.asarray(state.world.obs), np.asarray(state.world.time)
        if self.config.dataset is not None:
            return state, ""
        self._start(state)
        if saved is not None and self.world.comes_back():
            self.world.set_state(self.fleet, saved)
            self.obs, self.time, said = obs, time, ""
        else:
            why = "the run stopped there" if saved is None else f"the state of {self.config.world} cannot be restored"
            said = f"fresh episodes begin: {why}"
            with meshes.entered(self.mesh):
                state = self._cut(self.lanes[0], state)
        return self.explore(self._shown(state)), said

    def close(self) -> None:
        """Closes the simulators, after waiting for the current step; a thread that still steps them then ends, too."""
        held = self.busy.acquire(timeout=PATIENCE)
        self.closed = True
        if self.fleet is not None:
            self.world.close(self.fleet)
        if held:
            self.busy.release()

    # --- steps ---

    def _start(self, state: TrainState) -> None:
        """Makes the simulators and starts an episode in each."""
        seeds = np.asarray(self._seeds(_streams(state.key, Stream.WORLD, state.counts.env_steps)))
        self.fleet = self.world.make(self.count * self.worlds, self.config.env_workers, False)
        self.obs = self.world.reset(self.fleet, seeds.ravel()).reshape(self.obs.shape)
        self.time[:] = 0

    def _collect(self, states: list[TrainState], env_steps: int, taken: list[Step]) -> None:
        """Takes the steps of one round and appends them to `taken`."""
        act, groups = self._act.result(), self.lanes_of_groups
        fresh = np.ones(self.time.shape, bool)
        memory = [_zeros(self._act_memory)] * self.groups
        for t in range(0, self.config.collect_steps, self.worlds):
            chosen = []
            for i, (floats, keys) in enumerate(groups):
                mine = slice(i * keys.shape[0], (i + 1) * keys.shape[0])
                now = np.int32(env_steps + t)
                *found, memory[i] = act(floats, keys, now, states[i].agent, self.obs[mine], fresh[mine], memory[i])
                chosen.append(found)
            action, extras = jax.tree.map(lambda *x: np.concatenate(x), *chosen)
            fresh = self._step(action, extras, taken)

    def _step(self, action: Any, extras: Any, taken: list[Step]) -> np.ndarray:
        """Steps all simulators with actions [K, W, A]; returns where episodes ended, [K, W]."""
        with self.busy:
            if self.closed:
                raise WorldFault("its simulators were closed")
            found = self.world.step(self.fleet, action.reshape(self.count * self.worlds, -1))
        shaped: list[Any] = [x.reshape(*self.time.shape, *x.shape[1:]) for x in found]
        after, obs, reward, terminated, truncated = shaped
        taken.append((Transition(self.obs, action, reward, after, terminated, truncated), extras))
        over = terminated | truncated
        self.obs, self.time = obs, np.where(over, 0, self.time + 1).astype(np.int32)
        return over

    def _rounds(self, taken: list[Step]) -> list[Trajectory]:
        """Steps as trajectories [., H, W, ...], one for each group."""
        transition, extras = jax.tree.map(lambda *x: np.stack(x, 1), *taken)
        valid: Any = np.ones(transition.reward.shape, bool)
        whole = Trajectory(transition, valid, (), extras)
        size = self.count // self.groups
        return [jax.tree.map(lambda x, i=i: x[i : i + size], whole) for i in range(0, self.count, size)]

    def _added(self, state: TrainState, taken: list[Step]) -> TrainState:
        """Adds steps to the buffers of the state without learning from them."""
        if taken:
            whole = jax.tree.map(lambda *x: np.concatenate(x), *self._rounds(taken))
            state = self._add(self.lanes[0], state, whole._replace(extras=()))
        return self._shown(state)

    def _give_up(self, fault: WorldFault, state: TrainState) -> NoReturn:
        """Raises the fault that ended the run, with the state to save."""
        steps = int(state.counts.env_steps[0])
        told = WorldFault(f"{self.config.world} failed: {fault}; saved after {steps:,} env steps")
        told.state = state
        raise told from fault

    # --- the state, whole and in groups ---

    def _shown(self, state: TrainState) -> TrainState:
        """The state with the current observations and times of the simulators."""
        lie = meshes.shardings(self.template.world)
        return state._replace(world=jax.device_put(WorldState((), self.obs.copy(), self.time.copy()), lie))

    def _split(self, tree: Any) -> list[Any]:
        if self.groups == 1:
            return [tree]
        return _split(tree)

    def _join(self, states: list[TrainState]) -> TrainState:
        return states[0] if self.groups == 1 else _join(states)


def _piece(program: Callable[[Any], Program], name: str, *axes: int | None, **options: Any) -> Any:
    """A piece of the program over seeds, jitted. Its arguments: the floats, then one for each of the batch `axes`."""
    each = over_seeds(lambda floats, *rest: getattr(program(floats).host, name)(*rest), (0, *axes))
    return jax.jit(each, **options)


def _shape_of(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@jax.jit
def _split(tree: Any) -> list[Any]:
    """Arrays [K, ...] as K of [1, ...]."""
    return [jax.tree.map(lambda x, i=i: x[i : i + 1], tree) for i in range(len(jax.tree.leaves(tree)[0]))]


@jax.jit
def _join(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


@functools.partial(jax.jit, static_argnums=1)
def _streams(keys: Key, component: Stream, count: Any) -> Key:
    """`types.stream` of each seed's key [K], at its count [K]."""
    return jax.vmap(lambda key, n: stream(key, component, n))(keys, count)
