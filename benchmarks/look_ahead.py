"""Updates of the double horizon per second: rollouts that spread states, then updates five steps through the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from benchmarks.flops import look_ahead_row, model_step
from benchmarks.harness import HOPPER, Case, prepared
from branchax.presets import preset

UNIT = "updates"
BLOCKS = 2  # in one call, each of `rollout.every` updates


def case(name: str) -> Case:
    """The updates of some blocks of a preset in one call."""
    config = preset(name)
    spread, agent = config.rollout, config.agent
    assert spread.every is not None and spread.look_ahead is not None and agent.kind == "sac"
    updates = BLOCKS * spread.every
    config = replace(config, epoch_steps=updates, collect_steps=updates, first_updates=None)
    program, state = prepared(config)
    assert program.stages is not None
    improve = program.stages.improve
    a_block = config.rollouts * spread.horizon * model_step(*HOPPER, config.model, agent)
    an_update = config.batch_size * look_ahead_row(*HOPPER, config.model, agent, spread.look_ahead)
    settings = {"preset": name, "hidden": "x".join(map(str, agent.hidden)), "batch": config.batch_size}
    arguments = (state, jnp.int32(spread.horizon))
    flops = BLOCKS * a_block + updates * an_update
    return Case(settings, lambda s, h: improve(s, None, h)[0], arguments, updates, flops, carried=True)


def cases(full: bool) -> Iterator[Case]:
    """The laptop's sizes, and the paper's."""
    yield case("dhmbpo_small")
    if full:
        yield case("dhmbpo")
