"""Trains a run from its settings to its last epoch: takes its directory, builds, compiles, starts or resumes, loops.

Parts of it are in other modules: `compiling`, `restoring` and, for the epochs, `loop`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from branchax import build
from branchax.config import Config
from branchax.devices import cache, distributed
from branchax.devices import mesh as meshes
from branchax.epoch.program import Program
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError, WorldFault
from branchax.own import try_out
from branchax.runs import checkpoint, dataset, entry, rundir, runlog
from branchax.runs.compiling import Compiled, Floats, compile_program, finish, lanes_of, program_of
from branchax.runs.loop import WORLDS, Callback, GiveUp, Run, Session, kept_of, note_status, run_epochs, save_run
from branchax.runs.progress import Progress, advised, fallen, number
from branchax.runs.restoring import fill, load_all
from branchax.runs.signals import Preempted, Stop
from branchax.runs.trackers import Logger, open_curves
from branchax.sharding import over_seeds
from branchax.types import Transition

GRACE = 20.0  # seconds that an epoch may take after a signal


class Job(NamedTuple):
    """Runs that are trained together, with everything that their training needs."""

    runs: list[Run]
    swept: Sequence[str]  # the float fields that they differ in
    force: bool
    stop: Stop
    view: Progress
    give_up: GiveUp | None
    callbacks: Sequence[Callback]

    @property
    def config(self) -> Config:
        """The settings of the first run; the others differ only in the swept fields."""
        return self.runs[0].config

    @property
    def where(self) -> str:
        """The directory of the runs, for messages."""
        return str(self.runs[0].directory if len(self.runs) == 1 else self.runs[0].directory.parent)


def train(  # noqa: PLR0913 (one argument for each thing that a run can be given)
    config: Config,
    directory: str | os.PathLike[str],
    command: str = "",
    force: bool = False,
    *,
    world: Any = None,
    agent: Any = None,
    dynamics: Any = None,
    stages: Any = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Path:
    """Trains `config.seeds` runs at once and writes everything into `directory` (see `rundir`); returns the directory.

    If the directory already holds a run, that run continues from its last good checkpoint, and reaches exactly the same
    state as without the interruption. If that run is done, nothing happens. `config` may then differ from the run's
    settings in fields that do not affect its state (`config.RESUMABLE`), and ask for more `env_steps`; with `force`, in
    everything that still fits the saved state.

    SIGTERM or the first Ctrl-C stops it. The current epoch is saved if it ends within `config.grace`; otherwise the
    state before it is saved, while a thread still computes. The second Ctrl-C stops it immediately.

    Args:
      config: the settings.
      directory: the run's directory.
      command: a text for the run's list of commands (`command.txt`).
      force: see above.
      world: your own environment: a function that returns a `World`, or its name `module:function`.
      agent: your own agent: a function `(WorldSpec, **args) -> Agent`, or its name (`build.with_parts`).
      dynamics: your own model: a function `(World, ModelConfig) -> Dynamics`, or its name.
      stages: your own stages: a `Stages` value, a function that returns one, or the name of either.
      callbacks: each is called as `(rows, state)` after each epoch, with the rows that were written and the live state,
        which it must not keep. If one returns True, the run is saved and ends.
      loggers: further loggers of the rows (`branchax.Logger`).

    Raises:
      ConfigError: for settings that cannot work, or a directory that is in use, full or cannot be written.
      Preempted: when a signal asked it to stop.
      NonFinite: when a number is not finite and `config.faults` says to stop.
      CheckpointError: when a checkpoint cannot be written or read.
    """
    if wrong := [type(logger).__name__ for logger in loggers if not isinstance(logger, Logger)]:
        raise ConfigError(f"loggers: {wrong[0]} is not possible; allowed: branchax.Logger")
    config, directory = entry.prepare(build.with_parts(config, world, agent, dynamics, stages)), Path(directory)
    train_together([Run(config, directory, command, loggers=loggers)], force=force, callbacks=callbacks)
    return directory


def train_together(
    runs: list[Run],
    swept: Sequence[str] = (),
    force: bool = False,
    give_up: GiveUp | None = None,
    callbacks: Sequence[Callback] = (),
    changed: list[str] | None = None,
) -> None:
    """`train` for runs that differ only in the float fields `swept`, all as lanes of one compiled program.

    Each run's directory gets the same files as if the run were alone. Resumed runs continue from the last step that all
    of them have saved. If `config.faults` would stop a run, only that run is given up, and `give_up` is called with the
    reason; without `give_up`, the error is raised. The settings must come from `entry.prepare`. A caller that already
    holds the directories (`entry.enter`) passes the `changed` settings that it got there. Raises the same errors as
    `train`.
    """
    for i, run in enumerate(runs):
        run.config = build.settle(run.config)
        run.lanes = slice(i * run.config.seeds, (i + 1) * run.config.seeds) if len(runs) > 1 else None
    config, leads = runs[0].config, distributed.leads()
    stop = Stop(GRACE if config.grace is None else config.grace)
    with contextlib.ExitStack() as held:
        if changed is None:
            changed = entry.enter([(run.directory, run.config) for run in runs], force, held) if leads else []
        resumes = all((run.directory / rundir.CONFIG).exists() for run in runs)
        held.enter_context(stop.handled())
        view = held.enter_context(Progress(config, None if leads else Console(quiet=True)))
        stop.say = functools.partial(view.say, style="yellow")
        job = Job(runs, swept, force, stop, view, give_up, callbacks)
        try:
            saved = distributed.from_first(_find_saved(job) if leads else None)
            if saved is not None and saved >= config.env_steps:
                view.say(f"  the run in {job.where} is done", "bold")
            else:
                with distributed.together():
                    _train(job, saved, resumes, changed)
            if leads:
                _finish_directories(job)
        except BaseException as error:
            _note_failure(runs, error)
            raise
        if leads and len(runs) == 1 and not runs[0].given_up:
            _summarise(runs[0].directory, view)


def _finish_directories(job: Job) -> None:
    """Draws the curve of each run that has finished, and sets its status to done."""
    for run in job.runs:
        if not run.given_up and not rundir.is_done(run.directory):
            job.view.phase("drawing")
            from branchax.runs import plots  # the loop has loaded it

            plots.curve([run.directory], run.directory / rundir.CURVE)
            note_status(run, "done")


def _note_failure(runs: list[Run], error: BaseException) -> None:
    """Writes the reason why the runs ended into the directories of those that had begun."""
    asked = isinstance(error, (Preempted, KeyboardInterrupt))
    for run in runs:
        began = (run.directory / rundir.CONFIG).exists()
        if began and not run.given_up and not rundir.is_done(run.directory):
            with contextlib.suppress(OSError):  # the reason may be a full disk
                note_status(run, "preempted" if asked else "failed", str(error) or type(error).__name__)


def _find_saved(job: Job) -> int | None:
    """The newest step with an intact checkpoint in all runs; None if no run has a checkpoint.

    Raises `CheckpointError` when they have none in common, because starting again would discard the progress of some.
    """
    for run in job.runs:
        checkpoint.sweep(run.checkpoints)
    say, last = functools.partial(job.view.say, style="yellow"), None
    while True:
        found = {checkpoint.newest(run.checkpoints, say, last) for run in job.runs}
        if len(found) == 1 and (last is None or None not in found):
            return found.pop()
        if None in found:
            raise checkpoint.CheckpointError(f"the runs in {job.where} have no sound checkpoint in common")
        last = min(step for step in found if step is not None)


def _train(job: Job, saved: int | None, resumes: bool, changed: list[str]) -> None:
    """Trains from the settings to the last epoch, after step `saved` if there is one; `changed` lists new settings."""
    start = time.perf_counter()
    cache.enable()
    config, runs, view = job.config, job.runs, job.view
    mesh = meshes.make(dataclasses.replace(config, seeds=len(runs) * config.seeds))  # one lane per seed
    _announce(job, mesh, saved, resumes, changed)
    view.phase(f"building {config.world}")
    program, data = _build(job, fresh=saved is None)
    view.finished(f"built {config.world}", time.perf_counter() - start)
    count = kept_of(runs) + config.keep_best + 1  # a new one is complete before an old one is deleted
    fits = functools.partial(checkpoint.check_space, runs[0].checkpoints, count=count)
    pool, compiled = ThreadPoolExecutor(3), None
    try:
        lanes = functools.partial(lanes_of, [run.config for run in runs], job.swept)
        compiled = compile_program(program, lanes, config, mesh, view, pool, restored=saved is not None, ready=fits)
        state = _begin(job, compiled, pool, data) if saved is None else _go_on(job, compiled, program, mesh, saved)
        # Exploration that a simulator ended is saved before anything is judged or evaluated. It has gone on by now,
        # with other rows each time that it is taken up.
        begins = saved is None or int(state.counts.env_steps[0]) != saved
        keep = -1 if begins else int(state.counts.epochs[0])
        with contextlib.ExitStack() as closing:
            for run in runs:
                _open_log(run, keep, view, closing)
            past = max(run.log.kept[-1]["wall_s"] if run.log.kept else 0.0 for run in runs)
            session = Session(runs, compiled, pool, job.stop, view, start - past, job.give_up, job.callbacks)
            begins = begins or (keep == 0 and not any(run.log.kept for run in runs))  # the first evaluation failed
            run_epochs(session, state, distributed.any_of(begins))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if compiled is not None and compiled.host is not None:
            compiled.host.close()


def _announce(job: Job, mesh: Mesh, saved: int | None, resumes: bool, changed: list[str]) -> None:
    """Prints what is trained, where, and from which step."""
    config, runs, view = job.config, job.runs, job.view
    last = config.seed + config.seeds - 1
    seeds = f"seed {config.seed}" if config.seeds == 1 else f"seeds {config.seed} to {last}"
    view.say(f"{config.world} · {seeds} · {config.env_steps:,} env steps · on {meshes.describe(mesh)}", "bold")
    if len(runs) > 1:
        view.say(f"  {len(runs)} runs in one program, which differ in {', '.join(job.swept)}")
    from_where = "from the beginning" if saved is None else f"after {saved:,} env steps"
    view.say(f"  the run in {job.where} goes on {from_where}" if resumes else f"  into {job.where}")
    for change in changed:
        view.say(f"  changed: {change}", "yellow")


def _build(job: Job, fresh: bool) -> tuple[Callable[[Floats], Program], Transition | None]:
    """A function from the values of the swept fields to the program, and the dataset of a fresh run, if it has one."""
    config, view = job.config, job.view
    with warnings.catch_warnings(record=True) as caught:
        program = program_of(config, job.swept)
        try_out(config, program({}))
        if fresh:
            build.check_buffer(config, program({}))
        spec = program({}).spec
        reads = fresh and config.dataset is not None  # a saved state holds the rows already
        data = dataset.load(str(config.dataset), spec) if reads else None
    for warning in caught:
        view.say(f"  {warning.message}", "yellow")
    wanted = not config.model_free and config.model.has_networks and config.model.termination == "known"
    if wanted and spec.termination is None:
        view.say(f"  {config.world} has no predicate for the ends of its episodes: the model learns them")
    return program, data


def _begin(job: Job, compiled: Compiled, pool: ThreadPoolExecutor, data: Transition | None) -> TrainState:
    """The initial state of fresh runs: after exploration, or with the rows of their dataset."""
    _record(job)
    explore = job.stop.wait(compiled.init)
    job.view.phase("exploring" if data is None else "reading the dataset")
    try:
        state = job.stop.wait(pool.submit(finish, explore, *compiled.lanes))
    except WorldFault as fault:
        _save_explored(job, fault)
        raise
    return state if data is None else fill(state, data)


def _go_on(job: Job, compiled: Compiled, program: Callable[[Floats], Program], mesh: Mesh, saved: int) -> TrainState:
    """The state that was saved after `saved` env steps."""
    job.view.phase("restoring")
    state = load_all([(run.directory, run.config) for run in job.runs], saved, compiled.template)
    _record(job)  # only now: loading fails if the settings do not fit
    own = "agent.factory" in job.config.own_parts  # its state is its own
    if job.force and not own and hasattr(state.agent, "knobs"):  # the agent's floats, which may have changed
        lie = meshes.shardings(compiled.template.agent.knobs)
        knobs = over_seeds(lambda floats, key: program(floats).init(key).agent.knobs)
        with meshes.entered(mesh):
            knobs = jax.jit(knobs, out_shardings=lie)(*compiled.lanes)
        state = state._replace(agent=state.agent._replace(knobs=knobs))
    if compiled.host is None:
        return state
    held = [checkpoint.beside(run.checkpoints, saved, WORLDS) for run in job.runs]
    try:
        state, said = compiled.host.go_on(state, None if None in held else [x for some in held for x in some])
    except WorldFault as fault:
        _save_explored(job, fault)
        raise
    if said:
        job.view.say(f"  {said}", "yellow")
    return state


def _save_explored(job: Job, fault: WorldFault) -> None:
    """Saves a checkpoint of the exploration so far, after a simulator failed."""
    if fault.state is not None:
        for run in job.runs:
            save_run(run, fault.state, int(fault.state.counts.env_steps[0]), kept_of(job.runs))


def _record(job: Job) -> None:
    """Writes the settings and the status "running" into the runs' directories."""
    if distributed.leads():
        differences = [x for run in job.runs for x in rundir.record(run.directory, run.config, run.command)]
        for difference in dict.fromkeys(differences):
            job.view.say(f"  floats can differ from an uninterrupted run: {difference}", "yellow")
    for run in job.runs:
        note_status(run, "running")


def _open_log(run: Run, keep: int, view: Progress, closing: contextlib.ExitStack) -> None:
    """Opens a run's metrics and its loggers; `closing` closes them. The rows up to epoch `keep` are kept."""
    run.log = runlog.Log(run.directory / rundir.METRICS, keep, writes=distributed.leads())
    closing.callback(run.log.close)
    if distributed.leads():
        run.curves = open_curves(run.config, run.directory, run.log.kept, view.say, run.loggers)
        closing.callback(run.curves.close)


def _summarise(directory: Path, view: Progress) -> None:
    """Prints the final return and where to find everything."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row.get(runlog.RETURN) is not None]
    means = [
        (runlog.clock(same[0]), float(np.mean([row[runlog.RETURN] for row in same])))
        for same in ([row for row in rows if row["epoch"] == epoch] for epoch in sorted({r["epoch"] for r in rows}))
    ]
    view.say("")
    if means:
        last = [value for _, value in means[-3:]]
        view.say(
            f"  return     {number(last[-1])} at the end, {number(sum(last) / len(last))} over the last {len(last)}"
            " evaluations",
            "bold",
        )
    if fell := fallen(means):
        step, value = fell
        kept = step in checkpoint.steps(directory / rundir.CHECKPOINTS)
        how = f"{advised('evaluate', directory)} --step {step}" if kept else "--keep-best keeps its checkpoint"
        view.say(f"  better     {number(value)} after {step:,} env steps: {how}")
    view.say(f"  curve      {directory / rundir.CURVE}")
    view.say(f"  metrics    {directory / rundir.METRICS}")
    view.say(f"  evaluate   {advised('evaluate', directory)}")
    view.say(f"  watch      {advised('play', directory)}")
    view.say(f"  go on      {advised('resume', directory)} --env-steps N")
