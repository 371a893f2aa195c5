"""What `branchax doctor` finds out: is a run sound, is this machine the one that began it, is a fault a fault again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.config import ConfigError
from branchax.host import RunError, cache, checkpoint, dataset, faults, lock, rundir, runlog
from branchax.host.run import filled, load, seed_keys


class Finding(NamedTuple):
    """One thing that was looked at."""

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
    """The parts of a run's directory. Raises `ConfigError` when it holds none."""
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
            "state", f"its process died without a word ({who}); branchax resume {directory} goes on", good=False
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


def replay(directory: Path, say: Callable[[str], Any] = print) -> Finding:
    """Runs the epoch of the latest dumped fault again, from the last good checkpoint before it.

    Raises:
      ConfigError: when the directory holds no run, or no fault was dumped in it.
    """
    config = rundir.load_config(directory)
    dumps = [(_dumped(path), path) for path in (directory / rundir.FAULTS).glob("*.json")]
    if not dumps:
        raise ConfigError(f"replay: no fault was dumped in {directory / rundir.FAULTS}")
    about, path = max(dumps, key=lambda pair: pair[0]["env_steps"])
    cache.enable()
    program, folder, keys = build.build(config), directory / rundir.CHECKPOINTS, seed_keys(config)
    init = jax.jit(jax.vmap(program.init))
    sound = [s for s in checkpoint.steps(folder) if s < about["env_steps"] and not checkpoint.problem(folder, s)]
    if sound:
        say(f"from the checkpoint after {sound[-1]:,} env steps")
        state = load(directory, sound[-1], config, jax.eval_shape(init, keys))
    else:
        say("from the beginning: no checkpoint is as old as that")
        state = init(keys)
        if config.dataset is not None:
            state = filled(state, dataset.load(config.dataset, program.spec))
    epoch = jax.jit(jax.vmap(program.epoch, in_axes=(0, None)), donate_argnums=0)
    metrics: dict[str, Any] = {}
    skipped = None if sound else np.zeros(config.seeds)
    while int(state.counts.epochs[0]) < about["epoch"]:
        before = faults.skipped_of(metrics, config.seeds) if metrics else skipped
        state, metrics = epoch(state, jnp.int32(config.rollout.at(int(state.counts.env_steps[0]))))
        metrics = {name: np.asarray(x) for name, x in metrics.items()}
        say(f"epoch {int(state.counts.epochs[0])} of {about['epoch']}")
        skipped = before
    if skipped is None:  # a single epoch after a checkpoint: what was left out before it stands in the log
        rows = [row for row in runlog.read(directory / rundir.METRICS) if row["epoch"] == about["epoch"] - 1]
        skipped = np.array([faults.skipped_of(row, 1)[0] for row in rows] or [0.0] * config.seeds)
    found = faults.find(config, jax.tree.map(np.asarray, state.fault), metrics, skipped)
    again = any(f.what == about["what"] for f in found)
    return Finding(
        "replay", f"{'the same again' if again else 'not found again'}: {about['what']} ({path})", good=again
    )


def _dumped(path: Path) -> dict[str, Any]:
    """What was said beside a dump."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"what": str(about["what"]), "env_steps": int(about["env_steps"]), "epoch": int(about["epoch"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
