"""The host loop: compile, then epoch after epoch; evaluate, log and save in between.

Nothing under `jit` calls back, but for Gymnasium's worlds, whose simulators live on the host.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from branchax import build, replay
from branchax.config import Config, ConfigError, check, from_dict, to_dict
from branchax.host import RunError, cache, checkpoint, dataset, distributed, memory, plots, rundir, runlog
from branchax.host import mesh as meshes
from branchax.host.progress import Progress
from branchax.replay import Ring
from branchax.sharding import SEED
from branchax.train import Program, TrainState
from branchax.types import Key, Metrics, Row, Stream, Transition, stream


class WorldFault(RunError):
    """A real world returned a number that is not finite. What was saved before is good."""


class Compiled(NamedTuple):
    """The functions of a `Program` over all seeds, each a future that holds the compiled function."""

    template: TrainState  # of `ShapeDtypeStruct`s that say where they lie, leading axis K
    keys: Key  # [K], the seeds' root keys
    init: Future  # (keys [K]) -> state
    epoch: Future  # (state, horizon [] int32) -> (state, metrics of [K]); the state that goes in is donated
    evaluate: Future  # (keys [K], env_steps [K], agent) -> {"return": [K, N], "length": [K, N]}


class Session(NamedTuple):
    """What the loop works with."""

    config: Config
    directory: Path
    compiled: Compiled
    log: runlog.Log
    view: Progress
    origin: float  # the `time.perf_counter()` at which `wall_s` is 0


def train(config: Config, directory: str | Path, resume: bool = False, command: str = "") -> Path:
    """Trains `config.seeds` runs at once and writes everything into `directory` (see `rundir`); returns the directory.

    With `resume`, the run in `directory` goes on from its last checkpoint, to the very state that it would have reached
    without the interruption. `config` may then ask for more `env_steps` than the run had, and for nothing else.

    Raises:
      ConfigError: for settings that cannot work, or a directory that is in use or cannot be written.
      WorldFault: when a real world returns NaN or an infinity.
      CheckpointError: when a checkpoint cannot be written or read.
    """
    config = dataset.sized(config)
    check(config)
    directory = Path(directory)
    if resume:
        rundir.check_resume(rundir.load_config(directory), config)
    if distributed.leads():
        rundir.prepare(directory, resume)
        if not resume:
            rundir.claim(directory, config)
    distributed.wait_for_all("the directory is there")
    saved = checkpoint.steps(directory / rundir.CHECKPOINTS)
    with Progress(config, None if distributed.leads() else Console(quiet=True)) as view, distributed.together():
        if not saved or saved[-1] < config.env_steps:
            _train(config, directory, saved[-1] if saved else None, command, view)
        if distributed.leads():
            _summary(directory, view)
    return directory


def _train(config: Config, directory: Path, saved: int | None, command: str, view: Progress) -> None:
    """From the settings to the last epoch; `saved` is the step to go on from."""
    start = time.perf_counter()
    cache.enable()
    last = config.seed + config.seeds - 1
    seeds = f"seed {config.seed}" if config.seeds == 1 else f"seeds {config.seed} to {last}"
    with _taken_back(directory, saved is None):
        mesh = meshes.make(config)
    view.say(f"{config.world} · {seeds} · {config.env_steps:,} env steps · on {meshes.says(mesh)}", "bold")
    view.say(f"  into {directory}")
    view.phase(f"building {config.world}")
    with _taken_back(directory, saved is None), warnings.catch_warnings(record=True) as caught:
        program = build.build(config)
        fresh = saved is None and config.dataset is not None  # a saved state holds the rows already
        data = dataset.load(str(config.dataset), program.spec) if fresh else None
    view.finished(f"built {config.world}", time.perf_counter() - start)
    for warning in caught:
        view.say(f"  {warning.message}", "yellow")
    pool = ThreadPoolExecutor(3)
    try:
        with _taken_back(directory, saved is None):
            compiled = compile_program(program, config, mesh, view, pool, restored=saved is not None)
        for difference in rundir.record(directory, config, command) if distributed.leads() else ():
            view.say(f"  floats can differ from an uninterrupted run: {difference}", "yellow")
        if saved is None:
            explore = compiled.init.result()
            view.phase("exploring" if data is None else "reading the dataset")
            state = explore(compiled.keys)
            state = state if data is None else filled(state, data)
            stop_at_fault(state, config)
        else:
            view.phase("restoring")
            state = load(directory, saved, config, compiled.template)
            view.say(f"  restored after {saved:,} env steps")
        keep = -1 if saved is None else int(state.counts.epochs[0])
        log = runlog.Log(directory / rundir.METRICS, keep) if distributed.leads() else runlog.Log(Path(os.devnull))
        with contextlib.closing(log):
            past = log.kept[-1]["wall_s"] if log.kept else 0.0
            _loop(Session(config, directory, compiled, log, view, start - past), state)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if distributed.leads():
        view.phase("drawing")
        plots.curve([directory], directory / rundir.CURVE)


@contextlib.contextmanager
def _taken_back(directory: Path, fresh: bool) -> Iterator[None]:
    """Frees the directory of a `fresh` run that turns out to be impossible."""
    try:
        yield
    except BaseException:
        if fresh and distributed.leads():
            (directory / rundir.CONFIG).unlink()
            with contextlib.suppress(OSError):
                directory.rmdir()  # which does nothing unless it is empty
        raise


def _loop(session: Session, state: TrainState) -> None:
    """Runs the epochs that are left. The rows of an epoch are on disk before its checkpoint."""
    config, view = session.config, session.view
    done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
    if done == 0:
        _report(session, state, config.rollout.at(env_steps), {}, evaluated=True)
    epoch = session.compiled.epoch.result()
    view.began(env_steps)
    while done < config.epochs:
        view.phase("training")
        horizon = config.rollout.at(env_steps)
        state, metrics = epoch(state, np.int32(horizon))
        stop_at_fault(state, config)
        done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
        is_last = done == config.epochs
        _report(session, state, horizon, metrics, evaluated=is_last or done % config.eval_every == 0)
        if is_last or done % config.checkpoint_every == 0:
            view.phase("saving")
            note = {"config": to_dict(config)}
            checkpoint.save(session.directory / rundir.CHECKPOINTS, env_steps, state, note)


def filled(state: TrainState, data: Transition) -> TrainState:
    """A state whose seeds' replay buffers hold a dataset [N, ...], the latest rows if there is no room for all."""
    room = jax.tree.leaves(state.real.data)[0].shape[1]
    rows = Row(jax.tree.map(lambda x: jnp.asarray(x[-room:]), data))
    add = jax.vmap(lambda ring: replay.add(ring, rows))
    return state._replace(real=jax.jit(add, donate_argnums=0, out_shardings=meshes.shardings(state.real))(state.real))


def _report(session: Session, state: TrainState, horizon: int, metrics: Metrics, evaluated: bool) -> None:
    """Evaluates if asked to, writes one row per seed, shows them."""
    config, found = session.config, {}
    if evaluated:
        evaluate = session.compiled.evaluate.result()
        session.view.phase("evaluating")
        found = summarise(evaluate(session.compiled.keys, state.counts.env_steps, state.agent))
    counts = {name: np.asarray(value) for name, value in state.counts._asdict().items()}
    counts = {"epoch": counts.pop("epochs"), **counts}
    if config.dataset is not None:
        counts |= {runlog.OFFLINE: counts["env_steps"], "env_steps": np.zeros_like(counts["env_steps"])}
    shared = {"wall_s": round(time.perf_counter() - session.origin, 3), "horizon": horizon}
    rows = runlog.rows_of(range(config.seed, config.seed + config.seeds), counts, shared, {**found, **metrics})
    session.log.write(rows)
    session.view.advanced(rows)


def seed_keys(config: Config) -> Key:
    """The root keys of the seeds, [K]."""
    return jax.vmap(jax.random.key)(jnp.arange(config.seed, config.seed + config.seeds))


def compile_program(
    program: Program, config: Config, mesh: Mesh, view: Progress, pool: ThreadPoolExecutor, restored: bool = False
) -> Compiled:
    """Compiles the functions of `program`, vmapped over the seeds and laid out on `mesh`, side by side in `pool`;
    `init` not if `restored`. Raises `ConfigError` when it cannot fit into memory."""

    def submit(name: str, function: Any, *arguments: Any) -> Future:
        def work() -> Any:
            start = time.perf_counter()
            with jax.set_mesh(mesh):  # of this thread
                compiled = function.lower(*arguments).compile()
            view.compiled(name, time.perf_counter() - start)
            return compiled

        view.compiling(name)
        return pool.submit(work)

    view.phase("tracing")
    each = functools.partial(jax.vmap, spmd_axis_name=SEED)
    whole = meshes.everywhere(mesh)
    keys = jax.jit(lambda: seed_keys(config), out_shardings=meshes.by_seed(mesh))()
    all_init = each(program.init)
    with jax.set_mesh(mesh):  # as below, so that it is traced once
        template = meshes.placed(jax.eval_shape(jax.jit(all_init), keys), mesh)
    planned = memory.plan(config, template, mesh)
    view.say(f"  {memory.says(planned)}", "dim")
    memory.check(config, planned, memory.limit_of(mesh), mesh.devices.flat[0].device_kind)
    lie = meshes.shardings(template)
    init = jax.jit(all_init, out_shardings=lie)
    epoch = jax.jit(each(program.epoch, in_axes=(0, None)), donate_argnums=0, out_shardings=(lie, whole))
    evaluate = jax.jit(each(evaluate_at(program)), out_shardings=whole)
    return Compiled(
        template,
        keys,
        Future() if restored else submit("init", init, keys),
        submit("epoch", epoch, template, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)),
        submit("evaluate", evaluate, keys, template.counts.env_steps, template.agent),
    )


def evaluate_at(program: Program) -> Callable[[Key, jax.Array, Any], Metrics]:
    """`(root key, env_steps, agent) -> program.evaluate(...)`, on keys that training never draws from."""
    return lambda key, env_steps, agent: program.evaluate(stream(key, Stream.EVALUATE, env_steps), agent)


def summarise(evaluation: Metrics) -> dict[str, np.ndarray]:
    """Mean and standard deviation over episodes of `{"return": [K, N], "length": [K, N]}`; [K] each."""
    returns, lengths = np.asarray(evaluation["return"]), np.asarray(evaluation["length"])
    return {runlog.RETURN: returns.mean(-1), runlog.RETURN_SPREAD: returns.std(-1), runlog.LENGTH: lengths.mean(-1)}


def stop_at_fault(state: TrainState, config: Config) -> None:
    """Waits for `state`. Raises `WorldFault` if a real world has returned a number that is not finite."""
    steps, fields = np.asarray(state.fault.step), np.asarray(state.fault.field)
    for i in np.flatnonzero(steps >= 0):
        field, where = Transition._fields[fields[i]], f"at env step {steps[i]} of seed {config.seed + i}"
        if field == "action":
            raise WorldFault(f"the policy's action is not finite {where}: training has diverged")
        raise WorldFault(f"{config.world} returned a non-finite {field} {where}")


def load(directory: Path, step: int, config: Config, template: TrainState) -> TrainState:
    """The state saved after `step` env steps, with a replay buffer of the size that `config` asks for.

    Args:
      directory: the run's directory.
      step: one of `checkpoint.steps(directory / "checkpoints")`.
      config: the settings to go on with; the replay buffer may have become larger since the state was saved.
      template: the shapes of the state under `config`, leading axis K, and (if they say it) where it shall lie.
    """
    saved = from_dict(Config, checkpoint.note(directory / rundir.CHECKPOINTS, step)["config"])
    shapes = jax.tree.map(lambda x: x.update(shape=(x.shape[0], saved.real_capacity, *x.shape[2:])), template.real.data)
    state = checkpoint.restore(
        directory / rundir.CHECKPOINTS, step, template._replace(real=template.real._replace(data=shapes))
    )
    if saved.real_capacity == config.real_capacity:
        return state
    grow = jax.vmap(lambda ring: _grow(ring, config.real_capacity))
    return state._replace(real=jax.jit(grow, out_shardings=meshes.shardings(template.real))(state.real))


def collected(directory: str | Path) -> Transition:
    """The real transitions in a run's last checkpoint, seed after seed, oldest first; NumPy arrays [N, ...].

    Raises:
      ConfigError: when the directory holds no run, or nothing was saved in it yet.
      CheckpointError: when the checkpoint cannot be read.
    """
    config, state = restore(Path(directory))
    parts = []
    for seed in range(config.seeds):
        ring = jax.tree.map(lambda x: x[seed], state.real)  # noqa: B023
        oldest = (ring.cursor - ring.size + jnp.arange(int(ring.size))) % replay.capacity(ring)
        parts.append(replay.take(ring, oldest).transition)
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def restore(directory: Path) -> tuple[Config, TrainState]:
    """The config and the state of a run's last checkpoint. Raises as `collected` does."""
    rundir.load_config(directory)
    folder = directory / rundir.CHECKPOINTS
    saved = checkpoint.steps(folder)
    if not saved:
        raise ConfigError(f"run: {directory} holds no checkpoint yet")
    config = from_dict(Config, checkpoint.note(folder, saved[-1])["config"])
    template = jax.eval_shape(jax.vmap(build.build(config).init), seed_keys(config))
    return config, load(directory, saved[-1], config, template)


def _grow(ring: Ring, capacity: int) -> Ring:
    """The ring with room for `capacity` rows, for one that has not yet written over its oldest row."""
    room = capacity - jax.tree.leaves(ring.data)[0].shape[0]
    data = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros((room, *x.shape[1:]), x.dtype)]), ring.data)
    return Ring(data, jnp.copy(ring.size), ring.size)  # a copy: the epoch is donated each of them


def _summary(directory: Path, view: Progress) -> None:
    """Says how it went and where everything is."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    epochs = sorted({row["epoch"] for row in rows})[-3:]
    means = [np.mean([row[runlog.RETURN] for row in rows if row["epoch"] == epoch]) for epoch in epochs]
    view.say("")
    if means:
        view.say(
            f"  return     {means[-1]:.1f} at the end, {np.mean(means):.1f} over the last {len(means)} evaluations",
            "bold",
        )
    view.say(f"  curve      {directory / rundir.CURVE}")
    view.say(f"  metrics    {directory / rundir.METRICS}")
    view.say(f"  evaluate   branchax evaluate {directory}")
    view.say(f"  go on      branchax train --run {directory} --resume --env-steps N")
