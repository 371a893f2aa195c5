"""Imagined steps per second: starts drawn from replay, the policy, the members, and one write into the model buffer.

7 members of 4 x 200, 5 elites, a policy of 2 x 256, observations and actions of Hopper's sizes; one thing is changed
at a time. Rollouts run in groups (`rollout.groups`) that bound the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from benchmarks.flops import model_step
from benchmarks.harness import HOPPER, Case, prepared
from branchax.config import Config, ModelConfig, RolloutConfig, SACConfig
from branchax.presets import preset

UNIT = "model steps"
CHUNK = 2_000  # rollouts in a group


def config_of(batch: int, horizon: int, **changes: object) -> Config:
    """`mbpo_paper` that imagines `batch` rollouts of `horizon` steps once."""
    groups = max(batch // CHUNK, 1)
    model = ModelConfig(**{k: v for k, v in changes.items() if k in ("members", "elites", "hidden")})  # type: ignore[arg-type]
    rollout = RolloutConfig(
        per_step=batch // 100,
        groups=groups,
        horizon=horizon,
        propagation=changes.get("propagation", "ts1"),  # type: ignore[arg-type]
    )
    base = replace(preset("mbpo_paper"), epoch_steps=100, model=model, rollout=rollout, agent=SACConfig())
    return replace(base, precision=changes.get("precision", "highest"))  # type: ignore[arg-type]


def case(batch: int, horizon: int, **changes: object) -> Case:
    """One batch of rollouts, imagined and stored."""
    config = config_of(batch, horizon, **changes)
    program, state = prepared(config)
    assert program.stages is not None
    imagine = program.stages.imagine
    work = batch * horizon
    assert isinstance(config.agent, SACConfig)
    flops = work * model_step(*HOPPER, config.model, config.agent)
    settings = {"rollouts": batch, "horizon": horizon, **changes}
    return Case(settings, lambda s, h: imagine(s, h)[0], (state, jnp.int32(horizon)), work, flops, carried=True)


def cases(full: bool) -> Iterator[Case]:
    """Over the batch, the horizon, the ensemble and how members are drawn."""
    yield case(1_000, 1)
    yield case(10_000, 1)
    yield case(100_000, 1)
    yield case(10_000, 10)
    if full:
        for batch, horizon in ((100, 1), (1_000_000, 1), (10_000, 5), (10_000, 50), (2_000, 50)):
            yield case(batch, horizon)
        changes: list[dict[str, object]] = [{"hidden": (64,) * 3}, {"hidden": (400,) * 4}]
        changes += [{"members": 20, "elites": 15}, {"members": 1, "elites": 1}]
        changes += [{"propagation": "tsinf"}, {"propagation": "mean"}]
        # Arrays are float32 throughout; products are of fewer digits where the device has them (on a CPU it has not).
        changes += [{"precision": "high"}, {"precision": "default"}]
        for change in changes:
            yield case(10_000, 5, **change)
