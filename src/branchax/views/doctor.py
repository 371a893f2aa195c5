"""The checks of `branchax doctor`: are a run's files intact, does this machine match, does a fault happen again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.agents.base import Agent, Outcome, Sources
from branchax.devices import cache
from branchax.epoch.state import TrainState, copy_state
from branchax.errors import ConfigError, RunError
from branchax.normalize import Stats
from branchax.optimizer import count_skipped
from branchax.runs import checkpoint, dataset, faults, lock, rundir, runlog
from branchax.runs.compiling import seed_keys
from branchax.runs.progress import advised
from branchax.runs.restoring import fill, load
from branchax.sharding import of_seed, over_seeds
from branchax.types import Key, Row


class Finding(NamedTuple):
    """The result of one check."""

    about: str
    said: str
    good: bool = True


def machine() -> Iterator[Finding]:
    """Versions, devices and the compilation cache of this machine."""
    now = rundir.environment()
    packages = [f"{name} {now[name] or 'not installed'}" for name in rundir.PACKAGES]
    yield Finding("versions", ", ".join([f"python {now['python']}", *packages]))
    yield Finding("devices", f"{now['device_count']} x {now['device']}; {now['cpu']}, {now['cpu_count']} processors")
    folder = cache.enable()
    if folder is None:
        yield Finding("cache", "off, or its directory cannot be written: every run compiles all of its programs")
        return
    entries = [path for path in folder.rglob("*") if path.is_file()]
    empty = [path.name for path in entries if not path.stat().st_size and path.name.endswith("-cache")]
    size = sum(path.stat().st_size for path in entries)
    yield Finding("cache", f"{len(entries):,} files, {size:,} bytes in {folder}")
    if empty:  # JAX never writes such an entry again
        yield Finding("cache", f"{len(empty)} entries are empty, such as {empty[0]}: delete them", good=False)


def run(directory: Path) -> Iterator[Finding]:
    """Checks each part of a run's directory. Raises `ConfigError` when it holds no run."""
    config = rundir.load_config(directory)
    yield Finding("settings", f"sound: {config.world}, {config.agent.kind}, {config.env_steps:,} env steps")
    owner, status = lock.owner(directory), rundir.status(directory)
    state = status.get("state", "unknown")
    said = f"{state}{': ' * bool(status.get('reason'))}{status.get('reason', '')}"
    if owner is not None:
        yield Finding("state", f"{said} ({owner})")
    elif state == "running":
        who = f"process {status.get('pid')} on {status.get('host')}, last heard of at {status.get('heartbeat')}"
        yield Finding(
            "state", f"its process died without a word ({who}); {advised('resume', directory)} goes on", good=False
        )
    else:
        yield Finding("state", said, good=state in ("done", "preempted"))
    for difference in rundir.differences(directory, rundir.environment()):
        yield Finding(
            "versions", f"floats can differ from those of the machine that began it: {difference}", good=False
        )
    folder = directory / rundir.CHECKPOINTS
    there = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    for step in there:
        try:
            wrong = checkpoint.problem(folder, step)
        except checkpoint.CheckpointError as error:
            wrong = str(error)
        yield Finding("checkpoint", f"{step}: {wrong or 'every file is what was written'}", good=not wrong)
    if not there:
        yield Finding("checkpoint", "none yet")
    try:
        rows = runlog.read(directory / rundir.METRICS)
        yield Finding("metrics", f"{len(rows):,} rows" + (f", the last of epoch {rows[-1]['epoch']}" if rows else ""))
    except RunError as error:
        yield Finding("metrics", str(error), good=False)
    for path in sorted((directory / rundir.FAULTS).glob("*.json")):
        yield Finding("fault", f"{_dumped(path)['what']} ({path})", good=False)


class Watched(NamedTuple):
    """An agent's state, and the first of its updates that was not finite."""

    agent: Any
    found: jax.Array  # [] bool
    before: Any  # `agent` before that update
    batch: list[Row]  # the batch that it drew from the replay buffers, [B, ...]; empty if it draws none


def watch_agent(agent: Agent, told: list[Row]) -> Agent:
    """`agent` with `Watched` states, except in its `init`. Updates of only the critics are watched as well.

    While an update is traced, the shapes of the batches that it draws are added to `told`.
    """

    def watch_update(update: Callable[..., tuple[Any, Outcome]]) -> Callable[..., tuple[Watched, Outcome]]:
        def watched_update(key: Key, state: Watched, sources: Sources) -> tuple[Watched, Outcome]:
            drawn: list[Row] = []

            def noted(key: Key) -> Row:
                drawn.append(sources.replay(key))
                return drawn[-1]

            after, outcome = update(key, state.agent, sources._replace(replay=noted))
            told.extend(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), row) for row in drawn)
            if len(state.batch) < len(drawn[:1]):  # the first trace, which only finds the shapes
                return state._replace(agent=after), outcome
            bad = count_skipped(after) > count_skipped(state.agent)
            for loss in outcome.losses.values():
                bad |= ~jnp.isfinite(loss).all()
            here = bad & ~state.found
            keep = lambda new, old: jnp.where(here, new, old)  # noqa: E731
            before = jax.tree.map(keep, state.agent, state.before)
            return Watched(after, state.found | bad, before, jax.tree.map(keep, drawn[:1], state.batch)), outcome

        return watched_update

    def renew(state: Watched, stats: Stats) -> Watched:
        assert agent.renew is not None
        return state._replace(agent=agent.renew(state.agent, stats))

    def of(function: Any) -> Any:
        return function and (lambda *args: function(*(x.agent if isinstance(x, Watched) else x for x in args)))

    called = {name: of(getattr(agent, name)) for name in ("act", "mode", "memory", "divergence")}
    return agent._replace(
        update=watch_update(agent.update),
        warm_up=agent.warm_up and watch_update(agent.warm_up),
        renew=agent.renew and renew,
        **called,
    )


def replay(directory: Path, say: Callable[[str], Any] = print) -> Finding:
    """Runs the epoch of the latest dumped fault again, from the last good checkpoint before it.

    For a fault of the agent, it also writes the batch of the first non-finite update, and the agent before this update,
    next to the dump.

    Raises:
      ConfigError: when the directory holds no run, or no fault was dumped in it.
    """
    config = rundir.load_config(directory)
    dumps = [(_dumped(path), path) for path in (directory / rundir.FAULTS).glob("*.json")]
    if not dumps:
        raise ConfigError(f"replay: no fault was dumped in {directory / rundir.FAULTS}")
    about, path = max(dumps, key=lambda pair: pair[0]["env_steps"])
    cache.enable()
    world = build.make_world(config)
    if world.host is not None:
        raise ConfigError(
            f"replay: {config.world} is not possible, as it is stepped on the host; allowed: worlds of JAX"
        )
    program, folder, keys = build.build(config, world), directory / rundir.CHECKPOINTS, seed_keys(config)
    init = jax.jit(over_seeds(program.init))
    template = jax.eval_shape(init, keys)
    sound = [s for s in checkpoint.steps(folder) if s < about["env_steps"] and not checkpoint.problem(folder, s)]
    if sound:
        say(f"from the checkpoint after {sound[-1]:,} env steps")
        state = load(directory, sound[-1], config, template)
    else:
        say("from the beginning: no checkpoint is old enough")
        state = init(keys)
        if config.dataset is not None:
            state = fill(state, dataset.load(config.dataset, program.spec))
    done = int(state.counts.epochs[0])
    epoch = jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0)

    shapes: list[Row] = []

    def watched_epoch() -> Callable[..., Any]:
        return over_seeds(build.assemble(config, world, lambda agent: watch_agent(agent, shapes)).epoch, (0, None))

    report = None
    while done < about["epoch"]:
        horizon = jnp.int32(config.rollout.at(int(state.counts.env_steps[0])))
        if done == about["epoch"] - 1 and about["kind"] == "agent":
            jax.eval_shape(watched_epoch(), _watching(state, []), horizon)
            blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[:1])
            state, report = jax.jit(watched_epoch())(_watching(state, blank), horizon)
        else:
            state, report = epoch(state, horizon)
        done += 1
        say(f"epoch {done} of {about['epoch']}")
    health = None if report is None else jax.tree.map(np.asarray, report.health)
    found = faults.find(config, jax.tree.map(np.asarray, state.fault), health)
    again = any(f.what == about["what"] for f in found)
    said = f"{'the same again' if again else 'not found again'}: {about['what']} ({path})"
    if isinstance(state.agent, Watched):
        file = path.with_suffix(".update.npz")
        one = of_seed(state.agent, about["seed"] - config.seed)
        if bool(one.found):
            faults.save_arrays(file, {"before": one.before, "batch": one.batch[0] if one.batch else ()})
            said += f"; {file} has the agent before the update{' and its batch' if one.batch else ''}"
    return Finding("replay", said, good=again)


def _watching(state: TrainState, batch: list[Row]) -> TrainState:
    """The state [K, ...] with a `Watched` agent, before an epoch."""
    seeds = state.key.shape[0]
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)).copy(), batch)
    return state._replace(agent=Watched(state.agent, jnp.zeros(seeds, bool), copy_state(state.agent), copies))


def _dumped(path: Path) -> dict[str, Any]:
    """The JSON file of a dump."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        names = {"what": str, "kind": str, "seed": int, "env_steps": int, "epoch": int}
        return {name: kind(about[name]) for name, kind in names.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
