"""A group of a sweep: runs that differ in floats alone, side by side in one compiled program.

The lanes of the program are the runs' seeds, run after run. A float that is swept is an array with one entry to a lane,
and the program is put together inside the `vmap` from settings that hold its traced entry (`build.assemble`); so
whatever a float does, it does there as well. What a run is and has in its directory is what it would have on its own.

`python -m branchax.host.lockstep SWEEP GROUP` runs one group of a sweep (`sweep.py`).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.config import Config, ConfigError, check, to_dict, with_field
from branchax.host import RunError, cache, checkpoint, faults, plots, rundir, runlog, sweep
from branchax.host.curves import open_curves
from branchax.host.run import evaluate_at, load, seed_keys, summarise, train
from branchax.train import Program, TrainState
from branchax.worlds.base import World

Floats = dict[str, jax.Array]  # path of a field -> its values


def run_group(directory: Path, points: list[sweep.Point]) -> None:
    """Runs the points, each in its directory, together as far as their floats allow."""
    cache.enable()
    points = [point for point in points if not (directory / point.name / sweep.FAILED).exists()]
    fields = [f for f in points[0].settings if len({sweep.value_at(p.config, f) for p in points}) > 1] if points else []
    world = build.make_world(points[0].config) if fields and points[0].config.dataset is None else None
    swept = [] if world is None else traceable(points[0].config, world, fields)
    parts: dict[Any, list[sweep.Point]] = {}
    for point in points:
        rest = () if swept else (point.name,)
        parts.setdefault((*(sweep.value_at(point.config, f) for f in fields if f not in swept), *rest), []).append(
            point
        )
    for part in parts.values():
        if len(part) > 1 and world is not None:
            together(world, swept, part, directory)
        else:
            _alone(part[0], directory)


def _alone(point: sweep.Point, directory: Path) -> None:
    run = directory / point.name
    with _noted(run):
        train(point.config, run, command=_command(point))


def traceable(config: Config, world: World, fields: list[str]) -> list[str]:
    """Those of the float fields that an epoch can be traced with, as arguments of the program."""

    def traces(fields: list[str]) -> bool:
        of = program_of(config, world)
        floats = {field: jnp.float32(sweep.value_at(config, field)) for field in fields}

        def both(floats: Floats, key: jax.Array) -> Any:
            program = of(floats)
            return program.epoch(program.init(key), jnp.int32(config.rollout.horizon))

        try:
            jax.eval_shape(both, floats, jax.random.key(0))
        except TypeError:  # JAX's, for a tracer whose value is asked for
            return False
        return True

    return fields if traces(fields) else [field for field in fields if traces([field])]


def program_of(config: Config, world: World) -> Callable[[Floats], Program]:
    """The program by the values [] of some of its floats."""

    def of(floats: Floats) -> Program:
        settings = config
        for path, value in floats.items():
            settings = with_field(settings, path, value)
        return build.assemble(settings, world)

    return of


def together(world: World, fields: list[str], points: list[sweep.Point], directory: Path) -> None:
    """Runs the points, which differ in the float fields alone, in one program; each row and each checkpoint is a run's.

    A run whose world or policy returns what is not finite is left out from there on (`failed.txt`); the others go on.
    """
    runs = [directory / point.name for point in points]
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for point, run in zip(points, runs, strict=True):
            check(point.config)
            rundir.check_writable(run)
            stack.enter_context(rundir.opened(run))
            rundir.admit(run, point.config)
            rundir.record(run, point.config, _command(point))
        _together(world, fields, points, runs, start, stack)


def _together(
    world: World,
    fields: list[str],
    points: list[sweep.Point],
    runs: list[Path],
    start: float,
    stack: contextlib.ExitStack,
) -> None:
    config = points[0].config
    folders = [run / rundir.CHECKPOINTS for run in runs]
    sound = [{s for s in checkpoint.steps(f) if not checkpoint.problem(f, s)} for f in folders]
    saved = max(set.intersection(*sound), default=None)
    if saved is not None and saved >= config.env_steps:
        return
    _say(f"{len(points)} runs of {config.seeds} seeds in one program: {', '.join(fields)}")
    floats = {f: jnp.repeat(jnp.float32([sweep.value_at(p.config, f) for p in points]), config.seeds) for f in fields}
    keys = jnp.concatenate([seed_keys(config)] * len(points))
    of = program_of(config, world)
    init = jax.jit(jax.vmap(lambda floats, key: of(floats).init(key)))
    epoch = jax.jit(
        jax.vmap(lambda floats, state, horizon: of(floats).epoch(state, horizon), in_axes=(0, 0, None)),
        donate_argnums=1,
    )
    evaluate = jax.jit(jax.vmap(lambda floats, key, steps, agent: evaluate_at(of(floats))(key, steps, agent)))

    def lanes(tree: Any, i: int) -> Any:
        return jax.tree.map(lambda x: x[i * config.seeds : (i + 1) * config.seeds], tree)

    if saved is None:
        state = init(floats, keys)
    else:
        template = jax.eval_shape(jax.vmap(of({}).init), seed_keys(config))
        states = [load(run, saved, config, template) for run in runs]
        state = jax.tree.map(lambda *x: jnp.concatenate(x), *states)
        _say(f"  restored after {saved:,} env steps")
    done = int(state.counts.epochs[0])
    logs = [runlog.Log(run / rundir.METRICS, keep=done if saved is not None else -1) for run in runs]
    curves = [open_curves(p.config, r, x.kept, _say) for p, r, x in zip(points, runs, logs, strict=True)]
    for opened in (*logs, *curves):
        stack.enter_context(contextlib.closing(opened))
    past = max([log.kept[-1]["wall_s"] for log in logs if log.kept], default=0.0)
    going, skipped = dict(enumerate(points)), np.zeros((len(points), config.seeds))
    scores: dict[int, float | None] = {}

    def report(state: TrainState, horizon: int, metrics: dict[str, Any], evaluated: bool) -> None:
        found = summarise(evaluate(floats, keys, state.counts.env_steps, state.agent)) if evaluated else {}
        counts = {name: np.asarray(value) for name, value in state.counts._asdict().items()}
        counts = {"epoch": counts.pop("epochs"), **counts}
        shared = {"wall_s": round(time.perf_counter() - start + past, 3), "horizon": horizon}
        numbers = {name: np.asarray(x) for name, x in {**found, **metrics}.items()}
        for i in list(going):
            mine = lanes({name: numbers[name] for name in metrics}, i)
            with _noted(runs[i]) as noted:
                fault = jax.tree.map(np.asarray, lanes(state.fault, i))
                for each in faults.find(config, fault, mine, skipped[i]):
                    if each.stops:
                        raise faults.NonFinite(each.what)
            if noted:
                del going[i]
                continue
            skipped[i] = faults.skipped_of(mine, config.seeds)
            seeds = range(config.seed, config.seed + config.seeds)
            rows = runlog.rows_of(seeds, lanes(counts, i), shared, lanes(numbers, i))
            logs[i].write(rows)
            curves[i].write(rows)
            scores[i] = None
            if evaluated:
                score = lanes(numbers, i)[runlog.RETURN].mean()
                scores[i] = runlog.plain(score)
                _say(f"  {int(counts['env_steps'][0]):9,d}  {points[i].name}  return {score:.1f}")

    if done == 0:
        report(state, config.rollout.at(int(state.counts.env_steps[0])), {}, evaluated=True)
    while done < config.epochs and going:
        horizon = config.rollout.at(int(state.counts.env_steps[0]))
        state, metrics = epoch(floats, state, jnp.int32(horizon))
        done, env_steps = int(state.counts.epochs[0]), int(state.counts.env_steps[0])
        is_last = done == config.epochs
        report(state, horizon, metrics, evaluated=is_last or done % config.eval_every == 0)
        if is_last or done % config.checkpoint_every == 0:
            for i, point in going.items():
                logs[i].sync()
                versions = rundir.versions()
                note = {"config": to_dict(point.config), checkpoint.SCORE: scores[i], "environment": versions}
                kept = config.checkpoints_kept, config.keep_best
                checkpoint.save(folders[i], env_steps, lanes(state, i), note, *kept)
                rundir.write_status(runs[i], "done" if is_last else "running", env_steps)
    for i in going:
        plots.curve([runs[i]], runs[i] / rundir.CURVE)


@contextlib.contextmanager
def _noted(run: Path) -> Any:
    """Writes down why a run came to nothing, and goes on; yields a list that then holds it."""
    noted: list[str] = []
    try:
        yield noted
    except faults.NonFinite as error:  # a signal or a full disk is no verdict on the settings
        noted.append(str(error))
        (run / sweep.FAILED).write_text(f"{error}\n", encoding="utf-8")
        _say(f"  {run.name} came to nothing: {error}")


def _command(point: sweep.Point) -> str:
    return f"branchax sweep ({point.name})"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    where, number = Path(sys.argv[1]), int(sys.argv[2])
    try:
        run_group(where, [point for point in sweep.load(where) if point.group == number])
    except (ConfigError, RunError) as error:
        print(f"branchax: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)
