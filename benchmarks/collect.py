"""Real steps per second, over worlds side by side: physics, policy and the replay buffer, as an epoch collects.

The worlds restart at their episodes' ends, as in training; 64 units a layer in the policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.harness import Case, built
from branchax.presets import preset

UNIT = "env steps"
STEPS = 100  # of each world in one call


def cases(full: bool) -> Iterator[Case]:
    """Brax's own physics, and a world of a few lines."""
    worlds = ("brax/inverted_pendulum", "brax/hopper", "classic/pendulum") if full else ("classic/pendulum",)
    for world in worlds:
        for count in (1, 16, 64, 256, 1_024) if full else (1, 64, 1_024):
            config = replace(
                preset("sac", world),
                parallel_worlds=count,
                explore_steps=count,
                collect_steps=count * STEPS,
                epoch_steps=count * STEPS,
                updates_per_step=1 / (count * STEPS),
                batch_size=64,  # no more than the smallest case has rows
                env_steps=count * (STEPS + 1),
            )
            program, state = built(config)
            assert program.stages is not None
            collect = program.stages.collect
            settings = {"world": world, "worlds": count}
            yield Case(settings, lambda state, f=collect: f(state)[0], (state,), count * STEPS, carried=True)
