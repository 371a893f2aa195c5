"""The host loop: runs epochs, and evaluates, writes, saves and checks for faults between them.

Nothing under `jit` calls back to Python. `host_epoch.py` has the epochs of worlds that are stepped on the host.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from branchax.config import Config, to_dict
from branchax.devices import distributed, memory
from branchax.epoch.report import Report
from branchax.epoch.state import TrainState, copy_state
from branchax.errors import WorldFault
from branchax.runs import checkpoint, faults, rundir, runlog
from branchax.runs.compiling import Compiled, finish, summarise
from branchax.runs.progress import Progress
from branchax.runs.signals import Preempted, Stop
from branchax.runs.trackers import Logger, all_of

HEARTBEAT = 10.0  # seconds between two updates of `status.json`, when nothing else updates it
GRACE_WITH_COPY = 3.0  # seconds that an epoch may take after a signal, if the state before it was copied
WORLDS = "worlds.json"  # file in a checkpoint: the states of the simulators on the host
COPIED = 2**28  # bytes; larger states are not copied


@dataclasses.dataclass
class Run:
    """One of the runs that share a program: its settings, its directory, and its progress."""

    config: Config
    directory: Path
    command: str = ""
    lanes: slice | None = None  # its seeds among those of the program; `None`: all of them
    given_up: bool = False  # stopped because of a non-finite number, while other runs continue
    score: float | None = None  # the mean return over seeds of this epoch's evaluation
    loggers: Sequence[Logger] = ()  # the user's
    dumped: set[str] = dataclasses.field(default_factory=set)  # the kinds of faults that were written already
    log: runlog.Log = None  # pyright: ignore[reportAssignmentType]  # open while it trains
    curves: Logger = dataclasses.field(default_factory=lambda: all_of([]))

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.directory / rundir.CHECKPOINTS

    def of(self, tree: Any) -> Any:
        """Its own lanes of arrays [K, ...]."""
        return tree if self.lanes is None else jax.tree.map(lambda x: x[self.lanes], tree)


GiveUp = Callable[[Run, faults.NonFinite], None]
Callback = Callable[[list[runlog.Row], TrainState], bool | None]  # (an epoch's rows, the live state) -> whether to stop


class Session(NamedTuple):
    """Everything that the loop needs."""

    runs: list[Run]
    compiled: Compiled
    pool: ThreadPoolExecutor
    stop: Stop
    view: Progress
    origin: float  # value of `time.perf_counter()` where `wall_s` is 0
    give_up: GiveUp | None
    callbacks: Sequence[Callback] = ()

    def going(self) -> list[Run]:
        """The runs that are not given up."""
        return [run for run in self.runs if not run.given_up]


def run_epochs(session: Session, state: TrainState, begins: bool) -> None:
    """Runs the remaining epochs. Where the run `begins`, first judges the exploration and evaluates the agent.

    The rows of an epoch are on disk before its checkpoint.
    """
    config, view, stop = session.runs[0].config, session.view, session.stop
    done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
    beat, safe = time.monotonic(), -1 if begins else env_steps  # `safe`: the last saved step
    if begins:
        look_for_faults(session, state, None, 0)
        report_or_save(session, state, config.rollout.at(env_steps), {}, evaluated=True)
    stop.wait(session.compiled.evaluate)  # so that later, when there is something to save, only epochs block
    epoch, copies = stop.wait(session.compiled.epoch), copies_of(state)
    if copies and config.grace is None:
        stop.grace = GRACE_WITH_COPY
    view.began(env_steps)
    if distributed.leads():  # loads Matplotlib, for the figure at the end, during the first epoch
        session.pool.submit(importlib.import_module, "branchax.runs.plots")
    with stop.deferred():
        is_last = env_steps >= config.env_steps
        while not is_last and session.going():
            view.phase("training")
            horizon, floats = config.rollout.at(env_steps), session.compiled.lanes[0]
            before = copy_state(state) if copies else None
            held = None if before is None else read_simulators(session)
            try:  # in another thread, so that this one receives signals
                state, report = stop.wait(session.pool.submit(finish, epoch, floats, state, np.int32(horizon)))
            except (Preempted, WorldFault) as ended:
                if isinstance(ended, WorldFault) and not stop.asked:
                    save_fault(session, ended)
                    raise
                if before is None:
                    raise
                if safe != env_steps:
                    save(session, before, env_steps, held)
                # A world's own processes receive a signal, too, so its fault may come from the signal.
                why = f"stopped by {stop.asked}" if isinstance(ended, WorldFault) else ended
                raise Preempted(f"{why}; saved as it was after {env_steps:,} env steps") from None
            before, report = None, jax.tree.map(np.asarray, report)
            look_for_faults(session, state, report, horizon)
            done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
            is_last = env_steps >= config.env_steps
            due = is_last or done % config.eval_every == 0
            rows = report_or_save(session, state, horizon, report.metrics, due)
            enough = [bool(callback(rows, state)) for callback in session.callbacks]
            is_last = is_last or distributed.any_of(any(enough)) if session.callbacks else is_last
            asked = distributed.any_of(bool(stop.asked))
            saves = is_last or asked or done % config.checkpoint_every == 0
            if saves:
                save(session, state, env_steps, read_simulators(session))
                safe = env_steps
            if saves or time.monotonic() - beat > HEARTBEAT:
                for run in session.going():
                    note_status(run, "running")
                beat = time.monotonic()
            if asked and not is_last:
                raise Preempted(
                    f"stopped by {stop.asked or 'a signal to another process'}; saved after {env_steps:,} env steps"
                )


def copies_of(state: TrainState) -> bool:
    """Whether the state is copied before each epoch: unless it is large or spread over several processes.

    The copy can be saved if an epoch does not end in time after a signal.
    """
    return memory.bytes_of(state) <= COPIED and jax.process_count() == 1


def read_simulators(session: Session) -> list[str] | None:
    """The states of the simulators, if the world is stepped on the host; None for another world."""
    return None if session.compiled.host is None else session.compiled.host.save_state()


def save(session: Session, state: TrainState, env_steps: int, held: list[str] | None = None) -> None:
    """Saves a checkpoint of each run that is not given up, after its rows are on disk.

    `held` is what `read_simulators` returned for this state.
    """
    session.view.phase("saving")
    for run in session.going():
        run.log.sync()
        save_run(run, state, env_steps, kept_of(session.runs), held)


def save_run(run: Run, state: TrainState, env_steps: int, kept: int, held: list[str] | None = None) -> None:
    """Saves a checkpoint of one run; `state` has the lanes of all runs."""
    note = {"config": to_dict(run.config), checkpoint.SCORE: run.score, "environment": rundir.versions()}
    lanes, worlds = run.lanes or slice(0, run.config.seeds), run.config.parallel_worlds
    beside = {} if held is None else {WORLDS: held[lanes.start * worlds : lanes.stop * worlds]}
    checkpoint.save(run.checkpoints, env_steps, run.of(state), note, kept, run.config.keep_best, beside)


def save_fault(session: Session, fault: WorldFault) -> None:
    """Saves the state that was reached when a simulator failed, if the fault has it."""
    if fault.state is not None:
        save(session, fault.state, int(fault.state.counts.env_steps[0]))


def report_or_save(
    session: Session, state: TrainState, horizon: int, metrics: dict[str, Any], evaluated: bool
) -> list[runlog.Row]:
    """`report_epoch`; if a simulator fails during the evaluation, the state is saved first."""
    try:
        return report_epoch(session, state, horizon, metrics, evaluated)
    except WorldFault as fault:
        env_steps = int(state.counts.env_steps[0])
        save(session, state, env_steps, read_simulators(session))
        raise WorldFault(f"{fault}; saved after {env_steps:,} env steps") from fault


def report_epoch(
    session: Session, state: TrainState, horizon: int, metrics: dict[str, Any], evaluated: bool
) -> list[runlog.Row]:
    """Evaluates if `evaluated`, writes one row per seed of each run, and shows them; returns the rows."""
    found, written = {}, []
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
        written += rows
        run.curves.write(rows)
        session.view.advanced(rows, run.directory.name if len(session.runs) > 1 else "")
        run.score = runlog.plain(run.of(found)[runlog.RETURN].mean()) if found else None
    return written


def look_for_faults(session: Session, state: TrainState, report: Report | None, horizon: int) -> None:
    """Reports non-finite numbers of an epoch, run by run.

    If the settings say to stop, it raises `NonFinite`, or gives up the run if others can continue.
    """
    fault = jax.tree.map(np.asarray, state.fault)
    for run in session.going():
        metrics, health = ({}, None) if report is None else run.of(report)
        try:
            _judge(run, faults.find(run.config, run.of(fault), health), state, metrics, horizon, session.view)
        except faults.NonFinite as error:
            if session.give_up is None:
                raise
            run.given_up = True
            note_status(run, "failed", str(error))
            session.give_up(run, error)
            session.view.say(f"  {run.directory.name} is left out: {error}", "yellow")


def _judge(
    run: Run, found: list[faults.Found], state: TrainState, metrics: dict[str, Any], horizon: int, view: Progress
) -> None:
    """Reports the faults of a run and dumps the first of each kind. Raises `NonFinite` if the settings say to stop."""
    for each in sorted(found, key=lambda f: not f.stops):
        if each.kind in run.dumped and not each.stops:
            continue
        run.dumped.add(each.kind)
        where = ""
        if distributed.count() == 1:  # with several processes, none has the whole state
            path = faults.dump(run.directory, each, run.config, run.of(state), horizon, metrics)
            where = f" ({path} has the details)"
        if each.stops:
            raise faults.NonFinite(f"{each.what}{where}", each.brief)
        view.say(f"  {each.what}; reported once{where}", "yellow")


def note_status(run: Run, state: str, reason: str = "") -> None:
    """Writes the status of a run and its last saved step into its directory."""
    if not distributed.leads():
        return
    good = checkpoint.steps(run.checkpoints)
    rundir.write_status(run.directory, state, good[-1] if good else None, reason)


def kept_of(runs: list[Run]) -> int:
    """How many checkpoints to keep: at least two with several runs, so that all always have a saved step in common."""
    return runs[0].config.checkpoints_kept if len(runs) == 1 else max(2, runs[0].config.checkpoints_kept)
