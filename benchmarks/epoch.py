"""Epochs end to end, and what each part of one takes: the sum of the parts against the whole.

The laptop's preset and the paper's sizes on `brax/inverted_pendulum`. The parts are compiled on their own; a fit stops
when it is good enough, so its share is that of a model that has seen 1,000 steps or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from benchmarks.harness import Case, built
from branchax.epoch.state import copy_state
from branchax.presets import preset

UNIT = "calls"


def cases(full: bool) -> Iterator[Case]:
    """The whole epoch, then one round of each part."""
    for name in ("mbpo", "mbpo_paper") if full else ("mbpo",):
        config = replace(preset(name, "brax/inverted_pendulum"), replay_capacity=10_000, explore_steps=1_000)
        config = replace(config, epoch_steps=50)
        program, state = built(config)
        parts = program.stages
        assert parts is not None
        rounds, horizon = config.epoch_steps // config.collect_steps, jnp.int32(config.rollout.horizon)
        whole = {
            "epoch": lambda s, f=program.epoch, h=horizon: f(s, h)[0],
            "fit": lambda s, f=parts.fit: f(s)[0],
            "imagine": lambda s, f=parts.imagine, h=horizon: f(s, h)[0],
            "collect": lambda s, f=parts.collect: f(s)[0],
            "improve": lambda s, f=parts.improve, h=horizon: f(s, None, h)[0],
        }
        for part, function in whole.items():
            often = rounds if part in ("collect", "improve") else 1
            updates, length = config.updates_per_step, config.rollout.horizon
            settings = {"preset": name, "part": part, "times per epoch": often, "updates": updates, "horizon": length}
            yield Case(settings, function, (copy_state(state),), 1, carried=True)
