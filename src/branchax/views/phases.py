"""Measures where a run's time goes: one epoch from the last checkpoint, part by part.

The epoch of a run is one compiled program, so its stages cannot be timed separately. Here each stage is its own
program, for one seed. They run in the order of an epoch, so that a fit has as much new data as in the run. If that is
quick, they run twice, and the second time counts. The times for evaluating and saving are measured on the host, and
divided by the number of epochs between two of them.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.config import Config
from branchax.devices import cache
from branchax.epoch.parts import Stages
from branchax.epoch.state import TrainState, copy_state
from branchax.runs import checkpoint
from branchax.runs.runlog import Row
from branchax.views.play import Player

AT_ONCE = 3  # programs that are compiled in parallel
LONG = 10.0  # seconds; an epoch that takes longer is not run a second time


def measure(player: Player, rows: Sequence[Row] = ()) -> dict[str, Any]:
    """The seconds of each phase in an epoch, for a single seed on this machine; `rows` are those that the run wrote.

    Returns:
      The `names` of the phases and their `seconds` per epoch, the number of `epoch_steps`, the number of `seeds` of the
      run, and the seconds of the run's own epochs with all seeds (`run`, a median; None when there are too few).
    """
    config, state = player.config, copy_state(player.state)  # a copy, because it is donated to each part
    program = build.assemble(config, player.world)
    assert program.stages is not None
    horizon = jnp.int32(config.rollout.at(player.clock))
    host = program.host  # its simulators are not timed: no compiled program steps them
    collects, warms_up = config.dataset is None and host is None, player.agent.warm_up is not None
    parts = _parts(program.stages, config, horizon, collects, warms_up)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        collected = lambda s: parts["collect"](s, None)[1] if "collect" in parts else None  # noqa: E731
        if host is not None:
            collected = lambda s: host.blank_round(player.key, s)  # noqa: E731
        shapes = jax.eval_shape(lambda s: (s, collected(s)), state)
        look = lambda: cache.compiled(  # noqa: E731
            jax.jit(program.evaluate).lower(player.key, state.agent), cache.SOONER["evaluate"]
        )
        looks = pool.submit(look) if host is None else None
        compile_ = lambda f: jax.jit(f, donate_argnums=0).lower(*shapes).compile()  # noqa: E731
        compiled = dict(zip(parts, pool.map(compile_, parts.values()), strict=True))
        evaluate = None if looks is None else looks.result()
        seconds: dict[str, float] = {}
        for _ in range(2):
            recent = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1])
            for name, part in compiled.items():
                (state, recent), seconds[name] = _timed(part, state, recent)
            if evaluate is not None:
                seconds["evaluate"] = _timed(evaluate, player.key, state.agent)[1] / config.eval_every
            if sum(seconds.values()) > LONG:
                break
    with tempfile.TemporaryDirectory() as folder:
        taken = _timed(checkpoint.save, Path(folder) / "saved", player.clock, state, {})[1]
    seconds["save"] = taken / config.checkpoint_every
    return {
        "names": list(seconds),
        "seconds": list(seconds.values()),
        "epoch_steps": config.epoch_steps,
        "seeds": config.seeds,
        "run": _epoch_seconds(rows, player.seed),
    }


def _parts(
    parts: Stages, config: Config, horizon: jax.Array, collects: bool, warms_up: bool
) -> dict[str, Callable[[TrainState, Any], Any]]:
    """The parts of an epoch in order, each a function `(state, collected data) -> (state, collected data)`."""
    rounds = 1 if config.plans else config.epoch_steps // config.collect_steps

    def collect(state: TrainState, _: Any) -> tuple[TrainState, Any]:
        state, recent = jax.lax.scan(lambda s, _: parts.collect(s), state, None, length=rounds)
        return state, jax.tree.map(lambda x: x[-1], recent)

    def improve(state: TrainState, recent: Any) -> tuple[TrainState, Any]:
        once = lambda s, _: (parts.improve(s, recent, horizon)[0], None)  # noqa: E731
        return jax.lax.scan(once, state, None, length=rounds)[0], recent

    found: dict[str, Callable[[TrainState, Any], Any]] = {"collect": collect} if collects else {}
    if not config.model_free and not config.model.exact:
        found["fit"] = lambda state, recent: (parts.fit(state)[0], recent)
    if config.stores_imagined and (config.rollout.every is None or warms_up):  # else the updates imagine
        found["imagine"] = lambda state, recent: (parts.imagine(state, horizon)[0], recent)
    if warms_up:
        found["warm up"] = lambda state, recent: (parts.warm_up(state, horizon), recent)
    return found | {"improve": improve}


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    out = jax.block_until_ready(function(*arguments))
    return out, time.perf_counter() - start


def _epoch_seconds(rows: Sequence[Row], seed: int) -> float | None:
    """The median time of the latest epochs. The first one after a resume includes compilation, but is an outlier."""
    at = [(row["epoch"], row["wall_s"]) for row in rows if row["seed"] == seed][-21:]
    taken = [after[1] - before[1] for before, after in itertools.pairwise(at) if after[0] == before[0] + 1]
    return float(np.median(taken)) if len(taken) >= 3 else None
