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


def cases(full: bool) -> Iterator[Case]:
    """Over the batch, the horizon, the ensemble and how members are drawn."""
    grid: list[tuple[int, int, dict[str, object]]] = [
        (1_000, 1, {}),
        (10_000, 1, {}),
        (100_000, 1, {}),
        (10_000, 10, {}),
    ]
    if full:
        grid += [(100, 1, {}), (1_000_000, 1, {}), (10_000, 5, {}), (10_000, 50, {}), (2_000, 50, {})]
        grid += [(10_000, 5, {"hidden": (64,) * 3}), (10_000, 5, {"hidden": (400,) * 4})]
        grid += [(10_000, 5, {"members": 20, "elites": 15}), (10_000, 5, {"members": 1, "elites": 1})]
        grid += [(10_000, 5, {"propagation": "ts_inf"}), (10_000, 5, {"propagation": "mean"})]
    for batch, horizon, changes in grid:
        config = config_of(batch, horizon, **changes)
        program, state = prepared(config)
        assert program.parts is not None
        imagine = program.parts.imagine
        work = batch * horizon
        assert isinstance(config.agent, SACConfig)
        flops = work * model_step(*HOPPER, config.model, config.agent)
        settings = {"rollouts": batch, "horizon": horizon, **changes}
        arguments = (state, jnp.int32(horizon))
        yield Case(settings, lambda s, h, f=imagine: f(s, h)[0], arguments, work, flops, carried=True)
