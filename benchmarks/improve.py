"""SAC updates per second on batches of 5 % real and 95 % imagined rows, over batch, width and number of critics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from benchmarks.flops import sac_row
from benchmarks.harness import HOPPER, Case, prepared
from branchax.config import CriticConfig, RolloutConfig, SACConfig
from branchax.presets import preset

UNIT = "updates"
UPDATES = 50  # in one call, as a scan


def case(hidden: tuple[int, ...], batch: int, critics: int, updates: int = UPDATES) -> Case:
    """So many updates in one call."""
    agent = SACConfig(hidden=hidden, critic=CriticConfig(members=critics))
    config = replace(
        preset("mbpo_paper"),
        agent=agent,
        batch_size=batch,
        updates_per_step=updates,
        rollout=RolloutConfig(per_step=40, groups=5),
    )
    program, state = prepared(config)
    assert program.stages is not None
    improve = program.stages.improve
    filled = state._replace(imagined=state.imagined._replace(size=jnp.int32(10_000)))  # type: ignore[union-attr]
    settings = {"hidden": "x".join(map(str, hidden)), "batch": batch, "critics": critics}
    flops = updates * batch * sac_row(*HOPPER, agent)
    arguments = (filled, jnp.int32(1))
    return Case(settings, lambda s, h: improve(s, None, h)[0], arguments, updates, flops, carried=True)


def cases(full: bool) -> Iterator[Case]:
    """The paper's sizes, the laptop's, and more critics."""
    yield case((256, 256), 256, 2)
    yield case((64, 64), 256, 2)
    if full:
        yield case((512, 512), 256, 2)
        yield case((256, 256), 1_024, 2)
        yield case((256, 256), 256, 10)
