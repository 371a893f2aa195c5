"""The host loop: compile, then epoch after epoch; evaluate, log and save in between.

Nothing under `jit` calls back, but for Gymnasium's worlds, whose simulators live on the host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from branchax import build, replay
from branchax.checks import check
from branchax.config import Config, from_dict, to_dict, value_at, with_field
from branchax.devices import cache, distributed, memory
from branchax.devices import mesh as meshes
from branchax.epoch.program import Program
from branchax.epoch.report import Report
from branchax.epoch.state import TrainState, copy_state
from branchax.errors import ConfigError
from branchax.replay import Ring
from branchax.runs import checkpoint, dataset, faults, rundir, runlog, wandb
from branchax.runs.progress import Progress
from branchax.runs.signals import Preempted, Stop
from branchax.runs.trackers import Curves, open_curves
from branchax.sharding import of_seed, over_seeds
from branchax.types import Key, Metrics, Row, Stream, Transition, stream
from branchax.worlds.base import World

HEARTBEAT = 10.0  # seconds between two updates of `status.json` where there is nothing else to say
GRACE = 20.0  # seconds that an epoch may take after a signal ...
GRACE_WITH_COPY = 3.0  # ... and where there is a copy of the state before it
COPIED = 2**28  # bytes, the largest state of which there is such a copy
Floats = dict[str, jax.Array]  # path of a field -> its value, or one for each lane


class Compiled(NamedTuple):
    """The functions of a `Program` over all lanes, each a future that holds the compiled function.

    A lane is a seed of a run.
    """

    template: TrainState  # of `ShapeDtypeStruct`s that say where they lie, leading axis K
    lanes: tuple[Floats, Key]  # [K] each: the values of what is swept, and the root keys
    init: Future  # lanes -> state
    epoch: Future  # (floats, state, horizon [] int32) -> (state, report of [K]); the state that goes in is donated
    evaluate: Future  # (*lanes, env_steps [K], agent) -> {"return": [K, N], "length": [K, N]}


@dataclasses.dataclass
class Run:
    """One of the runs that share a program: its settings, its directory, and how it has come along there."""

    config: Config
    directory: Path
    command: str = ""
    lanes: slice | None = None  # its seeds among those of the program; `None`: all of them
    given_up: bool = False  # for what was not finite, while others go on
    score: float | None = None  # the mean return over seeds of this epoch's evaluation
    dumped: set[str] = dataclasses.field(default_factory=set)  # the kinds of faults
    log: runlog.Log = None  # pyright: ignore[reportAssignmentType]  # open while it trains
    curves: Curves = dataclasses.field(default_factory=lambda: Curves([]))

    @property
    def checkpoints(self) -> Path:
        """The folder that holds them."""
        return self.directory / rundir.CHECKPOINTS

    def of(self, tree: Any) -> Any:
        """Its own lanes of arrays [K, ...]."""
        return tree if self.lanes is None else jax.tree.map(lambda x: x[self.lanes], tree)


GiveUp = Callable[[Run, faults.NonFinite], None]


class Session(NamedTuple):
    """What the loop works with."""

    runs: list[Run]
    compiled: Compiled
    pool: ThreadPoolExecutor
    stop: Stop
    view: Progress
    origin: float  # the `time.perf_counter()` at which `wall_s` is 0
    give_up: GiveUp | None

    def going(self) -> list[Run]:
        """The runs that were not given up."""
        return [run for run in self.runs if not run.given_up]


def train(config: Config, directory: str | Path, command: str = "", force: bool = False) -> Path:
    """Trains `config.seeds` runs at once and writes everything into `directory` (see `rundir`); returns the directory.

    When the directory holds a run already, it goes on from its last good checkpoint, to the very state that it would
    have reached without the interruption; when that run is done, nothing is left to do. `config` may then differ from
    the run's in what its state does not depend on (`config.RESUMABLE`) and ask for more `env_steps`; with `force`, in
    anything that the state still fits.

    SIGTERM and the first Ctrl-C end it: the epoch under way is saved if it ends within `config.grace`, otherwise what
    was before it, while a thread computes on. The second Ctrl-C ends it at once.

    Raises:
      ConfigError: for settings that cannot work, or a directory that is in use, full or cannot be written.
      Preempted: when a signal asked it to end.
      NonFinite: when a number is not finite and `config.faults` says to stop.
      CheckpointError: when a checkpoint cannot be written or read.
    """
    directory = Path(directory)
    train_together([Run(config, directory, command)], force=force)
    return directory


def train_together(
    runs: list[Run], swept: Sequence[str] = (), force: bool = False, give_up: GiveUp | None = None
) -> None:
    """`train` for runs that differ in the float fields `swept` alone, all as lanes of one compiled program.

    Each has in its directory what it would have there on its own. They go on from the last step that all have saved.
    A run that `config.faults` would stop is left out from there on, and `give_up` hears why; without it that is raised.
    Raises as `train` does.
    """
    for i, run in enumerate(runs):
        run.config = dataset.sized(run.config)
        check(run.config)
        run.lanes = slice(i * run.config.seeds, (i + 1) * run.config.seeds) if len(runs) > 1 else None
    config, leads = runs[0].config, distributed.leads()
    if leads and config.wandb:
        wandb.check()
    stop = Stop(GRACE if config.grace is None else config.grace)
    with contextlib.ExitStack() as held:
        changed: list[str] = []
        if leads:
            for run in runs:
                rundir.check_writable(run.directory)
                held.enter_context(rundir.opened(run.directory))
                changed += [x for x in rundir.admit(run.directory, run.config, force) if x not in changed]
        resumes = all((run.directory / rundir.CONFIG).exists() for run in runs)
        held.enter_context(stop.handled())
        view = held.enter_context(Progress(config, None if leads else Console(quiet=True)))
        try:
            saved = distributed.from_first(_saved(runs, view) if leads else None)
            if saved is not None and saved >= config.env_steps:
                view.say(f"  the run in {_where(runs)} is done", "bold")
            else:
                with distributed.together():
                    _train(runs, swept, saved, resumes, changed, force, stop, view, give_up)
            for run in runs if leads else ():
                if not run.given_up and not rundir.is_done(run.directory):
                    view.phase("drawing")
                    from branchax.runs import plots  # `_loop` has loaded it

                    plots.curve([run.directory], run.directory / rundir.CURVE)
                    _status(run, "done")
        except BaseException as error:
            asked = isinstance(error, (Preempted, KeyboardInterrupt))
            for run in runs:
                began = (run.directory / rundir.CONFIG).exists()
                if began and not run.given_up and not rundir.is_done(run.directory):
                    with contextlib.suppress(OSError):  # the reason may be a full disk
                        _status(run, "preempted" if asked else "failed", str(error) or type(error).__name__)
            raise
        if leads and len(runs) == 1 and not runs[0].given_up:
            _summary(runs[0].directory, view)


def _where(runs: list[Run]) -> str:
    """Their directory in words."""
    return str(runs[0].directory if len(runs) == 1 else runs[0].directory.parent)


def _saved(runs: list[Run], view: Progress) -> int | None:
    """The newest step whose checkpoint is sound in all runs; None if nothing is saved in any.

    Raises `CheckpointError` when they have none in common, as going on would begin again with what some have reached.
    """
    for run in runs:
        checkpoint.sweep(run.checkpoints)
    say, last = functools.partial(view.say, style="yellow"), None
    while True:
        found = {checkpoint.newest(run.checkpoints, say, last) for run in runs}
        if len(found) == 1 and (last is None or None not in found):
            return found.pop()
        if None in found:
            raise checkpoint.CheckpointError(f"the runs in {_where(runs)} have no sound checkpoint in common")
        last = min(step for step in found if step is not None)


def _status(run: Run, state: str, reason: str = "") -> None:
    if not distributed.leads():
        return
    good = checkpoint.steps(run.checkpoints)
    rundir.write_status(run.directory, state, good[-1] if good else None, reason)


def _train(
    runs: list[Run],
    swept: Sequence[str],
    saved: int | None,
    resumes: bool,
    changed: list[str],
    force: bool,
    stop: Stop,
    view: Progress,
    give_up: GiveUp | None,
) -> None:
    """From the settings to the last epoch; `saved` is the step to go on from, `changed` what differs since then."""
    start = time.perf_counter()
    cache.enable()
    config = runs[0].config
    last = config.seed + config.seeds - 1
    seeds = f"seed {config.seed}" if config.seeds == 1 else f"seeds {config.seed} to {last}"
    mesh = meshes.make(dataclasses.replace(config, seeds=len(runs) * config.seeds))  # a seed to a lane
    view.say(f"{config.world} · {seeds} · {config.env_steps:,} env steps · on {meshes.says(mesh)}", "bold")
    if len(runs) > 1:
        view.say(f"  {len(runs)} runs in one program, which differ in {', '.join(swept)}")
    from_where = "from the beginning" if saved is None else f"after {saved:,} env steps"
    view.say(f"  the run in {_where(runs)} goes on {from_where}" if resumes else f"  into {_where(runs)}")
    for change in changed:
        view.say(f"  changed: {change}", "yellow")
    view.phase(f"building {config.world}")
    with warnings.catch_warnings(record=True) as caught:
        program = program_of(config, swept)
        spec = program({}).spec
        fresh = saved is None and config.dataset is not None  # a saved state holds the rows already
        data = dataset.load(str(config.dataset), spec) if fresh else None
    view.finished(f"built {config.world}", time.perf_counter() - start)
    for warning in caught:
        view.say(f"  {warning.message}", "yellow")
    wanted = not config.model_free and config.model.kind == "ensemble" and config.model.termination == "known"
    if wanted and spec.termination is None:
        view.say(f"  {config.world} has no predicate for the ends of its episodes: the model learns them")
    count = _kept(runs) + config.keep_best + 1  # a new one is whole before an old one goes
    fits = functools.partial(checkpoint.check_space, runs[0].checkpoints, count=count)
    pool = ThreadPoolExecutor(3)
    try:
        lanes = functools.partial(_lanes, [run.config for run in runs], swept)
        compiled = compile_program(program, lanes, config, mesh, view, pool, restored=saved is not None, ready=fits)
        restored = None
        if saved is not None:  # before anything is written: it may not fit
            view.phase("restoring")
            restored = _load_all(runs, saved, compiled.template)
        if distributed.leads():
            differences = [x for run in runs for x in rundir.record(run.directory, run.config, run.command)]
            for difference in dict.fromkeys(differences):
                view.say(f"  floats can differ from an uninterrupted run: {difference}", "yellow")
        for run in runs:
            _status(run, "running")
        if restored is None:
            explore = stop.wait(compiled.init)
            view.phase("exploring" if data is None else "reading the dataset")
            state = stop.wait(pool.submit(_finished, explore, *compiled.lanes))
            state = state if data is None else filled(state, data)
        else:
            state = restored
            if force and hasattr(state.agent, "knobs"):  # the agent's floats, which may be among what has changed
                lie = meshes.shardings(compiled.template.agent.knobs)
                knobs = over_seeds(lambda floats, key: program(floats).init(key).agent.knobs)
                with meshes.entered(mesh):
                    knobs = jax.jit(knobs, out_shardings=lie)(*compiled.lanes)
                state = state._replace(agent=state.agent._replace(knobs=knobs))
        keep = -1 if saved is None else int(state.counts.epochs[0])
        with contextlib.ExitStack() as closing:
            for run in runs:
                run.log = runlog.Log(run.directory / rundir.METRICS, keep, writes=distributed.leads())
                closing.callback(run.log.close)
                if distributed.leads():
                    run.curves = open_curves(run.config, run.directory, run.log.kept, view.say)
                    closing.callback(run.curves.close)
            past = max(run.log.kept[-1]["wall_s"] if run.log.kept else 0.0 for run in runs)
            _loop(Session(runs, compiled, pool, stop, view, start - past, give_up), state, restored=saved is not None)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _kept(runs: list[Run]) -> int:
    """How many checkpoints stay: of several runs two at least, so that there is always a step that all have saved."""
    return runs[0].config.checkpoints_kept if len(runs) == 1 else max(2, runs[0].config.checkpoints_kept)


def _loop(session: Session, state: TrainState, restored: bool) -> None:
    """Runs the epochs that are left. The rows of an epoch are on disk before its checkpoint."""
    config, view, stop = session.runs[0].config, session.view, session.stop
    done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
    beat, safe = time.monotonic(), env_steps if restored else -1  # the step that was saved last
    if not restored:
        _look_for_faults(session, state, None, 0)
        _report(session, state, config.rollout.at(env_steps), {}, evaluated=True)
    stop.wait(session.compiled.evaluate)  # so that nothing but an epoch is waited for once there is something to save
    epoch, copies = stop.wait(session.compiled.epoch), _copies(state)
    if copies and config.grace is None:
        stop.grace = GRACE_WITH_COPY
    view.began(env_steps)
    if distributed.leads():  # Matplotlib, for the figure at the end, loads while the first epoch computes
        session.pool.submit(importlib.import_module, "branchax.runs.plots")
    with stop.deferred():
        while done < config.epochs and session.going():
            view.phase("training")
            horizon, floats = config.rollout.at(env_steps), session.compiled.lanes[0]
            before = copy_state(state) if copies else None
            try:  # in another thread, so that this one hears of signals
                state, report = stop.wait(session.pool.submit(_finished, epoch, floats, state, np.int32(horizon)))
            except Preempted as ended:
                if before is None:
                    raise
                if safe != env_steps:
                    _save(session, before, env_steps)
                raise Preempted(f"{ended}; saved as it was after {env_steps:,} env steps") from None
            before, report = None, jax.tree.map(np.asarray, report)
            _look_for_faults(session, state, report, horizon)
            done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
            is_last = done == config.epochs
            _report(session, state, horizon, report.metrics, is_last or done % config.eval_every == 0)
            asked = distributed.any_of(bool(stop.asked))
            saves = is_last or asked or done % config.checkpoint_every == 0
            if saves:
                _save(session, state, env_steps)
                safe = env_steps
            if saves or time.monotonic() - beat > HEARTBEAT:
                for run in session.going():
                    _status(run, "running")
                beat = time.monotonic()
            if asked and not is_last:
                raise Preempted(
                    f"stopped by {stop.asked or 'a signal to another process'}; saved after {env_steps:,} env steps"
                )


def _copies(state: TrainState) -> bool:
    """Whether the state is copied before an epoch takes its place, so that it can be saved if the epoch outlasts a
    signal: unless it is large or lies in several processes."""
    return memory.bytes_of(state) <= COPIED and jax.process_count() == 1


def _save(session: Session, state: TrainState, env_steps: int) -> None:
    """A checkpoint of each run that goes on; its rows are on disk before."""
    session.view.phase("saving")
    for run in session.going():
        run.log.sync()
        note = {"config": to_dict(run.config), checkpoint.SCORE: run.score, "environment": rundir.versions()}
        kept = _kept(session.runs), session.runs[0].config.keep_best
        checkpoint.save(run.checkpoints, env_steps, run.of(state), note, *kept)


def _finished(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a compiled function returns, once it is there."""
    return jax.block_until_ready(function(*arguments))


def _look_for_faults(session: Session, state: TrainState, report: Report | None, horizon: int) -> None:
    """Says what was not finite in an epoch, run by run. Raises `NonFinite` if that is to stop, or gives the run up."""
    fault = jax.tree.map(np.asarray, state.fault)
    for run in session.going():
        metrics, health = ({}, None) if report is None else run.of(report)
        try:
            _judge(run, faults.find(run.config, run.of(fault), health), state, metrics, horizon, session.view)
        except faults.NonFinite as error:
            if session.give_up is None:
                raise
            run.given_up = True
            _status(run, "failed", str(error))
            session.give_up(run, error)
            session.view.say(f"  {run.directory.name} is left out: {error}", "yellow")


def _judge(
    run: Run, found: list[faults.Found], state: TrainState, metrics: dict[str, Any], horizon: int, view: Progress
) -> None:
    """Says what was found in a run and dumps the first of each kind. Raises `NonFinite` if that is to stop."""
    for each in sorted(found, key=lambda f: not f.stops):
        if each.kind in run.dumped and not each.stops:
            continue
        run.dumped.add(each.kind)
        where = ""
        if distributed.count() == 1:  # of several processes none has the whole state
            path = faults.dump(run.directory, each, run.config, run.of(state), horizon, metrics)
            where = f" ({path} has the details)"
        if each.stops:
            raise faults.NonFinite(f"{each.what}{where}", each.brief)
        view.say(f"  {each.what}; said once{where}", "yellow")


def filled(state: TrainState, data: Transition) -> TrainState:
    """A state whose seeds' replay buffers hold a dataset [N, ...], the latest rows if there is no room for all."""
    room = jax.tree.leaves(state.real.data)[0].shape[1]
    rows = Row(jax.tree.map(lambda x: jnp.asarray(x[-room:]), data))
    add = jax.vmap(lambda ring: replay.add(ring, rows))
    return state._replace(real=jax.jit(add, donate_argnums=0, out_shardings=meshes.shardings(state.real))(state.real))


def _report(session: Session, state: TrainState, horizon: int, metrics: dict[str, Any], evaluated: bool) -> None:
    """Evaluates if asked to, writes one row per seed of each run, shows them."""
    found = {}
    if evaluated and session.going():
        evaluate = session.stop.wait(session.compiled.evaluate)
        session.view.phase("evaluating")
        found = summarise(evaluate(*session.compiled.lanes, state.counts.env_steps, state.agent))
    counts = {name: np.asarray(value) for name, value in state.counts._asdict().items()}
    counts = {"epoch": counts.pop("epochs"), **counts}
    if session.runs[0].config.dataset is not None:
        counts |= {runlog.OFFLINE: counts["env_steps"], "env_steps": np.zeros_like(counts["env_steps"])}
    shared = {"wall_s": round(time.perf_counter() - session.origin, 3), "horizon": horizon}
    for run in session.going():
        seeds = range(run.config.seed, run.config.seed + run.config.seeds)
        rows = runlog.rows_of(seeds, run.of(counts), shared, run.of({**found, **metrics}))
        run.log.write(rows)
        run.curves.write(rows)
        session.view.advanced(rows, run.directory.name if len(session.runs) > 1 else "")
        run.score = runlog.plain(run.of(found)[runlog.RETURN].mean()) if found else None


def seed_keys(config: Config) -> Key:
    """The root keys of the seeds, [K]."""
    return jax.vmap(jax.random.key)(jnp.arange(config.seed, config.seed + config.seeds))


def _lanes(configs: list[Config], swept: Sequence[str]) -> tuple[Floats, Key]:
    """For each seed of each run: the values of what is swept, and the root key; [K]."""
    seeds = configs[0].seeds
    floats = {f: jnp.repeat(jnp.float32([value_at(config, f) for config in configs]), seeds) for f in swept}
    return floats, jnp.concatenate([seed_keys(config) for config in configs])


def program_of(config: Config, swept: Sequence[str], world: World | None = None) -> Callable[[Floats], Program]:
    """The program by the values [], which may be traced, of the float fields `swept`; in `world`, or in its own."""
    if not swept:
        program = build.build(config)
        return lambda floats: program
    world = world or build.make_world(config)

    def of(floats: Floats) -> Program:
        settings = config
        for path, value in floats.items():
            settings = with_field(settings, path, value)
        return build.assemble(settings, world)

    return of


def compile_program(
    program: Callable[[Floats], Program],
    lanes: Callable[[], tuple[Floats, Key]],
    config: Config,
    mesh: Mesh,
    view: Progress,
    pool: ThreadPoolExecutor,
    restored: bool = False,
    ready: Callable[[TrainState], None] = lambda template: None,
) -> Compiled:
    """Compiles the functions of `program`, over all `lanes` (`sharding.over_seeds`) and laid out on `mesh`, at once
    in `pool`; `init` not if `restored`. As many lanes as `config` has seeds, or as several runs of that shape have.

    `ready` hears of the shapes of the state before anything is compiled, and may object. Raises `ConfigError` when it
    cannot fit into memory.
    """

    def submit(name: str, function: Any, *arguments: Any) -> Future:
        def work() -> Any:
            start = time.perf_counter()
            with meshes.entered(mesh):  # of this thread
                compiled = cache.compiled(function.lower(*arguments), cache.SOONER.get(name))
            view.compiled(name, time.perf_counter() - start)
            return compiled

        view.compiling(name)
        return pool.submit(work)

    view.phase("tracing")
    whole = meshes.everywhere(mesh)
    floats, keys = jax.jit(lanes, out_shardings=meshes.by_seed(mesh))()
    all_init = over_seeds(lambda floats, key: program(floats).init(key))
    all_epoch = over_seeds(lambda floats, *state: program(floats).epoch(*state), in_axes=(0, 0, None))
    all_evaluate = over_seeds(lambda floats, *agent: evaluate_at(program(floats))(*agent))
    with meshes.entered(mesh):  # as below, so that it is traced once
        template = meshes.placed(jax.eval_shape(jax.jit(all_init), floats, keys), mesh)
    ready(template)
    planned = memory.plan(config, template, mesh)
    view.say(f"  {memory.says(planned)}", "dim")
    runs = keys.shape[0] // config.seeds
    memory.check(config, planned, memory.limit_of(mesh), mesh.devices.flat[0].device_kind, runs)
    lie = meshes.shardings(template)
    init = jax.jit(all_init, out_shardings=lie)
    epoch = jax.jit(all_epoch, donate_argnums=1, out_shardings=(lie, whole))
    evaluate = jax.jit(all_evaluate, out_shardings=whole)
    return Compiled(
        template,
        (floats, keys),
        Future() if restored else submit("init", init, floats, keys),
        submit("epoch", epoch, floats, template, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)),
        submit("evaluate", evaluate, floats, keys, template.counts.env_steps, template.agent),
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


def _load_all(runs: list[Run], step: int, template: TrainState) -> TrainState:
    """The states of all runs, lane after lane; `template` says where they shall lie."""
    if len(runs) == 1:
        return load(runs[0].directory, step, runs[0].config, template)
    seeds = runs[0].config.seeds
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape[1:]), x.dtype), template)
    states = [load(run.directory, step, run.config, one) for run in runs]
    return jax.device_put(jax.tree.map(lambda *x: jnp.concatenate(x), *states), meshes.shardings(template))


def collected(directory: str | Path, say: Callable[[str], Any] = warnings.warn) -> Transition:
    """The real transitions in a run's last checkpoint, seed after seed, oldest first; NumPy arrays [N, ...].

    Raises:
      ConfigError: when the directory holds no run, or nothing was saved in it yet.
      CheckpointError: when the checkpoint cannot be read.
    """
    config, state = restore(Path(directory), say)
    parts = []
    for seed in range(config.seeds):
        ring = of_seed(state.real, seed)
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
    template = jax.eval_shape(over_seeds(build.build(config).init), seed_keys(config))
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
