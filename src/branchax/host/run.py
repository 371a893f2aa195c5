"""The host loop: compile, then epoch after epoch; evaluate, log and save in between.

Nothing under `jit` calls back, but for Gymnasium's worlds, whose simulators live on the host.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable
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
from branchax.host import cache, checkpoint, dataset, distributed, faults, memory, plots, rundir, runlog
from branchax.host import mesh as meshes
from branchax.host.curves import Curves, open_curves
from branchax.host.progress import Progress
from branchax.host.signals import Preempted, Stop
from branchax.replay import Ring
from branchax.sharding import SEED
from branchax.train import Program, TrainState
from branchax.types import Key, Metrics, Row, Stream, Transition, stream

HEARTBEAT = 10.0  # seconds between two updates of `status.json` where there is nothing else to say


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
    pool: ThreadPoolExecutor
    stop: Stop
    log: runlog.Log
    curves: Curves
    view: Progress
    origin: float  # the `time.perf_counter()` at which `wall_s` is 0


def train(config: Config, directory: str | Path, command: str = "", force: bool = False) -> Path:
    """Trains `config.seeds` runs at once and writes everything into `directory` (see `rundir`); returns the directory.

    When the directory holds a run already, it goes on from its last good checkpoint, to the very state that it would
    have reached without the interruption; when that run is done, nothing is left to do. `config` may then differ from
    the run's in what its state does not depend on (`config.RESUMABLE`) and ask for more `env_steps`; with `force`, in
    anything that the state still fits.

    SIGTERM and the first Ctrl-C end it after the epoch under way, which is saved; the second Ctrl-C ends it at once.

    Raises:
      ConfigError: for settings that cannot work, or a directory that is in use, full or cannot be written.
      Preempted: when a signal asked it to end.
      NonFinite: when a number is not finite and `config.faults` says to stop.
      CheckpointError: when a checkpoint cannot be written or read.
    """
    config = dataset.sized(config)
    check(config)
    directory, stop, leads = Path(directory), Stop(config.grace), distributed.leads()
    with contextlib.ExitStack() as held:
        changed: list[str] = []
        if leads:
            rundir.check_writable(directory)
            held.enter_context(rundir.opened(directory))
            changed = rundir.admit(directory, config, force)
        resumes = (directory / rundir.CONFIG).exists()
        held.enter_context(stop.handled())
        view = held.enter_context(Progress(config, None if leads else Console(quiet=True)))
        try:
            saved = None
            if leads:
                checkpoint.sweep(directory / rundir.CHECKPOINTS)
                saved = checkpoint.newest(directory / rundir.CHECKPOINTS, functools.partial(view.say, style="yellow"))
            saved = distributed.from_first(saved)
            if saved is not None and saved >= config.env_steps:
                view.say(f"  the run in {directory} is done", "bold")
            else:
                with distributed.together():
                    _train(config, directory, saved, resumes, changed, force, command, stop, view)
            if leads and not rundir.is_done(directory):
                view.phase("drawing")
                plots.curve([directory], directory / rundir.CURVE)
                _status(directory, "done")
        except BaseException as error:
            if (directory / rundir.CONFIG).exists():  # else it never began
                asked = isinstance(error, (Preempted, KeyboardInterrupt))
                with contextlib.suppress(OSError):  # the reason may be a full disk
                    _status(directory, "preempted" if asked else "failed", str(error) or type(error).__name__)
            raise
        if leads:
            _summary(directory, view)
    return directory


def _status(directory: Path, state: str, reason: str = "") -> None:
    if not distributed.leads():
        return
    good = checkpoint.steps(directory / rundir.CHECKPOINTS)
    rundir.write_status(directory, state, good[-1] if good else None, reason)


def _train(
    config: Config,
    directory: Path,
    saved: int | None,
    resumes: bool,
    changed: list[str],
    force: bool,
    command: str,
    stop: Stop,
    view: Progress,
) -> None:
    """From the settings to the last epoch; `saved` is the step to go on from, `changed` what differs since then."""
    start = time.perf_counter()
    cache.enable()
    last = config.seed + config.seeds - 1
    seeds = f"seed {config.seed}" if config.seeds == 1 else f"seeds {config.seed} to {last}"
    mesh = meshes.make(config)
    view.say(f"{config.world} · {seeds} · {config.env_steps:,} env steps · on {meshes.says(mesh)}", "bold")
    from_where = "from the beginning" if saved is None else f"after {saved:,} env steps"
    view.say(f"  the run in {directory} goes on {from_where}" if resumes else f"  into {directory}")
    for change in changed:
        view.say(f"  changed: {change}", "yellow")
    view.phase(f"building {config.world}")
    with warnings.catch_warnings(record=True) as caught:
        program = build.build(config)
        fresh = saved is None and config.dataset is not None  # a saved state holds the rows already
        data = dataset.load(str(config.dataset), program.spec) if fresh else None
    view.finished(f"built {config.world}", time.perf_counter() - start)
    for warning in caught:
        view.say(f"  {warning.message}", "yellow")
    count = config.checkpoints_kept + config.keep_best + 1  # a new one is whole before an old one goes
    fits = functools.partial(checkpoint.check_space, directory / rundir.CHECKPOINTS, count=count)
    pool = ThreadPoolExecutor(3)
    try:
        compiled = compile_program(program, config, mesh, view, pool, restored=saved is not None, ready=fits)
        restored = None
        if saved is not None:  # before anything is written: it may not fit
            view.phase("restoring")
            restored = load(directory, saved, config, compiled.template)
        for difference in rundir.record(directory, config, command) if distributed.leads() else ():
            view.say(f"  floats can differ from an uninterrupted run: {difference}", "yellow")
        _status(directory, "running")
        if restored is None:
            explore = stop.wait(compiled.init)
            view.phase("exploring" if data is None else "reading the dataset")
            state = stop.wait(pool.submit(_finished, explore, compiled.keys))
            state = state if data is None else filled(state, data)
        else:
            state = restored
            if force and hasattr(state.agent, "knobs"):  # the agent's floats, which may be among what has changed
                lie = meshes.shardings(compiled.template.agent.knobs)
                fresh_knobs = jax.jit(jax.vmap(lambda key: program.init(key).agent.knobs), out_shardings=lie)
                state = state._replace(agent=state.agent._replace(knobs=fresh_knobs(compiled.keys)))
        keep = -1 if saved is None else int(state.counts.epochs[0])
        metrics = directory / rundir.METRICS
        log = runlog.Log(metrics, keep) if distributed.leads() else runlog.Log(Path(os.devnull))
        if not distributed.leads():  # which goes by what the first process keeps
            log.kept = [row for row in runlog.read(metrics) if row["epoch"] <= keep]
        with contextlib.closing(log), contextlib.ExitStack() as closing:
            past = log.kept[-1]["wall_s"] if log.kept else 0.0
            leads = distributed.leads()
            curves = open_curves(config, directory, log.kept, view.say) if leads else Curves([])
            closing.enter_context(contextlib.closing(curves))
            _loop(Session(config, directory, compiled, pool, stop, log, curves, view, start - past), state)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _loop(session: Session, state: TrainState) -> None:
    """Runs the epochs that are left. The rows of an epoch are on disk before its checkpoint."""
    config, view, stop, log = session.config, session.view, session.stop, session.log
    done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
    skipped = [faults.skipped_of(row, 1)[0] for row in log.kept[-config.seeds :]]
    skipped, score, beat = np.array(skipped or [0.0] * config.seeds), None, time.monotonic()
    dumped: set[str] = set()
    if done == 0:
        _look_for_faults(session, state, {}, 0, skipped, dumped)
        _report(session, state, config.rollout.at(env_steps), {}, evaluated=True)
    epoch = stop.wait(session.compiled.epoch)
    view.began(env_steps)
    with stop.deferred():
        while done < config.epochs:
            view.phase("training")
            horizon = config.rollout.at(env_steps)
            # In another thread, so that this one hears of signals.
            state, metrics = stop.wait(session.pool.submit(_finished, epoch, state, np.int32(horizon)))
            metrics = {name: np.asarray(x) for name, x in metrics.items()}
            _look_for_faults(session, state, metrics, horizon, skipped, dumped)
            skipped = faults.skipped_of(metrics, config.seeds)
            done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
            is_last = done == config.epochs
            score = _report(session, state, horizon, metrics, is_last or done % config.eval_every == 0)
            asked = distributed.any_of(bool(stop.asked))
            saves = is_last or asked or done % config.checkpoint_every == 0
            if saves:
                view.phase("saving")
                log.sync()
                note = {"config": to_dict(config), checkpoint.SCORE: score, "environment": rundir.versions()}
                folder = session.directory / rundir.CHECKPOINTS
                checkpoint.save(folder, env_steps, state, note, config.checkpoints_kept, config.keep_best)
            if saves or time.monotonic() - beat > HEARTBEAT:
                _status(session.directory, "running")
                beat = time.monotonic()
            if asked and not is_last:
                raise Preempted(
                    f"stopped by {stop.asked or 'a signal to another process'}; saved after {env_steps:,} env steps"
                )


def _finished(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a compiled function returns, once it is there."""
    return jax.block_until_ready(function(*arguments))


def _look_for_faults(
    session: Session, state: TrainState, metrics: dict[str, Any], horizon: int, skipped: np.ndarray, dumped: set[str]
) -> None:
    """Says what was not finite in an epoch and dumps the first of each kind. Raises `NonFinite` if that is to stop."""
    config, fault = session.config, jax.tree.map(np.asarray, state.fault)
    found = faults.find(config, fault, metrics, skipped)
    for each in sorted(found, key=lambda f: not f.stops):
        if each.kind in dumped and not each.stops:
            continue
        dumped.add(each.kind)
        where = ""
        if distributed.count() == 1:  # of several processes none has the whole state
            where = f" ({faults.dump(session.directory, each, config, state, horizon, metrics)} has the details)"
        if each.stops:
            raise faults.NonFinite(f"{each.what}{where}")
        session.view.say(f"  {each.what}; said once{where}", "yellow")


def filled(state: TrainState, data: Transition) -> TrainState:
    """A state whose seeds' replay buffers hold a dataset [N, ...], the latest rows if there is no room for all."""
    room = jax.tree.leaves(state.real.data)[0].shape[1]
    rows = Row(jax.tree.map(lambda x: jnp.asarray(x[-room:]), data))
    add = jax.vmap(lambda ring: replay.add(ring, rows))
    return state._replace(real=jax.jit(add, donate_argnums=0, out_shardings=meshes.shardings(state.real))(state.real))


def _report(
    session: Session, state: TrainState, horizon: int, metrics: dict[str, Any], evaluated: bool
) -> float | None:
    """Evaluates if asked to, writes one row per seed, shows them. Returns the mean return over seeds, if any."""
    config, found = session.config, {}
    if evaluated:
        evaluate = session.stop.wait(session.compiled.evaluate)
        session.view.phase("evaluating")
        found = summarise(evaluate(session.compiled.keys, state.counts.env_steps, state.agent))
    counts = {name: np.asarray(value) for name, value in state.counts._asdict().items()}
    counts = {"epoch": counts.pop("epochs"), **counts}
    if config.dataset is not None:
        counts |= {runlog.OFFLINE: counts["env_steps"], "env_steps": np.zeros_like(counts["env_steps"])}
    shared = {"wall_s": round(time.perf_counter() - session.origin, 3), "horizon": horizon}
    rows = runlog.rows_of(range(config.seed, config.seed + config.seeds), counts, shared, {**found, **metrics})
    session.log.write(rows)
    session.curves.write(rows)
    session.view.advanced(rows)
    return runlog.plain(found[runlog.RETURN].mean()) if found else None


def seed_keys(config: Config) -> Key:
    """The root keys of the seeds, [K]."""
    return jax.vmap(jax.random.key)(jnp.arange(config.seed, config.seed + config.seeds))


def compile_program(
    program: Program,
    config: Config,
    mesh: Mesh,
    view: Progress,
    pool: ThreadPoolExecutor,
    restored: bool = False,
    ready: Callable[[TrainState], None] = lambda template: None,
) -> Compiled:
    """Compiles the functions of `program`, vmapped over the seeds and laid out on `mesh`, side by side in `pool`;
    `init` not if `restored`.

    `ready` hears of the shapes of the state before anything is compiled, and may object. Raises `ConfigError` when it
    cannot fit into memory.
    """

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
    ready(template)
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


def load(directory: Path, step: int, config: Config, template: TrainState) -> TrainState:
    """The state saved after `step` env steps, with a replay buffer of the size that `config` asks for.

    Args:
      directory: the run's directory.
      step: one of `checkpoint.steps(directory / "checkpoints")`.
      config: the settings to go on with; the replay buffer may have become larger since the state was saved.
      template: the shapes of the state under `config`, leading axis K, and (if they say it) where it shall lie.
    """
    saved = from_dict(Config, checkpoint.note(directory / rundir.CHECKPOINTS, step)["config"])
    if config.real_capacity < saved.real_capacity:
        raise ConfigError(
            f"env_steps: {config.env_steps} makes the replay buffer smaller; allowed: >= {saved.env_steps}, as it was"
        )
    if saved.replay_capacity != config.replay_capacity:
        before, after = saved.replay_capacity, config.replay_capacity
        raise ConfigError(f"replay_capacity: {before} -> {after} is not possible for a run that goes on")
    shapes = jax.tree.map(lambda x: x.update(shape=(x.shape[0], saved.real_capacity, *x.shape[2:])), template.real.data)
    state = checkpoint.restore(
        directory / rundir.CHECKPOINTS, step, template._replace(real=template.real._replace(data=shapes))
    )
    if saved.real_capacity == config.real_capacity:
        return state
    grow = jax.vmap(lambda ring: _grow(ring, config.real_capacity))
    return state._replace(real=jax.jit(grow, out_shardings=meshes.shardings(template.real))(state.real))


def collected(directory: str | Path, say: Callable[[str], Any] = warnings.warn) -> Transition:
    """The real transitions in a run's last checkpoint, seed after seed, oldest first; NumPy arrays [N, ...].

    Raises:
      ConfigError: when the directory holds no run, or nothing was saved in it yet.
      CheckpointError: when the checkpoint cannot be read.
    """
    config, state = restore(Path(directory), say)
    parts = []
    for seed in range(config.seeds):
        ring = jax.tree.map(lambda x: x[seed], state.real)  # noqa: B023
        oldest = (ring.cursor - ring.size + jnp.arange(int(ring.size))) % replay.capacity(ring)
        parts.append(replay.take(ring, oldest).transition)
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def restore(
    directory: Path, say: Callable[[str], Any] = warnings.warn, step: int | None = None
) -> tuple[Config, TrainState]:
    """The config and the state of a run's last good checkpoint, or of the one after `step` env steps.

    `say` hears of checkpoints that are passed over. Raises as `collected` does.
    """
    rundir.load_config(directory)
    folder = directory / rundir.CHECKPOINTS
    if step is None:
        step = checkpoint.newest(folder, say)
    elif step not in checkpoint.steps(folder):
        known = ", ".join(map(str, checkpoint.steps(folder))) or "none"
        raise ConfigError(f"step: {step} is not saved in {directory}; allowed: {known}")
    elif wrong := checkpoint.problem(folder, step):
        raise checkpoint.CheckpointError(f"cannot read {folder / str(step)}: {wrong}")
    if step is None:
        raise ConfigError(f"run: {directory} holds no checkpoint yet")
    config = from_dict(Config, checkpoint.note(folder, step)["config"])
    template = jax.eval_shape(jax.vmap(build.build(config).init), seed_keys(config))
    return config, load(directory, step, config, template)


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
    view.say(f"  go on      branchax resume {directory} --env-steps N")
