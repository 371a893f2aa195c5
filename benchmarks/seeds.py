"""What a seed costs when several are trained in one program: an epoch, per seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp

from benchmarks.harness import Case
from branchax.build import build
from branchax.presets import preset
from branchax.runs.compiling import seed_keys
from branchax.sharding import over_seeds

UNIT = "seed epochs"
# `mbpo` on the pendulum, 50 real steps an epoch.
BASE = replace(
    preset("mbpo", "classic/pendulum"), explore_steps=100, epoch_steps=50, env_steps=100_000, replay_capacity=2_000
)
BASE = replace(BASE, model=replace(BASE.model, max_rounds=5, patience=5))


def cases(full: bool) -> Iterator[Case]:
    """More and more of them."""
    for seeds in (1, 2, 4, 8, 16, 32) if full else (1, 4):
        config = replace(BASE, seeds=seeds)
        program = build(config)
        state = jax.jit(over_seeds(program.init))(seed_keys(config))
        epoch = over_seeds(program.epoch, (0, None))
        yield Case({"seeds": seeds}, lambda s, h, f=epoch: f(s, h)[0], (state, jnp.int32(1)), seeds, carried=True)
